"""Does DP-SGD do what the accountant believes? Draws, clipping and noise, each with a test that a wrong one fails."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from bioface_core.accounting import Plan, plan_of
from bioface_core.config import Study
from bioface_core.errors import ConfigError
from bioface_core.front import Shown
from bioface_core.learner import Learner
from bioface_core.photos import FACE_SIZE_PX, PhotoSet
from bioface_core.privacy import Patients, check_private, noisy_gradients
from bioface_core.secret import SecretRandom
from bioface_core.sections import Speed
from bioface_core.views import Pick
from bioface_core.weights import random_base

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
PLAN = Plan(sampling_rate=0.5, noise_multiplier=2.0, steps=3, rounds=2, clip=0.5, delta=1e-5, expected=4.0)
WIDE = 20_000


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDE, 1, bias=False))


def loss_of(outputs_11: Tensor, label_1: Tensor, heads: Mapping[str, Tensor]) -> Tensor:
    return outputs_11.sum()


def estimate(patients: int, secret: SecretRandom, plan: Plan = PLAN) -> Tensor:
    """The noisy mean gradient of patients who all pull one coordinate, far too hard."""
    inputs_NX = torch.zeros(patients, WIDE)
    inputs_NX[:, 0] = 1e3
    labels_N = torch.zeros(patients, dtype=torch.int64)
    [gradient] = noisy_gradients(linear(), {}, inputs_NX, labels_N, loss_of, plan, secret).values()
    return gradient.flatten()


def is_noise_of(values: Tensor, deviation: float) -> bool:
    """Whether the values are normal with that deviation: refuses a tenth more or less."""
    return float(stats.kstest(values.numpy() / deviation, "norm").pvalue) > 1e-6 and (
        abs(float(values.var()) / deviation**2 - 1) < 0.08
    )


@pytest.mark.parametrize("patients", [0, 1, 3])
def test_the_noise_has_the_deviation_that_the_accountant_knows(patients: int) -> None:
    noise = estimate(patients, SecretRandom(KEY))[1:]
    deviation = PLAN.noise_multiplier * PLAN.clip / PLAN.expected
    assert is_noise_of(noise, deviation)
    assert not is_noise_of(noise / 2, deviation) and not is_noise_of(noise * 2, deviation)
    assert not is_noise_of(noise * 1.1, deviation)


def test_no_noise_is_used_twice() -> None:
    secret = SecretRandom(KEY)
    first, second = estimate(1, secret)[1:], estimate(1, secret)[1:]
    assert is_noise_of((first - second) / 2**0.5, PLAN.noise_multiplier * PLAN.clip / PLAN.expected)
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.04
    assert not torch.equal(estimate(1, SecretRandom()), estimate(1, SecretRandom())), "each stream has its own key"


def test_a_patient_pulls_no_further_than_the_clipping_norm() -> None:
    without, with_one = estimate(0, SecretRandom(KEY)), estimate(1, SecretRandom(KEY))
    change = (with_one - without) * PLAN.expected
    assert float(change.norm()) == pytest.approx(PLAN.clip, rel=1e-3)
    assert float((estimate(3, SecretRandom(KEY)) - without).norm()) == pytest.approx(
        3 * PLAN.clip / PLAN.expected, 1e-3
    )


def test_every_patient_is_drawn_on_their_own_and_with_one_photo() -> None:
    patients_N = torch.tensor([7, 3, 7, 7, 9, 3])
    patients, secret = Patients.of(patients_N), SecretRandom(KEY)
    draws = [patients.draw(0.3, secret) for _ in range(4000)]
    for drawn in draws:
        assert len(patients_N[drawn].unique()) == len(drawn), "one photo of each"
    times_P = torch.bincount(torch.cat([patients_N[drawn] for drawn in draws]), minlength=10)[[3, 7, 9]]
    assert bool(((times_P / len(draws) - 0.3).abs() < 0.04).all())
    sizes = torch.bincount(torch.tensor([len(drawn) for drawn in draws]), minlength=4) / len(draws)
    assert torch.allclose(sizes, torch.tensor([0.343, 0.441, 0.189, 0.027]), atol=0.04), (
        "binomial: nobody waits for others"
    )
    photos_N = torch.bincount(torch.cat(draws), minlength=6)
    assert stats.chisquare(photos_N[[0, 2, 3]].numpy()).pvalue > 1e-6


def private_study(**changes: dict[str, object]) -> Study:
    return Study().replace(
        {
            "syndromes": ["down", "noonan", "williams"],
            "model": {"depth": 10, "width": 0.125, "embedding": 16, "stem": "strided", "pool": "global"},
            "loss": {"mode": "joint", "identification": False},
            "privacy": {"unit": "patient", "clip": 1.0},
            **changes,
        }
    )


# precision and compile are refused with privacy (tests/test_speed.py)
@pytest.mark.parametrize(
    "speed",
    [
        {"threads": 2},
        {"channels_last": False},
        {"device": "cpu"},
        {"cache_trunk": False},
        {"device_memory_mb": 0},
    ],
)
def test_speed_changes_no_epsilon(speed: dict[str, object]) -> None:
    study = private_study()
    assert set(speed) <= set(Speed.model_fields)
    assert plan_of(study.replace({"speed": speed}), 100) == plan_of(study, 100)


def test_every_speed_setting_is_tried() -> None:
    tried, refused = {"threads", "channels_last", "device", "cache_trunk", "device_memory_mb"}, {"precision", "compile"}
    assert set(Speed.model_fields) == tried | refused, "another one: try it above"


def faces(photos: int) -> PhotoSet:
    randomness = torch.Generator().manual_seed(0)
    photos_NCHW = torch.randint(
        0, 256, (photos, 3, FACE_SIZE_PX, FACE_SIZE_PX), dtype=torch.uint8, generator=randomness
    )
    return PhotoSet(photos_NCHW, torch.arange(photos) % 3, torch.arange(photos) // 2)


def learner_of(study: Study) -> Learner:
    return Learner(study, random_base(study.model, 0))


@pytest.mark.parametrize("trainable", ["head", "last-stage", "se+bias", "all"])
def test_a_private_round_depends_on_the_secret_and_says_nothing_of_the_loss(trainable: str) -> None:
    study = private_study(model={**private_study().model.model_dump(), "trainable": trainable})
    learner = learner_of(study)
    start, photos = learner.start(), faces(8)
    results = [learner.train(start, photos, 1, "h", PLAN, SecretRandom(key)) for key in (KEY, KEY, OTHER_KEY)]
    assert torch.equal(results[0].delta, results[1].delta)
    assert not torch.equal(results[0].delta, results[2].delta)
    assert [result.loss for result in results] == [0.0, 0.0, 0.0]
    assert bool(results[0].delta.isfinite().all()) and float(results[0].delta.norm()) > 0


def test_the_public_seed_has_no_part_in_what_happens_to_patients() -> None:
    """Whoever knows how every photo was augmented would see one patient more change all the others' gradients."""
    vector, photos = learner_of(private_study()).start(), faces(8)
    seeds = [learner_of(private_study().replace({"seed": seed})) for seed in (0, 1)]
    deltas = [learner.train(vector, photos, 1, "h", PLAN, SecretRandom(KEY)).delta for learner in seeds]
    assert torch.equal(*deltas)


