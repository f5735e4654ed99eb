"""Whose is a run folder? One study's and one process's; everything else is refused and left alone."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from bioface_core.checkpoint import open_run
from bioface_core.config import Study
from bioface_core.errors import RunError
from tests.small_federation import in_a_process, small_study

STUDY = small_study()


def open_and_close(path: Path, study: Study = STUDY) -> None:
    with open_run(path, study):
        pass


def test_another_study_s_folder_is_refused(tmp_path: Path) -> None:
    other = STUDY.replace({"seed": 7})
    open_and_close(tmp_path / "run")
    with pytest.raises(RunError, match=f"{STUDY.study_id[:12]}, not {other.study_id[:12]}"):
        open_and_close(tmp_path / "run", other)
    open_and_close(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "name"),
    [({"simulation": {"hospitals": 4}}, "simulation.hospitals"), ({"model": {"base": "other.pth"}}, "model.base")],
)
def test_other_hospitals_or_another_base_are_refused(tmp_path: Path, change: dict[str, Any], name: str) -> None:
    """They are not in the study's id, and yet the rounds would not fit together."""
    open_and_close(tmp_path / "run")
    with pytest.raises(RunError, match=f"another {name}"):
        open_and_close(tmp_path / "run", STUDY.replace(change))


def test_speed_and_engine_may_change(tmp_path: Path) -> None:
    open_and_close(tmp_path / "run")
    changes = {"speed": {"threads": 2}, "simulation": {"engine": "flower", "workers": 2, "compare": False}}
    open_and_close(tmp_path / "run", STUDY.replace(changes))


def test_two_runs_in_one_folder_at_once_are_refused(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", STUDY), pytest.raises(RunError, match="in use by another run"):
        open_and_close(tmp_path / "run")
    open_and_close(tmp_path / "run")


def hold_and_die(path: Path, study: Study) -> None:
    with open_run(path, study):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_lets_go_of_the_folder(tmp_path: Path) -> None:
    assert in_a_process(hold_and_die, tmp_path / "run", STUDY) == -signal.SIGKILL
    open_and_close(tmp_path / "run")


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="is no run's folder"):
        open_and_close(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="is a file, expected a folder"):
        open_and_close(tmp_path / "run")


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written .*: choose another folder"):
        open_and_close(tmp_path / "file" / "run")


def test_a_damaged_study_is_refused(tmp_path: Path) -> None:
    open_and_close(tmp_path / "run")
    (tmp_path / "run" / "study.yaml").write_text("- not a study")
    with pytest.raises(RunError, match="study.yaml is damaged"):
        open_and_close(tmp_path / "run")
