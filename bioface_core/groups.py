"""Does the model serve everybody alike? How many held-out patients of each age, sex and ancestry it recognises.

Small cells are not for publishing: a group of a few patients says something about each of them. A cell that could be
found by subtraction from the total is left out as well.

Legend: P patients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bioface_core.evaluate import Rate, rate
from bioface_core.photos import Demographics

GROUPS = "groups.json"  # in the folder of a simulation
SMALLEST = 10  # patients of a group that is published; a usual limit for tables on health
UNKNOWN = "not recorded"
_AGES = (("under 2 years", 0, 24), ("2 to 11 years", 24, 144), ("12 to 17 years", 144, 216), ("adults", 216, 10**6))
_SEXES = ("female", "male")


@dataclass(frozen=True)
class Group:
    """Patients who have something in common.

    Attributes:
        factor: ``age``, ``sex`` or ``ancestry``.
        name: which.
        right: of them recognised at first rank.
        patients: how many.
    """

    factor: str
    name: str
    right: int
    patients: int


@dataclass(frozen=True)
class Shown:
    """A group as it may be published.

    Attributes:
        factor: as in ``Group``.
        name: as in ``Group``.
        sensitivity: share recognised; None where the group, or one that could be found from it, is too small.
    """

    factor: str
    name: str
    sensitivity: Rate | None


def count_groups(right_P: Tensor, who_P: Demographics, ancestries: Sequence[str]) -> tuple[Group, ...]:
    """Counts every group, those that nobody recorded last.

    Args:
        right_P: bool, whether the true syndrome came first.
        who_P: one row per patient.
        ancestries: what ``ancestry_N`` counts.
    """
    ages_P = who_P.age_months_N
    cells = [("age", name, (ages_P >= low) & (ages_P < high)) for name, low, high in _AGES]
    cells += [("age", UNKNOWN, ages_P.isnan())]
    for factor, names, codes_P in (("sex", _SEXES, who_P.sex_N), ("ancestry", ancestries, who_P.ancestry_N)):
        cells += [(factor, name, codes_P == code) for code, name in enumerate(names)]
        cells += [(factor, UNKNOWN, codes_P < 0)]
    return tuple(
        Group(factor, name, int(right_P[inside_P].sum()), int(inside_P.sum()))
        for factor, name, inside_P in cells
        if bool(inside_P.any())
    )


def total(groups: Sequence[Group]) -> tuple[Group, ...]:
    """The groups of several hospitals as one; in the order in which they first come."""
    sums: dict[tuple[str, str], torch.Tensor] = {}
    for one in groups:
        key = (one.factor, one.name)
        sums[key] = sums.get(key, torch.zeros(2, dtype=torch.int64)) + torch.tensor([one.right, one.patients])
    return tuple(Group(*key, int(right), int(patients)) for key, (right, patients) in sums.items())


def publishable(groups: Sequence[Group]) -> tuple[Shown, ...]:
    """The groups, those left out that are small or could be found by subtraction."""
    hidden = {id(one) for one in _hidden(groups)}
    return tuple(
        Shown(one.factor, one.name, None if id(one) in hidden else rate(one.right, one.patients)) for one in groups
    )


def _hidden(groups: Sequence[Group]) -> Iterator[Group]:
    """Of each factor the small groups, and the next larger ones until the hidden are together no small cell."""
    for factor in dict.fromkeys(one.factor for one in groups):
        ordered = sorted((one for one in groups if one.factor == factor), key=lambda one: one.patients)
        patients = 0
        for one in ordered:
            if one.patients >= SMALLEST and (patients == 0 or patients >= SMALLEST):
                break
            patients += one.patients
            yield one
