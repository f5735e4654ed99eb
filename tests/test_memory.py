"""Is a question answered once, and after a crash with the same answer or a new one, never with half of one?"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import client.database
import client.memory
from bioface_core.accounting import Plan
from bioface_core.errors import HospitalError, WireError
from bioface_core.evaluate import Counts
from bioface_core.files import write_bytes
from bioface_core.learner import LocalResult
from bioface_core.messages import Code, Evaluation, Phase, Reply, Request, Ticket
from bioface_core.photos import PhotoSet
from client.memory import Memory
from client.site import Site
from tests.small_federation import SmallLearner, in_a_process, photos_of, small_study
from tests.small_run import counted

STUDY = small_study()
_OPEN: list[Memory] = []  # closed when a test ends


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "memory.sqlite"
    while _OPEN:
        _OPEN.pop().close()


def question(phase: Phase = Phase.TRAIN, round_: int = 1, attempt: int = 1, ask: int = 1, run: str = "run") -> Request:
    ticket = Ticket(STUDY.study_id, run, round_, attempt, phase, ask)
    return Request(ticket, SmallLearner.schema, SmallLearner().start())


class CountingLearner(SmallLearner):
    """Counts how often it is put to work, and never answers the same twice."""

    def __init__(self) -> None:
        self.worked = 0

    def train(
        self, vector: Tensor, photos: PhotoSet, round_: int, stream: str, plan: Plan | None = None
    ) -> LocalResult:
        self.worked += 1
        result = super().train(vector, photos, round_, stream)
        return replace(result, delta=result.delta + self.worked)

    def evaluate(self, vector: Tensor, photos: PhotoSet) -> Counts:
        self.worked += 1
        return super().evaluate(vector, photos)


def open_memory(path: Path) -> Memory:
    _OPEN.append(Memory(path))
    return _OPEN[-1]


def open_site(path: Path) -> tuple[Site, CountingLearner, Memory]:
    memory = open_memory(path)
    return *site_with(memory), memory


def site_with(memory: Memory | None) -> tuple[Site, CountingLearner]:
    learner = CountingLearner()
    train, heldout = photos_of([0, 1, 2] * 4), photos_of([0, 1, 2])
    return Site("hospital-1", STUDY, learner, train, heldout, memory=memory), learner


def same(one: Reply, other: Reply) -> bool:
    """Bit for bit, whatever the ticket."""
    (scalars, tensors), (others, other_tensors) = client.memory._pack(one), client.memory._pack(other)
    return scalars == others and all(torch.equal(tensors[name], other_tensors[name]) for name in tensors)


@pytest.mark.parametrize("phase", list(Phase))
def test_a_ticket_is_answered_once(path: Path, phase: Phase) -> None:
    site, learner, _ = open_site(path)
    site.answer(question(phase))
    with pytest.raises(WireError) as error:
        site.answer(question(phase))
    assert error.value.code == Code.REPLAYED and learner.worked == 1


def test_a_ticket_stays_answered_when_others_came_and_the_process_is_another(path: Path) -> None:
    site, _, memory = open_site(path)
    for round_ in (1, 2, 3):
        site.answer(question(round_=round_))
    memory.close()
    site, learner, _ = open_site(path)
    for round_ in (1, 2, 3):
        with pytest.raises(WireError):
            site.answer(question(round_=round_))
    assert learner.worked == 0


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize(("attempt", "ask"), [(2, 1), (1, 2), (2, 3)])
def test_the_same_question_under_another_ticket_gets_the_same_answer(
    path: Path, phase: Phase, attempt: int, ask: int
) -> None:
    site, _, memory = open_site(path)
    first, again = site.answer(question(phase)), question(phase, attempt=attempt, ask=ask)
    memory.close()
    site, learner, _ = open_site(path)
    second = site.answer(again)
    assert learner.worked == 0 and same(first, second) and second.ticket == again.ticket
    with pytest.raises(WireError):
        site.answer(again)


def test_counts_are_remembered_with_how_sure_the_model_was(path: Path) -> None:
    asked, memory = question(Phase.EVALUATE), open_memory(path)
    counts = replace(SmallLearner().evaluate(asked.vector, photos_of([0, 1, 2])), reliability=counted(3))
    memory.once(asked, lambda: Evaluation(asked.ticket, "hospital-1", counts))
    memory.close()
    again = question(Phase.EVALUATE, attempt=2)
    reply = open_memory(path).once(again, lambda: pytest.fail("it was computed anew"))
    assert isinstance(reply, Evaluation) and torch.equal(reply.counts.cells, counts.cells)


@pytest.mark.parametrize(
    "other",
    [question(round_=2), question(run="other"), replace(question(attempt=2), vector=SmallLearner().start() + 1)],
)
def test_another_question_is_computed(path: Path, other: Request) -> None:
    site, learner, _ = open_site(path)
    first = site.answer(question())
    assert not same(first, site.answer(other)) and learner.worked == 2


def test_only_the_last_answer_of_a_phase_is_kept(path: Path) -> None:
    site, _, _ = open_site(path)
    for round_ in (1, 2, 3):
        for phase in Phase:
            site.answer(question(phase, round_))
    kept = sorted(file.name for file in path.parent.glob("*.safetensors"))
    assert kept == ["memory-evaluate.safetensors", "memory-train.safetensors"]


def test_a_refusal_is_not_an_answer(path: Path) -> None:
    memory = open_memory(path)

    def refuse() -> Reply:
        raise WireError(Code.NOT_FINITE)

    for _ in range(2):
        with pytest.raises(WireError) as error:
            memory.once(question(), refuse)
        assert error.value.code == Code.NOT_FINITE
    assert list(path.parent.glob("*.safetensors")) == []


class KilledAt:
    """Lets ``moments`` steps of the memory's work pass, and kills the process at the next."""

    def __init__(self, moments: int) -> None:
        self.left = moments

    def __call__(self, *_: object) -> None:
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


