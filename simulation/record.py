"""What does a simulation put on record at its end, for report and passport, that no real lab could know?

arms.json               every way of training, on everyone's held-out patients
hospitals.json          patients of each syndrome at each hospital
embeddings.safetensors  held-out photos under the shared model, for the map
groups.json             held-out patients by age, sex and ancestry
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from bioface_core.config import Study
from bioface_core.evaluate import per_patient
from bioface_core.files import write_bytes, write_text
from bioface_core.groups import GROUPS, Group, count_groups, total
from bioface_core.learner import Learner
from bioface_core.photos import PhotoSet, concatenate, first_photos, shuffled
from bioface_core.seeding import generator
from bioface_core.store import Store
from server.rounds import RunState
from server.strategy import shared
from simulation import arms, sites
from simulation.hospitals import hospital_names

_MAPPED_PHOTOS = 1500  # more only crowd the map of embeddings


def record(folder: Path, study: Study, final: RunState) -> None:
    """Writes the four files.

    Args:
        folder: of the run.
        study: with its syndromes resolved.
        final: the state after the last round.
    """
    write_text(folder / "arms.json", json.dumps(arms.arm_results(folder, study)))
    stores = [sites.open_store(folder, index) for index in range(len(hospital_names(study)))]
    write_text(folder / "hospitals.json", json.dumps(_patients(study, stores)))
    write_bytes(folder / "embeddings.safetensors", _embeddings(folder, stores, final))
    write_text(folder / GROUPS, json.dumps([dataclasses.asdict(one) for one in _groups(folder, stores, final)]))


def _patients(study: Study, stores: list[Store]) -> list[dict[str, Any]]:
    """How many patients of each syndrome each hospital has."""

    def count(photos: PhotoSet) -> list[int]:
        labels_P = per_patient(torch.zeros(len(photos), 1), photos.labels_N, photos.patients_N)[1]
        return [int(number) for number in torch.bincount(labels_P, minlength=len(study.syndromes))]

    return [
        {"name": name, "train_patients_K": count(store.train()), "heldout_patients_K": count(store.heldout())}
        for name, store in zip(hospital_names(study), stores, strict=True)
    ]


def _groups(folder: Path, stores: list[Store], final: RunState) -> tuple[Group, ...]:
    """Held-out patients of all hospitals by what they have in common, and how many the shared model recognises."""
    learner = sites.open_learner(folder)
    vector = shared(learner.study.federation, final.server)[0]
    return total([one for store in stores for one in _groups_of(store, learner, vector)])


def _groups_of(store: Store, learner: Learner, vector: torch.Tensor) -> tuple[Group, ...]:
    heldout = store.take(store.heldout_N)
    first_P = first_photos(heldout.photos.patients_N)
    right_P = learner.recognised(vector, heldout.photos).cpu()
    return count_groups(right_P, heldout.demographics.take(first_P), heldout.ancestries)


def _embeddings(folder: Path, stores: list[Store], final: RunState) -> bytes:
    """Embeddings of held-out photos under the shared model, for the map."""
    learner = sites.open_learner(folder)
    sets = [store.heldout() for store in stores]
    hospitals_N = torch.repeat_interleave(torch.tensor([len(photos) for photos in sets]))
    everyone = concatenate(sets)
    chosen_M = next(shuffled(len(everyone), _MAPPED_PHOTOS, generator("map"))).sort().values
    shown = everyone.take(chosen_M)
    vector = shared(learner.study.federation, final.server)[0]
    embeddings_MD = learner.embed(vector, shown).cpu()
    return save({"embeddings_ND": embeddings_MD, "labels_N": shown.labels_N, "hospitals_N": hospitals_N[chosen_M]})
