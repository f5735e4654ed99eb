"""Does the audit bite? With the code as it is, no bound passes epsilon; with a planted bug, one does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from bioface_core.accounting import Plan
from bioface_core.secret import SecretRandom
from simulation.attack.canaries import Audit, Step, audit, least_epsilon, private_step

KEY, NOISE_KEY = bytes(range(32)), bytes(range(7, 39))
EVERYBODY = Plan(1.0, 2.0, steps=4, rounds=1, clip=0.5, delta=1e-5, expected=500.0)
SOME = replace(EVERYBODY, sampling_rate=0.5, noise_multiplier=6.0, expected=250.0)


def without_clipping(network: nn.Module, inputs_NX: Tensor, plan: Plan, secret: SecretRandom) -> Tensor:
    loose = replace(plan, clip=20 * plan.clip, noise_multiplier=plan.noise_multiplier / 20)
    return private_step(network, inputs_NX, loose, secret)


def with_half_the_noise(network: nn.Module, inputs_NX: Tensor, plan: Plan, secret: SecretRandom) -> Tensor:
    return private_step(network, inputs_NX, replace(plan, noise_multiplier=plan.noise_multiplier / 2), secret)


def with_a_repeated_seed(network: nn.Module, inputs_NX: Tensor, plan: Plan, secret: SecretRandom) -> Tensor:
    return private_step(network, inputs_NX, plan, SecretRandom(NOISE_KEY))


def audited(plan: Plan, step: Step = private_step) -> Audit:
    """With so much confidence that correct code is found wanting once in a thousand keys, and this one is fixed."""
    return audit(plan, SecretRandom(KEY), 1000, step, confidence=0.999)


@pytest.mark.parametrize("plan", [EVERYBODY, SOME])
def test_correct_code_stays_under_the_accounted_epsilon(plan: Plan) -> None:
    found = audited(plan)
    assert found.holds and found.accounted > 0.5
    assert found.canaries == 1000 and found.guesses == 200 and found.confidence == 0.999


@pytest.mark.parametrize(
    ("plan", "bug"),
    [
        (EVERYBODY, without_clipping),
        (SOME, without_clipping),
        (EVERYBODY, with_half_the_noise),
        (SOME, with_a_repeated_seed),
    ],
)
def test_a_planted_bug_exceeds_it(plan: Plan, bug: Step) -> None:
    found = audited(plan, bug)
    assert not found.holds
    assert max(found.lower, found.lower_if_normal or 0) > 1.2 * found.accounted, "by far"


@pytest.mark.slow
def test_correct_code_is_found_wanting_as_often_as_the_confidence_says() -> None:
    found = [audit(EVERYBODY, SecretRandom(bytes([number] * 32))) for number in range(100)]
    assert sum(not one.holds for one in found) <= 14, "5 are expected; more than 14 happen once in 10,000 times"
    assert not any(one.lower > one.accounted for one in found)


def test_the_sharp_bound_is_close_to_the_truth() -> None:
    found = audited(EVERYBODY)
    assert found.lower_if_normal is not None
    assert 0.7 * found.accounted < found.lower_if_normal <= found.accounted
    assert 0 < found.lower < found.lower_if_normal, "the bound without assumptions is the weaker one"


def test_the_bound_without_assumptions_is_that_of_the_paper() -> None:
    """All right: then (e^eps / (1 + e^eps))^r = error, and with 1000 canaries that is the 5.78 of the paper's table."""
    assert least_epsilon(1000, 1000, 1000, 0.0, 0.05) == pytest.approx(5.81, abs=0.02)
    assert least_epsilon(1000, 200, 100, 1e-5, 0.05) == 0.0
    assert least_epsilon(1000, 200, 190, 1e-2, 0.05) < least_epsilon(1000, 200, 190, 1e-5, 0.05)


def test_noise_that_drowns_everything_proves_nothing() -> None:
    found = audited(replace(EVERYBODY, noise_multiplier=1000.0))
    assert found.lower == found.lower_if_normal == 0


def test_a_canary_pulls_one_coordinate_as_far_as_clipping_lets_it() -> None:
    silent = replace(EVERYBODY, noise_multiplier=1e-9)
    inputs_NX = torch.eye(5)[:2] * 1e3
    gradient = private_step(nn.Linear(5, 1, bias=False), inputs_NX, silent, SecretRandom(KEY)) * silent.expected
    assert torch.allclose(gradient, torch.tensor([0.5, 0.5, 0, 0, 0]), atol=1e-6)
