"""Do photos become a store: complete, the same every time, and with one clear line where they cannot?"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageFilter

from bioface_core.errors import PhotoError
from bioface_core.pictures import read_picture
from bioface_core.store import Store, read_store
from client.prepare import PrepareOptions, describe, prepare
from client.prepare.split import heldout_patients
from client.prepare.work import work_folder, working_on
from simulation import phantom

CLASSES = ("down", "noonan")
FIVE = PrepareOptions(batch=5)


def shoot(people: list[int], shot: int = 0) -> list[Image.Image]:
    """One photo, 160 px, of each person."""
    numbers = torch.tensor(people)
    photos = phantom.render(5, numbers, torch.full_like(numbers, shot)).photos_NCHW
    return [Image.fromarray(photo.permute(1, 2, 0).numpy()) for photo in photos]


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of three patients: two of one photo, one with a folder of two."""
    source = tmp_path_factory.mktemp("clinic")
    for number, name in enumerate(CLASSES):
        first, second, third = shoot([number * 3 + person for person in range(3)])
        (again,) = shoot([number * 3 + 2], shot=1)
        (source / name / "p3").mkdir(parents=True)
        for photo, file in ((first, "a.jpg"), (second, "b.png"), (third, "p3/c.jpg"), (again, "p3/d.webp")):
            photo.save(source / name / file, quality=95)
    return source


@pytest.fixture
def mine(clinic: Path, tmp_path: Path) -> Path:
    """A copy of the clinic that a test may change."""
    return Path(shutil.copytree(clinic, tmp_path / "photos"))


def same(one: Path, other: Path) -> bool:
    """Whether two stores are equal, byte for byte."""
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in os.listdir(one))


def reasons(store: Path) -> dict[str, tuple[str, str]]:
    """Photo -> (reason, detail) of those that were refused."""
    with (store / "report.csv").open(encoding="utf-8", newline="") as file:
        return {row["photo"]: (row["reason"], row["detail"]) for row in csv.DictReader(file) if row["reason"]}


def patients(store: Store, heldout: bool) -> set[int]:
    return set(store.photos.patients_N[store.heldout_N == heldout].tolist())


