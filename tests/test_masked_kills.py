"""Is a masked sum right after kill -9, wherever it comes? Everything dies at once, and is started again.

What is left is what was on the disks: the server's journal and rounds, the hospitals' answers and what they opened.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from bioface_core.messages import Phase, Request, Ticket
from client.masking import Masking
from client.memory import Memory
from server.journal import Survived
from tests.masked_federation import MaskedRun
from tests.small_federation import SmallLearner, in_a_process


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk guards against power cuts, which no test makes."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def on_the_second(do: Callable[..., Any], before: Callable[..., Any], after: Callable[..., Any]) -> Callable[..., Any]:
    """A function that calls these around its second call in round 1."""
    calls = openings = 0

    def round_of(asked: Any) -> int:
        nonlocal openings
        if not isinstance(asked, str):
            return int((asked if isinstance(asked, Ticket) else asked.ticket).round)
        openings += 1  # of which no round is told: the first three are those of round 0
        return openings > 3

    def called(*arguments: Any, **others: Any) -> Any:
        nonlocal calls
        first = round_of(arguments[1]) == 1
        calls += first
        now = first and calls == 2
        if now:
            before()
        result = do(*arguments, **others)
        if now:
            after()
        return result

    return called


def nothing() -> None:
    """In place of a kill."""


POINTS: dict[str, tuple[Any, str, bool]] = {
    "trained, and not masked": (Memory, "once", False),
    "masked, and not sent": (Masking, "_mask", False),
    "about to write what is opened": (Memory, "note_opened", True),
    "what is opened is written, and not sent": (Memory, "note_opened", False),
    "opened, and not sent": (Masking, "_reveal", False),
}


def kill_at(path: Path, point: str) -> None:
    """Runs until the second hospital is at a point in round 1, then dies as of kill -9."""
    owner, name, before = POINTS[point]
    around = (die, nothing) if before else (nothing, die)
    with patch.object(owner, name, on_the_second(getattr(owner, name), *around)):
        MaskedRun(path, remembers=True).go()


def kill_at_event(path: Path, word: str, nth: int) -> None:
    """Runs until the server's nth entry of a kind, then dies as of kill -9."""
    seen: list[Any] = []

    def on_event(event: Any) -> None:
        seen.extend([event] if type(event).__name__ == word else [])
        if len(seen) == nth:
            die()

    MaskedRun(path, remembers=True, on_event=on_event).go()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted."""
    path = tmp_path_factory.mktemp("whole") / "run"
    MaskedRun(path, remembers=True).go()
    return path


def go_on(path: Path, whole: Path) -> MaskedRun:
    """Finishes a killed run here and compares it, bit for bit."""
    run = MaskedRun(path, remembers=True)
    assert run.go().round == 2
    files = sorted(whole.glob("round-*.safetensors"))
    assert len(files) == 3 and all((path / file.name).read_bytes() == file.read_bytes() for file in files)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("point", list(POINTS))
def test_killed_at_a_hospital(tmp_path: Path, whole: Path, point: str) -> None:
    assert in_a_process(kill_at, tmp_path / "run", point) == -signal.SIGKILL
    run = go_on(tmp_path / "run", whole)
    assert all(len(event.hospitals) == 3 for event in run.of(Survived))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "nth"), [("Survived", 1), ("Survived", 2), ("Aggregated", 1), ("Survived", 3), ("Checkpointed", 2)]
)
def test_killed_at_the_server(tmp_path: Path, whole: Path, event: str, nth: int) -> None:
    """Between the list of survivors and the end of the round, where the sum may have been opened."""
    assert in_a_process(kill_at_event, tmp_path / "run", event, nth) == -signal.SIGKILL
    go_on(tmp_path / "run", whole)


def test_an_answer_that_was_given_is_masked_anew_and_not_computed_anew(tmp_path: Path) -> None:
    """No patient pays twice for a server that died."""
    trained: list[tuple[int, str]] = []
    train = SmallLearner.train

    def counted(self: SmallLearner, vector: Any, photos: Any, round_: int, stream: str, plan: Any = None) -> Any:
        trained.append((round_, stream))
        return train(self, vector, photos, round_, stream, plan)

    class Died(BaseException):
        pass

    def raise_at_aggregated(event: Any) -> None:
        if type(event).__name__ == "Aggregated":
            raise Died

    with patch.object(SmallLearner, "train", counted):
        with pytest.raises(Died):
            MaskedRun(tmp_path / "run", remembers=True, on_event=raise_at_aggregated).go()
        MaskedRun(tmp_path / "run", remembers=True).go()
    assert sorted(trained) == sorted((round_, f"hospital-{number}") for round_ in (1, 2) for number in (1, 2, 3))


def test_the_same_question_is_rounded_the_same(tmp_path: Path) -> None:
    run = MaskedRun(tmp_path / "run")
    masking = run.sites.site(0)._masking
    assert masking is not None
    ticket, vector = Ticket(run.study.study_id, "run", 1, 1, Phase.TRAIN), SmallLearner().start()
    request = Request(ticket, SmallLearner.schema, vector)
    again, other = replace(ticket, attempt=2, ask=3), replace(ticket, round=2)
    drawn = masking.rounding(request).bytes(32)
    assert masking.rounding(replace(request, ticket=again)).bytes(32) == drawn
    assert masking.rounding(replace(request, ticket=other)).bytes(32) != drawn
    assert masking.rounding(replace(request, vector=vector + 1)).bytes(32) != drawn
