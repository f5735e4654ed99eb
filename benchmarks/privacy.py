"""What does privacy cost in recognition? Epsilon times what trains, over hospitals of two sizes.

    python benchmarks/privacy.py --base base.safetensors --patients 100 300 --seeds 0 1 2 3 4

Five phantom hospitals with ``--patients`` training patients each (two photos each, ten syndromes), private for each
patient as `configs/private.yaml` says; epsilon ``inf`` is plain training, one pass over the photos in each round, and
``alone`` the same by one hospital without the others. The rounds are those of a federation, in one process. Prints one
Markdown table of macro Top-1 for each size, and writes every figure to ``--out`` as it comes, so that a run that was
cut off goes on.
"""

from __future__ import annotations

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev

import torch

from bioface_core.accounting import Plan, plan_of, rounded_up
from bioface_core.config import Study, find_study, read_study
from bioface_core.evaluate import Counts, macro_top
from bioface_core.learner import Learner, use
from bioface_core.messages import Phase, Ticket, Update
from bioface_core.photos import PhotoSet
from bioface_core.weights import read_base
from server.strategy import WeightedSum, start_state, step
from simulation import phantom

HOSPITALS, HELD_OUT, PHOTOS = 5, 40, 2
EPSILONS = ("alone", "inf", "8", "3", "1")
RATES = {"head": 1.0, "last-stage": 0.3, "se+bias": 0.3, "all": 0.1}  # of SGD, by a look at another seed
PLAIN = {
    "privacy": {"unit": "none"},
    "train": {"optimiser": "adamw", "rate": 2e-3, "schedule": "cosine", "epochs": 1},
}


def main() -> None:
    """Runs what is not in ``--out`` yet, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--base", type=Path, required=True, help="weights of `bioface pretrain`, of the study's network"
    )
    parser.add_argument("--study", default="private")
    parser.add_argument("--set", "-s", action="append", default=[], help="override, e.g. train.rate=1e-2")
    parser.add_argument("--patients", type=int, nargs="+", default=[100, 300], help="training patients per hospital")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epsilons", nargs="+", default=list(EPSILONS))
    parser.add_argument("--parts", nargs="+", default=list(RATES))
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("privacy.jsonl"))
    arguments = parser.parse_args()
    known = _read(arguments.out)
    cells = product(arguments.seeds, arguments.patients, arguments.parts, arguments.epsilons)
    missing = [cell for cell in cells if _key(*cell) not in known]
    with ProcessPoolExecutor(arguments.workers, get_context("spawn")) as pool, arguments.out.open("a") as out:
        for cell, value in zip(missing, pool.map(_score, missing, [arguments] * len(missing)), strict=True):
            known[_key(*cell)] = value
            print(json.dumps([_key(*cell), value]), file=out, flush=True)
    for patients in arguments.patients:
        _print_table(known, patients, arguments)


def _score(cell: tuple[int, int, str, str], arguments: argparse.Namespace) -> float:
    """Macro Top-1 on held-out patients after the last round."""
    seed, patients, part, epsilon = cell
    study = read_study(find_study(arguments.study), (f"seed={seed}", *arguments.set))
    private = {"privacy": {"unit": "patient", "epsilon": epsilon}, "train": {"rate": RATES[part]}}
    study = study.replace({"model": {"trainable": part}} | (PLAIN if epsilon in ("alone", "inf") else private))
    hospitals, heldout = _hospitals(seed, patients, study.syndromes)
    counts = _federate(study, hospitals[:1] if epsilon == "alone" else hospitals, heldout, patients, arguments.base)
    return macro_top(counts, 1).value


def _federate(study: Study, hospitals: list[PhotoSet], heldout: PhotoSet, patients: int, base: Path) -> Counts:
    learner = Learner(study, read_base(base, study.model), device=use(study.speed))
    plan = _plan(study, patients)
    state = start_state(study.federation, learner.start())
    for round_ in range(1, study.federation.rounds + 1):
        total = WeightedSum(learner.size, learner.classes, learner.embedding, HOSPITALS, 1e3)
        for index, photos in enumerate(hospitals):
            delta = learner.train(state.vector, photos, round_, f"hospital-{index + 1}", plan).delta
            ticket = Ticket(study.study_id, "benchmark", round_, 1, Phase.TRAIN)
            weights_K = torch.ones(learner.classes, dtype=torch.int64)
            total.add(Update(ticket, str(index), learner.schema, delta, 1, weights_K, 0.0))
        state = step(study.federation, state, total.mean())
    return learner.evaluate(state.vector, heldout)


def _plan(study: Study, patients: int) -> Plan | None:
    if study.privacy.unit == "none":
        return None
    return plan_of(study, rounded_up(patients, study.federation.weight_step))


@lru_cache(maxsize=1)
def _hospitals(seed: int, patients: int, syndromes: tuple[str, ...]) -> tuple[list[PhotoSet], PhotoSet]:
    """The hospitals' training photos, the same mix of syndromes in each, and the held-out patients of all."""
    each = HOSPITALS * patients // len(syndromes)
    dials = read_study(find_study("demo")).simulation.phantoms
    photos, _ = phantom.patients(seed, syndromes, each + HELD_OUT, PHOTOS, dials)
    rank_N = photos.patients_N % (each + HELD_OUT)
    hospitals = [photos.take((rank_N < each) & (rank_N % HOSPITALS == index)) for index in range(HOSPITALS)]
    return hospitals, photos.take(rank_N >= each)


def _key(seed: int, patients: int, part: str, epsilon: str) -> str:
    return f"{patients} patients, {part}, epsilon {epsilon}, seed {seed}"


def _read(path: Path) -> dict[str, float]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return dict(json.loads(line) for line in lines)


def _print_table(known: dict[str, float], patients: int, arguments: argparse.Namespace) -> None:
    print(f"\n{patients} patients in each of {HOSPITALS} hospitals\n")
    print(f"| trains | {' | '.join(arguments.epsilons)} |")
    print("|---|" + "---|" * len(arguments.epsilons))
    for part in arguments.parts:
        rows = [[known[_key(seed, patients, part, e)] for seed in arguments.seeds] for e in arguments.epsilons]
        print(f"| {part} | {' | '.join(_cell(values) for values in rows)} |")


def _cell(values: list[float]) -> str:
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.1f}{spread}"


if __name__ == "__main__":
    main()
