"""Does a federation of real processes work on this machine, and end with the model of the inline engine?"""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from bioface_core.errors import ConfigError
from simulation.deploy.timings import run_ours
from simulation.progress import Progress
from simulation.rehearse import rehearse
from simulation.rehearse.cable import Cable
from simulation.rehearse.faults import FAULTS, ILL_WILL, Fault, _is_whole
from simulation.rehearse.run import Outcome


@pytest.mark.slow
def test_a_rehearsal_passes_and_leaves_nothing_running(tmp_path: Path) -> None:
    with Progress(quiet=True) as progress:
        outcome = rehearse(progress, keep=tmp_path / "kept")
    assert outcome.passed and outcome.equal and outcome.everybody_answered
    assert (outcome.rounds, outcome.hospitals) == (3, 3)
    assert json.loads(json.dumps(outcome.to_json()))["passed"] is True
    assert processes_of(tmp_path) == []


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exists"), Progress(quiet=True) as progress:
        rehearse(progress, keep=tmp_path)


def test_one_fault_that_was_not_survived_fails_the_rehearsal() -> None:
    from simulation.rehearse.faults import Experience

    good, lost = Experience("a", True, 0.1, 0, 1.0), Experience("b", True, 0.1, 1, 1.0)
    assert Outcome(equal=True, faults=(good,)).passed
    assert not Outcome(equal=True, faults=(good, lost)).passed
    assert not Outcome(equal=False, faults=(good,)).passed


def test_there_are_enough_faults_with_names_of_their_own() -> None:
    assert len({fault.name for fault in FAULTS + ILL_WILL}) == len(FAULTS + ILL_WILL) >= 10


class Three:
    hospitals = {"a": None, "b": None, "c": None}


def entries(answered: list[str], code: str = "") -> list[dict[str, Any]]:
    """What the journal holds of one whole round."""
    left = [{"event": "leftout", "round": 2, "code": code}] if code else []
    return [
        {"event": "started", "round": 2},
        *left,
        {"event": "aggregated", "round": 2, "answered": answered},
        {"event": "checkpointed", "round": 2},
    ]


def test_a_round_is_whole_when_it_was_begun_and_ended_with_everybody_who_can_answer() -> None:
    stage: Any = Three()
    everybody, without_one = Fault("", lambda stage: None), Fault("", lambda stage: None, missing=1, code="no-answer")
    assert _is_whole(stage, entries(["a", "b", "c"]), everybody)
    assert not _is_whole(stage, entries(["a", "b", "c"])[1:], everybody), "it was begun before"
    assert not _is_whole(stage, entries(["a", "b", "c"])[:-1], everybody), "it has not ended"
    assert not _is_whole(stage, entries(["a", "b"]), everybody)
    assert _is_whole(stage, entries(["a", "b"], "no-answer"), without_one)
    assert not _is_whole(stage, entries(["a", "b"], "wrong-length"), without_one), "for another reason"


def test_a_cable_carries_bytes_both_ways_until_it_is_pulled() -> None:
    with socket.create_server(("127.0.0.1", 0)) as lab:
        cable = Cable(f"127.0.0.1:{lab.getsockname()[1]}")
        threading.Thread(target=echo, args=(lab,), daemon=True).start()
        cable.plug_in()
        with socket.create_connection(("127.0.0.1", cable.port), 5.0) as near:
            near.sendall(b"there and back")
            assert near.recv(100) == b"there and back"
            cable.pull()
            assert near.recv(100) == b"", "it was cut"
        with socket.create_connection(("127.0.0.1", cable.port), 5.0) as near:
            assert near.recv(100) == b"", "and lets no new one through"
        cable.close()


def echo(lab: socket.socket) -> None:
    while True:
        try:
            far, _ = lab.accept()
        except OSError:
            return
        with far:
            while content := far.recv(100):
                far.sendall(content)


@pytest.mark.slow
def test_the_benchmark_of_our_side_measures_what_it_says(tmp_path: Path) -> None:
    found = run_ours(tmp_path / "run", 4096, hospitals=1, rounds=3)
    assert len(found.rounds_s) == len(found.overhead_s) == 2 and len(found.update_s) == 3
    assert all(seconds > 0 for seconds in (*found.rounds_s, *found.overhead_s, *found.update_s))
    assert found.peak_bytes > 10**8
    assert processes_of(tmp_path) == []


def processes_of(folder: Path) -> list[str]:
    """The command lines that name a folder."""
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    return [line.replace(b"\0", b" ").decode(errors="replace") for line in lines if bytes(folder) in line]
