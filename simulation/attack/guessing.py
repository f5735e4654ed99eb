"""What do right guesses prove? A lower bound on epsilon: who keeps the promise cannot be guessed right so often.

Two bounds are computed from the same scores. ``one_run_bound`` assumes nothing about how the scores come about; it is
loose. ``gaussian_bound`` is tight, and it assumes that the scores of those who took part and of those who did not
follow two normal distributions of equal width, independently: what the Gaussian mechanism gives on orthogonal
canaries where everybody is in every step, and what many sampled steps come close to.

Source: Steinke, Nasr, Jagielski 2023, "Privacy auditing with one (1) training run" (theorem 5.2, and the search of
its appendix); Dong, Roth, Su 2022, "Gaussian differential privacy" (corollary 2.13); Clopper and Pearson 1934.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import torch
from torch import Tensor

_NORMAL = NormalDist()
_HALVINGS = 40
_LARGEST_EPSILON = 30.0
_SMALLEST = 1e-14  # rates closer to 0 and 1 are not told from them


def one_run_bound(canaries: int, guesses: int, right: int, delta: float, confidence: float) -> float:
    """The least epsilon that so many right guesses leave possible; with ``confidence`` the true one is no smaller.

    Args:
        canaries: each was included with probability one half, on its own; guesses on the others were withheld.
        guesses: how many were guessed.
        right: how many of the guesses were right.
        delta: of the promise.
        confidence: such as 0.95.
    """

    def possible(epsilon: float) -> bool:
        return _chance_of(canaries, guesses, right, epsilon, delta) >= 1 - confidence

    return _first(possible, _LARGEST_EPSILON)


def gaussian_bound(included_M: Tensor, scores_M: Tensor, delta: float, confidence: float) -> float:
    """The least epsilon at ``delta`` of a Gaussian mechanism whose scores part the included from the others so well.

    Args:
        included_M: bool, who took part.
        scores_M: higher means rather included.
        delta: of the promise.
        confidence: such as 0.95, shared by the two rates.

    Returns:
        0 where nothing parts them.
    """
    above_M = scores_M > scores_M.mean()
    error = (1 - confidence) / 2
    caught = least_rate(int((above_M & included_M).sum()), int(included_M.sum()), error)
    alarms = 1 - least_rate(int((~above_M & ~included_M).sum()), int((~included_M).sum()), error)
    if not 0 < caught < 1 or not 0 < alarms < 1:
        return 0.0
    return epsilon_of_gaussian(_NORMAL.inv_cdf(caught) - _NORMAL.inv_cdf(alarms), delta)


def epsilon_of_gaussian(separation: float, delta: float) -> float:
    """The epsilon at ``delta`` of telling N(0, 1) from N(separation, 1), where nobody can do better."""
    if separation <= 0:
        return 0.0

    def kept(epsilon: float) -> bool:
        with_one = _NORMAL.cdf(separation / 2 - epsilon / separation)
        without = math.exp(epsilon + _log_cdf(-separation / 2 - epsilon / separation))
        return with_one - without <= delta

    return _first(kept, separation * (separation / 2 + 10))


def least_rate(hits: int, trials: int, error: float) -> float:
    """The lower end of Clopper and Pearson's interval: the true rate is smaller with probability ``error`` at most."""
    if hits == 0:
        return 0.0
    return _first(lambda rate: float(_pmf(trials, rate)[hits:].sum()) >= error, 1.0)


def _chance_of(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """At most how likely so many right guesses are, or more, under (epsilon, delta)."""
    pmf_R = _pmf(guesses, 1 / (1 + math.exp(-epsilon)))
    pure = float(pmf_R[right:].sum())
    fewer_R = pmf_R[:right].flip(0).cumsum(0) / torch.arange(1, right + 1)
    luck = float(fewer_R.max()) if right else 0.0
    return min(1.0, pure + 2 * canaries * delta * luck)


def _pmf(trials: int, rate: float) -> Tensor:
    """The binomial distribution, float64 (trials + 1,)."""
    rate = min(max(rate, _SMALLEST), 1 - _SMALLEST)
    hits = torch.arange(trials + 1, dtype=torch.float64)
    ways = math.lgamma(trials + 1) - torch.lgamma(hits + 1) - torch.lgamma(trials - hits + 1)
    return (ways + hits * math.log(rate) + (trials - hits) * math.log1p(-rate)).exp()


def _log_cdf(value: float) -> float:
    return float(torch.special.log_ndtr(torch.tensor(value, dtype=torch.float64)))


def _first(holds: Callable[[float], bool], largest: float) -> float:
    """Where in 0..largest ``holds`` turns true, from below: it does not hold at the result, or that is 0."""
    below, above = 0.0, largest
    if holds(below):
        return below
    for _ in range(_HALVINGS):
        middle = (below + above) / 2
        below, above = (below, middle) if holds(middle) else (middle, above)
    return below
