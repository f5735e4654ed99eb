"""How much privacy has a patient lost? All charges ever made to sets that held them, composed.

A charge is made to a *cohort*: the patients that one training drew from. Patients with equal histories are one group,
so that the accountant, which takes a tenth of a second, is asked once for all of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bioface_core.accounting import Charge

_NO_NOISE = 0.2  # the accountant's grid grows without bound below it, and so does epsilon

EpsilonOf = Callable[[Sequence[Charge], float], float]
Membership = tuple[int, int]  # a cohort's number, and how often the patient is in it
History = frozenset[Membership]


@dataclass(frozen=True)
class Group:
    """Patients who have lost the same.

    Attributes:
        patients: how many.
        epsilon: what they have lost.
        charges: by which steps.
    """

    patients: int
    epsilon: float
    charges: tuple[Charge, ...]


@dataclass(frozen=True)
class Spending:
    """All that was ever charged, and to whom.

    Attributes:
        charges: of each cohort; equal ones merged.
        histories: of each patient who was ever charged for.
        accountant: gives the epsilon of a list of charges.
        delta: at which epsilon is told.
    """

    charges: Mapping[int, Sequence[Charge]]
    histories: Mapping[int, History]
    accountant: EpsilonOf
    delta: float

    def groups(self, patients: Mapping[int, int], also: Sequence[Charge] = ()) -> list[Group]:
        """Patients by what they have lost, the worst-off first.

        Args:
            patients: how often each is in the cohort that ``also`` is charged to; 1 is the rule.
            also: charges that are about to be made.
        """
        nothing: History = frozenset()
        alike = Counter((self.histories.get(patient, nothing), times) for patient, times in patients.items())
        found = [self._group(history, times, count, also) for (history, times), count in alike.items()]
        return sorted(found, key=lambda group: -group.epsilon)

    def worst(self, patients: Mapping[int, int], also: Sequence[Charge] = ()) -> float:
        """What the worst-off of some patients has lost, or will have."""
        return max((group.epsilon for group in self.groups(patients, also)), default=0.0)

    def worst_of_all(self) -> float:
        """What the worst-off of all patients has lost."""
        return self.worst(dict.fromkeys(self.histories, 1))

    def worst_off(self, patients: Iterable[int]) -> int:
        """Which of some patients, who were all charged for, has lost most."""
        alike = {self.histories[patient]: patient for patient in patients}
        return alike[max(alike, key=lambda history: self._group(history, 1, 1, ()).epsilon)]

    def _group(self, history: History, times: int, count: int, also: Sequence[Charge]) -> Group:
        past = [as_one(charge, often) for cohort, often in history for charge in self.charges.get(cohort, ())]
        charges = tuple(sorted([*past, *(as_one(charge, times) for charge in also)]))
        return Group(count, bounded_epsilon(self.accountant, charges, self.delta), charges)


def bounded_epsilon(accountant: EpsilonOf, charges: Sequence[Charge], delta: float) -> float:
    """The epsilon of some charges; infinite where their noise is as good as none, and 0 where there are none."""
    if any(charge.noise_multiplier < _NO_NOISE for charge in charges):
        return math.inf
    return accountant(charges, delta) if charges else 0.0


def as_one(charge: Charge, times: int) -> Charge:
    """What a charge costs somebody who is in the cohort ``times`` times, taken for several people.

    Each drawing of them may add a clipped gradient of its own. The bound: in every step with at least one drawing, all
    of them are there at once, which is a sensitivity ``times`` as large.

    Source: Choquette-Choo et al. 2024, "Privacy amplification for matrix mechanisms" (mixtures of Gaussians dominate
    where their sensitivities do).
    """
    if times == 1:
        return charge
    rate = 1 - (1 - charge.sampling_rate) ** times
    return Charge(charge.noise_multiplier / times, rate, charge.steps)


def rounds_left(spending: Spending, patients: Mapping[int, int], a_round: Charge, limit: float, most: int) -> int:
    """How many rounds more fit under a limit, ``most`` at most.

    Args:
        spending: so far.
        patients: how often each is in the cohort.
        a_round: what each round costs.
        limit: epsilon that nobody may pass.
        most: rounds that are asked for at all.
    """
    fits, too_many = 0, most + 1
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        several = Charge(a_round.noise_multiplier, a_round.sampling_rate, middle * a_round.steps)
        fits, too_many = (middle, too_many) if spending.worst(patients, [several]) <= limit else (fits, middle)
    return fits