@pytest.mark.parametrize("mode", ["cross-sum", "cross-alternate"])
def test_public_steps_do_not_tell_how_many_patients_were_drawn(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study, everybody = private_study(loss={"mode": mode, "identification": True}), replace(PLAN, sampling_rate=1.0)
    base = replace(random_base(study.model, 0), identities_ID=torch.eye(3, 16))
    chances: list[Tensor] = []

    def pick(learner: Learner, identities: Shown, step: int, randomness: torch.Generator) -> Pick:
        chances.append(torch.rand(4, generator=randomness))
        return identities.pick(torch.arange(2), randomness)

    monkeypatch.setattr(Learner, "_public_pick", pick)
    for patients in (3, 4):
        learner = Learner(study, base, faces(6))
        learner.train(learner.start(), faces(2 * patients), 1, "h", everybody)
    half = len(chances) // 2
    assert half and torch.equal(torch.stack(chances[:half]), torch.stack(chances[half:]))


def test_a_round_in_which_nobody_is_drawn_is_a_round() -> None:
    learner = learner_of(private_study())
    nobody = Plan(**{**PLAN.__dict__, "sampling_rate": 1e-9})
    assert bool(learner.train(learner.start(), faces(4), 1, "h", nobody).delta.isfinite().all())


def test_a_loss_that_compares_patients_is_refused() -> None:
    with pytest.raises(ConfigError, match="triplet, which compares the patients of a batch.*set loss.metric: pull"):
        private_study(loss={"mode": "joint", "metric": "triplet"})


def test_a_norm_that_mixes_patients_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch, which mixes the patients of a batch: set frozen"):
        private_study(model={"norm": "batch", "base": "scratch"})
    with pytest.raises(ConfigError, match="cannot be trained so"):
        check_private(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))


def test_a_step_leaves_no_activation_behind() -> None:
    """A tensor that keeps its graph, and is kept by it, would fill the memory: no collector sees the cycle."""
    study = private_study(model={**private_study().model.model_dump(), "trainable": "all"})
    learner, seen = learner_of(study), list[weakref.ref[Tensor]]()
    for module in learner._model.trunk.modules():
        module.register_forward_hook(lambda module, entering, leaving: seen.append(weakref.ref(leaving)))
    learner.train(learner.start(), faces(8), 1, "h", PLAN)
    gc.collect()
    assert seen and not [alive for alive in seen if alive() is not None]
