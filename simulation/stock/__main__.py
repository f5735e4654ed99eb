"""How is the yardstick tried out? ``python -m simulation.stock`` runs it once and prints what it measured."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

from simulation.stock.timings import run_stock


def main() -> None:
    """One run, in a temporary folder."""
    parser = argparse.ArgumentParser(prog="python -m simulation.stock", description=__doc__)
    parser.add_argument("--payload", type=int, default=4096, help="bytes of the model")
    parser.add_argument("--hospitals", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3, help="the first is not counted")
    parser.add_argument("--work", type=float, default=0.0, help="seconds that each hospital works")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = run_stock(Path(scratch), chosen.payload, chosen.hospitals, chosen.rounds, chosen.work)
    print(found)
    print(f"{median(found.update_s):.2f} s for an update (median)")
    if found.overhead_s:
        print(f"{median(found.overhead_s):.2f} s per round beyond the work (median)")
    print(f"{found.peak_bytes / 1e6:.0f} MB at most in the ServerApp, {found.whole_s:.0f} s in all")


if __name__ == "__main__":
    main()
