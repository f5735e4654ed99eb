"""How sure may the model be, and when should it rather say nothing? What it claimed, against how often it was right.

A hospital counts its held-out patients, one photo of each, into two tables of integers (``Reliability``), which add up
over hospitals as all counts do. From the sum the lab fits one *temperature*, which turns scores into probabilities,
and one *nearness*, below which no syndrome is recognised (``Calibration``).

    confidence   the probability of the first syndrome, softmax(scores / temperature), in twenty bins, for each of 21
                 temperatures: so that the temperature can be chosen after the counting
    nearness     the cosine to the nearest prototype. Training pushes healthy people away from all of them
                 (``loss.repel``), which is what makes it tell anything

A probability says how likely the first syndrome is *if* the patient has one of the K. Whether they have any is what
nearness is for, and it is much the weaker of the two answers.

Legend: P patients, K syndromes, T temperatures, B bins.

Source: Guo et al. 2017, "On calibration of modern neural networks" (temperature); Naeini et al. 2015 (ECE); Geifman and
El-Yaniv 2017, "Selective classification for deep neural networks" (risk and coverage). Fitting a binned top-label
likelihood in place of the whole one is ours: it needs nothing but counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bioface_core.loss import cosines
from bioface_core.sections import Loss

TEMPERATURES, BINS, NEARNESS_BINS = 21, 20, 80
ACCEPTED = 0.95  # of patients who have one of the syndromes, so many are to be answered
_FACTORS = [2 ** (2 - number / 4) for number in range(TEMPERATURES)]  # of the training's own temperature: 4 to 1/8
_SMALLEST = 1e-3  # no bin is claimed to be surer than this


@dataclass(frozen=True)
class Reliability:
    """Held-out patients by what the model claimed and whether it was right; adding hospitals is adding these.

    Attributes:
        confidence_TB2: int64 [temperature, bin of the first syndrome's probability, wrong or right].
        nearness_B2: int64 [bin of the nearness from -1 to 1, wrong or right].
    """

    confidence_TB2: Tensor
    nearness_B2: Tensor

    def __post_init__(self) -> None:
        shapes = (TEMPERATURES, BINS, 2), (NEARNESS_BINS, 2)
        assert (tuple(self.confidence_TB2.shape), tuple(self.nearness_B2.shape)) == shapes, "tables of other sizes"

    def __add__(self, other: Reliability) -> Reliability:
        return Reliability(self.confidence_TB2 + other.confidence_TB2, self.nearness_B2 + other.nearness_B2)

    @staticmethod
    def zeros() -> Reliability:
        """Of nobody."""
        return Reliability.from_cells(torch.zeros(CELLS, dtype=torch.int64))

    @staticmethod
    def from_cells(cells: Tensor) -> Reliability:
        """What ``cells`` gave, int64 (CELLS,)."""
        confidence, nearness = cells.split([TEMPERATURES * BINS * 2, NEARNESS_BINS * 2])
        return Reliability(confidence.view(TEMPERATURES, BINS, 2), nearness.view(NEARNESS_BINS, 2))

    @property
    def cells(self) -> Tensor:
        """Both tables in a row, int64 (CELLS,)."""
        return torch.cat([self.confidence_TB2.flatten(), self.nearness_B2.flatten()])

    @property
    def agrees(self) -> bool:
        """Whether every table is of as many patients, as many of them right."""
        of_each_T2 = self.confidence_TB2.sum(1)
        return bool((of_each_T2 == self.nearness_B2.sum(0)).all())

    @property
    def patients(self) -> int:
        """Who was counted."""
        return int(self.nearness_B2.sum())


CELLS = TEMPERATURES * BINS * 2 + NEARNESS_BINS * 2


@dataclass(frozen=True)
class Point:
    """One threshold on the confidence.

    Attributes:
        confidence: least probability that is answered.
        coverage: share of the patients who get an answer.
        risk: share of the answers that are wrong; 0 where there are none.
    """

    confidence: float
    coverage: float
    risk: float


@dataclass(frozen=True)
class Calibration:
    """What was fitted.

    Attributes:
        temperature: scores are divided by it.
        nearness: below, no syndrome is recognised.
        patients: on which both rest; 0 means that nothing was fitted.
        ece: expected calibration error on these patients, 0 to 1.
        ece_by_chance: what a model that is calibrated to the point would show on so few patients.
        curve: risk and coverage, from answering everybody to answering nobody.
    """

    temperature: float
    nearness: float
    patients: int
    ece: float
    ece_by_chance: float
    curve: tuple[Point, ...]

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Calibration:
        """What ``dataclasses.asdict`` gave, from JSON; null is no number."""
        named: dict[str, Any] = {name: math.nan if value is None else value for name, value in content.items()}
        return Calibration(**named | {"curve": tuple(Point(**point) for point in content["curve"])})

    def probabilities(self, scores_PK: Tensor) -> Tensor:
        """How likely each syndrome is, if it is one of them; rows sum to 1."""
        return (scores_PK / self.temperature).softmax(1)

    def recognised(self, nearness_P: Tensor) -> Tensor:
        """Whether each face is near enough to the syndromes, bool (P,)."""
        return nearness_P >= self.nearness


def count_reliability(scores_PK: Tensor, labels_P: Tensor, nearness_P: Tensor, loss: Loss) -> Reliability:
    """Sorts patients into the tables.

    Args:
        scores_PK: float, as predictions rank by; no number counts as wrong and unsure.
        labels_P: int64 true syndromes.
        nearness_P: float, see ``nearness``.
        loss: whose temperature the grid is built around.
    """
    finite_PK = scores_PK.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    right_P = (finite_PK.argmax(1) == labels_P).long() * scores_PK.isfinite().all(1)
    tables = [
        _histogram((finite_PK / temperature).softmax(1).amax(1), right_P, BINS) for temperature in temperatures(loss)
    ]
    return Reliability(torch.stack(tables), _histogram((nearness_P.nan_to_num() + 1) / 2, right_P, NEARNESS_BINS))


def temperatures(loss: Loss) -> list[float]:
    """The grid, from unsure to sure: the temperature of the training softmax times 4 to 1/8."""
    own = 1.0 if loss.mode == "ce" else 1 / loss.scale
    return [own * factor for factor in _FACTORS]


def nearness(embeddings_PD: Tensor, prototypes_KD: Tensor) -> Tensor:
    """The cosine to the nearest syndrome, (P,), -1 to 1.

    Args:
        embeddings_PD: unit embeddings.
        prototypes_KD: of any length but zero.
    """
    return cosines(embeddings_PD, prototypes_KD).amax(1)


def fit(reliability: Reliability, loss: Loss) -> Calibration:
    """The likeliest temperature, and the nearness that ``ACCEPTED`` of the patients reach.

    Of nobody nothing can be fitted: the training's own temperature then, and nobody is turned away.
    """
    grid = temperatures(loss)
    if not reliability.patients:
        return Calibration(1.0 if loss.mode == "ce" else 1 / loss.scale, -1.0, 0, math.nan, math.nan, ())
    likely = [_log_likelihood(table_B2) for table_B2 in reliability.confidence_TB2]
    best = max(range(TEMPERATURES), key=lambda number: likely[number])
    table_B2 = reliability.confidence_TB2[best]
    return Calibration(
        grid[best],
        _quantile(reliability.nearness_B2),
        reliability.patients,
        ece(table_B2),
        ece_by_chance(table_B2),
        curve(table_B2),
    )


def ece(table_B2: Tensor) -> float:
    """Expected calibration error, 0 to 1: how far claim and truth lie apart, over bins, by patients."""
    right_B, all_B = table_B2[:, 1].double(), table_B2.sum(1).double()
    return float((right_B - all_B * _middles(len(table_B2))).abs().sum() / all_B.sum())


def ece_by_chance(table_B2: Tensor) -> float:
    """The ECE to be expected if every claim were true: chance alone moves each bin by its own spread.

    The mean distance of a binomial count from its mean, by the normal approximation.
    """
    all_B, claimed_B = table_B2.sum(1).double(), _middles(len(table_B2))
    spread_B = (all_B * claimed_B * (1 - claimed_B)).sqrt()
    return float(math.sqrt(2 / math.pi) * spread_B.sum() / all_B.sum())


def curve(table_B2: Tensor) -> tuple[Point, ...]:
    """Risk and coverage if only the bins from each one on are answered."""
    answered_B = table_B2.sum(1).flip(0).cumsum(0).flip(0).double()
    wrong_B = table_B2[:, 0].flip(0).cumsum(0).flip(0).double()
    risk_B = torch.where(answered_B > 0, wrong_B / answered_B.clamp(min=1), 0.0)
    coverage_B, edges = answered_B / answered_B[0], range(len(table_B2))
    return tuple(
        Point(edge / len(table_B2), coverage, risk)
        for edge, coverage, risk in zip(edges, coverage_B.tolist(), risk_B.tolist(), strict=True)
    )


def risk_at(points: tuple[Point, ...], coverage: float) -> float:
    """The risk if so large a share is answered, between points on a line: within a bin nobody knows who is surer."""
    above = [point for point in points if point.coverage >= coverage][-1]
    below = next((point for point in points if point.coverage < coverage), above)
    span = above.coverage - below.coverage
    share = (above.coverage - coverage) / span if span else 0.0
    wrong = above.risk * above.coverage * (1 - share) + below.risk * below.coverage * share
    return wrong / coverage


def _histogram(values_P: Tensor, right_P: Tensor, bins: int) -> Tensor:
    """How many fall into each of the equal bins of 0..1, wrong and right, int64 (bins, 2) on the CPU."""
    bin_P = (values_P * bins).long().clamp(0, bins - 1)
    return torch.bincount((2 * bin_P + right_P).cpu(), minlength=2 * bins).view(bins, 2)


def _log_likelihood(table_B2: Tensor) -> float:
    claimed_B = _middles(len(table_B2)).clamp(_SMALLEST, 1 - _SMALLEST)
    return float((table_B2[:, 1] * claimed_B.log() + table_B2[:, 0] * (1 - claimed_B).log()).sum())


def _quantile(nearness_B2: Tensor) -> float:
    """The lower edge of the bin below which no more than the rest of ``ACCEPTED`` lie."""
    below_B = nearness_B2.sum(1).cumsum(0)
    turned_away = int((below_B <= (1 - ACCEPTED) * below_B[-1]).sum())
    return 2 * turned_away / len(nearness_B2) - 1


def _middles(bins: int) -> Tensor:
    """What each bin claims, float64 (bins,)."""
    return (torch.arange(bins, dtype=torch.float64) + 0.5) / bins
