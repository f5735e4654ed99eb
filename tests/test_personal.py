"""Does a hospital's own model help its patients, is it honest where it does not, and does it stay where it is?"""

from __future__ import annotations

import ast
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.stats import binom

from bioface_core import cli
from bioface_core.errors import ConfigError, PassportError, PhotoError, WeightsError
from bioface_core.expert import Expert, read_expert
from bioface_core.learner import Learner
from bioface_core.photos import Demographics, PhotoSet
from bioface_core.start import Start, write_start
from bioface_core.store import Store, write_store
from bioface_core.weights import random_base, read_base
from client.personal import Plan, describe, personalise
from client.personal.compare import compare
from tests.small_run import SYNDROMES, write_small_run
from tests.test_learner import stripes

CHECKOUT = Path(__file__).resolve().parent.parent
PLAN = Plan("all", epochs=3, folds=3, rate=1.0)


def store_of(photos: PhotoSet, heldout_from: int) -> Store:
    """The patients from a number on are held out."""
    return Store(SYNDROMES, photos, photos.patients_N >= heldout_from, Demographics.unknown(len(photos)))


def learnable(patients: int = 60, heldout_from: int = 36) -> Store:
    photos = stripes(patients, 3)
    return store_of(replace(photos, patients_N=torch.arange(patients)), heldout_from)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_small_run(tmp_path_factory.mktemp("run"))
    write_start(folder, Start(random_base(read_expert(folder).study.model, 0), None))
    return folder


@pytest.fixture(scope="module")
def expert(run: Path) -> Expert:
    return read_expert(run)


@pytest.fixture(scope="module")
def start(expert: Expert) -> Start:
    return Start(random_base(expert.study.model, 0), None)


def test_what_can_be_learned_is_learned_and_told(expert: Expert, start: Start) -> None:
    before = {name: tensor.clone() for name, tensor in expert.network.state_dict().items()}
    made = personalise(expert, start, learnable(), PLAN)
    assert made.epochs > 0 and made.trained_on == 36 and made.lacking == ()
    assert made.losses_E[made.epochs] == min(made.losses_E) < made.losses_E[0]
    told = made.comparison
    assert told.personal.value > told.shared.value + 0.2 and told.personal_loss < told.shared_loss
    assert told.gained > told.lost and told.p_value < 0.05 and told.shared.patients == 24
    assert "clearly different" in describe(made, Path("own"))
    assert all(torch.equal(before[name], tensor) for name, tensor in expert.network.state_dict().items())


def test_where_nothing_can_be_learned_it_is_the_shared_model(expert: Expert, start: Start) -> None:
    """Labels by chance: every epoch makes it worse for those left out, and zero is chosen."""
    store = learnable(90, 60)
    draw = torch.Generator().manual_seed(5)
    photos = replace(store.photos, labels_N=store.photos.labels_N[torch.randperm(90, generator=draw)])
    made = personalise(expert, start, store_of(photos, 60), PLAN)
    assert made.epochs == 0 and made.comparison.gained == made.comparison.lost == 0
    assert made.comparison.shared == made.comparison.personal and made.comparison.p_value == 1.0
    assert "the shared one" in describe(made, Path("own"))
    weights = expert.network.state_dict()
    assert all(torch.equal(made.weights[name], weights[name]) for name in made.weights)


