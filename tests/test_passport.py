"""Can an exported model be trusted, run without torch, and read without learning who was small enough to be seen?"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bioface_core import cli
from bioface_core.errors import PassportError
from bioface_core.evaluate import Counts
from bioface_core.expert import read_expert
from bioface_core.groups import GROUPS, UNKNOWN, Group, count_groups, publishable, total
from bioface_core.identity import public_hex, read_identity
from bioface_core.passport.export import Exported, export, without_paths
from bioface_core.passport.graph import TOLERANCE, Answer
from bioface_core.passport.seal import verify
from bioface_core.photos import Demographics
from bioface_core.predict import predict
from simulation import phantom
from tests.small_run import SYNDROMES, counted, write_small_run

pytest.importorskip("onnxruntime", reason="exporting needs the extra `export`")
MADE = date(2026, 11, 24)
PATIENTS = torch.tensor([[12, 3, 0], [2, 11, 2], [1, 1, 3]])  # true by predicted: 15, 15 and 5 patients


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_small_run(tmp_path_factory.mktemp("run"))
    record = json.loads((folder / "round-0000.json").read_text())
    ranks_KK = torch.zeros(3, 3, dtype=torch.int64)
    ranks_KK[:, 0], ranks_KK[:, 1] = PATIENTS.diagonal(), PATIENTS.sum(1) - PATIENTS.diagonal()
    record["counts"] = Counts(PATIENTS, ranks_KK, counted(40, near=-1.0)).to_json()
    (folder / "round-0000.json").write_text(json.dumps(record))
    groups = [Group("sex", "female", 12, 18), Group("sex", "male", 11, 17), Group("age", "adults", 3, 4)]
    (folder / GROUPS).write_text(json.dumps([dataclasses.asdict(one) for one in groups]))
    return folder


@pytest.fixture(scope="module")
def made(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    place = tmp_path_factory.mktemp("exported")
    return export(run, place / "model", place / "key.pem", MADE)


@pytest.fixture
def copy(made: Exported, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in made.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def faces(count: int) -> torch.Tensor:
    numbers_N = torch.arange(count)
    return phantom.aligned(8, numbers_N, torch.zeros_like(numbers_N)).photos_NCHW


def ranked(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """What rank.py says, in a process that could not load torch or anything of ours."""
    forbidding = (
        "import runpy, sys\n"
        "for name in ('torch', 'bioface_core', 'safetensors', 'onnx'): sys.modules[name] = None\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-P", "-c", forbidding, str(folder / "rank.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("each", [False, True])
def test_the_graph_ranks_as_the_model_does_without_torch(run: Path, made: Exported, tmp_path: Path, each: bool) -> None:
    faces_NCHW, paths = faces(3), [tmp_path / f"{number}.png" for number in range(3)]
    for face_CHW, path in zip(faces_NCHW, paths, strict=True):
        Image.fromarray(face_CHW.permute(1, 2, 0).numpy()).save(path)
    found = ranked(made.folder, "--json", *(["--each"] if each else []), *paths)
    assert found.returncode == 0, found.stderr
    answers = json.loads(found.stdout)["answers"]
    patients_N = torch.arange(3) if each else torch.zeros(3, dtype=torch.int64)
    expected = predict(read_expert(run), faces_NCHW, patients_N, [()] * (3 if each else 1))
    for one, other in zip(answers, expected, strict=True):
        assert one["answer"] == str(other.answer) and one["nearness"] == pytest.approx(other.nearness, abs=TOLERANCE)
        assert [each["key"] for each in one["ranking"]] == [each.key for each in other.ranking]
        for mine, theirs in zip(one["ranking"], other.ranking, strict=True):
            assert mine["probability"] == pytest.approx(theirs.probability, abs=TOLERANCE)
            assert mine["name"] == theirs.name


def test_the_graph_is_one_function_of_all_photos(run: Path) -> None:
    """The order of a patient's photos does not matter, nor which side the camera was on."""
    answer, faces_NCHW = Answer(read_expert(run)), faces(3)
    plain = answer(faces_NCHW)
    for other in (faces_NCHW.flip(0), faces_NCHW.flip(3)):
        assert all(one.allclose(two, atol=1e-5) for one, two in zip(plain, answer(other), strict=True))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("note.txt", b"none", "image"), ("large.png", None, "pixels"), ("nothing.png", b"", "image")],
)
def test_what_is_no_face_gets_one_line(
    made: Exported, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is None:
        Image.new("RGB", (300, 200)).save(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    found = ranked(made.folder, tmp_path / name)
    assert found.returncode == 2 and said in found.stderr and len(found.stderr.splitlines()) == 1
    assert name in found.stderr and str(tmp_path) not in found.stderr


def test_a_changed_graph_is_not_asked(copy: Path, tmp_path: Path) -> None:
    (copy / "model.onnx").write_bytes((copy / "model.onnx").read_bytes() + b"\0")
    found = ranked(copy, tmp_path / "any.png")
    assert found.returncode == 2 and "changed after it was sealed" in found.stderr


def test_an_exported_model_answers_like_the_run(run: Path, made: Exported) -> None:
    mine, theirs, faces_NCHW = read_expert(made.folder), read_expert(run), faces(2)
    assert torch.equal(mine.embed(faces_NCHW), theirs.embed(faces_NCHW))
    assert mine.calibration == theirs.calibration and mine.syndromes == SYNDROMES


def test_a_seal_holds_and_names_its_signer(made: Exported) -> None:
    key = read_identity(made.folder.parent / "key.pem", PassportError)
    assert verify(made.folder, public_hex(key)) == made.sealed
    with pytest.raises(PassportError, match="is signed by"):
        verify(made.folder, "0" * 64)


@pytest.mark.parametrize("name", ["model.safetensors", "model.onnx", "card.json", "card.html", "rank.py", "study.yaml"])
def test_no_file_can_be_changed_or_taken_away(copy: Path, name: str) -> None:
    (copy / name).write_bytes((copy / name).read_bytes() + b" ")
    with pytest.raises(PassportError, match="changed after it was sealed"):
        read_expert(copy)
    (copy / name).unlink()
    with pytest.raises(PassportError, match="lacks a file"):
        verify(copy)


def test_nothing_can_be_added_and_a_seal_cannot_be_borrowed(copy: Path) -> None:
    (copy / "extra.py").write_text("print()")
    with pytest.raises(PassportError, match="does not name"):
        verify(copy)
    (copy / "extra.py").unlink()
    content = json.loads((copy / "passport.json").read_text())
    content["files"]["card.json"] = "0" * 64
    (copy / "passport.json").write_text(json.dumps(content))
    with pytest.raises(PassportError, match="not signed by the key it names"):
        verify(copy)


def test_the_card_says_what_is_known_and_hides_small_cells(made: Exported) -> None:
    told = json.loads((made.folder / "card.json").read_text())
    sensitivities = [one["sensitivity"] for one in told["syndromes"]]
    assert sensitivities[0]["value"] == 0.8 and sensitivities[0]["patients"] == 15
    assert sensitivities[2] is None
    assert [one["sensitivity"] is None for one in told["groups"]] == [False, False, True]
    assert told["made"] == "2026-11-24" and told["calibration"]["patients"] == 40
    assert told["off"] <= TOLERANCE and len(told["landmarks_px"]) == 5
    page = (made.folder / "card.html").read_text()
    assert "Down syndrome" in page and "too few" in page and "://" not in page
    assert "Screening of healthy people" in page


def test_nothing_says_on_which_machine_it_was_made(run: Path, made: Exported) -> None:
    here = str(Path(__file__).resolve().parent.parent).encode()
    for path in made.folder.iterdir():
        content = path.read_bytes()
        assert here not in content and str(run).encode() not in content and b"site-packages" not in content, path.name
    study = read_expert(run).study.replace({"model": {"base": "/secret/ward/base.safetensors"}})
    assert without_paths(study).model.base == "base.safetensors"


@pytest.mark.parametrize(
    ("patients", "hidden"),
    [
        ([20, 30], []),
        ([4, 30, 40], [4, 30]),  # one small cell could be found by subtraction
        ([4, 5, 30, 40], [4, 5, 30]),  # two that are together still small
        ([5, 5, 30, 40], [5, 5]),
        ([4], [4]),
    ],
)
def test_small_groups_cannot_be_found_by_subtraction(patients: list[int], hidden: list[int]) -> None:
    groups = [Group("age", str(number), 1, count) for number, count in enumerate(patients)]
    shown = publishable([*groups, Group("sex", "female", 10, 20)])
    assert [count for count, one in zip(patients, shown, strict=False) if one.sensitivity is None] == hidden
    assert shown[-1].sensitivity is not None


def test_groups_are_counted_as_one_would_by_hand() -> None:
    who = Demographics(
        torch.tensor([3.0, 23.9, 24.0, 300.0, float("nan")]),
        torch.tensor([0, 1, 1, -1, 0], dtype=torch.int8),
        torch.tensor([0, 0, 1, 1, -1], dtype=torch.int16),
    )
    found = count_groups(torch.tensor([True, False, True, True, False]), who, ("north", "south"))
    cells = {(one.factor, one.name): (one.right, one.patients) for one in found}
    assert cells == {
        ("age", "under 2 years"): (1, 2),
        ("age", "2 to 11 years"): (1, 1),
        ("age", "adults"): (1, 1),
        ("age", UNKNOWN): (0, 1),
        ("sex", "female"): (1, 2),
        ("sex", "male"): (1, 2),
        ("sex", UNKNOWN): (1, 1),
        ("ancestry", "north"): (1, 2),
        ("ancestry", "south"): (2, 2),
        ("ancestry", UNKNOWN): (0, 1),
    }
    assert {(one.factor, one.name): (one.right, one.patients) for one in total([*found, *found])} == {
        key: (2 * right, 2 * patients) for key, (right, patients) in cells.items()
    }


def test_from_the_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, key = tmp_path / "model", tmp_path / "key.pem"
    assert call("export", run, "--out", out, "--key", key, "--json") == 0
    signer = json.loads(capsys.readouterr().out)["signer"]
    assert call("verify", out, "--signer", signer) == 0
    assert "as they were sealed" in capsys.readouterr().out
    for wrong, said in (
        (("export", run, "--out", out, "--key", key), "there already"),
        (("export", out, "--out", tmp_path / "second", "--key", key), "exported model already"),
        (("export", tmp_path, "--out", tmp_path / "second", "--key", key), "no run folder"),
        (("export", run, "--out", tmp_path / "second", "--key", run / "study.yaml"), "study.yaml"),
        (("verify", run), "no exported model"),
    ):
        assert call(*wrong) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and said in lines[0]
    assert not (tmp_path / "second").exists()


def call(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bioface", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def test_random_faces_agree_to_the_tolerance(run: Path, made: Exported) -> None:
    from onnxruntime import InferenceSession

    session = InferenceSession(str(made.folder / "model.onnx"), providers=["CPUExecutionProvider"])
    answer, draw = Answer(read_expert(run)), torch.Generator().manual_seed(1)
    for photos in (1, 3, 7):
        faces_NCHW = torch.randint(256, (photos, 3, 112, 112), dtype=torch.uint8, generator=draw)
        found = session.run(["probability", "score", "nearness", "embedding"], {"faces": faces_NCHW.numpy()})
        for one, other in zip(answer(faces_NCHW), found, strict=True):
            assert np.abs(one.numpy() - other).max() <= TOLERANCE