def answer_and_be_killed(path: Path, moments: int) -> None:
    """Runs in a process of its own: dies before, between, during or after what is written."""
    site, _, memory = open_site(path)
    kill = KilledAt(moments)

    def slow_write(target: Path, content: bytes) -> None:
        kill()
        target.with_name(f".{target.name}.torn.part").write_bytes(content[:7])
        kill()
        write_bytes(target, content)
        kill()

    pytest.MonkeyPatch().setattr(client.memory, "write_bytes", slow_write)
    memory._database.set_trace_callback(kill)
    site.answer(question())
    kill()


def test_after_kill_9_an_answer_is_stored_or_new(path: Path) -> None:
    """At each moment in turn, until one comes after the last."""
    sent, outcomes, code = site_with(None)[0].answer(question()), list[bool](), None
    while code != 0:
        here = path.parent / str(len(outcomes)) / path.name
        here.parent.mkdir()
        code = in_a_process(answer_and_be_killed, here, len(outcomes))
        stored = here.with_name("memory-train.safetensors").exists()
        site, learner, memory = open_site(here)
        assert list(here.parent.glob(".*.part")) == [], "half a file is swept away"
        assert same(site.answer(question(ask=2)), sent) and learner.worked == (0 if stored else 1)
        memory.close()
        outcomes.append(stored)
        assert code in (0, -signal.SIGKILL) and len(outcomes) < 12
    assert outcomes == sorted(outcomes) and set(outcomes) == {False, True}


def no_room_for_replies(memory: Memory, patch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    patch.setattr(client.memory, "write_bytes", refuse)


def no_room_for_tickets(memory: Memory, patch: pytest.MonkeyPatch) -> None:
    pages = memory._database.execute("PRAGMA page_count").fetchone()[0]
    memory._database.execute(f"PRAGMA max_page_count = {pages}").fetchall()
    with pytest.raises(WireError, match="full"):
        for number in range(1000):
            memory._note(question(run="x" * 64, round_=number).ticket)


@pytest.mark.parametrize("no_room", [no_room_for_replies, no_room_for_tickets])
def test_a_full_disk_is_one_word_and_the_site_goes_on_when_there_is_room(
    path: Path, monkeypatch: pytest.MonkeyPatch, no_room: Callable[[Memory, pytest.MonkeyPatch], None]
) -> None:
    site, learner, memory = open_site(path)
    answered = site.answer(question())
    with monkeypatch.context() as patch:
        no_room(memory, patch)
        with pytest.raises(WireError) as error:
            site.answer(question(round_=2))
        assert error.value.code == Code.FAILED
    memory._database.execute("PRAGMA max_page_count = 1000000").fetchall()
    assert site.answer(question(round_=2)).ticket.round == 2
    with pytest.raises(WireError) as error:
        site.answer(replace(question(), ticket=answered.ticket))
    assert error.value.code == Code.REPLAYED, "what was known is still known"


@pytest.mark.parametrize(("damage", "said"), [(b"\0" * 64, "is damaged"), (b"no database" * 20, "is damaged")])
def test_a_damaged_database_is_one_clear_line(path: Path, damage: bytes, said: str) -> None:
    site, _, memory = open_site(path)
    site.answer(question())
    memory.close()
    path.write_bytes(damage + path.read_bytes()[len(damage) :])
    with pytest.raises(HospitalError, match=said) as error:
        Memory(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_page_that_was_overwritten_is_found_at_the_start(path: Path) -> None:
    site, _, memory = open_site(path)
    for round_ in (1, 2, 3):
        site.answer(question(round_=round_))
    memory.note_opened("parts", ("hospital-1",))
    memory.close()
    content = path.read_bytes()
    path.write_bytes(content[:-200] + b"\xff" * 200)
    with pytest.raises(HospitalError, match="is damaged"):
        Memory(path)


def test_a_database_of_another_version_in_use_or_out_of_reach_is_one_clear_line(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.database, "_PATIENCE_S", 0.05)
    memory = open_memory(path)
    with pytest.raises(HospitalError, match="in use by another site process"):
        Memory(path)
    memory.close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 7")
    database.close()
    with pytest.raises(HospitalError, match="is of another version, expected 1"):
        Memory(path)
    with pytest.raises(HospitalError, match="cannot be opened"):
        Memory(path.parent / "nowhere" / path.name)


def test_a_damaged_answer_is_computed_anew(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    site, learner, _ = open_site(path)
    site.answer(question())
    path.with_name("memory-train.safetensors").write_bytes(b"\xff" * 100)
    with caplog.at_level(logging.WARNING):
        site.answer(question(ask=2))
    assert learner.worked == 2 and "is damaged" in caplog.text


def test_nobody_else_may_read_the_database(path: Path) -> None:
    open_memory(path)
    assert path.stat().st_mode & 0o077 == 0
