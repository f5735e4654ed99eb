"""Does a hospital's own model serve its patients better than the shared one?

    python benchmarks/personal.py runs/demo runs/demo-1 runs/demo-2 runs/demo-3 runs/demo-4

For each hospital of each finished simulation: trains the shared model on at the hospital, as `bioface hospital
personalise` does, and asks both models about the hospital's held-out patients, and about those of all the others, whom
a hospital could not ask. Prints one Markdown row per run and part, patients of all its hospitals together.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from scipy.stats import binomtest

from bioface_core.evaluate import per_patient
from bioface_core.expert import Expert, read_expert
from bioface_core.photos import concatenate
from bioface_core.start import Start, read_start
from bioface_core.store import Store
from client.personal import Personal, Plan, personalise
from client.personal.fit import PARTS
from simulation import sites
from simulation.hospitals import hospital_names


@dataclass(frozen=True)
class Row:
    """One run and part: counts over its hospitals' own patients, and over the others' of each.

    Attributes:
        epochs: chosen at each hospital.
        right: own patients whom the shared model and the hospital's own recognise.
        patients: own held-out patients.
        gained: of these only by the hospital's own.
        lost: only by the shared one.
        others: the same two for the other hospitals' patients.
        others_patients: how many these are, each once for each hospital.
    """

    epochs: tuple[int, ...]
    right: tuple[int, int]
    patients: int
    gained: int
    lost: int
    others: tuple[int, int]
    others_patients: int


def main() -> None:
    """Measures every run that is named, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--parts", nargs="+", default=["head", "all"], choices=PARTS)
    typed = parser.parse_args()
    torch.set_num_threads(1)
    print("| part | run | epochs | shared | own | gained, lost | p | others' patients: shared | own |")
    print("|---|---|---|---|---|---|---|---|---|")
    for part in typed.parts:
        rows = []
        for run in typed.runs:
            rows.append(measure(run, Plan(part)))
            print(shown(part, run.name, rows[-1]), flush=True)
        print(shown(part, "together", together(rows)), flush=True)


def measure(run: Path, plan: Plan) -> Row:
    """All hospitals of a run."""
    expert = read_expert(run)
    start, names = read_start(run, expert.study), hospital_names(expert.study)
    stores = [sites.read_hospital(run, expert.study, number) for number in range(len(names))]
    return together([_hospital(expert, start, stores, number, plan) for number in range(len(names))])


def together(rows: list[Row]) -> Row:
    """Several as one."""
    return Row(
        tuple(epoch for row in rows for epoch in row.epochs),
        (sum(row.right[0] for row in rows), sum(row.right[1] for row in rows)),
        sum(row.patients for row in rows),
        sum(row.gained for row in rows),
        sum(row.lost for row in rows),
        (sum(row.others[0] for row in rows), sum(row.others[1] for row in rows)),
        sum(row.others_patients for row in rows),
    )


def _hospital(expert: Expert, start: Start, stores: list[Store], number: int, plan: Plan) -> Row:
    made = personalise(expert, start, stores[number], plan)
    told = made.comparison
    right = tuple(round(rate.value * rate.patients) for rate in (told.shared, told.personal))
    elsewhere = _others([store for place, store in enumerate(stores) if place != number])
    return Row(
        (made.epochs,),
        (right[0], right[1]),
        told.shared.patients,
        told.gained,
        told.lost,
        (_recognised(expert, elsewhere), _recognised(_own(expert, made), elsewhere)),
        len(elsewhere.photos.patients_N.unique()),
    )


def _others(stores: list[Store]) -> Store:
    """The held-out photos of several hospitals, their patients numbered anew."""
    shift, sets = 0, []
    for store in stores:
        photos = store.heldout()
        sets.append(replace(photos, patients_N=photos.patients_N + shift))
        shift += int(store.photos.patients_N.max()) + 1
    everyone = concatenate(sets)
    return replace(stores[0], photos=everyone, heldout_N=torch.ones(len(everyone), dtype=torch.bool))


def _own(expert: Expert, made: Personal) -> Expert:
    return Expert.of(made.study, made.weights)


def _recognised(expert: Expert, store: Store) -> int:
    photos = store.photos
    patients_PD, labels_P = per_patient(expert.embed(photos.photos_NCHW), photos.labels_N, photos.patients_N)
    return int((expert.scores(patients_PD).argmax(1) == labels_P).sum())


def shown(part: str, run: str, row: Row) -> str:
    """A row of Markdown."""
    decided = row.gained + row.lost
    p_value = binomtest(row.gained, decided).pvalue if decided else 1.0
    epochs = ", ".join(map(str, row.epochs)) if len(row.epochs) <= 5 else f"0 at {row.epochs.count(0)} hospitals"
    shares = [f"{100 * one / row.patients:.1f} %" for one in row.right]
    others = [f"{100 * one / row.others_patients:.1f} %" for one in row.others]
    changed = f"{row.gained}, {row.lost}"
    return f"| {part} | {run} | {epochs} | {' | '.join(shares)} | {changed} | {p_value:.2g} | {' | '.join(others)} |"


if __name__ == "__main__":
    main()
