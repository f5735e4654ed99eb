"""How honest are the answers? Calibration, abstention and the unknown, on patients that no part of a run has seen.

    python benchmarks/clinic.py runs/demo runs/demo-1 runs/demo-2 runs/demo-3 runs/demo-4
    python benchmarks/clinic.py runs/demo runs/demo-1 runs/demo-2 runs/demo-3 runs/demo-4 --photos 2
    python benchmarks/clinic.py runs/demo runs/demo-1 runs/demo-2 runs/demo-3 runs/demo-4 --ceilings

For each finished run of phantoms: calibrates the final model on the hospitals' held-out patients, as a deployed run
does, and asks it about new phantoms, one photo of each: 2,000 patients of the ten syndromes, 240 of the six that no
model has learned, 400 healthy people. Prints one Markdown row per run and their mean; intervals are bootstrapped over
people.

``--ceilings`` asks how much better any score could do that sees the same embeddings: classifiers that are shown these
very people, by cross-validation, which nobody could do in a clinic.

Legend: P people, Q others, D embedding, K syndromes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from torch import Tensor

from bioface_core.calibration import count_reliability, curve, ece, risk_at, temperatures
from bioface_core.checkpoint import RunFolder, read_study_of
from bioface_core.config import Study
from bioface_core.evaluate import Counts, per_patient
from bioface_core.expert import Expert
from bioface_core.learner import Learner
from bioface_core.photos import PhotoSet
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
    parser.add_argument("--photos", type=int, default=1, help="of each person, averaged")
    parser.add_argument("--ceilings", action="store_true", help="what classifiers reach that are shown the answers")
    typed = parser.parse_args()
    torch.set_num_threads(1)
    rows = {run.name: measure(run, typed.photos, typed.ceilings) for run in typed.runs}
    names = list(next(iter(rows.values())))
    print(f"| run | {' | '.join(names)} |\n|---{'|---' * len(names)}|")
    for run, row in rows.items():
        print(f"| {run} | {' | '.join(_cell(*row[name]) for name in names)} |", flush=True)
    print(f"| mean | {' | '.join(f'{mean(row[name][0] for row in rows.values()):.3f}' for name in names)} |")


def measure(run: Path, photos: int, ceilings: bool) -> Row:
    """Each figure with its 95 % interval."""
    study = read_study_of(run)
    expert = calibrated(run, study)
    seed, dials = study.seed + FRESH, study.simulation.phantoms
    known_PD, labels_P = _people(expert, phantom.patients(seed, study.syndromes, KNOWN, photos, dials)[0])
    others = {
        "unseen": _people(expert, phantom.patients(seed, catalogue().unseen, UNSEEN, photos, dials)[0])[0],
        "healthy": _people(expert, phantom.healthy(seed, HEALTHY, photos, dials)[0])[0],
    }
    if ceilings:
        return _ceilings(expert, known_PD, labels_P, others)
    near_P = expert.nearness(known_PD)
    row = _sure(study, expert, expert.scores(known_PD), labels_P, near_P)
    for name, others_QD in others.items():
        near_Q = expert.nearness(others_QD)
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


def _people(expert: Expert, photos: PhotoSet) -> tuple[Tensor, Tensor]:
    """Each person's embedding, and label."""
    return per_patient(expert.embed(photos.photos_NCHW), photos.labels_N, photos.patients_N)


def _ceilings(expert: Expert, known_PD: Tensor, labels_P: Tensor, others: dict[str, Tensor]) -> Row:
    """What classifiers reach that are shown who is right, and who has no syndrome, beside what we use."""
    scores_PK = expert.scores(known_PD)
    right_P = (scores_PK.argmax(1) == labels_P).long()
    sure_P = expert.calibration.probabilities(scores_PK).amax(1)
    told_P = _shown(torch.cat([known_PD, scores_PK.sort(1).values], 1), right_P)
    row = {
        "risk at 80 %": _together(_risk_at_80, [sure_P, right_P]),
        "risk at 80 %, shown": _together(_risk_at_80, [told_P, right_P]),
    }
    near_P = expert.nearness(known_PD)
    for name, others_QD in others.items():
        both_ND = torch.cat([known_PD, others_QD])
        truth_N = (torch.arange(len(both_ND)) < len(known_PD)).long()
        groups = list(_shown(both_ND, truth_N).split([len(known_PD), len(others_QD)]))
        row[f"AUROC, {name}"] = _interval(_auroc, [near_P, expert.nearness(others_QD)])
        row[f"AUROC, {name}, shown"] = _interval(_auroc, groups)
    return row


def _shown(features_NF: Tensor, truth_N: Tensor) -> Tensor:
    """What a logistic regression says of each person after it was shown the truth of all but a tenth, float (N,)."""
    model = LogisticRegression(C=10.0, class_weight="balanced", max_iter=3000)
    folds = StratifiedKFold(10, shuffle=True, random_state=0)
    found_N = cross_val_predict(model, features_NF.numpy(), truth_N.numpy(), cv=folds, method="decision_function")
    return torch.as_tensor(found_N)


def _risk_at_80(sure_P: Tensor, right_P: Tensor) -> float:
    answered = sure_P.argsort(descending=True)[: round(0.8 * len(sure_P))]
    return 1 - float(right_P[answered].float().mean())


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
