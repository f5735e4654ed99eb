"""Does epsilon say what it should? Never less than an independent accountant, and hardly more."""

from __future__ import annotations

import pytest

from bioface_core.accounting import Charge, epsilon_of, noise_for, plan_of, rounded_up
from bioface_core.config import Study
from bioface_core.errors import ConfigError
from tests.pld_reference import CHARGES, DELTA, by_pld

# By dp-accounting 0.6.0: `python -m tests.pld_reference`.
BY_PLD = (
    5.1784,
    14.5924,
    42.6945,
    2.1181,
    7.0466,
    22.5235,
    0.6294,
    2.3374,
    7.9248,
    0.2043,
    0.7583,
    2.5324,
    3.8486,
    3.5667,
    0.5336,
    4.3210,
    4.6196,
)


def private(**privacy: float) -> Study:
    return Study(syndromes=("down", "noonan")).replace({"privacy": {"unit": "patient", **privacy}})


@pytest.mark.parametrize(("charges", "theirs"), list(zip(CHARGES, BY_PLD, strict=True)))
def test_agrees_with_dp_accounting_and_is_never_below_it(charges: list[Charge], theirs: float) -> None:
    assert theirs <= epsilon_of(charges, DELTA) <= 1.02 * theirs


def test_the_table_is_dp_accounting_s() -> None:
    pytest.importorskip("dp_accounting", reason="it cannot be installed beside our lock: see tests/pld_reference.py")
    assert by_pld(CHARGES[4]) == pytest.approx(BY_PLD[4], abs=1e-4)


def test_a_run_cut_into_pieces_costs_what_the_whole_run_costs() -> None:
    whole = epsilon_of([Charge(1.2, 0.2, 60)], DELTA)
    assert epsilon_of([Charge(1.2, 0.2, 10)] * 6, DELTA) == whole
    assert epsilon_of([Charge(1.2, 0.2, 59), Charge(1.2, 0.2, 1), Charge(9.0, 0.1, 0)], DELTA) == whole


def test_order_does_not_count_and_nothing_costs_nothing() -> None:
    charges = [Charge(1.2, 0.2, 10), Charge(2.0, 0.1, 10)]
    assert epsilon_of(charges, DELTA) == epsilon_of(charges[::-1], DELTA) > epsilon_of(charges[:1], DELTA)
    assert epsilon_of([], DELTA) == 0


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(("epsilon", "advice"), [(1e-9, "raise it"), (1e6, "lower it")])
def test_a_budget_that_no_noise_fits_is_refused(epsilon: float, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        noise_for(epsilon, DELTA, 0.1, 10)
