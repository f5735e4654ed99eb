"""How near to ideal do several workers come, and Ray's actors?

    python benchmarks/engines/efficiency.py

Ideal is what the machine gives to as many copies of the one-process engine, started together: in the time of one copy,
each does the whole work. In turn: the copies, our workers, Flower's Ray runtime, all on the same files; medians of the
ratios. Eight hospitals of the same size, so that the work can be shared out evenly. Without start-up: the seconds of
rounds 1 to the last; with it: the whole command.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from run import HERE, environment, lay_out

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


def main() -> None:
    """Runs the three in turn and prints a line for each engine."""
    typed = _arguments()
    ratios: dict[str, list[tuple[float, float]]] = {"workers": [], "flower": []}
    with tempfile.TemporaryDirectory() as scratch:
        laid = lay_out(Path(scratch) / "laid", read_study(find_study("demo"), STUDY))
        for _ in range(typed.times):
            copies = together("inline", typed.workers, laid, typed.rounds, typed.workers, Path(scratch))
            for engine, found in ratios.items():
                (one,) = together(engine, 1, laid, typed.rounds, typed.workers, Path(scratch))
                ideal = tuple(sum(column) / typed.workers / typed.workers for column in zip(*copies, strict=True))
                found.append((ideal[0] / one[0], ideal[1] / one[1]))
                print(f"{engine}: {one}, ideal {ideal}", file=sys.stderr, flush=True)
    for engine, found in ratios.items():
        without, with_start = (median(column) for column in zip(*found, strict=True))
        print(f"{engine}: {without:.2f} of ideal without start-up, {with_start:.2f} with it")


def together(
    engine: str, copies: int, laid: Path, rounds: int, workers: int, scratch: Path
) -> list[tuple[float, float]]:
    """Runs copies of an engine at the same time.

    Returns:
        Wall seconds of the rounds and of the whole command, of each copy.
    """
    outs = [scratch / f"{engine}-{copy}.json" for copy in range(copies)]
    script = [sys.executable, str(HERE / "with_bioface.py"), engine, str(laid), str(rounds), str(workers)]
    began, ends = time.monotonic(), dict[int, float]()
    processes = [
        subprocess.Popen([*script, str(out)], env=environment(), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        for out in outs
    ]
    while len(ends) < copies:
        time.sleep(0.02)
        ended = [copy for copy, process in enumerate(processes) if process.poll() is not None and copy not in ends]
        ends |= dict.fromkeys(ended, time.monotonic() - began)
    if any(process.returncode for process in processes):
        raise RuntimeError(f"{engine} failed: run {' '.join(script)} OUT")
    results = [json.loads(out.read_text(encoding="utf-8")) for out in outs]
    return [(result["seconds_of_rounds"], ends[copy]) for copy, result in enumerate(results)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