def test_a_folder_becomes_a_store(clinic: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    outcome = prepare(clinic, tmp_path / "site", FIVE, lambda done, total: calls.append((done, total)))
    store = read_store(tmp_path / "site")
    assert store.classes == CLASSES and store.photos.labels_N.tolist() == [0] * 4 + [1] * 4
    assert store.photos.patients() == 6 and (outcome.found, outcome.kept, outcome.refused) == (8, 8, {})
    assert patients(store, True).isdisjoint(patients(store, False))
    for label in range(2):
        assert set(store.heldout_N[store.photos.labels_N == label].tolist()) == {False, True}
    assert calls == [(0, 8), (5, 8), (8, 8)]
    assert "8 of 8 photos kept" in describe(outcome)
    assert sorted(os.listdir(tmp_path)) == ["site"], "the work folder is gone"


def test_what_the_outcome_says_is_json(clinic: Path, tmp_path: Path) -> None:
    told = json.loads(json.dumps(prepare(clinic, tmp_path / "site").to_json()))
    assert (told["found"], told["kept"], told["refused"]) == (8, 8, {})
    assert told["classes"]["down"] == {"found": 4, "kept": 4, "patients": 3, "heldout_patients": 1}
    kept = json.loads((tmp_path / "site" / "report.json").read_text())
    assert kept["classes"] == told["classes"]


def test_every_refused_photo_says_why(mine: Path, tmp_path: Path) -> None:
    good = Image.open(mine / "down" / "a.jpg")
    pair = Image.new("RGB", (320, 160))
    for place, photo in enumerate(shoot([20, 21])):
        pair.paste(photo, (160 * place, 0))
    down = mine / "down"
    (down / "notes.txt").write_text("seen on Monday")
    (down / "Thumbs.db").write_bytes(b"left by Windows")
    (down / ".DS_Store").write_bytes(b"left by macOS")
    (down / "cut.jpg").write_bytes((down / "a.jpg").read_bytes()[:900])
    (down / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    Image.new("RGB", (200, 200), "grey").save(down / "wall.png")
    pair.save(down / "pair.png")
    shoot([22])[0].filter(ImageFilter.GaussianBlur(5)).save(down / "shaken.png")
    good.resize((60, 60)).save(down / "stamp.png")
    shutil.copy(down / "a.jpg", mine / "noonan" / "copy.jpg")
    good.save(down / "p3" / "sent.jpg", quality=70)
    outcome = prepare(mine, tmp_path / "site")
    found = reasons(tmp_path / "site")
    assert {name: reason for name, (reason, _) in found.items()} == {
        "down/notes.txt": "not an image",
        "down/cut.jpg": "unreadable",
        "down/phone.heic": "unsupported format",
        "down/wall.png": "no face",
        "down/pair.png": "several faces",
        "down/shaken.png": "blurred",
        "down/stamp.png": "face too small",
        "down/p3/sent.jpg": "duplicate",
        "noonan/copy.jpg": "duplicate",
    }
    assert found["noonan/copy.jpg"][1] == "of down/a.jpg" and "two classes" in outcome.notes[0]
    assert outcome.found == 17 and outcome.kept == 8 and sum(outcome.refused.values()) == 9
    assert list(outcome.refused)[0] == "duplicate" and outcome.refused["duplicate"] == 2


def test_a_manifest_becomes_the_same_photos(clinic: Path, tmp_path: Path) -> None:
    """Written by a spreadsheet: byte order mark, semicolons, a blank row, a column of its own."""
    shutil.copytree(clinic, tmp_path / "photos")
    rows = ["photo;patient;syndrome;age_months;sex;ancestry;remark", ";;;;;;"]
    for name in reversed(CLASSES):
        rows += [
            f"photos/{name}/a.jpg;{name}-1;{name};30,5;F;north;",
            f"photos/{name}/b.png;{name}-2;{name};;m;south;ok",
        ]
        rows += [f"photos/{name}/p3/{file};{name}-3;{name};100;;;" for file in ("c.jpg", "d.webp")]
    (tmp_path / "list.csv").write_text("\r\n".join(rows), encoding="utf-8-sig")
    prepare(tmp_path / "list.csv", tmp_path / "listed")
    prepare(clinic, tmp_path / "walked")
    listed, walked = read_store(tmp_path / "listed"), read_store(tmp_path / "walked")
    assert torch.equal(listed.photos.photos_NCHW, walked.photos.photos_NCHW)
    assert torch.equal(listed.photos.patients_N, walked.photos.patients_N)
    who = listed.demographics
    assert who.age_months_N.tolist()[0] == 30.5 and who.age_months_N[1].isnan() and who.age_months_N[2] == 100
    assert who.sex_N.tolist() == [0, 1, -1, -1] * 2 and who.ancestry_N.tolist() == [0, 1, -1, -1] * 2
    assert listed.ancestries == ("north", "south") and walked.ancestries == ()


def kill_after(source: Path, out: Path, photos: int) -> None:
    """Prepares in a process that kills itself, as kill -9 does, once so many photos are done."""
    child = os.fork()
    if child == 0:  # pragma: no cover
        prepare(source, out, FIVE, lambda done, _: os.kill(os.getpid(), signal.SIGKILL) if done >= photos else None)
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_killed_and_resumed_equals_uninterrupted(clinic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(clinic, tmp_path / "whole", FIVE)
    kill_after(clinic, tmp_path / "resumed", photos=5)
    assert not (tmp_path / "resumed").exists()
    assert len(list(work_folder(tmp_path / "resumed").glob("*.safetensors"))) == 1
    read: list[str] = []

    def reading(path: Path) -> torch.Tensor:
        read.append(path.name)
        return read_picture(path)

    monkeypatch.setattr("client.prepare.pipeline.read_picture", reading)
    prepare(clinic, tmp_path / "resumed", FIVE)
    assert read == ["b.png", "c.jpg", "d.webp"], "the first five are not examined again"
    assert same(tmp_path / "whole", tmp_path / "resumed")
    assert not work_folder(tmp_path / "resumed").exists()


def test_a_damaged_batch_is_examined_again(clinic: Path, tmp_path: Path) -> None:
    prepare(clinic, tmp_path / "whole", FIVE)
    kill_after(clinic, tmp_path / "resumed", photos=5)
    for path in work_folder(tmp_path / "resumed").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:1000])
    prepare(clinic, tmp_path / "resumed", FIVE)
    assert same(tmp_path / "whole", tmp_path / "resumed")


def test_one_output_at_a_time(clinic: Path, tmp_path: Path) -> None:
    with working_on(tmp_path / "site"), pytest.raises(PhotoError, match="another process"):
        prepare(clinic, tmp_path / "site")


def test_a_failed_write_loses_nothing(clinic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    prepare(clinic, tmp_path / "site", FIVE)
    before = (tmp_path / "site" / "photos.safetensors").read_bytes()
    with monkeypatch.context() as patched, pytest.raises(PhotoError, match="No space left on device"):
        patched.setattr("bioface_core.store.save_file", full_disk)
        prepare(clinic, tmp_path / "site", FIVE)
    assert (tmp_path / "site" / "photos.safetensors").read_bytes() == before
    assert len(list(work_folder(tmp_path / "site").glob("*.safetensors"))) == 2, "the photos need not be read again"


def test_a_sheet_shows_every_face(clinic: Path, tmp_path: Path) -> None:
    prepare(clinic, tmp_path / "site", PrepareOptions(sheet=tmp_path / "faces.png"))
    sheet = Image.open(tmp_path / "faces.png").convert("RGB")
    assert sheet.size == (12 * 116 + 4, 116 + 4)
    left_eye = [sheet.getpixel((4 + 116 * n + 38, 4 + 52)) for n in range(8)]
    assert all(pixel != (255, 255, 255) for pixel in left_eye)


@pytest.fixture
def bad_source(tmp_path: Path) -> Iterator[Path]:
    """A clinic of files that are never looked at, since what is wrong is found before."""
    for name in CLASSES:
        (tmp_path / "photos" / name).mkdir(parents=True)
        for file in ("a.jpg", "b.jpg"):
            (tmp_path / "photos" / name / file).write_bytes(b"a photo")
    yield tmp_path / "photos"


def refusal(source: Path, out: Path, **options: object) -> str:
    """The one line that prepare says."""
    with pytest.raises(PhotoError) as refused:
        prepare(source, out, PrepareOptions(**options))  # type: ignore[arg-type]
    line = str(refused.value)
    assert "\n" not in line
    return line


def test_sources_that_are_no_source(tmp_path: Path, bad_source: Path) -> None:
    out = tmp_path / "site"
    assert "does not exist" in refusal(tmp_path / "nowhere", out)
    (tmp_path / "empty").mkdir()
    assert "is empty" in refusal(tmp_path / "empty", out)
    assert "2 files lie directly" in refusal(bad_source / "down", out)
    (bad_source / "down" / "a.jpg").unlink()
    assert "down has one patient" in refusal(bad_source, out)
    (bad_source / "down" / "b.jpg").unlink()
    assert "down holds no photo" in refusal(bad_source, out)
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    assert "no CSV file" in refusal(tmp_path / "photo.jpg", out)
    assert not out.exists() and not work_folder(out).exists()


def test_outputs_that_cannot_be_written(tmp_path: Path, bad_source: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    assert "is not a store" in refusal(bad_source, tmp_path / "thesis")
    assert "is a file" in refusal(bad_source, tmp_path / "thesis" / "chapter.txt")
    assert "cannot be written" in refusal(bad_source, tmp_path / "thesis" / "chapter.txt" / "site")
    assert "lie in each other" in refusal(bad_source, bad_source / "site")
    assert "lie in each other" in refusal(bad_source, tmp_path)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


def test_options_that_cannot_be_followed(tmp_path: Path, bad_source: Path) -> None:
    assert "expected 0" in refusal(bad_source, tmp_path / "site", heldout=1.5)
    assert "PNG or JPEG" in refusal(bad_source, tmp_path / "site", sheet=tmp_path / "faces.doc")
    assert "does not exist" in refusal(bad_source, tmp_path / "site", sheet=tmp_path / "gone" / "faces.png")


HEADER = "photo,patient,syndrome"
GOOD = ("down/a.jpg,1,down", "down/b.jpg,2,down", "noonan/a.jpg,3,noonan", "noonan/b.jpg,4,noonan")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (("photo,patient,syndrom", *GOOD), "no column syndrome .*rename syndrom$"),
        (("photo,patient", *GOOD), "no column syndrome .*add it"),
        (("photo,patient,syndrome,age_month", *GOOD), "column age_month is not known; did you mean age_months"),
        ((HEADER,), "lists no photo"),
        ((), "no column photo"),
        ((HEADER, *GOOD, "down/c.jpg,5,down"), "line 6: there is no photo down/c.jpg"),
        ((HEADER, *GOOD, "down/a.jpg,,down"), "line 6: patient is empty"),
        ((HEADER, *GOOD, "down/a.jpg,5"), "line 6: syndrome is empty"),
        ((HEADER, *GOOD, "down/a.jpg,3,down"), "patient 3 is in two classes, noonan and down"),
        ((HEADER, *GOOD[:3]), "noonan has one patient"),
        ((HEADER + ",age_months", GOOD[0] + ",old"), "line 2: age_months is 'old'"),
        ((HEADER + ",age_months", GOOD[0] + ",-3"), "line 2: age_months is '-3'"),
        ((HEADER + ",sex", GOOD[0] + ",x"), "line 2: sex is 'x'"),
    ],
)
def test_manifests_that_cannot_be_read(bad_source: Path, tmp_path: Path, lines: tuple[str, ...], told: str) -> None:
    (bad_source / "list.csv").write_text("\n".join(lines))
    with pytest.raises(PhotoError, match=told):
        prepare(bad_source / "list.csv", tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_a_class_that_loses_its_patients_says_so(mine: Path, tmp_path: Path) -> None:
    for path in [mine / "noonan" / "a.jpg", mine / "noonan" / "b.png"]:
        path.write_bytes(b"damaged")
    line = refusal(mine, tmp_path / "site")
    report = work_folder(tmp_path / "site") / "report.csv"
    assert "noonan has too few patients left (1, expected 2)" in line and "2 unreadable" in line and str(report) in line
    assert "noonan/a.jpg" in report.read_text()
    shutil.rmtree(mine / "noonan")
    assert prepare(mine, tmp_path / "site").kept == 4, "mended, the same call goes on"


def test_nothing_left_says_so(bad_source: Path, tmp_path: Path) -> None:
    assert "none of 4 photos can be used: 4 unreadable" in refusal(bad_source, tmp_path / "site")


def test_nobody_is_held_out_on_request(clinic: Path, tmp_path: Path) -> None:
    prepare(clinic, tmp_path / "people", PrepareOptions(heldout=0))
    assert not read_store(tmp_path / "people").heldout_N.any()


@pytest.mark.parametrize(
    ("count", "share", "expected"), [(2, 0.33, 1), (3, 0.33, 1), (9, 0.33, 3), (4, 0.99, 3), (5, 0, 0)]
)
def test_a_share_of_each_class_is_held_out(count: int, share: float, expected: int) -> None:
    assert len(heldout_patients([str(n) for n in range(count)], share, seed=0)) == expected


def test_new_patients_move_at_most_one_other() -> None:
    members = [f"patient {n}" for n in range(40)]
    for known in range(2, 40):
        before, after = (heldout_patients(members[:n], 0.33, seed=7) for n in (known, known + 1))
        assert len(before ^ (after - {members[known]})) <= 1
    assert heldout_patients(members, 0.33, 7) != heldout_patients(members, 0.33, 8)


@pytest.mark.slow
def test_real_photos_are_kept(london: Path, tmp_path: Path) -> None:
    """102 people, two photos each: at least 200 of 204, and the two shots of a person are not taken for copies."""
    outcome = prepare(london, tmp_path / "site", PrepareOptions(sheet=tmp_path / "faces.jpg"))
    assert outcome.found == 204 and outcome.kept >= 200
