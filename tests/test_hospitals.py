"""Are simulated hospitals made of whole patients, and of the photos they are given?"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bioface_core.config import Study, parse_study
from bioface_core.errors import ConfigError, PhotoError
from bioface_core.photos import Demographics, PhotoSet
from bioface_core.seeding import generator
from bioface_core.store import Store, write_store
from simulation.hospitals import hospital_names, make_hospitals, resolve_syndromes, split_patients

PEOPLE = ("anna", "ben", "cleo", "dan")


def study(**simulation: object) -> Study:
    defaults = {"hospitals": 3, "patients_per_syndrome": 6, "photos_per_patient": 2}
    content = {"syndromes": ["down", "williams", "noonan"], "simulation": defaults | simulation}
    return parse_study(content)


def people_store(folder: Path, classes: tuple[str, ...] = PEOPLE, photos_each: int = 6) -> Path:
    """A store of real-looking data: each photo its own patient, every third held out."""
    photos = len(classes) * photos_each
    pixels = torch.randint(0, 256, (photos, 3, 112, 112), dtype=torch.uint8, generator=generator("pixels"))
    labels_N = torch.arange(photos) % len(classes)
    heldout_N = torch.arange(photos) // len(classes) % 3 == 0
    store = Store(classes, PhotoSet(pixels, labels_N, torch.arange(photos)), heldout_N, Demographics.unknown(photos))
    write_store(folder, store)
    return folder


def quiet(done: int, total: int) -> None:
    assert 0 <= done <= total


@pytest.mark.parametrize("kind", ["iid", "lacking", "dirichlet", "realistic"])
def test_phantom_patients_are_whole(kind: str) -> None:
    calls: list[tuple[int, int]] = []
    settings = study(partition={"kind": kind, "lacking": 1})
    stores = make_hospitals(settings, lambda done, total: calls.append((done, total)))
    assert len(stores) == 3 == len(hospital_names(settings))
    for store in stores:
        assert set(store.train().patients_N.tolist()).isdisjoint(store.heldout().patients_N.tolist())
        assert torch.equal(
            store.photos.patients_N.unique(return_counts=True)[1] % 2, torch.zeros(store.photos.patients())
        )
    made = sum(len(store.photos) for store in stores)
    assert calls[-1] == (made, made) and calls == sorted(calls), "progress counts up to the photos made"


def test_hospitals_are_a_function_of_the_seed() -> None:
    one, same = (make_hospitals(study(patients_per_syndrome=2), quiet) for _ in range(2))
    assert all(torch.equal(a.photos.photos_NCHW, b.photos.photos_NCHW) for a, b in zip(one, same, strict=True))


def test_site_shift_changes_photos_and_not_who_is_where() -> None:
    plain = make_hospitals(study(patients_per_syndrome=2), quiet)
    shifted = make_hospitals(study(patients_per_syndrome=2, partition={"site_shift": 1.0}), quiet)
    for a, b in zip(plain, shifted, strict=True):
        assert torch.equal(a.photos.labels_N, b.photos.labels_N)
        assert not torch.equal(a.photos.photos_NCHW, b.photos.photos_NCHW)


def test_one_store_is_spread_and_its_heldout_photos_stay_so(tmp_path: Path) -> None:
    settings = resolve_syndromes(study(stores=[str(people_store(tmp_path / "people"))]).replace({"syndromes": []}))
    assert settings.syndromes == PEOPLE
    stores = make_hospitals(settings, quiet)
    assert sum(len(store.photos) for store in stores) == 24
    assert sum(int(store.heldout_N.sum()) for store in stores) == 8


def test_several_stores_are_hospitals(tmp_path: Path) -> None:
    paths = [people_store(tmp_path / "north", PEOPLE[:3]), people_store(tmp_path / "south", PEOPLE[1:])]
    settings = study(stores=[str(path) for path in paths]).replace({"syndromes": ["ben", "dan"]})
    north, south = make_hospitals(resolve_syndromes(settings), quiet)
    assert hospital_names(settings) == ("hospital-1", "hospital-2")
    assert north.photos.labels_N.unique().tolist() == [0] and south.photos.labels_N.unique().tolist() == [0, 1]


def test_wrong_studies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="syndromes is empty"):
        resolve_syndromes(study().replace({"syndromes": []}))
    with pytest.raises(ConfigError, match="williams is in none"):
        path = people_store(tmp_path / "people", ("down", "noonan"))
        resolve_syndromes(study(stores=[str(path)]))
    with pytest.raises(PhotoError, match="is not a store"):
        resolve_syndromes(study(stores=[str(tmp_path / "nothing")]))


@pytest.mark.parametrize("share", [0.1, 0.33, 0.9])
def test_split_leaves_every_class_someone_to_learn_from(share: float) -> None:
    labels_P = torch.tensor([0] * 1 + [1] * 2 + [2] * 40)
    heldout_P = split_patients(labels_P, share, generator(0))
    assert not heldout_P[0] and int(heldout_P[1:3].sum()) <= 1
    assert abs(int(heldout_P[3:].sum()) - 40 * share) <= 1
