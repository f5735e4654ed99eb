"""Are patients counted and rates bounded as a plain loop would, and do the intervals cover what they promise?"""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bioface_core.evaluate import Counts, Rate, count, difference, macro_top, mean_rate, per_patient, sensitivity

seeds = st.integers(0, 2**32 - 1)
class_counts = st.integers(2, 100)


def scores_and_labels(seed: int, classes: int, patients: int, levels: int = 4) -> tuple[Tensor, Tensor]:
    """Scores of few levels, so that ties are common, and random true classes."""
    randomness = torch.Generator().manual_seed(seed)
    scores_PK = torch.randint(levels, (patients, classes), generator=randomness).float() / levels
    return scores_PK, torch.randint(classes, (patients,), generator=randomness)


def counts_of(hits: list[int], patients: list[int]) -> Counts:
    """Counts with so many hits of so many patients; whoever is missed is taken for the next class."""
    tables = torch.zeros(2, len(hits), len(hits), dtype=torch.int64)
    for label, (hit, total) in enumerate(zip(hits, patients, strict=True)):
        tables[0, label, label] = tables[1, label, 0] = hit
        tables[0, label, (label + 1) % len(hits)] = tables[1, label, 1] = total - hit
    return Counts(tables[0], tables[1])


def plain_rank(scores: list[float], label: int) -> int:
    """How many other classes score at least as much as the true one."""
    return sum(score >= scores[label] for other, score in enumerate(scores) if other != label)


def equal(first: Counts, second: Counts) -> bool:
    return torch.equal(first.confusion_KK, second.confusion_KK) and torch.equal(first.ranks_KK, second.ranks_KK)


@given(seeds, class_counts, st.integers(0, 40))
def test_ranks_are_those_of_a_plain_loop(seed: int, classes: int, patients: int) -> None:
    scores_PK, labels_P = scores_and_labels(seed, classes, patients)
    rows = list(zip(scores_PK.tolist(), labels_P.tolist(), strict=True))
    expected = Counter((label, plain_rank(scores, label)) for scores, label in rows)
    ranks_KK = count(scores_PK, labels_P).ranks_KK
    assert {(row, rank): int(ranks_KK[row, rank]) for row, rank in ranks_KK.nonzero().tolist()} == dict(expected)


@given(seeds, class_counts, st.integers(0, 40))
def test_a_prediction_is_a_highest_score_and_right_only_alone(seed: int, classes: int, patients: int) -> None:
    scores_PK, labels_P = scores_and_labels(seed, classes, patients)
    for scores, label in zip(scores_PK, labels_P, strict=True):
        ((_, predicted),) = count(scores[None], label[None]).confusion_KK.nonzero().tolist()
        assert scores[predicted] == scores.max()
        assert (predicted == label) == (plain_rank(scores.tolist(), int(label)) == 0)


@given(seeds, class_counts, st.integers(0, 40), st.integers(0, 40))
def test_adding_counts_is_counting_together(seed: int, classes: int, first: int, second: int) -> None:
    scores_PK, labels_P = scores_and_labels(seed, classes, first + second)
    apart = count(scores_PK[:first], labels_P[:first]) + count(scores_PK[first:], labels_P[first:])
    assert equal(apart, count(scores_PK, labels_P))
    assert equal(apart + Counts.zeros(classes), apart)


@given(seeds, class_counts)
def test_counts_survive_json(seed: int, classes: int) -> None:
    counts = count(*scores_and_labels(seed, classes, 30))
    assert equal(Counts.from_json(counts.to_json()), counts)


