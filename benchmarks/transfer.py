"""Does the ability to tell people apart help to recognise syndromes? With few patients, and from scratch.

    python benchmarks/transfer.py --patients 5 --seeds 0 1 2 3 4

For each seed the demo's network is trained on all photos in one place, with the demo's settings but for the start: from
stage 1 (norms frozen), from scratch with group norm, and from scratch with batch norm (which a federation cannot use).
All three meet the same patients. Prints one Markdown table.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean, stdev

import torch

from bioface_core.config import Study, find_study, read_study
from bioface_core.evaluate import macro_top
from bioface_core.learner import Learner, use
from bioface_core.photos import PhotoSet
from bioface_core.pretrain import pretrain
from bioface_core.weights import Base, random_base, read_base
from simulation import phantom
from simulation.arms import train_alone
from simulation.stage1 import public_people

HELD_OUT = 40  # patients per syndrome
STARTS = {
    "from identification": {"model": {"norm": "frozen"}},
    "from scratch, group norm": {"model": {"norm": "group", "base": "scratch"}},
    "from scratch, batch norm": {"model": {"norm": "batch", "base": "scratch"}},
}


def main() -> None:
    """Runs every start for every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=5, help="training patients per syndrome, two photos each")
    parser.add_argument("--epochs", type=int, default=2, help="passes in each of the demo's 15 rounds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--base", type=Path, help="weights of `bioface pretrain demo`; without, the demo's own stage 1")
    arguments = parser.parse_args()
    scores = {start: [score(start, seed, arguments) for seed in arguments.seeds] for start in STARTS}
    print(f"| start | {' | '.join(f'seed {seed}' for seed in arguments.seeds)} | mean | standard deviation |")
    print("|---|" + "---|" * (len(arguments.seeds) + 2))
    for start, values in scores.items():
        cells = [f"{100 * value:.1f}" for value in [*values, mean(values), stdev(values)]]
        print(f"| {start} | {' | '.join(cells)} |")


def score(start: str, seed: int, arguments: argparse.Namespace) -> float:
    """Macro Top-1 of one start on the held-out patients."""
    study = _study(seed, arguments.epochs)
    train, heldout = _patients(study, arguments.patients)
    base = _identification(study, arguments.base) if start == "from identification" else None
    study = study.replace(STARTS[start])
    learner = Learner(study, base or random_base(study.model, seed), device=use(study.speed))
    vector = train_alone(learner, train, "pooled")
    assert vector is not None
    return macro_top(learner.evaluate(vector, heldout), 1).value


def _study(seed: int, epochs: int) -> Study:
    """The demo without its identification stream, so that the start is the only difference."""
    overrides = (f"seed={seed}", f"train.epochs={epochs}", "loss.identification=false")
    return read_study(find_study("demo"), overrides)


def _patients(study: Study, patients: int) -> tuple[PhotoSet, PhotoSet]:
    """Photos to learn from, and those of ``HELD_OUT`` other patients of each syndrome."""
    photos, _ = phantom.patients(study.seed, study.syndromes, patients + HELD_OUT, 2, study.simulation.phantoms)
    rank_N = photos.patients_N % (patients + HELD_OUT)
    return photos.take(rank_N < patients), photos.take(rank_N >= patients)


def _identification(study: Study, path: Path | None) -> Base:
    if path is not None:
        return read_base(path, study.model)
    return pretrain(study, public_people(study, lambda done, total: None), torch.device("cpu"))


if __name__ == "__main__":
    main()
