"""How much do our steps betray in truth? Canaries, patients made to be recognised, are sent through the very code.

Each canary is a patient whose gradient lies along a coordinate of its own (a Dirac canary) and is ten times as long as
the clipping norm. Coins decide which of them take part. Then the hospital's own code draws patients, clips, adds noise
(``bioface_core.privacy``), step after step, and an attacker who sees every noisy gradient guesses whose coordinate has
moved. A promise of epsilon leaves only so many guesses right: more prove that it is broken, by whichever mistake.

A canary's gradient turns its sign from step to step, which the promise allows (the attacker may choose each step's
data), and scores are taken relative to the other blocks' on the same coordinate. So noise that is used a second time,
be it in the next step, the next round or another block, falls out of the score, and the canaries stand bare.

Legend: M canaries, P canaries drawn in a step, X canaries of a block and their coordinates.

Source: Steinke, Nasr, Jagielski 2023 (one run, Dirac canaries); Nasr et al. 2023, "Tight auditing of differentially
private machine learning" (white box).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bioface_core.accounting import Plan
from bioface_core.clipping import LossOf
from bioface_core.privacy import Patients, noisy_gradients
from bioface_core.secret import SecretRandom
from simulation.attack.guessing import gaussian_bound, one_run_bound

CONFIDENCE = 0.95
_GUESSED = (0.001, 0.005, 0.02, 0.1, 0.45)  # shares of the canaries guessed as in, and as many as out
_BLOCK = 1000  # canaries that train together: coordinates of the network
_ENOUGH_BLOCKS = 4  # the mean of fewer says more of their own canaries
_TOO_LONG = 10.0  # a canary's gradient, over the clipping norm


@dataclass(frozen=True)
class EmpiricalEpsilon:
    """What the canaries prove.

    Attributes:
        lower: with ``confidence`` the true epsilon is no smaller, whatever else may be the case.
        gaussian: the same, if the scores are normal (see ``guessing``).
        accounted: the epsilon that is promised; None where nothing is.
        delta: of the promise.
        canaries: how many, each included with probability one half.
        guesses: on which ``lower`` rests.
        right: of them.
        confidence: of each bound, the choice among several numbers of guesses included.
    """

    lower: float
    gaussian: float
    accounted: float | None
    delta: float
    canaries: int
    guesses: int
    right: int
    confidence: float


def empirical_epsilon(
    plan: Plan,
    canaries: int = 10_000,
    coins: torch.Generator | None = None,
    secrets: Callable[[], SecretRandom] = SecretRandom,
    beside: Sequence[Plan] = (),
) -> EmpiricalEpsilon:
    """Audits DP-SGD as ``plan`` runs it.

    Args:
        plan: of the hospital that has the canaries; all its rounds and steps are run.
        canaries: M, at least 1000; beyond a block's worth they train in independent blocks, which costs no privacy,
            since each patient is in one.
        coins: who takes part; None throws new ones.
        secrets: a fresh secret stream for each round, as each round of training takes one.
        beside: the plans of other hospitals, without canaries, of whose noisy gradients the attacker sees only the sum
            with this one's: what masks leave.
    """
    included_M = torch.rand(canaries, generator=coins) < 0.5
    parts = [_block_scores(part, plan, secrets, beside) for part in included_M.split(_BLOCK)]
    return bounds(included_M, _relative(parts), plan.delta, plan.epsilon_after(plan.rounds))


def without_noise(delta: float, canaries: int = 10_000) -> EmpiricalEpsilon:
    """The same attacker where nobody adds noise: whoever took part has moved their coordinate, and nobody else has.

    The bound is as high as so many canaries can prove; the true epsilon is infinite.
    """
    included_M = torch.rand(canaries) < 0.5
    return bounds(included_M, included_M.double(), delta, None)


def bounds(included_M: Tensor, scores_M: Tensor, delta: float, accounted: float | None) -> EmpiricalEpsilon:
    """Guesses by the scores, and what they prove.

    How many are guessed is the best of five numbers, each at a fifth of the permitted error (Bonferroni).

    Args:
        included_M: bool, who took part.
        scores_M: higher means rather included.
        delta: of the promise.
        accounted: its epsilon.
    """
    canaries, order_M = len(included_M), scores_M.argsort(descending=True)
    each = 1 - (1 - CONFIDENCE) / len(_GUESSED)
    found = []
    for share in _GUESSED:
        side = max(1, int(share * canaries))
        right = int(included_M[order_M[:side]].sum() + (~included_M[order_M[-side:]]).sum())
        found.append((one_run_bound(canaries, 2 * side, right, delta, each), 2 * side, right))
    lower, guesses, right = max(found)
    gaussian = gaussian_bound(included_M, scores_M, delta, CONFIDENCE)
    return EmpiricalEpsilon(lower, gaussian, accounted, delta, canaries, guesses, right, CONFIDENCE)


def _block_scores(
    included_X: Tensor, plan: Plan, secrets: Callable[[], SecretRandom], beside: Sequence[Plan]
) -> Tensor:
    """What the attacker adds up for each canary of a block, float64 (X,)."""
    network = nn.Linear(len(included_X), 1, bias=False)
    # Who takes no part is there with a gradient of nothing: to the sum it is the same, and all blocks draw as often.
    inputs_XX = torch.diag(included_X.float())
    patients = Patients.of(torch.arange(len(inputs_XX)))
    scores_X = torch.zeros(len(included_X), dtype=torch.float64)
    for round_ in range(plan.rounds):
        streams = [secrets() for _ in range(1 + len(beside))]
        for step in range(plan.steps):
            sign = 1.0 if (round_ + step) % 2 else -1.0
            drawn = patients.draw(plan.sampling_rate, streams[0])
            seen_X = _gradient(network, inputs_XX[drawn], sign, plan, streams[0])
            for other, stream in zip(beside, streams[1:], strict=True):
                seen_X += _gradient(network, inputs_XX[:0], sign, other, stream)
            scores_X += sign * seen_X
    return scores_X


def _gradient(network: nn.Module, inputs_PX: Tensor, sign: float, plan: Plan, secret: SecretRandom) -> Tensor:
    """The noisy sum of the canaries' gradients: the mean, times how many were expected, as the lab weighs it."""
    nothing_P = torch.zeros(len(inputs_PX), dtype=torch.int64)
    loss_of = _pulling(sign * _TOO_LONG * plan.clip)
    [gradient_1X] = noisy_gradients(network, {}, inputs_PX, nothing_P, loss_of, plan, secret).values()
    return gradient_1X[0].double() * plan.expected


def _pulling(length: float) -> LossOf:
    """A loss whose gradient is the input, so many times as long."""

    def loss_of(outputs_11: Tensor, label_1: Tensor, heads: Mapping[str, Tensor]) -> Tensor:
        return length * outputs_11.sum()

    return loss_of


def _relative(parts: Sequence[Tensor]) -> Tensor:
    """Scores less the mean of the whole blocks on the same coordinate: what they have in common is no canary's."""
    whole = [part for part in parts if len(part) == len(parts[0])]
    if len(whole) < _ENOUGH_BLOCKS:
        return torch.cat(list(parts))
    mean_X = torch.stack(whole).mean(0)
    return torch.cat([part - mean_X[: len(part)] for part in parts])
