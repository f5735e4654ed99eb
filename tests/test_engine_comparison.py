"""Does the comparison of engines compare the same work, and count all of its cost?"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from bioface_core.config import Study, find_study, read_study
from bioface_core.learner import Learner
from bioface_core.store import read_store
from bioface_core.weights import read_base

SCRIPTS = Path(__file__).resolve().parent.parent / "benchmarks" / "engines"
TINY = (
    *("model.width=0.125", "model.embedding=16", "train.batch=4", "syndromes=[down, williams]"),
    *("pretrain.identities=4", "pretrain.photos_per_person=2", "pretrain.epochs=1", "pretrain.batch=8"),
    *("simulation.patients_per_syndrome=6", "simulation.hospitals=2", "simulation.partition.kind=iid"),
)
WORKING = """
import pathlib, sys, time
while time.process_time() < 0.5: pass
pathlib.Path(sys.argv[1]).touch()
time.sleep(1)
"""
STARTING = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', *sys.argv[1:]], start_new_session=True)"
WAITING = """
import pathlib, subprocess, sys, time
subprocess.run([sys.executable, "-c", *sys.argv[1:]])
while not pathlib.Path(sys.argv[-1]).exists(): time.sleep(0.05)
time.sleep(0.5)
"""


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    """The scripts as modules; they find each other as they do when one is run."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        return {name: importlib.import_module(name) for name in ("process_tree", "plain_loop", "with_nothing", "run")}
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def laid(scripts: dict[str, ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = read_study(find_study("demo"), (*scripts["run"].STUDY, *TINY))
    folder: Path = scripts["run"].lay_files(tmp_path_factory.mktemp("laid") / "laid", study)
    return folder


@pytest.mark.slow
def test_the_plain_loop_does_the_steps_of_ours(scripts: dict[str, ModuleType], laid: Path) -> None:
    loop = scripts["plain_loop"]
    study: Study = loop.study_of(laid)
    store = read_store(laid / "hospitals" / "hospital-1")
    learner = Learner(study, read_base(laid / "base.safetensors", study.model))
    ours = learner.start() + learner.train(learner.start(), store.train(), 1, "hospital-1").delta
    model = loop.make_model(laid)
    loop.train(model, study, store.train(), 1, 1)
    plain = learner.vector_of(model.state_dict())
    assert torch.allclose(ours, plain, atol=1e-6) and not torch.allclose(plain, learner.start(), atol=1e-3)
    counts = learner.evaluate(plain, store.heldout())
    right, patients = loop.recognised(model, study, store.heldout())
    assert patients == store.heldout().patients() and right == int(counts.confusion_KK.diagonal().sum())


@pytest.mark.slow
def test_the_floor_averages_and_leaves_a_result(
    scripts: dict[str, ModuleType], laid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["with_nothing.py", str(laid), "1", "1", str(tmp_path / "out.json")])
    scripts["with_nothing"].main()
    result = json.loads((tmp_path / "out.json").read_text())
    heldout = [read_store(laid / "hospitals" / f"hospital-{number}").heldout() for number in (1, 2)]
    assert result["patients"] == sum(photos.patients() for photos in heldout) and result["right"] >= 0


def test_a_round_is_the_difference_and_the_rest_the_start(scripts: dict[str, ModuleType]) -> None:
    run, cost = scripts["run"], scripts["process_tree"].Cost
    few, many = [run.Measured(cost(5.0, 7.0), 0.1)], [run.Measured(cost(21.0, 39.0), 0.5)]
    framework = run.Framework("one", (), "", "1")
    assert run.row(framework, few, many, 1, 9) == "| one | 1 | 2.00 | 3.0 | 4.00 | 3.0 | 50.0% |"


def test_processes_that_nobody_waits_for_are_counted(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    """The one that works has lost its parent, and is in a session of its own."""
    command = [sys.executable, "-c", WAITING, STARTING, WORKING, str(tmp_path / "worked")]
    cost = scripts["process_tree"].run_measured(command, os.environ, tmp_path / "log")
    assert cost.cpu >= 0.5 and cost.wall >= 0.5


def test_a_framework_that_fails_says_what_it_said(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no such loss"):
        command = [sys.executable, "-c", "raise SystemExit('no such loss')"]
        scripts["process_tree"].run_measured(command, os.environ, tmp_path / "log")
