"""What does a hospital allow? Its own rules, default deny, and what a study asks that they forbid.

The rules stand in the hospital's ``hospital.yaml`` under ``policy``; nobody else's file can widen them. ``Gate``
(client/gate.py) holds every request and every reply against them.

A new demand is a field of ``Policy`` with its strictest sensible default, and one more rule in ``_RULES``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Annotated, Literal, get_args

from pydantic import Field

from bioface_core.accounting import plan_of, rounded_up
from bioface_core.config import Study
from bioface_core.report.words import plural
from bioface_core.sections import Count, NotNegative, Section, Share

Metric = Literal["loss", "counts"]

_METRICS: dict[Metric, str] = {
    "loss": "the mean loss of its training",
    "counts": "how many held-out patients of each syndrome were recognised",
}
assert set(_METRICS) == set(get_args(Metric)), "every metric is explained"


class Policy(Section):
    """What may leave the hospital, and on how many patients it must rest.

    Attributes:
        fewest_patients: training patients that a round must rest on.
        fewest_patients_per_class: a syndrome with fewer training patients takes no part: its photos are left out
            before anything is computed, so that not even its presence leaves.
        count_step: counts leave as multiples of it.
        weight_step: a hospital's weight, its number of training patients, must be rounded to at least this.
        metrics: what may leave beside the update: ``loss``, ``counts``. A study needs both, one with differential
            privacy for each patient the counts alone.
        loss_step: the loss leaves as a multiple of it; 0 leaves it exact.
        rounds: the most rounds of a study; None sets no limit.
        epsilon: the most privacy that a patient may lose, over all studies together (client/ledger.py); None allows
            studies without differential privacy, and keeps the books without a limit.
        delta: at which epsilon is told; a study's may not be larger.
        least_noise: least noise multiplier of a study with differential privacy.
        must_mask: whether all that leaves must be masked (secure aggregation).
        largest_share: largest share of the hospitals in a sum that this one may be.
        trust_newcomers: whether patients whose photos the ledger does not know are new though others are missing from
            the store; else they count as prepared anew, and as having lost what the missing have.
    """

    fewest_patients: Annotated[int, Field(ge=0)] = 10
    fewest_patients_per_class: Annotated[int, Field(ge=0)] = 3
    count_step: Count = 5
    weight_step: Count = 10
    metrics: tuple[Metric, ...] = ()
    loss_step: NotNegative = 0.01
    rounds: Count | None = None
    epsilon: NotNegative | None = 8.0
    delta: Share = 1e-4
    least_noise: NotNegative = 0.3
    must_mask: bool = True
    largest_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    trust_newcomers: bool = False

    @property
    def fewest_survivors(self) -> int:
        """Hospitals that must be in a sum for this one to be no larger a share of it than it may."""
        return math.ceil(round(1 / self.largest_share, 9))


def violations(policy: Policy, study: Study) -> list[str]:
    """What the study asks that the policy forbids.

    Returns:
        Sentences for the hospital's admin: what the study asks, what the policy allows, and the setting that would
        allow it. Empty if the study may run.
    """
    return [sentence for rule in _RULES for sentence in rule(policy, study)]


def is_private(study: Study) -> bool:
    """Whether a study trains with differential privacy for each patient."""
    return study.privacy.unit == "patient"


def asked_metrics(study: Study) -> tuple[Metric, ...]:
    """What a study wants beside the update; where each patient is private, no loss, for it is that of patients."""
    return ("counts",) if is_private(study) else ("loss", "counts")


def too_few_patients(policy: Policy, study: Study, patients: int) -> list[str]:
    """Why a round would rest on too few patients, in a sentence; empty if it would not.

    Where each patient is private, a refusal may not hang on one of them: they count as the fewest whose number is
    rounded up to the same, which is public.
    """
    step = study.federation.weight_step
    counted = max(0, rounded_up(patients, step) - step + 1) if is_private(study) else patients
    if counted >= policy.fewest_patients:
        return []
    coarse = f" ({counted} surely, for a private study counts them in steps of {step})" if counted < patients else ""
    return [
        f"The syndromes that may take part have {patients} training patients here{coarse}, and the policy demands "
        f"{policy.fewest_patients}: prepare more photos; or, to allow it, lower policy.fewest_patients"
    ]


def too_little_noise(policy: Policy, study: Study, patients: int) -> list[str]:
    """What the study's noise lacks at this hospital, in a sentence; empty if it is enough, or none is asked for.

    Args:
        policy: the hospital's.
        study: of which the hospital's noise follows.
        patients: training patients that take part.

    Raises:
        ConfigError: no noise keeps the study's budget.
    """
    if not is_private(study):
        return []
    noise = plan_of(study, rounded_up(patients, study.federation.weight_step)).noise_multiplier
    if noise >= policy.least_noise:
        return []
    return [
        f"The study's noise here is {noise:g} times the clipping norm, and the policy demands {policy.least_noise:g}: "
        f"to allow it, set policy.least_noise: {noise:g}"
    ]


def _too_many_rounds(policy: Policy, study: Study) -> Iterator[str]:
    asked = study.federation.rounds
    if policy.rounds is not None and asked > policy.rounds:
        yield (
            f"The study asks for {asked} rounds, and the policy allows {policy.rounds}: "
            f"to allow it, set policy.rounds: {asked}"
        )


def _too_fine_a_weight(policy: Policy, study: Study) -> Iterator[str]:
    """Noise and draws of a private study follow from the rounded number too, whatever the weight is."""
    federation = study.federation
    matters = federation.weighting == "patients" or is_private(study)
    if matters and federation.weight_step < policy.weight_step:
        yield (
            f"The study rounds the number of training patients to {federation.weight_step}, and the policy demands "
            f"{policy.weight_step} or coarser: to allow it, set policy.weight_step: {federation.weight_step}"
        )


def _metrics_denied(policy: Policy, study: Study) -> Iterator[str]:
    allowed = ", ".join(policy.metrics) or "no metric"
    for metric in (metric for metric in asked_metrics(study) if metric not in policy.metrics):
        yield (
            f"The study asks in every round for {_METRICS[metric]}, and the policy allows {allowed}: "
            f"to allow it, add {metric} to policy.metrics"
        )


def _without_privacy(policy: Policy, study: Study) -> Iterator[str]:
    if policy.epsilon is not None and not is_private(study):
        yield (
            "The study trains without differential privacy for each patient, and the policy demands it: "
            "to allow it, set policy.epsilon: null"
        )


def _too_loose_a_budget(policy: Policy, study: Study) -> Iterator[str]:
    asked = study.privacy
    if not is_private(study):
        return
    if policy.epsilon is not None and asked.epsilon > policy.epsilon:
        yield (
            f"The study would cost each patient an epsilon of {asked.epsilon:g}, and the policy allows "
            f"{policy.epsilon:g} over all studies: to allow it, set policy.epsilon: {asked.epsilon:g}"
        )
    if asked.delta > policy.delta:
        yield (
            f"The study's delta is {asked.delta:g}, and the policy allows {policy.delta:g}: "
            f"to allow it, set policy.delta: {asked.delta:g}"
        )


def _unmasked(policy: Policy, study: Study) -> Iterator[str]:
    if policy.must_mask and not study.secure.enabled:
        yield (
            "The study shows the lab this hospital's updates and counts as they are (secure.enabled is false), and "
            "the policy demands masks: to allow it, set policy.must_mask: false"
        )


def _too_large_a_share(policy: Policy, study: Study) -> Iterator[str]:
    hospitals = len(study.roster)
    if hospitals and hospitals < policy.fewest_survivors:
        yield (
            f"The study has {plural(hospitals, 'hospital')}, of which this one is a larger share than the policy "
            f"allows ({policy.largest_share:g}): to allow it, set policy.largest_share: {_rounded_up(1 / hospitals)}"
        )


def _rounded_up(share: float) -> str:
    return f"{math.ceil(share * 1000 - 1e-9) / 1000:g}"


_RULES: tuple[Callable[[Policy, Study], Iterator[str]], ...] = (
    _too_many_rounds,
    _too_fine_a_weight,
    _metrics_denied,
    _without_privacy,
    _too_loose_a_budget,
    _unmasked,
    _too_large_a_share,
)
