"""Does the audit bite? The code as it is stays under its epsilon; each bug planted in it drives the bound above.

Coins and keys are fixed, so that nothing here depends on chance.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from bioface_core import privacy
from bioface_core.accounting import Charge, Plan, epsilon_of
from bioface_core.clipping import clipped_sum
from bioface_core.secret import SecretRandom
from simulation.attack.canaries import EmpiricalEpsilon, bounds, empirical_epsilon, without_noise
from simulation.attack.guessing import epsilon_of_gaussian, gaussian_bound, least_rate, one_run_bound

# Everybody in every step, so that the accounted epsilon (1.78) is no larger than need be, and half the noise shows.
PLAN = Plan(sampling_rate=1.0, noise_multiplier=3.536, steps=2, rounds=1, clip=0.5, delta=1e-6, expected=500.0)
SAMPLED = Plan(sampling_rate=0.3, noise_multiplier=3.0, steps=10, rounds=3, clip=1.0, delta=1e-5, expected=150.0)
MANY, FEW = 60_000, 6_000


def keys(seed: int) -> Callable[[], SecretRandom]:
    """A new fixed key at every call."""
    numbers = itertools.count(1000 * seed)
    return lambda: SecretRandom(next(numbers).to_bytes(32, "big"))


def audit(plan: Plan, canaries: int, seed: int = 0, **options: Any) -> EmpiricalEpsilon:
    return empirical_epsilon(plan, canaries, torch.Generator().manual_seed(seed), **({"secrets": keys(seed)} | options))


@pytest.mark.parametrize("seed", range(3))
def test_correct_code_stays_under_its_epsilon_by_either_bound(seed: int) -> None:
    found = audit(PLAN, MANY, seed)
    assert found.accounted is not None
    assert 0.6 < found.lower < found.accounted
    assert 0.85 * found.accounted < found.gaussian < found.accounted, "the Gaussian bound is tight"


@pytest.mark.parametrize("seed", range(3))
def test_correct_code_stays_under_its_epsilon_with_sampling(seed: int) -> None:
    found = audit(SAMPLED, FEW, seed)
    assert found.accounted is not None and 0 < found.lower < found.accounted
    assert 0 < found.gaussian < found.accounted


def test_half_the_noise_breaks_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hardest of the bugs: the loose bound needs many canaries for it."""
    normal = SecretRandom.normal
    monkeypatch.setattr(SecretRandom, "normal", lambda self, count: normal(self, count) / 2)
    found = audit(PLAN, MANY)
    assert found.accounted is not None
    assert found.lower > 1.05 * found.accounted, "whatever one assumes"
    assert found.gaussian > 1.9 * found.accounted


def test_no_clipping_breaks_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    def unclipped(network: Any, heads: Any, inputs_NX: Tensor, labels_N: Tensor, loss_of: Any, bound: float) -> Any:
        return clipped_sum(network, heads, inputs_NX, labels_N, loss_of, 1e6 * bound)

    monkeypatch.setattr(privacy, "clipped_sum", unclipped)
    assert broken(audit(PLAN, FEW))


def test_noise_repeated_in_every_step_breaks_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    normal = SecretRandom.normal
    monkeypatch.setattr(SecretRandom, "normal", lambda self, count: normal(SecretRandom(bytes(32)), count))
    assert broken(audit(PLAN, FEW))
    assert broken(audit(SAMPLED, FEW))


@pytest.mark.parametrize("plan", [PLAN, SAMPLED])
def test_a_repeated_seed_breaks_the_promise(plan: Plan) -> None:
    """Draws and noise of a round both come again in the next round, and at the next training."""
    assert broken(audit(plan, FEW, secrets=partial(SecretRandom, bytes(32))))


def broken(found: EmpiricalEpsilon) -> bool:
    assert found.accounted is not None
    return found.lower > found.accounted and found.gaussian > found.accounted


def test_without_noise_the_bound_is_what_the_canaries_can_prove() -> None:
    found = without_noise(PLAN.delta, 1000)
    assert found.accounted is None
    assert (found.guesses, found.right) == (900, 900)
    assert 5 < found.lower < 6


def test_noise_of_other_hospitals_hides_the_canaries_further() -> None:
    seen, masked = audit(PLAN, 5000), audit(PLAN, 5000, beside=(PLAN,) * 4)
    assert masked.gaussian < 0.6 * seen.gaussian


def test_guesses_at_random_prove_nothing() -> None:
    coins = torch.Generator().manual_seed(4)
    included_M, scores_M = torch.rand(5000, generator=coins) < 0.5, torch.rand(5000, generator=coins)
    found = bounds(included_M, scores_M, 1e-5, None)
    assert found.lower < 0.2 and found.gaussian < 0.2


# The bounds themselves.


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_the_one_run_bound_holds_where_epsilon_is_known(epsilon: float) -> None:
    """Randomised response: each guess is right with e^epsilon / (1 + e^epsilon), the best an epsilon allows."""
    rate, guesses = 1 / (1 + 2.718281828**-epsilon), 400
    drawn = torch.rand(300, guesses, generator=torch.Generator().manual_seed(7)) < rate
    right = drawn.sum(1).tolist()
    lower = [one_run_bound(guesses, guesses, hits, 0.0, 0.95) for hits in right]
    assert sum(bound > epsilon for bound in lower) < 0.1 * len(lower)
    assert sum(lower) / len(lower) > 0.6 * epsilon, "and is no looser than need be"


def test_the_one_run_bound_is_the_published_one() -> None:
    """The figures of facts known beforehand: 1000 canaries, all guessed right, prove at most 5.8."""
    assert one_run_bound(1000, 1000, 1000, 0.0, 0.95) == pytest.approx(5.81, abs=0.02)
    assert one_run_bound(1000, 1000, 1000, 1e-5, 0.95) < one_run_bound(1000, 1000, 1000, 0.0, 0.95)
    assert one_run_bound(1000, 200, 100, 1e-5, 0.95) == 0.0


def test_more_right_guesses_never_prove_less() -> None:
    bounds_ = [one_run_bound(1000, 100, right, 1e-5, 0.95) for right in range(0, 101, 4)]
    assert bounds_ == sorted(bounds_)


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (3, 10), (10, 10), (997, 1000)])
def test_the_least_rate_is_clopper_and_pearsons(hits: int, trials: int) -> None:
    expected = stats.binomtest(hits, trials).proportion_ci(0.95, "exact").low
    assert least_rate(hits, trials, 0.025) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (3.0, 4), (0.5, 1)])
def test_the_gaussian_epsilon_is_the_accountants(noise: float, steps: int) -> None:
    exact = epsilon_of_gaussian(steps**0.5 / noise, 1e-5)
    assert exact <= epsilon_of([Charge(noise, 1.0, steps)], 1e-5) <= 1.02 * exact + 0.01


def test_the_gaussian_bound_finds_a_known_separation() -> None:
    coins = torch.Generator().manual_seed(0)
    included_M = torch.rand(100_000, generator=coins) < 0.5
    scores_M: Tensor = included_M * 1.0 + torch.randn(100_000, generator=coins)
    assert 0.9 < gaussian_bound(included_M, scores_M, 1e-5, 0.95) / epsilon_of_gaussian(1.0, 1e-5) < 1
