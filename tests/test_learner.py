"""Is local training a function of its arguments, and does it learn?"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bioface_core.config import Study, parse_study
from bioface_core.learner import Learner
from bioface_core.photos import PhotoSet
from bioface_core.pretrain import pretrain
from bioface_core.seeding import generator
from bioface_core.weights import Base, random_base

MODEL = {"depth": 10, "width": 0.125, "embedding": 16, "stem": "strided", "pool": "flat"}


def study(**changes: object) -> Study:
    content = {
        "syndromes": ["a", "b", "c"],
        "model": MODEL,
        "train": {"batch": 8, "epochs": 1, "rate": 3e-3},
        "federation": {"rounds": 4},
    }
    return parse_study(content).replace(dict(changes))


def stripes(photos: int, classes: int, key: str = "stripes") -> PhotoSet:
    """Photos that anything can learn: class k has stripes of width k + 1, under noise."""
    labels_N = torch.arange(photos) % classes
    columns_W = torch.arange(112)
    pattern_NW = ((columns_W // (4 * (labels_N[:, None] + 1))) % 2).float() * 120 + 60
    noise = 30 * torch.randn(photos, 3, 112, 112, generator=generator(key))
    pixels = (pattern_NW[:, None, None, :] + noise).clamp(0, 255).to(torch.uint8)
    return PhotoSet(pixels, labels_N, torch.arange(photos) // classes * classes + labels_N)


def base_of(study_: Study, identities: int = 0) -> Base:
    trunk = random_base(study_.model.model_copy(update={"norm": "batch"}), study_.seed).trunk
    prototypes = F.normalize(torch.randn(identities, 16, generator=generator("ids"))) if identities else None
    return Base(trunk, prototypes)


def learner(study_: Study) -> Learner:
    return Learner(study_, base_of(study_, 4), stripes(12, 4, "people"))


@pytest.mark.parametrize("mode", ["ce", "arcface", "joint", "cross-sum", "cross-alternate"])
def test_every_mode_learns(mode: str) -> None:
    student = learner(study(loss={"mode": mode}, federation={"rounds": 3}, train={"epochs": 3, "schedule": "constant"}))
    photos, vector = stripes(24, 3), student.start()
    for round_ in (1, 2, 3):
        vector = vector + student.train(vector, photos, round_, "hospital-1").delta
    counts = student.evaluate(vector, stripes(18, 3, "new"))
    assert int(counts.confusion_KK.trace()) >= 15, counts.confusion_KK


def test_result_depends_on_the_arguments_alone() -> None:
    first, second = learner(study()), learner(study())
    photos, vector = stripes(12, 3), first.start()
    second.train(vector + 0.01, photos, 2, "hospital-9")  # what happened before leaves no trace
    one, other = first.train(vector, photos, 1, "hospital-1"), second.train(vector, photos, 1, "hospital-1")
    assert torch.equal(one.delta, other.delta) and one.loss == other.loss
    assert not torch.equal(one.delta, first.train(vector, photos, 2, "hospital-1").delta)
    assert not torch.equal(one.delta, first.train(vector, photos, 1, "hospital-2").delta)


def test_prototypes_of_absent_classes_stay() -> None:
    student = learner(study(loss={"healthy": "ignore"}))
    only_two = stripes(12, 2)
    delta_KD = student.train(student.start(), only_two, 1, "hospital-1").delta[-3 * 16 :].view(3, 16)
    assert delta_KD[2].abs().max() == 0 and delta_KD[:2].abs().min(dim=1).values.max() > 0


def test_identification_changes_the_steps() -> None:
    with_, without = learner(study()), learner(study(loss={"identification": False}))
    photos = stripes(24, 3)
    deltas = [s.train(s.start(), photos, 1, "hospital-1").delta for s in (with_, without)]
    assert not torch.equal(*deltas)


def test_public_people_are_pushed_away_from_syndromes() -> None:
    """The same steps with and without: afterwards they are farther from every prototype."""
    photos, nearest = stripes(24, 3), []
    for healthy in ("repel", "ignore"):
        student = learner(study(loss={"healthy": healthy, "healthy_weight": 5.0, "identification_every": 1}))
        vector = student.start()
        for round_ in range(1, 5):
            vector = vector + student.train(vector, photos, 1, f"hospital-{round_}").delta
        cosines_NK = student.scores(vector, student.embed(vector, stripes(8, 4, "identities")))
        nearest.append(float(cosines_NK.amax(1).mean()))
    assert nearest[0] < nearest[1] - 0.05


def test_proximal_term_holds_back() -> None:
    free, held = learner(study()), learner(study(train={"proximal": 100.0}))
    photos = stripes(24, 3)
    lengths = [float(s.train(s.start(), photos, 1, "hospital-1").delta.norm()) for s in (free, held)]
    assert lengths[1] < 0.9 * lengths[0]


def test_proximal_gradient_is_its_equation() -> None:
    from bioface_core.optimise import Optimiser

    model = torch.nn.Linear(3, 1, bias=False)
    settings = study(train={"proximal": 0.5, "optimiser": "sgd", "rate": 0.1, "clip": 0, "weight_decay": 0}).train
    optimiser = Optimiser(model, settings.model_copy(update={"schedule": "constant"}), 0.0)
    received = model.weight.detach().clone()
    model.weight.data += 1.0
    optimiser.step(0.0 * model.weight.sum())
    # gradient mu * (w - w0) = 0.5; Nesterov's first step is rate * (1 + momentum) * gradient
    torch.testing.assert_close(model.weight.detach(), received + 1.0 - 0.1 * 1.9 * 0.5)


def test_channels_last_changes_rounding_only() -> None:
    photos = stripes(8, 2)
    vectors = []
    for channels_last in (True, False):
        student = learner(study(speed={"channels_last": channels_last}))
        vectors.append(student.train(student.start(), photos, 1, "hospital-1").delta)
    torch.testing.assert_close(*vectors, rtol=0, atol=2e-3)


@pytest.mark.parametrize("stem", ["face", "strided"])
def test_group_norm_trains_where_a_group_is_one_channel(stem: str) -> None:
    """Channels last, torch 2.15 ends the process here."""
    narrow = study(model={"width": 0.125, "norm": "group", "base": "scratch", "stem": stem}, loss={"mode": "arcface"})
    student = learner(narrow)
    assert student.train(student.start(), stripes(8, 2), 1, "hospital-1").delta.isfinite().all()


def test_weights_hold_the_vector_and_the_frozen_rest() -> None:
    student = learner(study())
    vector = student.start() + 1
    weights = student.weights(vector)
    assert torch.equal(weights["prototypes"].reshape(-1), vector[-3 * 16 :])
    assert "trunk.body.0.res_layer.0.running_mean" in weights


def test_empty_sets_are_no_accident() -> None:
    student = learner(study())
    nobody = stripes(3, 3).take(torch.zeros(3, dtype=torch.bool))
    assert student.evaluate(student.start(), nobody).patients_K.sum() == 0
    assert student.embed(student.start(), nobody).shape == (0, 16)
    assert student.train(student.start(), nobody, 1, "hospital-1").delta.abs().max() == 0


def test_stage_one_learns_to_identify_and_is_reproducible() -> None:
    people = stripes(48, 4, "people")
    still = {"rotate_deg": 0, "scale": 0, "shift": 0, "erase": 0, "mirror": False}
    config = study(pretrain={"epochs": 8, "batch": 16, "rate": 1e-2, "margin": 0.1, "augment": still})
    epochs: list[float] = []
    base = pretrain(config, people, "cpu", lambda epoch: epochs.append(epoch.accuracy))
    again = pretrain(config, people, "cpu")
    assert base.sha256 == again.sha256
    assert len(epochs) == 8 and epochs[-1] > 0.8 > epochs[0]
    assert base.identities_ID is not None and base.identities_ID.shape == (4, 16)
    assert not any(name.endswith("num_batches_tracked") for name in base.trunk)
