"""Does every benchmark's name lead to something that measures, and is it told to those who ask?"""

from __future__ import annotations

import re
from importlib import import_module
from inspect import signature
from typing import get_type_hints

import pytest

from bioface_core.cli.local import bench
from simulation.bench import BENCHMARKS, run_benchmark
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


def test_a_ratio_is_the_median_of_pairs() -> None:
    assert Ratio.of_pairs("cost", 1.0, [(1, 2), (3, 4), (10, 100)]) == Ratio("cost", 0.5, 1.0, 3, 4)
