"""Do rounded counts stay true on average, add up, and say the same whenever they are asked?"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bioface_core.evaluate import Counts, count
from bioface_core.rounding import round_counts, round_rows, secret_draw

KEY = bytes(range(32))
STEPS = st.integers(1, 12)


@st.composite
def possible_counts(draw: Any) -> Counts:
    """Counts of a real evaluation: scores of some patients, ties included."""
    classes, patients = draw(st.integers(1, 5)), draw(st.integers(0, 40))
    values = st.integers(0, 3)
    rows = draw(st.lists(st.lists(values, min_size=classes, max_size=classes), min_size=patients, max_size=patients))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=patients, max_size=patients))
    scores_PK = torch.tensor(rows, dtype=torch.float32).view(patients, classes)
    return count(scores_PK, torch.tensor(labels, dtype=torch.int64))


def names(counts: Counts) -> list[str]:
    return [f"syndrome-{k}" for k in range(counts.classes)]


def plain_rounding(row: list[int], step: int, draw: int) -> list[int]:
    """The rule as one would say it: how many marks at draw, draw + step, ... does each cell's stretch pass?"""
    cells, before = [], 0
    for cell in row:
        passed = [mark for mark in range(before + 1, before + cell + 1) if (mark + draw) % step == 0]
        cells.append(step * len(passed))
        before += cell
    return cells


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), STEPS, st.data())
def test_a_row_is_rounded_as_a_plain_loop_does(row: list[int], step: int, data: st.DataObject) -> None:
    draw = data.draw(st.integers(0, step - 1))
    rounded = round_rows(torch.tensor([row]), step, torch.tensor([draw]))[0].tolist()
    assert rounded == plain_rounding(row, step, draw)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), STEPS)
def test_the_mean_over_all_draws_is_the_truth(row: list[int], step: int) -> None:
    cells_RJ = torch.tensor([row]).expand(step, -1)
    assert round_rows(cells_RJ, step, torch.arange(step)).sum(dim=0).tolist() == [step * cell for cell in row]


@pytest.mark.parametrize("step", [2, 5, 7])
def test_draws_are_even_over_keys(step: int) -> None:
    """Chi-square of 2,000 keys; the keys are fixed, so that this passes always or never."""
    draws = torch.tensor([secret_draw(number.to_bytes(16, "big"), "noonan", step) for number in range(2000)])
    expected = 2000 / step
    chi_square = float(((draws.bincount(minlength=step) - expected) ** 2 / expected).sum())
    assert chi_square < 22.5, "0.1 % of even draws over 7 values go beyond"


@given(possible_counts(), STEPS)
def test_what_leaves_are_coarse_counts_of_the_same_patients(counts: Counts, step: int) -> None:
    rounded = round_counts(counts, step, KEY, names(counts))
    assert Counts.from_json(rounded.to_json()), "totals, first ranks and diagonal agree"
    for exact_KK, rounded_KK in ((counts.confusion_KK, rounded.confusion_KK), (counts.ranks_KK, rounded.ranks_KK)):
        assert bool((rounded_KK % step == 0).all())
        assert bool(((rounded_KK - exact_KK).abs() < step).all())
        assert bool(((rounded_KK.sum(dim=1) - exact_KK.sum(dim=1)).abs() < step).all()), "so is the total"
        assert bool((rounded_KK[exact_KK == 0] == 0).all()), "nobody is invented"


@given(possible_counts(), STEPS)
def test_rounding_twice_is_rounding_once(counts: Counts, step: int) -> None:
    once = round_counts(counts, step, KEY, names(counts))
    assert round_counts(once, step, KEY, names(counts)).to_json() == once.to_json()


@given(possible_counts())
def test_a_step_of_one_changes_nothing(counts: Counts) -> None:
    assert round_counts(counts, 1, KEY, names(counts)).to_json() == counts.to_json()


def test_asking_again_averages_nothing_away() -> None:
    """A total is the same number in every round, however the model did, and wherever the syndrome stands."""
    scores = torch.Generator().manual_seed(1)
    labels_P = torch.tensor([0] * 13 + [1] * 22)
    totals = set()
    for _ in range(50):
        counts = count(torch.rand(35, 2, generator=scores), labels_P)
        totals.add(tuple(round_counts(counts, 5, KEY, ["noonan", "cdls"]).patients_K.tolist()))
        turned = Counts(counts.confusion_KK.flip(0, 1), counts.ranks_KK.flip(0))
        totals.add(tuple(round_counts(turned, 5, KEY, ["cdls", "noonan"]).patients_K.flip(0).tolist()))
    assert len(totals) == 1


def test_another_key_rounds_otherwise() -> None:
    counts = Counts(torch.tensor([[13]]), torch.tensor([[13]]))
    seen = {int(round_counts(counts, 5, bytes(15) + bytes([key]), ["noonan"]).confusion_KK) for key in range(50)}
    assert seen == {10, 15}
