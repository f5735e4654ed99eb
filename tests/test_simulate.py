"""Does a simulation run from end to end, survive, and end with the same model on every engine?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bioface_core import report
from bioface_core.app_path import app_root
from bioface_core.config import Study, parse_study
from bioface_core.errors import ConfigError
from simulation.progress import Progress
from simulation.run import simulate
from tests.test_hospitals import people_store

TINY = {
    "name": "tiny",
    "syndromes": ["down", "williams", "noonan"],
    "model": {"depth": 10, "width": 0.125, "embedding": 16, "stem": "strided", "pool": "global"},
    "pretrain": {"identities": 4, "photos_per_person": 2, "epochs": 1, "batch": 8},
    "train": {"epochs": 1, "batch": 8},
    "federation": {"rounds": 2},
    "simulation": {
        "hospitals": 2,
        "patients_per_syndrome": 4,
        "photos_per_patient": 1,
        "partition": {"kind": "lacking", "lacking": 1},
        "compare": False,
    },
}
COMMAND = "import sys; from bioface_core.cli import main; sys.argv[0] = 'bioface'; main()"


def tiny(**changes: object) -> Study:
    return parse_study(TINY).replace(dict(changes))


def run(study: Study, runs: Path) -> Path:
    with Progress(quiet=True) as progress:
        return simulate(study, runs, progress)


def final_model(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(max(folder.glob("round-*.safetensors")))


def same(one: Path, other: Path) -> bool:
    first, second = final_model(one), final_model(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_from_phantoms_to_a_report(tmp_path: Path) -> None:
    folder = run(tiny(), tmp_path)
    result = report.write_report(folder)
    assert result.federated is not None and result.federated.top1.patients > 0
    assert len(json.loads((folder / "report.json").read_text())["rounds"]) == 3
    assert "://" not in (folder / "report.html").read_text().replace("http://www.w3.org/2000/svg", "")


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    folder = run(tiny(), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("round-*")}
    run(tiny(), tmp_path)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("round-*")} == before


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"base": "scratch", "norm": "group"}, "loss": {"mode": "joint"}},
        {"federation": {"strategy": "fedadam", "server_rate": 0.01}},
        {"loss": {"mode": "cross-sum"}, "train": {"proximal": 0.1}},
        {"model": {"trainable": "head", "squeeze_excite": False}},
    ],
)
def test_other_settings_run_too(tmp_path: Path, changes: dict[str, object]) -> None:
    assert (run(tiny(**changes), tmp_path) / "round-0002.json").exists()


def test_real_photos_in_shared_model_out(tmp_path: Path) -> None:
    path = people_store(tmp_path / "people")
    study = tiny(syndromes=[], simulation={"stores": [str(path)], "partition": {"kind": "iid"}})
    folder = run(study, tmp_path)
    assert final_model(folder)["model.prototypes"].shape == (4, 16)


def test_a_study_starts_from_another_runs_base(tmp_path: Path) -> None:
    """Stage 1's file, which holds prototypes of people: the study has people of its own, and prototypes of theirs."""
    base = run(tiny(), tmp_path) / "base.safetensors"
    other = tiny(name="second", model={"base": str(base)}, pretrain={"identities": 6})
    folder = run(other, tmp_path)
    assert (folder / "round-0002.json").exists()
    assert load_file(folder / "base.safetensors")["identity.prototypes"].shape == (6, 16)
    assert run(other, tmp_path) == folder  # finished, and known again


def test_what_cannot_be_simulated_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model.norm is batch"):
        run(tiny(model={"norm": "batch"}), tmp_path)
    with pytest.raises(ConfigError, match="at least two"):
        run(tiny(syndromes=["down"]), tmp_path)


@pytest.mark.slow
def test_the_comparison_leaves_an_arm_for_each_hospital(tmp_path: Path) -> None:
    folder = run(tiny(simulation={"compare": True}), tmp_path)
    kinds = [arm["kind"] for arm in json.loads((folder / "arms.json").read_text())]
    assert kinds == ["alone", "alone", "pooled"]
    assert [arm.kind for arm in report.build(folder).arms] == ["alone", "alone", "federated", "pooled"]


@pytest.mark.slow
def test_inline_and_flower_end_with_the_same_model(tmp_path: Path) -> None:
    inline = run(tiny(name="inline"), tmp_path)
    # the name is part of the study, and nothing else may differ: the two lie in different folders
    flower = run(tiny(name="inline", simulation={"engine": "flower"}), tmp_path / "flower")
    assert same(inline, flower)


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_inline_and_workers_end_with_the_same_model(tmp_path: Path, masked: bool) -> None:
    """Masked sums are exact as well, though a hospital's keys are in one worker."""
    changes = {"secure": {"enabled": masked}, "federation": {"rounds": 1}}
    inline = run(tiny(simulation={"hospitals": 3}, **changes), tmp_path / "inline")
    settings = {"hospitals": 3, "engine": "workers", "workers": 2}
    workers = run(tiny(simulation=settings, **changes), tmp_path / "workers")
    assert same(inline, workers)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["round-0000.json", "round-0002.json"])
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, moment: str) -> None:
    study = tiny(federation={"rounds": 6}, simulation={"compare": True})
    whole = run(study, tmp_path / "whole")
    (tmp_path / "study.yaml").write_text(study.to_yaml())
    arguments = ["simulate", str(tmp_path / "study.yaml"), "--runs", str(tmp_path / "cut")]
    command = [sys.executable, "-c", COMMAND, *arguments]
    process = subprocess.Popen(command, cwd=app_root(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait_for(tmp_path / "cut" / "tiny" / moment, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cut" / "tiny" / "embeddings.safetensors").exists(), (
        "it was killed too late to show anything"
    )
    assert same(whole, run(study, tmp_path / "cut"))


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, "the run ended or hung before the moment came"
        time.sleep(0.005)
