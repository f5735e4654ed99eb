"""Does every benchmark's name lead to something that measures, and is it told to those who ask?"""

from __future__ import annotations

import re
from importlib import import_module
from inspect import signature
from typing import get_type_hints

import pytest

from bioface_core.cli.local import bench
from simulation.bench import BENCHMARKS, run_benchmark
from simulation.bench_aggregate import aggregate_ratios
from simulation.bench_intake import intake_ratios
from simulation.ratio import Ratio


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_name_leads_to_ratios(name: str) -> None:
    module, _, function = BENCHMARKS[name].partition(":")
    measure = getattr(import_module(module), function)
    assert get_type_hints(measure)["return"] == list[Ratio]
    assert all(parameter.default is not parameter.empty for parameter in signature(measure).parameters.values())


def test_the_help_and_the_docstring_name_every_benchmark_in_order() -> None:
    argument = get_type_hints(bench, include_extras=True)["name"].__metadata__[0]
    assert re.findall(r"\w+", argument.help.replace(" or ", ", ")) == list(BENCHMARKS)
    assert re.findall(r"^ +``(\w+)``:", run_benchmark.__doc__ or "", re.MULTILINE) == list(BENCHMARKS)


def test_a_ratio_is_ours_over_the_others() -> None:
    assert Ratio.of("cost", 1.0, 1, 4) == Ratio("cost", 0.25, 1.0, 1, 4)


def test_a_ratio_is_the_median_of_pairs() -> None:
    assert Ratio.of_pairs("cost", 1.0, [(1, 2), (3, 4), (10, 100)]) == Ratio("cost", 0.5, 1.0, 3, 4)


@pytest.mark.slow
def test_the_benchmark_of_the_average_measures_what_it_says() -> None:
    ratios = aggregate_ratios(depths=(10,), updates=(2, 3), pairs=1, width=0.25)
    assert len(ratios) == 2 * 4 + 1 and all(ratio.ours > 0 and ratio.other > 0 for ratio in ratios)
    of_two = [ratio for ratio in ratios if ratio.name.startswith("2 updates")]
    memory, beside = of_two[2], of_two[3]
    assert memory.other > beside.other, "Flower's replies are counted"


@pytest.mark.slow
def test_the_benchmark_of_the_intake_measures_what_it_says() -> None:
    [ratio] = intake_ratios(photos=6, pairs=1)
    assert ratio.ours > 0 and ratio.other > 0
