"""How honest are the answers? Calibration, abstention and the unknown, on patients that no part of a run has seen.

    python benchmarks/clinic.py runs/demo runs/demo-1 runs/demo-2 runs/demo-3 runs/demo-4

For each finished run of phantoms: calibrates the final model on the hospitals' held-out patients, as a deployed run
does, and asks it about new phantoms, one photo of each: 2,000 patients of the ten syndromes, 240 of the six that no
model has learned, 400 healthy people. Prints one Markdown row per run and their mean; intervals are bootstrapped over
people.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from bioface_core.calibration import count_reliability, curve, ece, risk_at, temperatures
from bioface_core.checkpoint import RunFolder, read_study_of
from bioface_core.config import Study
from bioface_core.evaluate import Counts
from bioface_core.expert import Expert
from bioface_core.learner import Learner
from bioface_core.photos import PhotoSet, first_photos
from bioface_core.seeding import generator
from bioface_core.start import read_start
from bioface_core.syndromes import catalogue
from simulation import phantom, sites
from simulation.hospitals import hospital_names

KNOWN, UNSEEN, HEALTHY = 200, 40, 400  # of each syndrome, of each unseen syndrome, people
FRESH = 1_000_003  # added to a run's seed: other people than any of its own
_RESAMPLES = 300
Row = dict[str, tuple[float, float, float]]


def main() -> None:
    """Measures every run that is named, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    torch.set_num_threads(1)
    rows = {str(run.name): measure(run) for run in parser.parse_args().runs}
    names = list(next(iter(rows.values())))
    print(f"| run | {' | '.join(names)} |\n|---{'|---' * len(names)}|")
    for run, row in rows.items():
        print(f"| {run} | {' | '.join(_cell(*row[name]) for name in names)} |", flush=True)
    print(f"| mean | {' | '.join(f'{mean(row[name][0] for row in rows.values()):.3f}' for name in names)} |")


def measure(run: Path) -> Row:
    """Each figure with its 95 % interval."""
    study = read_study_of(run)
    expert = calibrated(run, study)
    seed, dials = study.seed + FRESH, study.simulation.phantoms
    known = phantom.patients(seed, study.syndromes, KNOWN, 1, dials)[0]
    unseen = phantom.patients(seed, catalogue().unseen, UNSEEN, 1, dials)[0]
    healthy = phantom.healthy(seed, HEALTHY, 1, dials)[0]
    scores_PK, near_P = _asked(expert, known)
    others = {"unseen": _asked(expert, unseen)[1], "healthy": _asked(expert, healthy)[1]}
    row = _sure(study, expert, scores_PK, known.labels_N, near_P)
    for name, near_Q in others.items():
        row[f"AUROC, {name}"] = _interval(_auroc, [near_P, near_Q])
        row[f"turned away, {name}"] = _interval(
            lambda values_P: float((~expert.calibration.recognised(values_P)).float().mean()), [near_Q]
        )
    return row


def calibrated(run: Path, study: Study) -> Expert:
    """The model after the last round, as the hospitals of this run calibrate it."""
    start, last = read_start(run, study), study.federation.rounds
    learner = Learner(study, start.base, start.identities)
    vector = RunFolder(run).read_tensors(last)["vector"]
    total = Counts.zeros(learner.classes)
    for index in range(len(hospital_names(study))):
        total = total + learner.evaluate(vector, sites.read_hospital(run, study, index).heldout())
    return Expert.of(study, learner.weights(vector), total.reliability)


def _asked(expert: Expert, photos: PhotoSet) -> tuple[Tensor, Tensor]:
    """Scores and nearness of each person's first photo."""
    embeddings_PD = expert.embed(photos.photos_NCHW[first_photos(photos.patients_N)])
    return expert.scores(embeddings_PD), expert.nearness(embeddings_PD)


def _sure(study: Study, expert: Expert, scores_PK: Tensor, labels_P: Tensor, near_P: Tensor) -> Row:
    number = temperatures(study.loss).index(expert.calibration.temperature)

    def table(scores: Tensor, labels: Tensor, near: Tensor) -> Tensor:
        return count_reliability(scores, labels, near, study.loss).confidence_TB2[number]

    values = [scores_PK, labels_P, near_P]
    figures: dict[str, Callable[..., float]] = {
        "Top-1": lambda *v: 1 - curve(table(*v))[0].risk,
        "ECE": lambda *v: ece(table(*v)),
        "risk": lambda *v: curve(table(*v))[0].risk,
        "risk at 80 %": lambda *v: risk_at(curve(table(*v)), 0.8),
        "turned away, known": lambda *v: float((~expert.calibration.recognised(v[2])).float().mean()),
    }
    return {name: _together(figure, values) for name, figure in figures.items()}


def _auroc(known_P: Tensor, others_Q: Tensor) -> float:
    truth = [1] * len(known_P) + [0] * len(others_Q)
    return float(roc_auc_score(truth, torch.cat([known_P, others_Q]).tolist()))


def _interval(figure: Callable[..., float], groups: Sequence[Tensor]) -> tuple[float, float, float]:
    """A figure of independent groups, each drawn again with replacement."""
    randomness = generator("clinic")
    drawn = [figure(*(_again(group, randomness) for group in groups)) for _ in range(_RESAMPLES)]
    return (figure(*groups), *_ends(drawn))


def _together(figure: Callable[..., float], columns: Sequence[Tensor]) -> tuple[float, float, float]:
    """A figure of columns about the same people, who are drawn again with replacement."""
    randomness, people = generator("clinic"), len(columns[0])
    drawn = []
    for _ in range(_RESAMPLES):
        chosen_P = torch.randint(people, (people,), generator=randomness)
        drawn.append(figure(*(column[chosen_P] for column in columns)))
    return (figure(*columns), *_ends(drawn))


def _again(group: Tensor, randomness: torch.Generator) -> Tensor:
    return group[torch.randint(len(group), (len(group),), generator=randomness)]


def _ends(drawn: Sequence[float]) -> tuple[float, float]:
    low, high = torch.tensor(drawn).quantile(torch.tensor([0.025, 0.975])).tolist()
    return low, high


def _cell(value: float, low: float, high: float) -> str:
    return f"{value:.3f} ({low:.3f}\N{EN DASH}{high:.3f})"


if __name__ == "__main__":
    main()
