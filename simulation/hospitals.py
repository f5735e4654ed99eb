"""Who are the hospitals of a simulation? Phantoms, or real photos from stores, spread over sites by whole patients.

Legend: N photos, P patients, K syndromes, S hospitals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bioface_core.config import Study
from bioface_core.errors import ConfigError
from bioface_core.photos import PhotoSet
from bioface_core.seeding import generator
from bioface_core.store import Store, as_studied, read_store
from bioface_core.syndromes import catalogue
from simulation import phantom
from simulation.partition import partition

_STRANGERS = 1 << 20  # added to a patient's number; no simulation has so many of one syndrome


def hospital_names(study: Study) -> tuple[str, ...]:
    """Those of the roster, or ``hospital-1`` to ``hospital-S`` in a study that has none."""
    if study.roster:
        return tuple(member.name for member in study.roster)
    several = len(study.simulation.stores)
    hospitals = several if several > 1 else study.simulation.hospitals
    return tuple(f"hospital-{number}" for number in range(1, hospitals + 1))


def resolve_syndromes(study: Study) -> Study:
    """The study with its classes: those it names, or all that its stores hold.

    Raises:
        ConfigError: it names none and has no stores, or names one that no store holds.
        PhotoError: a store cannot be read.
    """
    held = sorted({name for path in study.simulation.stores for name in read_store(Path(path)).classes})
    if not study.syndromes:
        if not held:
            raise ConfigError("syndromes is empty: name at least two, or give simulation.stores to take them from")
        return study.replace({"syndromes": held})
    missing = sorted(set(study.syndromes) - set(held)) if held else []
    if missing:
        raise ConfigError(f"syndromes: {missing[0]} is in none of simulation.stores, which hold {', '.join(held)}")
    return study


def make_hospitals(study: Study, on_photos: Callable[[int, int], None]) -> list[Store]:
    """The stores of all hospitals, in the order of ``hospital_names``.

    Args:
        study: with its syndromes resolved.
        on_photos: called with (photos made, photos in all) while phantoms are drawn.

    Raises:
        ConfigError: a partition that cannot be made.
        PhotoError: a store cannot be read.
    """
    if not study.simulation.stores:
        return _phantom_hospitals(study, on_photos)
    stores = [as_studied(read_store(Path(path)), study.syndromes) for path in study.simulation.stores]
    return stores if len(stores) > 1 else _spread(stores[0], study)


def _phantom_hospitals(study: Study, on_photos: Callable[[int, int], None]) -> list[Store]:
    """Phantom patients, each hospital's with its own camera, light and ages."""
    settings = study.simulation
    wanted = settings.patients_per_syndrome
    counts = catalogue().realistic_counts(study.syndromes, wanted) if settings.partition.kind == "realistic" else wanted
    people_P, labels_P = phantom.patient_numbers(study.syndromes, counts)
    hospital_P = _assign(labels_P, study)
    total, stores = len(people_P) * settings.photos_per_patient, list[Store]()
    for site in range(len(hospital_names(study))):
        done = sum(len(store.photos) for store in stores)
        chosen_P = hospital_P == site
        on_site = partial(_advance, on_photos, done, total)
        stores.append(_phantom_store(study, site, people_P[chosen_P], labels_P[chosen_P], on_site))
    return stores


def strangers(study: Study, counts: Mapping[str, int], on_photos: Callable[[int, int], None]) -> PhotoSet | None:
    """Phantom patients like those of a simulation, who are at none of its hospitals.

    Args:
        study: of the simulation.
        counts: how many of each syndrome.
        on_photos: called with (photos made, photos in all).

    Returns:
        None where there can be no such patients: photos are real, or each hospital has its own camera.
    """
    settings = study.simulation
    if settings.stores or settings.partition.site_shift:
        return None
    people_P, labels_P = phantom.patient_numbers(study.syndromes, counts)
    photos, _ = phantom.photograph_patients(
        study.seed,
        study.syndromes,
        people_P + _STRANGERS,
        labels_P,
        settings.photos_per_patient,
        settings.phantoms,
        on_photos=on_photos,
    )
    return photos


def _advance(on_photos: Callable[[int, int], None], before: int, total: int, done: int, _: int) -> None:
    """Passes on one hospital's progress as that of all."""
    on_photos(before + done, total)


def _phantom_store(
    study: Study, site: int, people_P: Tensor, labels_P: Tensor, on_photos: Callable[[int, int], None]
) -> Store:
    """One hospital's photographed patients."""
    settings = study.simulation
    photos, demographics = phantom.photograph_patients(
        study.seed,
        study.syndromes,
        people_P,
        labels_P,
        settings.photos_per_patient,
        settings.phantoms,
        phantom.site_shift(study.seed, site, settings.partition.site_shift),
        on_photos=on_photos,
    )
    heldout_P = split_patients(labels_P, settings.heldout, generator(study.seed, "held out", site))
    return Store(study.syndromes, photos, heldout_P[photos.patients_N], demographics, phantom.ANCESTRIES)


def _spread(store: Store, study: Study) -> list[Store]:
    """One store's patients over the hospitals; who is held out stays held out."""
    patients_P, first_P = _first_photos(store.photos.patients_N)
    hospital_P = _assign(store.photos.labels_N[first_P], study)
    hospital_N = hospital_P[torch.searchsorted(patients_P, store.photos.patients_N)]
    return [store.take(hospital_N == site) for site in range(len(hospital_names(study)))]


def _assign(labels_P: Tensor, study: Study) -> Tensor:
    settings = study.simulation.partition
    randomness = generator(study.seed, "partition")
    hospitals = len(hospital_names(study))
    return partition(labels_P, hospitals, settings, randomness)


def _first_photos(patients_N: Tensor) -> tuple[Tensor, Tensor]:
    """The patients in ascending order, and the position of a photo of each."""
    patients_P, index_N = torch.unique(patients_N, return_inverse=True)
    first_P = torch.full((len(patients_P),), len(patients_N)).scatter_reduce_(
        0, index_N, torch.arange(len(patients_N)), "amin"
    )
    return patients_P, first_P


def split_patients(labels_P: Tensor, share: float, randomness: torch.Generator) -> Tensor:
    """Who is held out, bool (P,): ``share`` of each class, rounded at random, never a class's only patient.

    Args:
        labels_P: class of each patient of one hospital.
        share: 0..1.
        randomness: CPU generator.
    """
    heldout_P = torch.zeros(len(labels_P), dtype=torch.bool)
    for label in labels_P.unique().tolist():
        members = (labels_P == label).nonzero()[:, 0]
        order = members[torch.randperm(len(members), generator=randomness)]
        wanted = int(len(members) * share + torch.rand(1, generator=randomness).item())
        heldout_P[order[: min(wanted, len(members) - 1)]] = True
    return heldout_P
