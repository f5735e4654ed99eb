"""Does a run that was killed end like one that was not? The server dies at an event, or between two files."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from bioface_core.config import Study
from bioface_core.errors import RunError
from bioface_core.files import write_text
from server.journal import Aggregated, Checkpointed, Journal, Opened, Started
from server.rounds import Event
from tests.small_federation import dying_at, in_a_process, run_small, small_study

STUDY = small_study()


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk guards against power cuts, which no test makes; the order of waits has its own test."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def kill_at(path: Path, study: Study, event_number: int) -> None:
    """Runs until an event of this number, then dies as of kill -9."""
    run_small(path, study, dying_at(event_number))


def kill_between_the_files(path: Path, study: Study, round_: int) -> None:
    """Dies when the tensors of a round are written and its JSON is not."""

    def die(file: Path, content: str) -> None:
        if file.name == f"round-{round_:04d}.json":
            os.kill(os.getpid(), signal.SIGKILL)
        write_text(file, content)

    with patch("bioface_core.checkpoint.write_text", die):
        run_small(path, study)


SHORT = small_study(rounds=2, strategy="fedyogi")
LAST_EVENT = 1 + 6 + 2 * 10  # opened; round 0; two rounds with three hospitals


def same(path: Path, whole: Path) -> bool:
    """Whether two finished runs hold the same tensors in every round."""
    return all(
        file.read_bytes() == (whole / file.name).read_bytes() for file in sorted(path.glob("round-*.safetensors"))
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted."""
    path = tmp_path_factory.mktemp("whole") / "run"
    assert run_small(path, SHORT).round == 2
    return path


def go_on(path: Path, whole: Path) -> list[Event]:
    """Finishes a killed run here and compares it."""
    events: list[Event] = []
    assert run_small(path, SHORT, events.append).round == 2
    assert len(list(path.glob("round-*.json"))) == 3 and same(path, whole)
    return events


@pytest.mark.parametrize("event_number", [1, 6, 9, 12, 15, 16])
def test_a_killed_run_ends_like_one_that_was_not(tmp_path: Path, whole: Path, event_number: int) -> None:
    assert in_a_process(kill_at, tmp_path / "run", SHORT, event_number) == -signal.SIGKILL
    go_on(tmp_path / "run", whole)


@pytest.mark.slow
@pytest.mark.parametrize("event_number", range(1, LAST_EVENT + 1))
def test_wherever_it_is_killed(tmp_path: Path, whole: Path, event_number: int) -> None:
    assert in_a_process(kill_at, tmp_path / "run", SHORT, event_number) == -signal.SIGKILL
    go_on(tmp_path / "run", whole)


def test_a_run_killed_between_two_files(tmp_path: Path, whole: Path) -> None:
    assert in_a_process(kill_between_the_files, tmp_path / "run", SHORT, 1) == -signal.SIGKILL
    assert (tmp_path / "run" / "round-0001.safetensors").exists()
    events = go_on(tmp_path / "run", whole)
    assert next(event for event in events if isinstance(event, Started)) == Started(
        1, 2, ("node-1000", "node-1001", "node-1002")
    )


def test_a_run_killed_again_and_again(tmp_path: Path, whole: Path) -> None:
    """Every process gets a round further and dies in the next."""
    exits = [in_a_process(kill_at, tmp_path / "run", SHORT, 14) for _ in range(3)]
    assert exits == [-signal.SIGKILL, -signal.SIGKILL, 0]
    go_on(tmp_path / "run", whole)


def test_transitions_are_on_the_disk_before_they_take_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    journal = tmp_path / "run" / "journal.jsonl"

    def note(descriptor: int) -> None:
        synced.append(journal.stat().st_size if journal.exists() else 0)

    def check(event: Event) -> None:
        if isinstance(event, Opened | Started | Aggregated | Checkpointed):
            assert synced[-1] == journal.stat().st_size, event
        if isinstance(event, Checkpointed):
            assert not (tmp_path / "run" / f"round-{event.round:04d}.json").exists()

    monkeypatch.setattr("os.fsync", note)
    assert run_small(tmp_path / "run", STUDY, check).round == 3


def test_a_finished_run_asks_nobody(tmp_path: Path) -> None:
    ended = run_small(tmp_path / "run", STUDY)
    events: list[Event] = []
    again = run_small(tmp_path / "run", STUDY, events.append)
    assert torch.equal(again.server.vector, ended.server.vector) and len(events) == 1
    assert [entry.to_json() for entry in again.history] == [entry.to_json() for entry in ended.history]


def test_a_torn_last_line_is_mended(tmp_path: Path, whole: Path) -> None:
    in_a_process(kill_at, tmp_path / "run", SHORT, 10)
    journal = tmp_path / "run" / "journal.jsonl"
    lines = journal.read_text()
    journal.write_text(lines + '{"event": "answ')
    go_on(tmp_path / "run", whole)
    assert journal.read_text().startswith(lines) and "answ{" not in journal.read_text()
    assert all(json.loads(line) for line in journal.read_text().splitlines())


def test_a_damaged_journal_stops_the_run(tmp_path: Path) -> None:
    run_small(tmp_path / "run", STUDY)
    journal = tmp_path / "run" / "journal.jsonl"
    journal.write_text(journal.read_text().replace('"event"', "event", 1))
    with pytest.raises(RunError, match="line 1 is damaged"):
        run_small(tmp_path / "run", STUDY)


def test_a_lost_journal_stops_the_run(tmp_path: Path) -> None:
    run_small(tmp_path / "run", STUDY)
    (tmp_path / "run" / "journal.jsonl").unlink()
    with pytest.raises(RunError, match="does not know round 3"):
        run_small(tmp_path / "run", STUDY)


def test_a_changed_checkpoint_stops_the_run(tmp_path: Path) -> None:
    run_small(tmp_path / "run", STUDY)
    file = tmp_path / "run" / "round-0003.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(RunError, match="not the file the journal names: .* delete round-0003"):
        run_small(tmp_path / "run", STUDY)
    file.unlink()
    file.with_suffix(".json").unlink()
    assert run_small(tmp_path / "run", STUDY).round == 3, "the advice works"


def test_a_full_disk_stops_cleanly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("bioface_core.checkpoint.write_bytes", full)
        with pytest.raises(RunError, match="No space left on device.*make room"):
            run_small(tmp_path / "run", SHORT)
    go_on(tmp_path / "run", whole)


def test_a_journal_on_a_full_disk_stops_cleanly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    journal = Journal(tmp_path / "journal.jsonl")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        journal.append(Started(1, 1, ()))
    journal.close()


def test_every_strategy_resumes_with_its_memory(tmp_path: Path) -> None:
    for strategy in ("fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi"):
        study = small_study(rounds=2, strategy=strategy)
        first, path = run_small(tmp_path / strategy, study), tmp_path / strategy
        for file in path.glob("round-0002.*"):
            file.unlink()
        assert torch.equal(run_small(path, study).server.vector, first.server.vector), strategy
