"""Is the model as sure as it is right? Tables against plain loops, and a fit that finds a known temperature."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bioface_core.calibration import (
    ACCEPTED,
    BINS,
    CELLS,
    NEARNESS_BINS,
    Reliability,
    count_reliability,
    curve,
    ece,
    fit,
    nearness,
    risk_at,
    temperatures,
)
from bioface_core.evaluate import Counts
from bioface_core.rounding import round_counts
from bioface_core.sections import Loss

LOSS = Loss(mode="arcface", scale=16.0)
KEY = bytes(range(32))


def patients(count: int, temperature: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Scores whose softmax at ``temperature`` is the truth, labels drawn from it, and some nearness."""
    randomness = torch.Generator().manual_seed(seed)
    scores_PK = 0.25 * torch.randn(count, 6, generator=randomness)
    labels_P = (scores_PK / temperature).softmax(1).multinomial(1, generator=randomness)[:, 0]
    return scores_PK, labels_P, 2 * torch.rand(count, generator=randomness) - 1


def test_tables_equal_a_plain_loop() -> None:
    scores_PK, labels_P, nearness_P = patients(60, 0.1)
    found = count_reliability(scores_PK, labels_P, nearness_P, LOSS)
    plain = [[[0, 0] for _ in range(BINS)] for _ in temperatures(LOSS)]
    for scores, label in zip(scores_PK.tolist(), labels_P.tolist(), strict=True):
        right = int(scores.index(max(scores)) == label)
        for number, temperature in enumerate(temperatures(LOSS)):
            total = sum(math.exp((score - max(scores)) / temperature) for score in scores)
            plain[number][min(BINS - 1, int(BINS / total))][right] += 1
    assert found.confidence_TB2.tolist() == plain
    assert found.patients == 60 and found.agrees
    lowest = int((nearness_P < -1 + 2 / NEARNESS_BINS).sum())
    assert int(found.nearness_B2[0].sum()) == lowest


def test_the_grid_is_around_the_training_s_own_temperature() -> None:
    grid = temperatures(LOSS)
    assert grid == sorted(grid, reverse=True) and any(math.isclose(one, 1 / 16) for one in grid)
    assert any(math.isclose(one, 1.0) for one in temperatures(Loss(mode="ce")))


@pytest.mark.parametrize("temperature", [0.05, 1 / 16, 0.125])
def test_a_known_temperature_is_found(temperature: float) -> None:
    calibration = fit(count_reliability(*patients(20_000, temperature), LOSS), LOSS)
    assert calibration.temperature == pytest.approx(temperature, rel=0.2)
    assert calibration.ece < 0.02
    probabilities_PK = calibration.probabilities(patients(5, temperature)[0])
    assert torch.allclose(probabilities_PK.sum(1), torch.ones(5))


def test_too_sure_is_seen_in_the_error() -> None:
    reliability = count_reliability(*patients(20_000, 0.125), LOSS)
    too_sure = temperatures(LOSS).index(min(temperatures(LOSS), key=lambda one: abs(one - 0.03)))
    assert ece(reliability.confidence_TB2[too_sure]) > 0.2


def test_hospitals_add_up() -> None:
    scores_PK, labels_P, nearness_P = patients(50, 0.1)
    parts = [count_reliability(scores_PK[s], labels_P[s], nearness_P[s], LOSS) for s in (slice(0, 20), slice(20, 50))]
    whole = count_reliability(scores_PK, labels_P, nearness_P, LOSS)
    assert torch.equal((parts[0] + parts[1]).cells, whole.cells)
    assert torch.equal(Reliability.from_cells(whole.cells).cells, whole.cells) and len(whole.cells) == CELLS


def test_nobody_calibrates_nothing() -> None:
    calibration = fit(Reliability.zeros(), LOSS)
    assert calibration.patients == 0 and calibration.temperature == 1 / 16 and calibration.curve == ()
    assert bool(calibration.recognised(torch.tensor([-1.0])).all())


def test_no_number_is_unsure_and_wrong() -> None:
    scores_PK = torch.tensor([[math.nan, 0.5], [math.inf, 0.1]])
    found = count_reliability(scores_PK, torch.tensor([0, 0]), torch.tensor([math.nan, 0.0]), LOSS)
    assert int(found.nearness_B2[:, 1].sum()) == 0 and found.agrees and found.patients == 2


def test_risk_falls_with_coverage() -> None:
    points = curve(torch.tensor([[40, 10], [10, 40], [0, 100]]))
    assert [point.coverage for point in points] == [1.0, 0.75, 0.5]
    assert [point.risk for point in points] == pytest.approx([0.25, 10 / 150, 0.0])
    assert risk_at(points, 1.0) == pytest.approx(0.25)
    assert risk_at(points, 0.75) == pytest.approx(10 / 150)
    assert risk_at(points, 0.9) == pytest.approx((10 + 40 * 0.6) / 180), "as many of the unsure bin as it takes"
    assert risk_at(points, 0.3) == 0.0


def test_so_many_are_accepted_as_promised() -> None:
    calibration = fit(count_reliability(*patients(5000, 0.1), LOSS), LOSS)
    accepted = float(calibration.recognised(patients(5000, 0.1, seed=1)[2]).float().mean())
    assert accepted + 0.01 >= ACCEPTED and accepted < ACCEPTED + 0.03


def test_nearness_is_the_cosine_to_the_nearest_prototype_however_long() -> None:
    embeddings_PD, prototypes_KD = torch.eye(4)[:3], torch.stack([3 * torch.eye(4)[0], -2 * torch.eye(4)[1]])
    assert nearness(embeddings_PD, prototypes_KD).tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("step", [1, 5, 7])
def test_rounded_tables_agree_and_are_close(step: int) -> None:
    reliability = count_reliability(*patients(203, 0.1), LOSS)
    exact = Counts(torch.eye(2, dtype=torch.int64), torch.tensor([[1, 0], [1, 0]]), reliability)
    found = round_counts(exact, step, KEY, ("down", "williams")).reliability
    assert found.agrees and bool((found.cells % step == 0).all()) and bool((found.cells >= 0).all())
    assert abs(found.patients - 203) < step
    claimed, rounded = exact.reliability.confidence_TB2, found.confidence_TB2
    assert bool(((claimed[..., 1].cumsum(1) - rounded[..., 1].cumsum(1)).abs() < step).all()), "of those who were right"


def test_counts_carry_it_and_refuse_what_cannot_be() -> None:
    counts = Counts(torch.eye(2, dtype=torch.int64), torch.tensor([[1, 0], [1, 0]]), Reliability.zeros())
    assert torch.equal(Counts.from_cells(counts.cells, 2).cells, counts.cells)
    content = counts.to_json()
    assert Counts.from_json({k: v for k, v in content.items() if k != "reliability"}).reliability.patients == 0
    damaged = [1, *content["reliability"][1:]]
    with pytest.raises(ValueError, match="different temperatures"):
        Counts.from_json(content | {"reliability": damaged})
    with pytest.raises(ValueError, match="no 1000 integers"):
        Counts.from_json(content | {"reliability": damaged[:-1]})
    with pytest.raises(ValueError, match="negative"):
        Counts.from_json(content | {"reliability": [-1, *damaged[1:]]})
