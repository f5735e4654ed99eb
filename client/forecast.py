"""What would a private study cost this hospital's patients, and how much noise must it expect? Told before it begins.

The study's own part follows from its settings and the hospital's rounded number of patients; what these patients have
lost in other studies comes from the ledger. Legend: n values that train.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bioface_core.accounting import Charge, Plan, plan_of, rounded_up
from bioface_core.config import Study
from client.policy import Policy
from client.spending import Spending


@dataclass(frozen=True)
class Past:
    """What the patients of a study have lost before it.

    Attributes:
        spending: of the ledger.
        patients: who they are there, and how often each is among them.
    """

    spending: Spending
    patients: Mapping[int, int]


@dataclass(frozen=True)
class After:
    """What a patient may have lost after so many rounds.

    Attributes:
        rounds: of this study.
        study: in this study alone, at its own delta.
        in_all: the worst-off, in all studies, at the policy's delta.
    """

    rounds: int
    study: float
    in_all: float


@dataclass(frozen=True)
class Forecast:
    """What a private study costs, and how noisy its steps are.

    Attributes:
        noise_multiplier: standard deviation of the noise over the clipping norm.
        noise_to_signal: length of one step's noise over the longest possible sum of its patients' gradients.
        patients_per_step: drawn, on average.
        spent: what the worst-off has lost before.
        after: some rounds, the last among them.
    """

    noise_multiplier: float
    noise_to_signal: float
    patients_per_step: float
    spent: float
    after: tuple[After, ...]


def forecast(study: Study, patients: int, values: int, past: Past) -> Forecast | None:
    """The forecast of a study; None for one that is not private for each patient.

    Args:
        study: under review.
        patients: training patients that would take part.
        values: n.
        past: of these patients.

    Raises:
        ConfigError: no noise keeps the study's budget.
    """
    if study.privacy.unit != "patient":
        return None
    plan = plan_of(study, rounded_up(patients, study.federation.weight_step))
    moments = sorted({1, -(-plan.rounds // 2), plan.rounds})
    return Forecast(
        plan.noise_multiplier,
        plan.noise_to_signal(values),
        plan.expected,
        past.spending.worst(past.patients),
        tuple(_after(plan, rounds, past) for rounds in moments),
    )


def overspent(policy: Policy, found: Forecast | None) -> list[str]:
    """Why the ledger would stop the study before its end, in a sentence; empty if it would not."""
    if found is None or policy.epsilon is None or found.after[-1].in_all <= policy.epsilon:
        return []
    return [
        f"With what these patients have lost before ({found.spent:.2f}), the study would cost the worst-off of them "
        f"{found.after[-1].in_all:.2f} in all, and the policy allows {policy.epsilon:g}: the ledger would end it early"
    ]


def _after(plan: Plan, rounds: int, past: Past) -> After:
    charge = Charge(plan.noise_multiplier, plan.sampling_rate, rounds * plan.steps)
    return After(rounds, plan.epsilon_after(rounds), past.spending.worst(past.patients, [charge]))
