"""Does a store come back as it was written, and is everything else refused?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bioface_core.errors import PhotoError
from bioface_core.photos import Demographics, PhotoSet, concatenate, shuffled
from bioface_core.seeding import generator
from bioface_core.store import Store, read_store, write_store


def photo_set(photos: int = 6, patients: int = 3) -> PhotoSet:
    pixels = torch.randint(0, 256, (photos, 3, 112, 112), dtype=torch.uint8)
    index_N = torch.arange(photos)
    return PhotoSet(pixels, index_N % 2, index_N % patients)


def store(photos: int = 6) -> Store:
    heldout_N = torch.arange(photos) % 3 == 0
    return Store(("down", "noonan"), photo_set(photos), heldout_N, Demographics.unknown(photos), ("north", "south"))


def test_a_store_comes_back_as_it_was(tmp_path: Path) -> None:
    written = store()
    write_store(tmp_path / "site", written)
    read = read_store(tmp_path / "site")
    assert read.classes == written.classes and read.ancestries == written.ancestries
    assert torch.equal(read.photos.photos_NCHW, written.photos.photos_NCHW)
    assert torch.equal(read.heldout_N, written.heldout_N)
    assert len(read.train()) == 4 and len(read.heldout()) == 2
    assert set(read.train().patients_N.tolist()).isdisjoint(read.heldout().patients_N.tolist())


def test_writing_again_replaces(tmp_path: Path) -> None:
    write_store(tmp_path / "site", store(6))
    write_store(tmp_path / "site", store(9))
    assert len(read_store(tmp_path / "site").photos) == 9
    assert [path.name for path in tmp_path.iterdir()] == ["site"], "nothing temporary is left"


def test_another_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(PhotoError, match="is not a store"):
        write_store(tmp_path, store())
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_interrupted_writer_leaves_the_old_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_store(tmp_path / "site", store(6))

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bioface_core.store.save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_store(tmp_path / "site", store(9))
    assert len(read_store(tmp_path / "site").photos) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_what_a_killed_writer_left_is_swept_away(tmp_path: Path) -> None:
    write_store(tmp_path / "site", store(6))
    (tmp_path / "site").rename(tmp_path / ".site.old")  # killed between the two renames
    (tmp_path / ".site.part").mkdir()
    (tmp_path / ".site.part" / "photos.safetensors").write_text("faces")
    write_store(tmp_path / "site", store(9))
    assert [path.name for path in tmp_path.iterdir()] == ["site"] and len(read_store(tmp_path / "site").photos) == 9


def test_a_store_of_another_version_is_refused(tmp_path: Path) -> None:
    write_store(tmp_path, store()) if not any(tmp_path.iterdir()) else None
    header = json.loads((tmp_path / "store.json").read_text()) | {"version": 99}
    (tmp_path / "store.json").write_text(json.dumps(header))
    with pytest.raises(PhotoError, match="version 99, expected 1"):
        read_store(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "missing", "header"])
def test_a_damaged_store_is_refused(tmp_path: Path, damage: str) -> None:
    write_store(tmp_path / "site", store())
    columns = tmp_path / "site" / "photos.safetensors"
    if damage == "truncated":
        columns.write_bytes(columns.read_bytes()[:-100])
    elif damage == "missing":
        columns.unlink()
    else:
        (tmp_path / "site" / "store.json").write_text("{")
    with pytest.raises(PhotoError, match="again"):
        read_store(tmp_path / "site")


def test_no_store_there(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="bioface prepare"):
        read_store(tmp_path)


def test_patients_of_two_hospitals_stay_different() -> None:
    both = concatenate([photo_set(6, 3), photo_set(4, 2)])
    assert both.patients() == 5 and len(both) == 10
    assert both.patients_N[:6].max() < both.patients_N[6:].min()


@pytest.mark.parametrize(("photos", "batch", "sizes"), [(10, 4, [4, 3, 3]), (4, 4, [4]), (5, 4, [3, 2]), (0, 4, [])])
def test_an_epoch_sees_every_photo_once(photos: int, batch: int, sizes: list[int]) -> None:
    steps = list(shuffled(photos, batch, generator(0)))
    assert [len(step) for step in steps] == sizes
    assert sorted(int(i) for step in steps for i in step) == list(range(photos))
