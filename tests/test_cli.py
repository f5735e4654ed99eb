"""Does a user's mistake give one clear line and exit status 2, and a result one JSON object?"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bioface_core.checkpoint import open_run
from bioface_core.cli import main
from tests.test_simulate import tiny


def bioface(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Runs the command in this process; returns its exit status."""
    monkeypatch.setattr(sys, "argv", ["bioface", *arguments])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def study_file(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny().to_yaml())
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["simulate", "no-such-study"], "no study file and no shipped study; shipped: demo"),
        (["simulate", "no/such/file.yaml"], "does not exist"),
        (["simulate", "demo", "-s", "trian.rate=1"], "trian is no known key; nearest: train"),
        (["simulate", "demo", "-s", "train.rate=fast"], "train.rate is 'fast': should be a valid number"),
        (["simulate", "demo", "-s", "rounds"], "expected key=value"),
        (["simulate", "demo", "-s", "syndromes=[down, upp]"], "upp"),
        (["report", "nowhere"], "nowhere"),
        (["bench", "everything"], "no benchmark; known: simulate, phantoms"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    arguments: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bioface(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert line in error[-1] and error[-1].startswith("bioface: ")
    assert not any("Traceback" in part for part in error)
    assert not (tmp_path / "runs" / "demo" / "round-0000.json").exists()


def test_a_run_folder_of_another_study_is_refused_and_left_alone(
    tmp_path: Path, study_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_run(tmp_path / "runs" / "tiny", tiny(seed=7)):
        pass
    before = (tmp_path / "runs" / "tiny" / "study.yaml").read_text()
    assert bioface(monkeypatch, "simulate", study_file, "--runs", str(tmp_path / "runs")) == 2
    assert "belongs to study" in capsys.readouterr().err
    assert (tmp_path / "runs" / "tiny" / "study.yaml").read_text() == before


def test_two_runs_in_one_folder_are_refused(
    tmp_path: Path, study_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_run(tmp_path / "runs" / "tiny", tiny()):
        assert bioface(monkeypatch, "simulate", study_file, "--runs", str(tmp_path / "runs")) == 2
    assert "in use by another run" in capsys.readouterr().err


def test_an_unwritable_folder_is_refused(
    tmp_path: Path, study_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert bioface(monkeypatch, "simulate", study_file, "--runs", str(tmp_path / "file")) == 2
    assert bioface(monkeypatch, "pretrain", study_file, "--out", str(tmp_path / "file" / "base.safetensors")) == 2
    assert capsys.readouterr().err.count("cannot be written") == 2


def test_simulate_and_report_print_the_same_json(
    tmp_path: Path, study_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bioface(monkeypatch, "simulate", study_file, "--runs", str(tmp_path / "runs"), "--json") == 0
    simulated = json.loads(capsys.readouterr().out)
    assert bioface(monkeypatch, "report", str(tmp_path / "runs" / "tiny"), "--json") == 0
    assert json.loads(capsys.readouterr().out) == simulated
    assert (tmp_path / "runs" / "tiny" / "report.html").exists()


def test_pretrain_writes_a_base_that_a_study_can_start_from(
    tmp_path: Path, study_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base.safetensors"
    assert bioface(monkeypatch, "pretrain", study_file, "--out", str(base), "--json") == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["people"] == 2 and 0 <= outcome["identified_unseen"] <= 1
    overrides = ["-s", f"model.base={base}", "-s", "loss.mode=joint", "--runs", str(tmp_path / "runs"), "--json"]
    assert bioface(monkeypatch, "simulate", study_file, *overrides) == 0
    assert outcome["sha256"] in (tmp_path / "runs" / "tiny" / "study.yaml").read_text()