def test_no_patient_is_on_both_sides_of_a_fold() -> None:
    from client.personal.fit import _folds

    photos = stripes(40, 2)
    photos = replace(photos, patients_N=torch.arange(40) // 4 * 2 + photos.labels_N)
    seen = []
    for inside_N, outside_N in _folds(photos, 4):
        inside, outside = set(photos.patients_N[inside_N].tolist()), set(photos.patients_N[outside_N].tolist())
        assert not inside & outside and inside | outside == set(photos.patients_N.tolist())
        seen += sorted(outside)
    assert sorted(seen) == sorted(set(photos.patients_N.tolist())), "everybody is left out once"


def test_heldout_patients_play_no_part_in_the_choice(expert: Expert, start: Start) -> None:
    store = learnable()
    shuffled = replace(store.photos, photos_NCHW=store.photos.photos_NCHW.clone())
    shuffled.photos_NCHW[store.heldout_N] = 128
    other = personalise(expert, start, replace(store, photos=shuffled), PLAN)
    made = personalise(expert, start, store, PLAN)
    assert made.losses_E == other.losses_E and made.epochs == other.epochs
    assert all(torch.equal(made.weights[name], other.weights[name]) for name in made.weights)
    assert made.comparison != other.comparison


@pytest.mark.parametrize("part", ["head", "last-stage"])
def test_only_the_part_that_was_named_changes(expert: Expert, start: Start, part: str) -> None:
    made = personalise(expert, start, learnable(), replace(PLAN, part=part))
    shared = expert.network.state_dict()
    changed = {name for name, tensor in made.weights.items() if not torch.equal(tensor, shared[name])}
    assert made.epochs > 0 and "prototypes" in changed
    allowed = ("prototypes", "trunk.output_layer") if part == "head" else ("prototypes", "trunk.output", "trunk.body.3")
    assert all(name.startswith(allowed) for name in changed)


def test_what_is_lacking_is_named(expert: Expert, start: Start) -> None:
    store = learnable()
    made = personalise(expert, start, store.take(store.photos.labels_N < 2), PLAN)
    assert made.lacking == ("noonan",) and "Noonan" in describe(made, Path("own"))


def test_too_few_patients_are_refused(expert: Expert, start: Start) -> None:
    with pytest.raises(PhotoError, match="5 training patients.*at least 6"):
        personalise(expert, start, learnable(20, 5), PLAN)
    with pytest.raises(PhotoError, match="holds nobody out"):
        personalise(expert, start, learnable(20, 20), PLAN)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (5, 0), (3, 2), (1, 9), (12, 4)])
def test_the_comparison_is_mcnemars(gained: int, lost: int) -> None:
    both, labels_P = 7, torch.zeros(7 + gained + lost, dtype=torch.int64)
    right, wrong = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    before = torch.stack([right] * both + [wrong] * gained + [right] * lost)
    after = torch.stack([right] * both + [right] * gained + [wrong] * lost)
    found = compare((before, labels_P), (after, labels_P), 1.0)
    assert (found.gained, found.lost) == (gained, lost)
    expected = min(1.0, 2 * float(binom.cdf(min(gained, lost), gained + lost, 0.5)))
    assert found.p_value == pytest.approx(expected)
    assert found.shared.value == (both + lost) / len(labels_P)


def test_from_the_command_line_to_an_answer(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, own = tmp_path / "store", tmp_path / "own"
    write_store(store, learnable())
    options = ("--store", store, "--start", run, "--part", "all", "--epochs", "2", "--folds", "3")
    assert call("hospital", "personalise", run, "--out", own, *options, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["trained_on"] == 36 and own.stat().st_mode & 0o077 == 0
    mine, shared = read_expert(own), read_expert(run)
    assert mine.calibration == shared.calibration and mine.syndromes == shared.syndromes
    for wrong, said in (
        (("hospital", "personalise", run, "--out", own, *options), "not empty"),
        (("hospital", "personalise", own, "--out", tmp_path / "second", *options), "own model already"),
        (("hospital", "personalise", run, "--out", tmp_path / "second", *options[:4], "--part", "nose"), "no part"),
        (("hospital", "personalise", run, "--out", tmp_path / "second", "--at", tmp_path), "no hospital's folder"),
        (("export", own, "--out", tmp_path / "second"), "stays there"),
    ):
        assert call(*wrong) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and said in lines[0]
    assert not (tmp_path / "second").exists()


def test_a_study_cannot_start_from_it_and_damage_is_found(run: Path, tmp_path: Path, expert: Expert) -> None:
    from bioface_core.personal import write_personal

    own = tmp_path / "own"
    learner = Learner(expert.study, random_base(expert.study.model, 0))
    write_personal(own, expert.study, learner.weights(learner.start()), expert.calibration, {})
    with pytest.raises(WeightsError):
        read_base(own / "model.safetensors", expert.study.model)
    content = bytearray((own / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (own / "model.safetensors").write_bytes(content)
    with pytest.raises(PassportError, match="was changed"):
        read_expert(own)
    (own / "personal.json").write_text("{}")
    with pytest.raises(PassportError, match="is damaged"):
        read_expert(own)


def test_no_part_of_a_node_reads_it() -> None:
    """Whatever talks to the lab imports nothing that makes, or knows, a hospital's own model."""
    for path in (CHECKOUT / "client").glob("*.py"):
        imported = {
            alias
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom)
            for alias in (node.module or "",)
        }
        assert not any("personal" in name for name in imported), path.name


def test_a_wrong_part_is_one_line(run: Path, tmp_path: Path) -> None:
    from client.personal import personalise_to

    with pytest.raises(ConfigError, match="expected head, last-stage, all"):
        personalise_to(tmp_path / "own", run, tmp_path, run, Plan("nose"))


def call(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bioface", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0