@pytest.mark.parametrize(
    ("confusion", "ranks", "problem"),
    [
        ([[1, 0], [0, 1]], None, "no tables"),
        ([[1, 0], [0]], [[1, 0], [1, 0]], "no tables"),
        ([[1.5, 0], [0, 1]], [[1, 0], [1, 0]], "confusion is no square"),
        ([[1, 0]], [[1, 0]], "confusion is no square"),
        ([], [], "confusion is no square"),
        ([[2**70, 0], [0, 1]], [[1, 0], [1, 0]], "no tables"),
        ([[1, 0], [0, 1]], [[True, False], [True, False]], "ranks is no square"),
        ([[1, 0], [0, -1]], [[1, 0], [-1, 0]], "negative"),
        ([[1, 0], [0, 1]], [[1, 0], [2, 0]], "different patients"),
        ([[1, 0], [0, 1]], [[1, 0], [0, 1]], "different patients"),
        ([[1, 0], [0, 1]], [[1]], "different patients"),
    ],
)
def test_damaged_counts_are_refused(confusion: object, ranks: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Counts.from_json({"confusion": confusion, "ranks": ranks})


def test_a_score_that_is_no_number_never_helps() -> None:
    nan = math.nan
    scores_PK = torch.tensor([[nan, 0.1, 0.2], [0.9, nan, 0.1], [nan, nan, nan], [-math.inf] * 3])
    counts = count(scores_PK, torch.tensor([0, 0, 1, 2]))
    assert counts.ranks_KK.tolist() == [[0, 1, 1], [0, 0, 1], [0, 0, 1]]
    assert counts.confusion_KK.diagonal().tolist() == [0, 0, 0]


@given(seeds, st.integers(1, 30), st.integers(1, 8))
def test_a_patient_is_the_direction_of_the_mean_photo(seed: int, photos: int, patients: int) -> None:
    randomness = torch.Generator().manual_seed(seed)
    embeddings_ND = torch.nn.functional.normalize(torch.randn(photos, 5, generator=randomness))
    patients_N = 7 * torch.randint(patients, (photos,), generator=randomness)
    means_PD, labels_P = per_patient(embeddings_ND, patients_N % 3, patients_N)
    numbers = sorted(set(patients_N.tolist()))
    assert labels_P.tolist() == [number % 3 for number in numbers]
    for mean_D, number in zip(means_PD, numbers, strict=True):
        plain_D = embeddings_ND[patients_N == number].mean(dim=0)
        torch.testing.assert_close(mean_D, plain_D / plain_D.norm())


def test_no_photos_are_no_patients() -> None:
    empty_N = torch.zeros(0, dtype=torch.int64)
    means_PD, labels_P = per_patient(torch.zeros(0, 5), empty_N, empty_N)
    assert means_PD.shape == (0, 5) and labels_P.shape == (0,)


def test_a_patient_has_one_class() -> None:
    with pytest.raises(AssertionError, match="two classes"):
        per_patient(torch.eye(2), torch.tensor([0, 1]), torch.tensor([3, 3]))


@given(seeds, class_counts, st.integers(1, 60), st.integers(1, 110))
def test_macro_top_is_the_plain_mean_over_classes_with_patients(seed: int, classes: int, patients: int, k: int) -> None:
    scores_PK, labels_P = scores_and_labels(seed, classes, patients, levels=50)
    rows = list(zip(scores_PK.tolist(), labels_P.tolist(), strict=True))
    shares = []
    for label in {label for _, label in rows}:
        hits = [plain_rank(scores, label) < k for scores, own in rows if own == label]
        shares.append(sum(hits) / len(hits))
    rate = macro_top(count(scores_PK, labels_P), k)
    assert rate.value == pytest.approx(sum(shares) / len(shares))
    assert 0 <= rate.low <= rate.value <= rate.high <= 1
    assert rate.patients == patients


@given(
    st.lists(st.integers(0, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), min_size=2, max_size=20)
)
def test_sensitivities_are_within_their_intervals(pairs: list[tuple[int, int]]) -> None:
    rates = sensitivity(counts_of([hit for hit, _ in pairs], [patients for _, patients in pairs]))
    for rate, (hit, patients) in zip(rates, pairs, strict=True):
        assert rate.patients == patients
        if patients:
            assert rate.value == hit / patients
            assert 0 <= rate.low <= rate.value <= rate.high <= 1


def test_of_nobody_everything_is_possible() -> None:
    for rate in (macro_top(Counts.zeros(3), 1), *sensitivity(Counts.zeros(3))):
        assert math.isnan(rate.value)
        assert (rate.low, rate.high, rate.patients) == (0.0, 1.0, 0)


def test_wilson_as_published() -> None:
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3."""
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (hits, patients), interval in published.items():
        rate = sensitivity(counts_of([hits, 0], [patients, 0]))[0]
        assert (rate.low, rate.high) == pytest.approx(interval, abs=5e-5)


def test_one_class_has_its_own_interval() -> None:
    """Up to the two patients imagined for the variance, which only widens it."""
    counts = counts_of([81, 0], [263, 0])
    assert macro_top(counts, 1).low == pytest.approx(sensitivity(counts)[0].low, abs=1e-3)


@pytest.mark.parametrize(
    ("shares", "patients"),
    [
        ([0.4 + 0.06 * step for step in range(10)], [20] * 10),  # the demo
        ([0.8] * 10, [4] * 10),  # one of its hospitals
        ([0.0] * 5 + [0.8] * 5, [20] * 10),  # a hospital that lacks syndromes, on everyone's patients
        ([0.9] * 102, [1] * 102),  # people as classes
        ([0.3, 0.5, 0.6, 0.7, 0.8, 0.95], [2, 4, 8, 20, 50, 100]),  # as rare as they are
    ],
)
def test_intervals_cover_what_they_promise(shares: list[float], patients: list[int]) -> None:
    """Over random patients the true macro rate lies inside about 95 times of 100."""
    randomness, runs, truth = random.Random(0), 400, sum(shares) / len(shares)
    covered = 0
    for _ in range(runs):
        hits = [sum(randomness.random() < share for _ in range(n)) for share, n in zip(shares, patients, strict=True)]
        rate = macro_top(counts_of(hits, patients), 1)
        covered += rate.low <= truth <= rate.high
    assert 0.91 <= covered / runs <= 0.99


def test_difference_as_published() -> None:
    """Newcombe 1998, "Interval estimation for the difference between independent proportions", table II, method 10."""
    for first, second, interval in [((56, 70), (48, 80), (0.0524, 0.3339)), ((9, 10), (3, 10), (0.1705, 0.8090))]:
        rates = [sensitivity(counts_of([hits, 0], [patients, 0]))[0] for hits, patients in (first, second)]
        found = difference(rates[0], rates[1])
        assert (found.low, found.high) == pytest.approx(interval, abs=5e-5)
        assert found.is_clear
        assert not difference(rates[0], rates[0]).is_clear


def test_mean_of_models() -> None:
    mean = mean_rate([Rate(0.2, 0.1, 0.3, 50), Rate(0.4, 0.2, 0.7, 50)])
    assert (mean.value, mean.low, mean.high) == pytest.approx((0.3, 0.15, 0.5))
    assert mean.patients == 50
