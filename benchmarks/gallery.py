"""What does a gallery give to a syndrome that the model never learned, and what does it cost the ones it did?

    python benchmarks/gallery.py runs/demo-1 runs/demo-2 --photos 3

For each finished demo, patients of the six unseen syndromes are drawn. Some of them become a gallery, one photo each;
the others are ranked among the model's ten syndromes and the gallery's, with two photos each. So are the held-out
patients of the ten. Every syndrome alone, then all six at once, with ``--draws`` galleries each. Prints one Markdown
table: macro Top-1 and Top-5 of the added syndromes (0 without a gallery), and how many points the ten lose; means over
runs, with the lowest and the highest run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from bioface_core.evaluate import count, macro_top, per_patient
from bioface_core.expert import Expert, read_expert
from bioface_core.gallery import Gallery, new_syndromes, scores
from bioface_core.photos import PhotoSet, concatenate
from bioface_core.seeding import generator
from bioface_core.syndromes import catalogue
from simulation import phantom, sites
from simulation.hospitals import hospital_names

PATIENTS = 40  # of each unseen syndrome
_SEED = 77  # beside the run's own, so that nobody is met twice
Embedded = tuple[Tensor, Tensor, Tensor]  # unit embeddings (N, D), labels (N,), patients (N,)


def main() -> None:
    """Measures every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="finished runs of the demo")
    parser.add_argument("--photos", type=int, nargs="+", default=[1, 3, 5], help="photos of each added syndrome")
    parser.add_argument("--draws", type=int, default=10, help="galleries of each kind")
    arguments = parser.parse_args()
    prepared = [(read_expert(run), *_patients(run)) for run in arguments.runs]
    print("| photos | added at once | Top-1 of the added | Top-5 | the ten lose, Top-1 | Top-5 |")
    print("|---|" + "---|" * 5)
    unseen = catalogue().unseen
    for photos in arguments.photos:
        for chosen in ([[key] for key in unseen], [list(unseen)]):
            by_run = [
                [_measure(*one, keys, photos, draw) for keys in chosen for draw in range(arguments.draws)]
                for one in prepared
            ]
            print(f"| {photos} | {len(chosen[0])} | {' | '.join(_cells(by_run))} |", flush=True)


def _cells(by_run: Sequence[Sequence[tuple[float, ...]]]) -> list[str]:
    """Each figure's mean over all, and the lowest and the highest run."""
    means = [[100 * mean(column) for column in zip(*rows, strict=True)] for rows in by_run]
    return [f"{mean(runs):.1f} ({min(runs):.1f} to {max(runs):.1f})" for runs in zip(*means, strict=True)]


def _patients(run: Path) -> tuple[Embedded, Embedded]:
    """Held-out patients of the run's hospitals, and fresh ones of the unseen syndromes."""
    expert = read_expert(run)
    study = expert.study
    stores = [sites.read_hospital(run, study, index) for index in range(len(hospital_names(study)))]
    held = [store.heldout() for store in stores]
    new, _ = phantom.patients(study.seed + _SEED, catalogue().unseen, PATIENTS, 2, study.simulation.phantoms)
    return _embedded(expert, concatenate(held)), _embedded(expert, new)


def _embedded(expert: Expert, photos: PhotoSet) -> Embedded:
    return expert.embed(photos.photos_NCHW), photos.labels_N, photos.patients_N


def _measure(
    expert: Expert, held: Embedded, new: Embedded, keys: Sequence[str], photos: int, draw: int
) -> tuple[float, float, float, float]:
    """Top-1 and Top-5 of the added syndromes, and what the model's lose."""
    gallery, inside_N = _gallery(expert, new, keys, photos, draw)
    held_PD, labels_P = per_patient(*held)
    asked_N = ~inside_N & torch.isin(new[1], torch.tensor([catalogue().unseen.index(key) for key in keys]))
    new_QD, own_Q = per_patient(*(column[asked_N] for column in new))
    order = [*expert.syndromes, *new_syndromes(expert, gallery)]
    own_Q = torch.tensor([order.index(catalogue().unseen[label]) for label in own_Q.tolist()])
    before, after = count(expert.scores(held_PD), labels_P), count(scores(expert, gallery, held_PD), labels_P)
    added = count(scores(expert, gallery, new_QD), own_Q)
    lost = [macro_top(before, k).value - macro_top(after, k).value for k in (1, 5)]
    return macro_top(added, 1).value, macro_top(added, 5).value, lost[0], lost[1]


def _gallery(expert: Expert, new: Embedded, keys: Sequence[str], photos: int, draw: int) -> tuple[Gallery, Tensor]:
    """A gallery of the first photos of a few patients, and whose photos (N,) are not to be asked about."""
    embeddings_ND, labels_N, patients_N = new
    gallery, inside_N = Gallery.empty(expert), torch.zeros(len(labels_N), dtype=torch.bool)
    for key in keys:
        own_P = patients_N[labels_N == catalogue().unseen.index(key)].unique()
        chosen = own_P[torch.randperm(len(own_P), generator=generator(draw, key))[:photos]]
        rows = [int((patients_N == patient).nonzero()[0]) for patient in chosen]
        gallery = gallery.add(key, key, embeddings_ND[rows])
        inside_N |= torch.isin(patients_N, chosen)
    return gallery, inside_N


if __name__ == "__main__":
    main()
