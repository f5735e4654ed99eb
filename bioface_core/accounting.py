"""What does differential privacy cost? Epsilon from noise, and the noise that a budget asks for.

A *charge* is what was done to a set of patients: so many steps of the Poisson-subsampled Gaussian mechanism. Charges
compose: the epsilon of a list of them is what all together may tell about one patient, whether there or not
(neighbours differ by one patient added or removed).

The accountant is Opacus' PRV: it convolves the privacy losses of all steps numerically and returns an upper bound,
within one per cent or 0.001 of the estimate.

Source: Gopi, Lee, Wutschitz 2021 (PRV accountant); Mironov, Talwar, Zhang 2019 (subsampled Gaussian mechanism).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bioface_core.config import Study
from bioface_core.errors import ConfigError

_COARSE_ERROR, _FINEST_ERROR, _RELATIVE_ERROR = 0.01, 0.001, 0.01
_DIGITS = 4  # of a noise multiplier, rounded up
_LARGEST_NOISE = 1e5
_LEAST_NOISE = 0.2  # below it a step is all but noiseless, and the accountant's grid needs gigabytes


@dataclass(frozen=True, order=True)
class Charge:
    """Steps of DP-SGD on a set of patients.

    Attributes:
        noise_multiplier: standard deviation of the noise over the clipping norm.
        sampling_rate: probability with which a patient takes part in a step; 1 for all in every step.
        steps: how many.
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int


@dataclass(frozen=True)
class Plan:
    """How one hospital's training is made private, over all rounds of a study.

    Attributes:
        sampling_rate: of a patient, in a step.
        noise_multiplier: standard deviation of the noise over ``clip``.
        steps: in a round.
        rounds: in the study.
        clip: longest gradient of a patient.
        delta: of the guarantee.
        expected: patients in a step on average; the noisy sum is divided by it.
    """

    sampling_rate: float
    noise_multiplier: float
    steps: int
    rounds: int
    clip: float
    delta: float
    expected: float

    @property
    def round_charge(self) -> Charge:
        """What one round costs."""
        return Charge(self.noise_multiplier, self.sampling_rate, self.steps)

    def epsilon_after(self, rounds: int) -> float:
        """What so many rounds of the study cost together."""
        return epsilon_of([self.round_charge] * rounds, self.delta)

    def noise_to_signal(self, values: int) -> float:
        """Length of one step's noise over the longest possible sum of its patients' gradients.

        Args:
            values: n, how many values train.
        """
        return self.noise_multiplier * math.sqrt(values) / self.expected


def plan_of(study: Study, patients: int) -> Plan:
    """The plan of a hospital in a study with ``privacy.unit: patient``.

    Args:
        study: every parameter.
        patients: training patients, rounded up to ``federation.weight_step``: that number counts as public, for it
            leaves as the hospital's weight.

    Raises:
        ConfigError: no noise is large enough for the budget, or none is needed that the accountant can tell.
    """
    privacy, rounds = study.privacy, study.federation.rounds
    assert privacy.unit == "patient", "a plan is for patients"
    rate = min(1.0, privacy.batch / max(1, patients))
    noise = noise_for(privacy.epsilon, privacy.delta, rate, rounds * privacy.steps)
    expected = rate * max(1, patients)
    return Plan(rate, noise, privacy.steps, rounds, privacy.clip, privacy.delta, expected)


def rounded_up(patients: int, step: int) -> int:
    """A number of patients so coarse that it may be known."""
    return -(-patients // step) * step


def epsilon_of(charges: Sequence[Charge], delta: float) -> float:
    """The epsilon of all charges together, at ``delta``: an upper bound.

    The order does not count, and neither does how equal steps are cut into charges.
    """
    steps: dict[tuple[float, float], int] = {}
    for charge in charges:
        kind = (charge.noise_multiplier, charge.sampling_rate)
        steps[kind] = steps.get(kind, 0) + charge.steps
    merged = tuple(sorted((noise, rate, count) for (noise, rate), count in steps.items() if count))
    return _epsilon(merged, delta) if merged else 0.0


@lru_cache(maxsize=4096)
def noise_for(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """The least noise multiplier, to four digits, with which ``steps`` steps stay within (epsilon, delta).

    Raises:
        ConfigError: there is none.
    """
    enough, too_little = 1.0, 0.0
    while epsilon_of([Charge(enough, sampling_rate, steps)], delta) > epsilon:
        enough, too_little = 2 * enough, enough
        if enough > _LARGEST_NOISE:
            raise ConfigError(
                f"privacy.epsilon is {epsilon:g} for {steps} steps, which no noise keeps: raise it, or take fewer steps"
            )
    if not too_little:
        enough, too_little = _go_down(epsilon, delta, sampling_rate, steps)
    while enough - too_little > 10**-_DIGITS * enough:
        middle = (enough + too_little) / 2
        within = epsilon_of([Charge(middle, sampling_rate, steps)], delta) <= epsilon
        enough, too_little = (middle, too_little) if within else (enough, middle)
    return _rounded_up(enough)


def _go_down(epsilon: float, delta: float, sampling_rate: float, steps: int) -> tuple[float, float]:
    """Noise multipliers below 1 of which the first is enough and the second is not."""
    enough = 1.0
    while enough > _LEAST_NOISE:
        less = max(_LEAST_NOISE, 0.8 * enough)
        if epsilon_of([Charge(less, sampling_rate, steps)], delta) > epsilon:
            return enough, less
        enough = less
    raise ConfigError(
        f"privacy.epsilon is {epsilon:g} for {steps} steps, which next to no noise keeps: lower it, or train longer"
    )


def _rounded_up(noise: float) -> float:
    unit = 10.0 ** (math.floor(math.log10(noise)) + 1 - _DIGITS)
    return round(math.ceil(noise / unit) * unit, 12)


@lru_cache(maxsize=65536)
def _epsilon(merged: tuple[tuple[float, float, int], ...], delta: float) -> float:
    """Opacus' bound, computed on a finer grid where epsilon is small; Opacus takes seconds to load."""
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = list(merged)
    with warnings.catch_warnings(), np.errstate(divide="ignore"):  # a sampling rate of 1 makes it take the log of 0
        warnings.filterwarnings("ignore", "Optimal order is the")  # of RDP, by which Opacus only sizes its grid
        epsilon = float(accountant.get_epsilon(delta, eps_error=_COARSE_ERROR))
        error = max(_FINEST_ERROR, _RELATIVE_ERROR * (epsilon - _COARSE_ERROR))
        if error < _COARSE_ERROR:
            epsilon = float(accountant.get_epsilon(delta, eps_error=error))
    return max(0.0, epsilon)
