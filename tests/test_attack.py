"""Do the attacks bite where there is something to find, stay silent where there is not, and end in a table?"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from bioface_core import report
from bioface_core.accounting import Plan
from bioface_core.checkpoint import open_run
from bioface_core.config import parse_study
from bioface_core.errors import RunError
from bioface_core.learner import Learner
from bioface_core.model import SEResNet, initialise
from bioface_core.photos import PhotoSet
from bioface_core.report.attacks import ATTACKS, HEADINGS, Attacks, attack_table, reading
from bioface_core.weights import Base, random_base, without_counters
from simulation.attack.inversion import Inverter, Known
from simulation.attack.likeness import Gallery, likeness_db
from simulation.attack.membership import confidences, halves, membership, surprise
from simulation.attack.run import Effort, attack
from simulation.attack.views import SETTINGS, Lab, settings_for
from simulation.hospitals import strangers
from simulation.progress import Progress
from tests.test_cli import bioface
from tests.test_simulate import TINY, run, tiny

PLAIN, MASKED, PRIVATE, BOTH = SETTINGS
PLAN = Plan(sampling_rate=0.5, noise_multiplier=2.0, steps=1, rounds=2, clip=1.0, delta=1e-5, expected=10.0)
LITTLE = Effort(victims=1, steps=3, references=2, strangers=9, canaries=1000, code_canaries=1000)

WIDE = 64

# Inversion.


def oval(seed: int) -> Tensor:
    """A face in three tones, uint8 (1, C, H, W): where it lies and its tones depend on the seed."""
    randomness = torch.Generator().manual_seed(seed)
    tones_23 = 40 + 170 * torch.rand(2, 3, generator=randomness)
    across, down = 56 + 20 * (torch.rand(2, generator=randomness) - 0.5)
    axis = torch.arange(112.0)
    inside_HW = ((axis[:, None] - down) / 44) ** 2 + ((axis[None] - across) / 32) ** 2 < 1
    return torch.where(inside_HW, tones_23[0, :, None, None], tones_23[1, :, None, None]).byte()[None]


class Scene:
    """A small network that three hospitals share, in the middle of a run."""

    def __init__(self) -> None:
        model = {"norm": "frozen", "pool": "flat", "width": 0.25, "embedding": WIDE}
        self.study = parse_study(TINY).replace({"model": model, "loss": {"mode": "arcface"}})
        self.base = random_base(self.study.model, 0)
        learner = Learner(self.study, self.base)
        self.vector = learner.start()
        pixels_NCHW = torch.cat([oval(10 + number) for number in range(6)])
        others = PhotoSet(pixels_NCHW, torch.arange(6) % 3, torch.arange(6))
        self.victim = PhotoSet(oval(0), torch.tensor([1]), torch.tensor([0]))
        self.lab = Lab(self.study, self.base, self.vector, 1, [self.victim, others, others], [PLAN] * 3)
        self.learner = learner
        self.public_1CHW = (pixels_NCHW.float() / 127.5 - 1).mean(0, keepdim=True)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


def found_db(scene: Scene, update: Tensor, private: bool) -> float:
    """How like the victim the reconstruction is."""
    known = Known(scene.study, scene.base, scene.vector, 1, scene.public_1CHW)
    photo_1CHW = Inverter(known).invert(update, scene.victim.labels_N, private, steps=100)
    return likeness_db(photo_1CHW, scene.victim.photos_NCHW.float() / 127.5 - 1)


@pytest.mark.slow
def test_a_photo_is_read_out_of_a_plain_update_worse_out_of_a_sum_and_not_out_of_noise(scene: Scene) -> None:
    public_db = likeness_db(scene.public_1CHW, scene.victim.photos_NCHW.float() / 127.5 - 1)
    settings = (PLAIN, MASKED, PRIVATE)
    found = {one.name: found_db(scene, scene.lab.sees(one, scene.victim), one.private) for one in settings}
    assert found["plain"] > public_db + 4, found
    assert found["masked"] < found["plain"] - 1, found
    assert found["DP"] < public_db + 1.5, found


def test_a_masked_sum_is_the_weighted_mean_of_what_each_would_send(scene: Scene) -> None:
    alone = scene.lab.sees(PLAIN, scene.victim)
    masked = scene.lab.sees(MASKED, scene.victim)
    others = scene.lab._updates_of_others(False)
    weights = [scene.study.federation.weight_step, *(other.weight for other in others)]
    network = len(alone) - 3 * WIDE  # prototypes are weighted by class
    mean = sum(w * d for w, d in zip(weights, [alone, *(o.delta for o in others)], strict=True)) / sum(weights)
    assert isinstance(mean, Tensor) and torch.allclose(masked[:network], mean[:network], atol=1e-5)


def test_noise_is_fresh_every_time(scene: Scene) -> None:
    first, second = (scene.lab.sees(PRIVATE, scene.victim) for _ in range(2))
    assert not torch.equal(first, second)
    assert float((first - second).norm()) > 0.5 * float(first.norm())


def test_two_hospitals_have_no_masks() -> None:
    assert settings_for(2) == (PLAIN, PRIVATE) and settings_for(3) == SETTINGS


def test_a_gallery_names_the_right_patient_by_another_photo() -> None:
    config = tiny().model.model_copy(update={"norm": "frozen"})
    trunk = SEResNet(config)
    initialise(trunk, torch.Generator().manual_seed(0))
    pixels_NCHW = torch.cat([oval(0), oval(0).clamp(max=200), oval(1), oval(2)])
    people = PhotoSet(pixels_NCHW, torch.zeros(4, dtype=torch.int64), torch.tensor([0, 0, 1, 2]))
    gallery = Gallery.of(config, Base(without_counters(trunk.state_dict())), people)
    assert gallery.chance == pytest.approx(1 / 3)
    assert gallery.names(oval(0), attacked=0), "by the other photo, for the attacked one is left out"
    assert not gallery.names(oval(1), attacked=0) and gallery.names(oval(1), attacked=2)


def test_likeness_is_psnr() -> None:
    black, white = -torch.ones(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    assert likeness_db(black, white) == pytest.approx(0.0)
    assert likeness_db(black, black + 0.2) == pytest.approx(20.0, abs=1e-3)


# Membership.


def test_a_planted_leak_is_found_and_none_where_there_is_none() -> None:
    randomness = torch.Generator().manual_seed(0)
    member_P = torch.arange(3000) < 1000
    noise_P = torch.randn(3000, generator=randomness)
    leak, none = membership(noise_P + 2.0 * member_P, member_P), membership(noise_P, member_P)
    assert leak.area.low > 0.9 and leak.caught_at_1 is not None and leak.caught_at_1.low > 0.2
    assert none.area.low < 0.5 < none.area.high
    assert none.caught_at_1 is not None and none.caught_at_1.value < 0.03
    assert none.caught_at_01 is not None and none.caught_at_01.value < 0.01


def test_rates_equal_a_plain_count() -> None:
    randomness = torch.Generator().manual_seed(1)
    scores_P = torch.randn(1400, generator=randomness).mul(4).round() / 4  # with ties
    member_P = torch.rand(1400, generator=randomness) < 0.25
    scores_P += 0.7 * member_P
    found = membership(scores_P, member_P)
    assert found.area.value == pytest.approx(roc_auc_score(member_P.tolist(), scores_P.tolist()), abs=1e-6)
    inside, outside = scores_P[member_P].tolist(), scores_P[~member_P].tolist()
    for rate, estimate in ((0.01, found.caught_at_1), (0.001, found.caught_at_01)):
        allowed = int(rate * len(outside))
        best = max(
            sum(score > bar for score in inside) / len(inside)
            for bar in {*outside, *inside}
            if sum(score > bar for score in outside) <= allowed
        )
        assert estimate is not None and estimate.value == pytest.approx(best)
        assert estimate.low <= estimate.value <= estimate.high


def test_too_few_patients_show_no_rare_alarm() -> None:
    found = membership(torch.randn(250), torch.arange(250) < 100)
    assert found.caught_at_1 is not None and found.caught_at_01 is None


def test_everybody_is_out_of_half_of_the_references() -> None:
    trained_MP = halves(11, 6, seed=3)
    assert trained_MP.sum(0).tolist() == [3] * 11
    assert torch.equal(trained_MP[0], ~trained_MP[1]) and not torch.equal(trained_MP[0], trained_MP[2])
    references_MP = torch.arange(66.0).view(6, 11)
    plain_P = [10.0 - sum(references_MP[m, p].item() for m in range(6) if not trained_MP[m, p]) / 3 for p in range(11)]
    assert surprise(torch.full((11,), 10.0), references_MP, trained_MP).tolist() == pytest.approx(plain_P)


def test_confidence_is_the_log_odds_of_the_own_syndrome(scene: Scene) -> None:
    photos = PhotoSet(torch.cat([oval(1), oval(2), oval(3)]), torch.tensor([0, 0, 2]), torch.tensor([0, 0, 1]))
    embeddings_ND = scene.learner.embed(scene.vector, photos)
    prototypes_KD = torch.nn.functional.normalize(scene.vector[-3 * WIDE :].view(3, WIDE))
    probability_NK = (scene.study.loss.scale * embeddings_ND @ prototypes_KD.T).softmax(1).double()
    own_N = probability_NK.gather(1, photos.labels_N[:, None])[:, 0]
    odds_N = (own_N / (1 - own_N)).log()
    expected = [float(odds_N[:2].mean()), float(odds_N[2])]
    assert confidences(scene.learner, scene.vector, photos).tolist() == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_strangers_are_like_the_patients_and_none_of_them() -> None:
    study = tiny()
    some = strangers(study, {"down": 2, "williams": 1, "noonan": 0}, lambda done, total: None)
    assert some is not None and some.labels_N.tolist() == [0, 0, 1]
    shifted = study.replace({"simulation": {"partition": {"site_shift": 1.0}}})
    assert strangers(shifted, {"down": 1, "williams": 0, "noonan": 0}, lambda done, total: None) is None


# The command.


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Attacks]:
    """A tiny run of three hospitals, and what little effort finds in it."""
    folder = run(tiny(simulation={"hospitals": 3}), tmp_path_factory.mktemp("runs"))
    with Progress(quiet=True) as progress:
        return folder, attack(folder, progress, LITTLE)


def test_four_settings_are_attacked(attacked: tuple[Path, Attacks]) -> None:
    _, found = attacked
    assert [one.name for one in found.defences] == ["plain", "masked", "DP", "masked + DP"]
    plain, masked, private, both = found.defences
    assert plain.membership == masked.membership and private.membership == both.membership
    assert plain.canaries.accounted is None and plain.canaries == masked.canaries
    for one in (private, both):
        assert one.canaries.accounted is not None and one.canaries.lower < one.canaries.accounted <= 8
    assert found.others == 9 + 12 - found.members and found.victims == 1
    assert found.code.accounted is not None and found.code.lower < found.code.accounted


def test_the_report_and_the_terminal_show_it(attacked: tuple[Path, Attacks]) -> None:
    folder, found = attacked
    made = report.write_report(folder)
    assert made.attacks == found
    page = (folder / "report.html").read_text()
    assert "What do attacks find?" in page and all(heading in page for heading in HEADINGS)
    assert json.loads((folder / "report.json").read_text())["attacks"]["members"] == found.members
    grid = attack_table(found, "tiny")
    assert grid.row_count == len(HEADINGS) and len(grid.columns) == 5
    assert any("Guessing" in sentence for sentence in reading(found))


def test_a_second_attack_trains_nothing_again(attacked: tuple[Path, Attacks], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, found = attacked

    def trained(*_: object) -> None:
        raise AssertionError("it was trained already")

    monkeypatch.setattr(Learner, "train", trained)
    monkeypatch.setattr("simulation.attack.run._Inversions.under", lambda self, settings, bar: _like(found))
    with Progress(quiet=True) as progress:
        again = attack(folder, progress, LITTLE)
    assert [one.membership for one in again.defences] == [one.membership for one in found.defences]
    assert [one.top1 for one in again.defences] == [one.top1 for one in found.defences]


def _like(found: Attacks) -> Any:
    from simulation.attack.run import _Inverted

    inversions = {one.name: one.inversion for one in found.defences}
    return _Inverted(inversions, found.victims, found.chance, found.itself, found.nobody_db)


def test_mistakes_are_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = tiny(name="begun")
    with open_run(tmp_path / "begun", begun):
        pass
    hospital = tiny(
        name="hospitals", privacy={"unit": "hospital", "epsilon": 8}, federation={"weighting": "equal", "rounds": 1}
    )
    finished = run(hospital, tmp_path)
    for folder, told in (
        (tmp_path / "nothing", "is no folder"),
        (tmp_path, "no run folder"),
        (tmp_path / "begun", "0 of 2 rounds are done"),
        (finished, "privacy.unit is hospital"),
    ):
        assert bioface(monkeypatch, "attack", str(folder)) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert told in error[-1] and error[-1].startswith("bioface: "), error


def test_a_run_without_photos_and_a_damaged_result_are_refused(attacked: tuple[Path, Attacks], tmp_path: Path) -> None:
    folder, _ = attacked
    elsewhere = tmp_path / "deployed"
    elsewhere.mkdir()
    for path in [*folder.glob("round-*"), folder / "study.yaml", folder / "journal.jsonl"]:
        (elsewhere / path.name).write_bytes(path.read_bytes())
    with Progress(quiet=True) as progress, pytest.raises(RunError, match="holds no photos of patients"):
        attack(elsewhere, progress, replace(LITTLE, victims=1))
    (elsewhere / ATTACKS).write_text('{"hospital": 1}')
    with pytest.raises(RunError, match=ATTACKS):
        report.write_report(elsewhere)
