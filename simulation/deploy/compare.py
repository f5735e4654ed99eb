"""How much less does our deployment cost than stock Flower's? Both measured, one after the other, in one run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from simulation.deploy.timings import OurTimings, run_ours
from simulation.progress import Progress
from simulation.ratio import Ratio
from simulation.stock import StockTimings, run_stock

_TINY_BYTES, _UPDATE_BYTES = 4096, 40_000_000
_ROUNDS = 5  # the first is not counted
_FEW, _MANY = 2, 6  # hospitals, for the memory


def deploy_ratios() -> list[Ratio]:
    """Seconds per round, seconds per update, and the ServerApp's memory. Takes several minutes and says where it is."""
    with Progress() as progress:
        return [*_rounds(progress.say), _update(progress.say), _memory(progress.say)]


def _rounds(say: Callable[[str], None]) -> Iterator[Ratio]:
    """Three hospitals and a model of no size: what is left is the machinery."""
    ours, stock = _both(say, _TINY_BYTES, 3, _ROUNDS)
    yield _ratio("3 hospitals, training: seconds beyond the work", 0.1, ours.overhead_s, stock.overhead_s)
    yield _ratio("3 hospitals, ours with evaluation and checkpoint", 0.2, ours.rounds_s, stock.rounds_s)


def _update(say: Callable[[str], None]) -> Ratio:
    ours, stock = _both(say, _UPDATE_BYTES, 1, _ROUNDS)
    return _ratio("1 hospital, update of 40 MB: seconds to the lab", 0.5, ours.update_s, stock.update_s)


def _memory(say: Callable[[str], None]) -> Ratio:
    """Ours alone: the same with six hospitals as with two."""
    peaks = []
    for hospitals in (_MANY, _FEW):
        say(f"ours, {hospitals} hospitals, 40 MB: memory")
        with _scratch() as folder:
            peaks.append(run_ours(folder, _UPDATE_BYTES, hospitals, 2).peak_bytes / 1e6)
    many, few = peaks
    return Ratio.of("memory of the ServerApp, MB: 6 hospitals / 2", 1.05, many, few)


def _both(
    say: Callable[[str], None], payload_bytes: int, hospitals: int, rounds: int
) -> tuple[OurTimings, StockTimings]:
    say(f"stock Flower, {hospitals} hospital(s), {payload_bytes / 1e6:g} MB")
    with _scratch() as folder:
        stock = run_stock(folder, payload_bytes, hospitals, rounds)
    say(f"ours, {hospitals} hospital(s), {payload_bytes / 1e6:g} MB")
    with _scratch() as folder:
        return run_ours(folder, payload_bytes, hospitals, rounds), stock


def _ratio(name: str, target: float, ours: tuple[float, ...], stock: tuple[float, ...]) -> Ratio:
    return Ratio.of(name, target, median(ours), median(stock))


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bioface-bench-") as folder:
        yield Path(folder) / "run"
