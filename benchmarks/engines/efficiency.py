"""How near to ideal do several workers come, and Ray's actors?

    python benchmarks/engines/efficiency.py

Ideal is what the machine gives to as many copies of the one-process engine, started together: in the time of one copy,
each does the whole work. In turn: the copies, our workers, Flower's Ray runtime, all on the same files; medians of the
ratios. Eight hospitals of the same size, so that the work can be shared out evenly. Three ways: the CPU seconds of the
longest path through the rounds (see ``critical_path.py``), the wall seconds of the rounds, and those of the whole
command with its start.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import median

from run import HERE, environment, lay_files

from bioface_core.config import find_study, read_study

STUDY = (
    "name=efficiency",
    "loss.mode=joint",
    "loss.identification=false",
    "pretrain.identities=12",
    "pretrain.epochs=1",
    "simulation.hospitals=8",
    "simulation.partition.kind=iid",
    "simulation.compare=false",
)


@dataclass(frozen=True)
class Spent:
    """Seconds of a run: of the longest path, of the rounds' wall clock, of the whole command."""

    path: float
    rounds: float
    command: float


def main() -> None:
    """Runs the three in turn and prints a line for each engine."""
    typed = _arguments()
    found: dict[str, list[Spent]] = {"workers": [], "flower": []}
    with tempfile.TemporaryDirectory() as scratch:
        laid = lay_files(Path(scratch) / "laid", read_study(find_study("demo"), STUDY))
        for _ in range(typed.times):
            copies = together("inline", typed.workers, laid, typed, Path(scratch))
            for engine, shares in found.items():
                (one,) = together(engine, 1, laid, typed, Path(scratch))
                shares.append(share_of_ideal(one, copies))
                print(f"{engine}: {one}; copies: {copies}", file=sys.stderr, flush=True)
    print("| engine | CPU seconds | wall seconds | with the start |\n|---|---|---|---|")
    for engine, shares in found.items():
        columns = zip(*(astuple(share) for share in shares), strict=True)
        print(f"| `{engine}` | " + " | ".join(f"{median(column):.2f}" for column in columns) + " |")


def share_of_ideal(one: Spent, copies: Sequence[Spent]) -> Spent:
    """How much of the ideal speed a run has: each of its three times beside a share of the copies' mean."""
    means = [sum(column) / len(copies) for column in zip(*map(astuple, copies), strict=True)]
    return Spent(*(mean / len(copies) / own for mean, own in zip(means, astuple(one), strict=True)))


def together(engine: str, copies: int, laid: Path, typed: argparse.Namespace, scratch: Path) -> list[Spent]:
    """Runs copies of an engine at the same time."""
    outs = [scratch / f"{engine}-{copy}.json" for copy in range(copies)]
    script = [sys.executable, str(HERE / "critical_path.py"), engine, str(laid), str(typed.rounds), str(typed.workers)]
    began, ends = time.monotonic(), dict[int, float]()
    nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen([*script, str(out)], env=environment(), **nowhere) for out in outs]
    while len(ends) < copies:
        time.sleep(0.02)
        ended = [copy for copy, process in enumerate(processes) if process.poll() is not None and copy not in ends]
        ends |= dict.fromkeys(ended, time.monotonic() - began)
    if any(process.returncode for process in processes):
        raise RuntimeError(f"{engine} failed: {' '.join(script)} OUT")
    results = [json.loads(out.read_text(encoding="utf-8")) for out in outs]
    return [Spent(result["path"], result["wall"], ends[copy]) for copy, result in enumerate(results)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
