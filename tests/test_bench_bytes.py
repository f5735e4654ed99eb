"""Does the benchmark of bytes keep what it promises? Sizes are exact; times need a quiet machine and are not judged."""

from __future__ import annotations

from simulation.bench_bytes import bytes_ratios


def test_messages_are_as_small_as_promised() -> None:
    ratios = bytes_ratios(timed_values=20_000, pairs=1)
    sizes = [ratio for ratio in ratios if " MB: " in ratio.name]
    assert len(sizes) == 10 and all(ratio.ratio <= ratio.target for ratio in sizes)
    assert len(ratios) == 14 and all(ratio.ours > 0 for ratio in sizes)
