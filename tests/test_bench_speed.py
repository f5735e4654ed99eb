"""Do the benchmarks of the cached front and of the GPU measure what they say? Tried with a network of a moment."""

from __future__ import annotations

import pytest
import torch

from bioface_core.errors import ConfigError
from bioface_core.sections import Model
from simulation.bench_cache import Rounds, first_rounds_ratio, steady_ratio
from simulation.bench_gpu import Load, gpu_ratios, measure

TINY = Model(depth=10, width=0.125, embedding=16, stem="strided", pool="global")


def test_a_cached_round_is_compared_with_the_same_round() -> None:
    cached, plain = (Rounds.of(TINY, keep, views=1) for keep in (True, False))
    assert cached.next() > 0 and plain.next() > 0
    cached.next(), plain.next()
    assert torch.equal(cached.vector, plain.vector), "one is the other, only faster"
    ratio = steady_ratio("tiny", TINY, 2)
    assert ratio.target == 0.25 and 0 < ratio.ours < ratio.other
    assert first_rounds_ratio("tiny", TINY, 2).name == "tiny, last-stage, the first 2 rounds, 4 views"


def test_every_figure_of_the_gpu_is_measured() -> None:
    """On this processor: what is run is the same code."""
    ratios = measure(Load(TINY, batch=4, steps=2, repeats=1), torch.device("cpu"))
    assert len({ratio.name for ratio in ratios}) == len(ratios) == 5, "and three of memory, which a GPU alone counts"
    assert all(ratio.ours > 0 and ratio.other > 0 for ratio in ratios)


def test_without_a_gpu_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="bench gpu found no GPU that torch can use, expected CUDA: run it on a"):
        gpu_ratios()
