"""What does a simulated federation cost on our engines, and on Flower, NVIDIA FLARE and pfl-research?

    python benchmarks/engines/run.py --nvflare ENV/bin/python --pfl ENV/bin/python

Every framework runs the same study on the same files: the demo's network from the same start, five hospitals, FedAvg,
one epoch per round of the joint cross-loss without identification, and an evaluation per round. Each runs for few and
for many rounds, in turn, in processes of its own: the difference is what a round costs, the rest what it costs to
start. A peer whose interpreter is not named is left out. What to install into each environment: the ``.txt`` beside.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from process_tree import Cost, run_measured

from bioface_core.config import Study, find_study, read_study
from bioface_core.files import write_text
from simulation.bench_simulate import lay_bench

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent.parent
STUDY = (
    "name=engines",
    "loss.mode=joint",
    "loss.identification=false",
    "loss.margin_ramp=0",
    "train.schedule=constant",
    "train.epochs=1",
    "pretrain.identities=100",
    "federation.strategy=fedavg",
    "simulation.patients_per_syndrome=30",
    "simulation.partition.kind=iid",
    "simulation.compare=false",
)


@dataclass(frozen=True)
class Framework:
    """A row of the table.

    Attributes:
        name: in it.
        script: beside this file, with its first arguments.
        python: the interpreter.
        parallel: hospitals that work at the same time, as a word for the table.
    """

    name: str
    script: tuple[str, ...]
    python: str
    parallel: str


@dataclass(frozen=True)
class Measured:
    """What came of one run.

    Attributes:
        cost: of the whole run.
        accuracy: share of held-out patients who are recognised.
    """

    cost: Cost
    accuracy: float


def main() -> None:
    """Lays the files out, runs everything, prints the table."""
    typed = _arguments()
    frameworks = [one for one in _frameworks(typed) if not typed.only or one.name in typed.only]
    with tempfile.TemporaryDirectory() as scratch:
        laid = typed.laid or lay_files(Path(scratch) / "laid", read_study(find_study("demo"), (*STUDY, *typed.set)))
        found: dict[tuple[str, int], list[Measured]] = {}
        for _ in range(typed.times):
            for rounds in (typed.few, typed.many):
                for framework in frameworks:
                    one = measure(framework, laid, rounds, typed.workers, Path(scratch))
                    found.setdefault((framework.name, rounds), []).append(one)
                    print(f"{framework.name}, {rounds} rounds: {one}", file=sys.stderr, flush=True)
    print("| | at the same time | CPU s per round | to start | wall s per round | to start | recognised |")
    print("|---|---|---|---|---|---|---|")
    for framework in frameworks:
        few, many = found[framework.name, typed.few], found[framework.name, typed.many]
        print(row(framework, few, many, typed.few, typed.many))


def lay_files(folder: Path, study: Study) -> Path:
    """A new folder with the study, its start and its hospitals' photos as files."""
    write_text(lay_bench(folder, study) / "study.yaml", study.to_yaml())
    return folder


def measure(framework: Framework, laid: Path, rounds: int, workers: int, scratch: Path) -> Measured:
    """One run of one framework."""
    out = scratch / "result.json"
    out.unlink(missing_ok=True)
    script, *first = framework.script
    order = [str(laid), str(rounds), str(workers), str(out)]
    command = [framework.python, str(HERE / script), *first, *order]
    cost = run_measured(command, environment(), scratch / "log.txt")
    result = json.loads(out.read_text(encoding="utf-8"))
    return Measured(cost, result["right"] / result["patients"])


def row(framework: Framework, few: Sequence[Measured], many: Sequence[Measured], least: int, most: int) -> str:
    """A row of the table: medians over the pairs."""
    cells = [framework.name, framework.parallel]
    for kind in ("cpu", "wall"):
        pairs = [(getattr(a.cost, kind), getattr(b.cost, kind)) for a, b in zip(few, many, strict=True)]
        per_round = median((b - a) / (most - least) for a, b in pairs)
        to_start = median(a - least * (b - a) / (most - least) for a, b in pairs)
        cells += [f"{per_round:.2f}", f"{to_start:.1f}"]
    accuracy = median(one.accuracy for one in many)
    return f"| {' | '.join([*cells, f'{accuracy:.1%}'])} |"


def _frameworks(typed: argparse.Namespace) -> list[Framework]:
    ours, several = sys.executable, str(typed.workers)
    frameworks = [
        Framework("a plain loop, no framework", ("with_nothing.py",), ours, "1"),
        Framework("BioFace, `inline`", ("with_bioface.py", "inline"), ours, "1"),
        Framework("BioFace, `workers`", ("with_bioface.py", "workers"), ours, several),
        Framework("BioFace, `flower` (Ray)", ("with_bioface.py", "flower"), ours, several),
        Framework("Flower, its quickstart (Ray)", ("with_flower.py",), ours, several),
    ]
    if typed.pfl:
        frameworks.append(Framework("pfl-research", ("with_pfl.py",), typed.pfl, "1"))
    if typed.nvflare:
        frameworks.append(Framework("NVIDIA FLARE simulator", ("with_flare.py",), typed.nvflare, "all"))
    return frameworks


def environment() -> dict[str, str]:
    """One thread for every process, our code on the path, nobody told."""
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    path = os.pathsep.join([str(CHECKOUT), str(HERE)])
    return os.environ | quiet | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": path}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nvflare", help="interpreter of an environment with nvflare.txt")
    parser.add_argument("--pfl", help="interpreter of an environment with pfl.txt")
    parser.add_argument("--few", type=int, default=1, help="rounds of the short run")
    parser.add_argument("--many", type=int, default=9, help="rounds of the long run")
    parser.add_argument("--times", type=int, default=2, help="pairs of runs; medians are printed")
    parser.add_argument("--workers", type=int, default=2, help="hospitals that train at the same time, where they can")
    parser.add_argument("--only", action="append", default=[], help="a row's name; may be given several times")
    parser.add_argument("--set", action="append", default=[], help="another setting of the study, such as seed=1")
    parser.add_argument("--laid", type=Path, help="files that an earlier call laid out (study.yaml, start, hospitals)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
