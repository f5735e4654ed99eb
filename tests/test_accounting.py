"""Does epsilon say what it should? Never less than an independent accountant, and hardly more."""

from __future__ import annotations

import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from bioface_core.accounting import Charge, epsilon_of, noise_for, plan_of, rounded_up
from bioface_core.config import Study
from bioface_core.errors import ConfigError

DELTA = 1e-5


def by_pld(charges: list[Charge]) -> float:
    """Google's accountant: privacy loss distributions, pessimistic, of both kinds of neighbours."""
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    for charge in charges:
        step = PoissonSampledDpEvent(charge.sampling_rate, GaussianDpEvent(charge.noise_multiplier))
        accountant.compose(step, charge.steps)
    return float(accountant.get_epsilon(DELTA))


def private(**privacy: float) -> Study:
    return Study(syndromes=("down", "noonan")).replace({"privacy": {"unit": "patient", **privacy}})


@pytest.mark.parametrize(
    "charges",
    [
        [Charge(1.0, 0.1, 100)],
        [Charge(0.7, 0.03, 200)],
        [Charge(3.0, 0.3, 100)],
        [Charge(5.0, 1.0, 20)],
        [Charge(1.5, 0.1, 50), Charge(2.0, 0.2, 50)],
    ],
)
def test_agrees_with_dp_accounting_and_is_never_below_it(charges: list[Charge]) -> None:
    ours, theirs = epsilon_of(charges, DELTA), by_pld(charges)
    assert theirs <= ours <= 1.02 * theirs


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(st.floats(0.8, 6), st.floats(0.02, 1), st.integers(5, 100))
def test_agrees_with_dp_accounting_wherever_a_study_may_be(noise: float, rate: float, steps: int) -> None:
    charges = [Charge(noise, rate, steps)]
    ours = epsilon_of(charges, DELTA)
    if 0.3 < ours < 30:  # outside of it nobody would call the study private, or useful
        theirs = by_pld(charges)
        assert theirs <= ours <= 1.02 * theirs + 1e-3


def test_a_run_cut_into_pieces_costs_what_the_whole_run_costs() -> None:
    whole = epsilon_of([Charge(1.2, 0.2, 60)], DELTA)
    assert epsilon_of([Charge(1.2, 0.2, 10)] * 6, DELTA) == whole
    assert epsilon_of([Charge(1.2, 0.2, 59), Charge(1.2, 0.2, 1), Charge(9.0, 0.1, 0)], DELTA) == whole


def test_order_does_not_count_and_nothing_costs_nothing() -> None:
    charges = [Charge(1.2, 0.2, 10), Charge(2.0, 0.1, 10)]
    assert epsilon_of(charges, DELTA) == epsilon_of(charges[::-1], DELTA) > epsilon_of(charges[:1], DELTA)
    assert epsilon_of([], DELTA) == 0


@pytest.mark.parametrize("epsilon", [1.0, 8.0])
def test_the_noise_is_the_least_that_keeps_the_budget(epsilon: float) -> None:
    noise = noise_for(epsilon, DELTA, 0.1, 100)
    assert epsilon_of([Charge(noise, 0.1, 100)], DELTA) <= epsilon
    assert epsilon_of([Charge(0.99 * noise, 0.1, 100)], DELTA) > epsilon


def test_a_plan_spends_the_budget_over_all_rounds() -> None:
    study = private(epsilon=3.0, batch=20, steps=5)
    plan = plan_of(study, rounded_up(93, 10))
    assert (plan.sampling_rate, plan.expected, plan.steps) == (0.2, 20.0, 5)
    assert 2.9 < plan.epsilon_after(study.federation.rounds) <= 3.0
    assert plan.epsilon_after(1) < 2.0
    assert plan.noise_to_signal(400) == pytest.approx(plan.noise_multiplier)


def test_a_hospital_smaller_than_a_step_takes_all_its_patients() -> None:
    plan = plan_of(private(batch=64, steps=1), 10)
    assert (plan.sampling_rate, plan.expected) == (1.0, 10.0)


@pytest.mark.parametrize(("epsilon", "advice"), [(1e-9, "raise it"), (1e6, "lower it")])
def test_a_budget_that_no_noise_fits_is_refused(epsilon: float, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        noise_for(epsilon, DELTA, 0.1, 10)
