"""Whose photos are held out? A share of each class's patients, the same ones every time.

Patients are put in order by a keyed hash of who they are, and the first ones are held out. New photos of known patients
change nothing; a new patient moves at most one other of the same class.
"""

from __future__ import annotations

from collections.abc import Iterable

from bioface_core.seeding import seed as hashed


def heldout_patients(patients: Iterable[str], share: float, seed: int) -> set[str]:
    """The patients of one class who are held out.

    Args:
        patients: two or more unless ``share`` is 0; the same name is the same patient.
        share: of the patients, 0 to below 1; above 0, at least one patient is held out and one is not.
        seed: chooses the order.
    """
    ordered = sorted(set(patients), key=lambda patient: (hashed(seed, "held out", patient), patient))
    if share == 0:
        return set()
    return set(ordered[: min(max(round(share * len(ordered)), 1), len(ordered) - 1)])
