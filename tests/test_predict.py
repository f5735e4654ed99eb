"""Do photos become honest answers: from the command line to the ranking, and where nothing can be said?"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from bioface_core import cli
from bioface_core.calibration import Reliability, fit
from bioface_core.errors import ConfigError, PhotoError
from bioface_core.expert import Expert, read_expert
from bioface_core.gallery import Gallery, imprinted
from bioface_core.predict import Answer, predict
from bioface_core.quality import Reason
from bioface_core.terms import findings
from client.predict import cases_of, predict_cases
from simulation import phantom
from tests.small_run import SYNDROMES, counted, write_small_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos of one person, one of another, and two files that are no use."""
    folder = tmp_path_factory.mktemp("photos")
    pictures = phantom.render(5, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])).photos_NCHW
    (folder / "anna").mkdir()
    for name, picture in zip(("anna/1.png", "anna/2.jpg", "ben.png"), pictures, strict=True):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / name, quality=95)
    Image.new("RGB", (200, 200), "grey").save(folder / "wall.png")
    (folder / "letter.txt").write_text("Dear colleague")
    return folder


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["bioface", "predict", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_a_folder_is_answered(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, photos, "--model", run, "--device", "cpu", "--top", 2, "--json") == 0
    anna, ben, letter, wall = json.loads(capsys.readouterr().out)["results"]
    assert [one["case"] for one in (anna, ben, letter, wall)] == ["anna", "ben.png", "letter.txt", "wall.png"]
    assert anna["answer"] == ben["answer"] == "ranked" and anna["photos"] == 2
    assert [len(one["ranking"]) for one in (anna, ben, letter, wall)] == [2, 2, 0, 0]
    assert anna["ranking"][0]["omim"] and anna["ranking"][0]["probability"] >= anna["ranking"][1]["probability"] > 0
    assert letter["answer"] == wall["answer"] == "photo not usable"
    assert (
        letter["refused"] == ["not an image"]
        and letter["details"] == ["a .txt file"]
        and wall["refused"] == ["no face"]
    )
    assert ben["seconds"] > 0 and letter["nearness"] is None


def test_a_table_says_the_same_in_words(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert command(monkeypatch, photos / "ben.png", photos / "wall.png", "--model", run, "--device", "cpu") == 0
    out, err = capsys.readouterr()
    assert "syndrome" in out and " %" in out and "photo not usable (no face)" in out
    assert "calibrated on 40 held-out patients" in err and "No answer here is a diagnosis" in err


@pytest.mark.parametrize("terms", [[], ["--present", "Epicanthus"]])
def test_a_narrow_terminal_loses_no_name_and_no_number(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terms: list[str]
) -> None:
    """Long reasons beside answers, in 80 columns: who is meant, the numbers and every word are there."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(photos)
    long = Path("a-name-so-long-that-no-terminal-of-eighty-columns-can-hold-it-beside-its-answer.png")
    long.write_bytes(Path("ben.png").read_bytes()[:900])
    assert command(monkeypatch, "ben.png", long, "letter.txt", "--model", run, "--device", "cpu", *terms) == 0
    long.unlink()
    said = capsys.readouterr().out
    assert "\N{HORIZONTAL ELLIPSIS}" not in said and max(map(len, said.splitlines())) <= 80
    assert "190685" in said and said.count(" %") == (6 if terms else 3)
    assert "ben.png" in said and "letter.txt" in said and said.count("photo not usable") == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (lambda run, photos: [photos / "nobody.png", "--model", run], "does not exist"),
        (lambda run, photos: [photos, "--model", photos], "no run folder"),
        (lambda run, photos: [photos, "--model", run / "nothing"], "is no folder"),
        (lambda run, photos: [photos, "--model", run, "--present", "big nose"], "big nose"),
        (lambda run, photos: [photos, "--model", run, "--gallery", photos / "no.safetensors"], "no.safetensors"),
        (lambda run, photos: [run / "study.yaml", "--model", run, "--device", "tpu"], "device"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    run: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: Callable[[Path, Path], list[object]],
    told: str,
) -> None:
    assert command(monkeypatch, *arguments(run, photos)) == 2
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1


def test_a_csv_file_groups_photos_by_patient(photos: Path, tmp_path: Path) -> None:
    table = photos / "list.csv"
    table.write_text("photo;patient\nanna/1.png;A\nben.png;\nanna/2.jpg;A\n")
    cases = cases_of([table])
    table.unlink()
    assert [(case.name, [path.name for path in case.photos]) for case in cases] == [
        ("A", ["1.png", "2.jpg"]),
        ("ben.png", ["ben.png"]),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("photo\nnobody.png\n", "line 2: there is no photo 'nobody.png'"),
        ("photo\n", "lists no photo"),
        ("picture\nben.png\n", "has no column photo"),
        ("photo\n\x00\n", "there is no photo"),
    ],
)
def test_a_csv_file_that_cannot_be_used(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(PhotoError, match=told):
        cases_of([tmp_path / "list.csv"])


def test_everything_together_is_one_patient(photos: Path) -> None:
    (case,) = cases_of([photos / "anna", photos / "ben.png"], together=True)
    assert len(case.photos) == 3 and case.name.endswith("and 2 more")


def test_an_empty_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="holds no photo"):
        cases_of([tmp_path])


def test_many_batches_answer_as_one_by_one(run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expert, seen = read_expert(run), list[tuple[int, int]]()
    cases = cases_of([photos])
    together = [one.prediction for one in predict_cases(expert, cases)]
    monkeypatch.setattr("client.predict.run._BATCH", 1)
    singly = [one.prediction for one in predict_cases(expert, cases, progress=lambda *n: seen.append(n))]
    assert [one.answer for one in singly] == [one.answer for one in together]
    for one, other in zip(singly, together, strict=True):
        assert [ranked.key for ranked in one.ranking] == [ranked.key for ranked in other.ranking]
        assert [r.probability for r in one.ranking] == pytest.approx([r.probability for r in other.ranking], abs=1e-4)
    assert seen == [(2, 5), (3, 5), (4, 5), (5, 5)]


def test_photos_of_a_patient_are_averaged_and_far_faces_are_not_recognised(run: Path) -> None:
    found = read_expert(run)
    randomness = torch.Generator().manual_seed(0)
    faces_NCHW = torch.randint(256, (3, 3, 112, 112), dtype=torch.uint8, generator=randomness)
    near = float(found.nearness(found.embed(faces_NCHW)).min())
    strict = Expert(found.study, found.network, fit(counted(20, near=min(1.0, near + 0.9)), found.study.loss))
    patients_N, nothing = torch.tensor([0, 2, 2]), ((), (Reason.BLURRED,), ())
    first, second, third = predict(found, faces_NCHW, patients_N, nothing)
    assert (first.photos, second.photos, third.photos) == (1, 0, 2)
    assert second.answer is Answer.UNUSABLE and second.ranking == () and second.refused == (Reason.BLURRED,)
    embeddings_ND = found.embed(faces_NCHW)
    mean_1D = torch.nn.functional.normalize(embeddings_ND[1:].sum(0, keepdim=True))
    assert third.ranking[0].cosine == pytest.approx(float(found.scores(mean_1D).max()), abs=1e-5)
    far = predict(strict, faces_NCHW, patients_N, nothing)
    assert [one.answer for one in far] == [Answer.UNKNOWN, Answer.UNUSABLE, Answer.UNKNOWN]
    assert far[0].ranking and far[0].nearness is not None and far[0].nearness < far[0].threshold


def test_without_calibration_no_probability_is_claimed(run: Path) -> None:
    found = read_expert(run)
    bare = Expert(found.study, found.network, fit(Reliability.zeros(), found.study.loss))
    (answer,) = predict(bare, torch.zeros(1, 3, 112, 112, dtype=torch.uint8), torch.tensor([0]), ((),))
    assert answer.answer is Answer.RANKED and {ranked.probability for ranked in answer.ranking} == {None}


def test_a_syndrome_that_nobody_catalogued_keeps_its_key(run: Path) -> None:
    found = read_expert(run)
    study = found.study.model_copy(update={"syndromes": ("down", "own-01", "noonan")})
    expert = Expert(study, found.network, found.calibration)
    (answer,) = predict(expert, torch.zeros(1, 3, 112, 112, dtype=torch.uint8), torch.tensor([0]), ((),))
    own = next(ranked for ranked in answer.ranking if ranked.key == "own-01")
    assert own.name == "own-01" and own.omim is own.orpha is None


def test_a_gallery_s_syndromes_are_ranked_and_its_entries_are_neighbours(run: Path) -> None:
    expert = read_expert(run)
    randomness = torch.Generator().manual_seed(3)
    faces_NCHW = torch.randint(256, (2, 3, 112, 112), dtype=torch.uint8, generator=randomness)
    gallery = Gallery.empty(expert).add("own-01", "Ours", expert.embed(faces_NCHW[:1]))
    (answer,) = predict(expert, faces_NCHW[:1], torch.tensor([0]), ((),), gallery)
    assert len(answer.ranking) == 4 and sum(ranked.probability or 0 for ranked in answer.ranking) == pytest.approx(1)
    own = next(ranked for ranked in answer.ranking if ranked.key == "own-01")
    (mean_D,) = gallery.embeddings_ND
    (prototype_D,) = imprinted(mean_D[None], expert.network.prototypes)
    assert own.entries == 1 and own.cosine == pytest.approx(float(mean_D @ prototype_D), abs=1e-5)
    assert answer.neighbours[0].entry.key == "own-01" and answer.neighbours[0].cosine == pytest.approx(1.0, abs=1e-5)


def test_terms_move_a_ranking_of_their_own(run: Path) -> None:
    expert, face_1CHW = read_expert(run), torch.full((1, 3, 112, 112), 90, dtype=torch.uint8)
    (plain,) = predict(expert, face_1CHW, torch.tensor([0]), ((),))
    (answer,) = predict(expert, face_1CHW, torch.tensor([0]), ((),), seen=findings(["Epicanthus"], ["Round ear"]))
    assert answer.ranking == plain.ranking and plain.updated == ()
    assert {one.key for one in answer.updated} == set(SYNDROMES)
    assert sum(one.after for one in answer.updated) == pytest.approx(1) and len(answer.updated[0].moved) == 2
    before = {ranked.key: ranked.probability for ranked in plain.ranking}
    assert {one.key: one.before for one in answer.updated} == pytest.approx(before)


def test_terms_need_probabilities(run: Path) -> None:
    found = read_expert(run)
    bare = Expert(found.study, found.network, fit(Reliability.zeros(), found.study.loss))
    with pytest.raises(ConfigError, match="not calibrated"):
        predict(bare, torch.zeros(0, 3, 112, 112), torch.zeros(0).long(), (), seen=findings(["Epicanthus"]))
