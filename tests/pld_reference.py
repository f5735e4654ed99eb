"""What does another accountant say? Prints the table of tests/test_accounting.py, by Google's dp-accounting.

    pip install dp-accounting==0.6.0 && python -m tests.pld_reference

In an environment of its own: dp-accounting 0.6 wants an attrs below 24, which our lock has left behind. Its accountant
works with privacy loss distributions, rounds them pessimistically and takes the worse of the two kinds of neighbours.
"""

from __future__ import annotations

from itertools import product

from bioface_core.accounting import Charge

DELTA = 1e-5
CHARGES = (
    *([Charge(noise, rate, 100)] for noise, rate in product((0.7, 1.0, 2.0, 5.0), (0.03, 0.1, 0.3))),
    [Charge(5.0, 1.0, 20)],
    [Charge(12.0, 0.5, 400)],
    [Charge(20.0, 0.3, 100)],
    [Charge(1.5, 0.1, 50), Charge(2.0, 0.2, 50)],
    [Charge(1.0, 0.02, 30), Charge(3.0, 0.5, 30), Charge(1.2, 0.1, 10)],
)


def by_pld(charges: list[Charge]) -> float:
    """The epsilon of all charges together at ``DELTA``."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(value_discretization_interval=1e-4)
    for charge in charges:
        step = PoissonSampledDpEvent(charge.sampling_rate, GaussianDpEvent(charge.noise_multiplier))
        accountant.compose(step, charge.steps)
    return float(accountant.get_epsilon(DELTA))


if __name__ == "__main__":
    print(*(f"    {by_pld(charges):.4f}," for charges in CHARGES), sep="\n")
