"""What does a hospital allow? Its own rules, default deny, and what a study asks that they forbid.

The rules stand in the hospital's ``hospital.yaml`` under ``policy``; nobody else's file can widen them. ``Gate``
(client/gate.py) holds every request and every reply against them.

A new demand is a field of ``Policy`` with its strictest sensible default, and one more rule in ``_RULES``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Literal, get_args

from pydantic import Field

from bioface_core.config import Study
from bioface_core.sections import Count, NotNegative, Section

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
        metrics: what may leave beside the update: ``loss``, ``counts``. A study needs both.
        loss_step: the loss leaves as a multiple of it; 0 leaves it exact.
        rounds: the most rounds of a study; None sets no limit.
    """

    fewest_patients: Annotated[int, Field(ge=0)] = 10
    fewest_patients_per_class: Annotated[int, Field(ge=0)] = 3
    count_step: Count = 5
    weight_step: Count = 10
    metrics: tuple[Metric, ...] = ()
    loss_step: NotNegative = 0.01
    rounds: Count | None = None


def violations(policy: Policy, study: Study) -> list[str]:
    """What the study asks that the policy forbids.

    Returns:
        Sentences for the hospital's admin: what the study asks, what the policy allows, and the setting that would
        allow it. Empty if the study may run.
    """
    return [sentence for rule in _RULES for sentence in rule(policy, study)]


def _too_many_rounds(policy: Policy, study: Study) -> Iterator[str]:
    asked = study.federation.rounds
    if policy.rounds is not None and asked > policy.rounds:
        yield (
            f"The study asks for {asked} rounds, and the policy allows {policy.rounds}: "
            f"to allow it, set policy.rounds: {asked}"
        )


def _too_fine_a_weight(policy: Policy, study: Study) -> Iterator[str]:
    federation = study.federation
    if federation.weighting == "patients" and federation.weight_step < policy.weight_step:
        yield (
            f"The study rounds the number of training patients to {federation.weight_step}, and the policy demands "
            f"{policy.weight_step} or coarser: to allow it, set policy.weight_step: {federation.weight_step}"
        )


def _metrics_denied(policy: Policy, study: Study) -> Iterator[str]:
    allowed = ", ".join(policy.metrics) or "no metric"
    for metric in (metric for metric in _METRICS if metric not in policy.metrics):
        yield (
            f"The study asks in every round for {_METRICS[metric]}, and the policy allows {allowed}: "
            f"to allow it, add {metric} to policy.metrics"
        )


_RULES: tuple[Callable[[Policy, Study], Iterator[str]], ...] = (_too_many_rounds, _too_fine_a_weight, _metrics_denied)
