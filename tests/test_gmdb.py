"""Does a made-up GestaltMatcher Database become a store, with its own split, and can its protocol be run on it?"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from bioface_core.cli.local import prepare as command
from bioface_core.errors import PhotoError
from bioface_core.matching import Portraits, protocol
from bioface_core.store import Store, read_store
from client.prepare import PrepareOptions, prepare
from client.prepare.gmdb import is_gmdb, read_gmdb, read_lists, read_protocol
from simulation import phantom

GMDB = PrepareOptions(layout="gmdb")
V = "v0.0.1"
# (image, subject, label): two frequent syndromes; image 7 is listed and not there, 8 shows no face
FREQUENT_GALLERY = [(1, 11, 3), (2, 11, 3), (3, 12, 5), (7, 13, 5)]
FREQUENT_TEST = [(4, 14, 3), (5, 15, 5), (8, 15, 5)]
# and two rare ones, in two splits: who is gallery in one is test in the other
RARE = [(21, 31, 40), (22, 32, 40), (23, 33, 41), (24, 34, 41)]
RARE_GALLERY = [(*RARE[0], 0), (*RARE[2], 0), (*RARE[1], 1), (*RARE[3], 1)]
RARE_TEST = [(*RARE[1], 0), (*RARE[3], 0), (*RARE[0], 1), (*RARE[2], 1)]
FACTS = "image_id\tpatient_id\tgender\tage_year\tage_month\tethnicity_category\tgene_names\tpresentation"


def write_list(path: Path, rows: Sequence[Sequence[object]], split: bool) -> None:
    lines = ["image_id,subject,label" + (",split" if split else "")]
    path.write_text("\n".join([*lines, *(",".join(map(str, row)) for row in rows)]) + "\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("made") / V
    images, metadata = source / "gmdb_images", source / "gmdb_metadata"
    images.mkdir(parents=True)
    metadata.mkdir()
    there = [1, 2, 3, 4, 5, 21, 22, 23, 24]
    numbers = torch.tensor(there)
    for name, picture in zip(there, phantom.render(6, numbers, torch.zeros_like(numbers)).photos_NCHW, strict=True):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(images / f"{name}.jpg", quality=95)
    Image.new("RGB", (200, 200), "grey").save(images / "8.png")
    write_list(metadata / f"gmdb_frequent_gallery_images_{V}.csv", FREQUENT_GALLERY, False)
    write_list(metadata / f"gmdb_frequent_test_images_{V}.csv", FREQUENT_TEST, False)
    write_list(metadata / f"gmdb_rare_gallery_images_{V}.csv", RARE_GALLERY, True)
    write_list(metadata / f"gmdb_rare_test_images_{V}.csv", RARE_TEST, True)
    names = [(3, "Down Syndrome"), (5, "NOONAN SYNDROME; NS"), (40, "Twin syndrome"), (41, "Twin syndrome")]
    rows = ["syndrome_id\tsyndrome_name\tnum_of_images", *(f"{number}\t{name}\t9" for number, name in names)]
    (metadata / f"gmdb_syndromes_{V}.tsv").write_text("\n".join(rows))
    facts = ["1\t11\tfemale\t2\t6\tEuropean\t\t", "4.0\t14\tM\t\t7\tUnknown\t\t", "5\t15\tother\t-3\t\tAsian\t\t"]
    (metadata / f"image_metadata_{V}.tsv").write_text("\n".join([FACTS, *facts]))
    return source


@pytest.fixture(scope="module")
def store(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "gmdb"
    prepare(made, path, GMDB)
    return path


@pytest.fixture
def mine(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "mine"))


def kept(path: Path) -> list[int]:
    """The image of each row of a store."""
    with (path / "report.csv").open() as file:
        return [int(Path(row["photo"]).stem) for row in csv.DictReader(file) if row["outcome"] == "kept"]


def test_the_database_becomes_a_store_with_its_own_split(store: Path) -> None:
    read, images = read_store(store), kept(store)
    assert read.classes == ("NOONAN SYNDROME; NS", "Twin syndrome (40)", "Twin syndrome (41)", "down")
    assert sorted(images) == [1, 2, 3, 4, 5, 21, 22, 23, 24]
    trained = {image for image, held in zip(images, read.heldout_N.tolist(), strict=True) if not held}
    assert trained == {1, 2, 3}, "test patients and rare syndromes are never trained on"
    patient_of = dict(zip(images, read.photos.patients_N.tolist(), strict=True))
    assert patient_of[1] == patient_of[2] and len(set(patient_of.values())) == 8


def test_what_is_known_of_patients_comes_along(store: Path) -> None:
    read, images = read_store(store), kept(store)

    def about(image: int) -> tuple[float, int, str]:
        row, who = images.index(image), read.demographics
        ancestry = int(who.ancestry_N[row])
        return float(who.age_months_N[row]), int(who.sex_N[row]), read.ancestries[ancestry] if ancestry >= 0 else ""

    assert about(1) == (30.0, 0, "European") and about(4) == (7.0, 1, "")
    age, *others = about(5)
    assert age != age and others == [-1, "Asian"]


def test_what_cannot_be_used_is_in_the_report(made: Path, tmp_path: Path) -> None:
    outcome = prepare(made, tmp_path / "site", GMDB)
    assert (outcome.found, outcome.kept, outcome.refused) == (11, 9, {"unreadable": 1, "no face": 1})


def test_its_protocol_can_be_run_as_it_is(made: Path, store: Path) -> None:
    frequent, rare = read_protocol(store, made)
    images = kept(store)

    def named(rows: torch.Tensor) -> list[int]:
        return [images[row] for row in rows.tolist()]

    assert named(frequent.gallery_M) == [1, 2, 3] and named(frequent.test_N) == [4, 5]
    assert [(named(one.gallery_M), named(one.test_N)) for one in rare] == [([21, 23], [22, 24]), ([22, 24], [21, 23])]
    photos: Store = read_store(store)
    embeddings_ND = torch.eye(len(images))
    tables = protocol(Portraits(embeddings_ND, photos.photos.labels_N, photos.photos.patients_N), frequent, rare)
    assert [(one.gallery_photos, one.test_photos, one.syndromes) for one in tables] == [
        (3, 2, 2),
        (2, 2, 2),
        (5, 2, 4),
        (5, 2, 4),
    ]
    assert read_protocol(store, made / "gmdb_metadata")[0].test_N.tolist() == frequent.test_N.tolist()


def test_without_the_last_two_files_syndromes_are_numbers(mine: Path) -> None:
    for path in (*mine.rglob("*.tsv"),):
        path.unlink()
    entries = read_gmdb(mine)
    assert {entry.label for entry in entries} == {"gmdb-3", "gmdb-5", "gmdb-40", "gmdb-41"}
    assert {(entry.sex, entry.ancestry) for entry in entries} == {(-1, "")}


def test_whoever_is_tested_is_never_trained_on(mine: Path) -> None:
    """Subject 11 in a test list as well; subject 12 with a second syndrome."""
    metadata = mine / "gmdb_metadata"
    write_list(metadata / f"gmdb_frequent_test_images_{V}.csv", [*FREQUENT_TEST, (2, 11, 3)], False)
    write_list(metadata / f"gmdb_frequent_gallery_images_{V}.csv", [*FREQUENT_GALLERY, (6, 12, 3)], False)
    entries = {Path(entry.name).stem: entry for entry in read_gmdb(mine)}
    assert entries["1"].heldout and entries["2"].heldout and not entries["3"].heldout
    assert entries["3"].patient == "12/5" and entries["6"].patient == "12/3"


def test_numbers_that_a_program_wrote_with_a_point(mine: Path) -> None:
    path = mine / "gmdb_metadata" / f"gmdb_rare_test_images_{V}.csv"
    path.write_text(path.read_text().replace("22,32,40,0", "22.0,32.0,40.0,0.0"))
    assert read_lists(mine / "gmdb_metadata")["rare_test"][0].image == "22"
    assert len(read_gmdb(mine)) == 11


def test_an_unnamed_layout_is_pointed_out(made: Path, tmp_path: Path) -> None:
    assert is_gmdb(made) and is_gmdb(made / "gmdb_metadata") and not is_gmdb(tmp_path)
    with pytest.raises(PhotoError, match="looks like the GestaltMatcher Database: add --layout gmdb"):
        prepare(made, tmp_path / "site")
    with pytest.raises(PhotoError, match="--layout gdmb is not known; expected auto or gmdb"):
        prepare(made, tmp_path / "site", PrepareOptions(layout="gdmb"))
    assert not (tmp_path / "site").exists()


def test_the_option_is_wired(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(made, tmp_path / "site", layout="gmdb", as_json=True)
    assert '"kept": 9' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ("no lists", "has no gmdb_metadata with gmdb_frequent_gallery_images"),
        ("no images", "has no folder gmdb_images"),
        ("other images", "has none of the 11 listed photos"),
        ("no rare", r"has no gmdb_rare_test_images_\*.csv"),
        ("two versions", "keep the files of one version"),
        ("column", "has no column subject"),
        ("empty", "line 2: label is empty"),
        ("split", "line 2: split is 'a'"),
    ],
)
def test_what_is_no_database_is_one_clear_line(mine: Path, tmp_path: Path, harm: str, told: str) -> None:
    metadata = mine / "gmdb_metadata"
    gallery, rare = (metadata / f"gmdb_{name}_images_{V}.csv" for name in ("frequent_gallery", "rare_test"))
    if harm == "no lists":
        shutil.rmtree(metadata)
    elif harm == "no images":
        shutil.rmtree(mine / "gmdb_images")
    elif harm == "other images":
        for path in sorted((mine / "gmdb_images").iterdir()):
            path.rename(path.with_stem(f"photo-{path.stem}"))
    elif harm == "no rare":
        rare.unlink()
    elif harm == "two versions":
        shutil.copy(rare, metadata / "gmdb_rare_test_images_v9.csv")
    elif harm == "column":
        gallery.write_text("image_id,person,label\n1,11,3\n")
    elif harm == "empty":
        gallery.write_text("image_id,subject,label\n1,11,\n")
    else:
        rare.write_text("image_id,subject,label,split\n1,11,3,a\n")
    with pytest.raises(PhotoError, match=told) as error:
        prepare(mine, tmp_path / "site", GMDB)
    assert "\n" not in str(error.value)


def test_another_store_has_no_protocol(made: Path, tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match=r"no report.csv of `bioface prepare`"):
        read_protocol(tmp_path, made)
    (tmp_path / "report.csv").write_text("photo,outcome\ndown/a.jpg,kept\n")
    with pytest.raises(PhotoError, match="has no photo of the lists .* --layout gmdb"):
        read_protocol(tmp_path, made)
