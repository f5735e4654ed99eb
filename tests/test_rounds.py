"""Does a run end with the right model, whatever hospitals send, and when they send nothing?"""

from __future__ import annotations

import math
import random
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Error, Message
from torch import Tensor

from bioface_core.checkpoint import RunFolder, open_run
from bioface_core.config import Study
from bioface_core.errors import RoundError
from bioface_core.evaluate import cells_of
from bioface_core.messages import Code, Phase, Ticket, Update
from bioface_core.report.run_folder import read_run
from bioface_core.wire import pack_reply, unpack_reply
from client.app import make_client_app
from server.collect import Clock, Roster
from server.journal import Aggregated, Answered, Dropped, Failed, LeftOut, Started
from server.rounds import Event, RoundDone, RunState, least_answers, run_rounds
from simulation.inline import InlineGrid
from tests.small_federation import SmallLearner, SmallSites, names, run_small, small_study

STUDY = small_study()
FIRST = 1000  # the first node of an inline grid

Tamper = Callable[[Message], Iterable[Message]]


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk guards against power cuts, which no test makes; the order of waits has its own test."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@dataclass
class FakeClock:
    """Time that passes only while somebody waits."""

    time: float = 0.0
    pauses: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.time += seconds


class TamperingGrid(InlineGrid):
    """A grid on whose way every reply can be changed, kept back or doubled."""

    def __init__(self, study: Study, tamper: Tamper) -> None:
        super().__init__(make_client_app(SmallSites(study)), study.simulation.hospitals)
        self._tamper = tamper
        self.offline: set[int] = set()

    def get_node_ids(self) -> list[int]:
        return [node for node in super().get_node_ids() if node not in self.offline]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        for reply in super().pull_messages(message_ids):
            yield from self._tamper(reply)


@dataclass
class Run:
    """What became of a run on a tampering grid."""

    path: Path
    study: Study = STUDY
    tamper: Tamper = lambda reply: [reply]
    clock: FakeClock = field(default_factory=FakeClock)
    events: list[Event] = field(default_factory=list)
    roster: Any = None

    def go(self, grid: TamperingGrid | None = None) -> RunState:
        clock = Clock(self.clock.now, self.clock.sleep)
        grid = grid or TamperingGrid(self.study, self.tamper)
        hospitals = self.roster or names(self.study)
        with open_run(self.path, self.study) as folder:
            return run_rounds(grid, self.study, SmallLearner(), folder, hospitals, self.events.append, clock)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def node(reply: Message) -> int:
    """The hospital's number, from 1, behind a reply."""
    return reply.metadata.src_node_id - 999


def training(reply: Message) -> bool:
    return reply.metadata.message_type == "train"


def only(hospital: int, change: Callable[[Message], Iterable[Message]]) -> Tamper:
    """Tampers with one hospital's updates."""
    return lambda reply: change(reply) if training(reply) and node(reply) == hospital else [reply]


def with_update(reply: Message, **changes: Any) -> list[Message]:
    """The reply with another update in it."""
    site = SmallSites(STUDY).site(node(reply) - 1)
    header: dict[str, Any] = dict(reply.content["header"])
    ticket = Ticket(STUDY.study_id, header["run"], header["round"], header["attempt"], Phase.TRAIN)
    update = unpack_reply(reply.content, site.contract, ticket)
    assert isinstance(update, Update)
    reply.content = pack_reply(replace(update, **changes))
    return [reply]


def vector_after(path: Path, study: Study = STUDY) -> Tensor:
    return run_small(path, study).server.vector


def test_a_run_goes_from_round_0_to_the_last(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    state = run.go()
    assert state.round == 3 and [summary.round for summary in state.history] == [0, 1, 2, 3]
    assert [event.summary.round for event in run.of(RoundDone)] == [0, 1, 2, 3]
    first, last = state.history[0], state.history[3]
    assert first.loss is None and last.loss is not None
    assert first.answered == last.answered == names(STUDY) and last.refused == {}
    assert last.bytes_down == 2 * 3 * 4 * SmallLearner.size and last.bytes_up == 3 * (
        4 * SmallLearner.size + 8 * cells_of(3)
    )
    assert last.counts.patients_K.tolist() == [4, 3, 2]
    assert run.clock.pauses == [], "nothing waits when replies are there"


class CountingGrid(InlineGrid):
    """Counts the trained replies that somebody still holds when the next one is fetched."""

    def __init__(self) -> None:
        super().__init__(make_client_app(SmallSites(STUDY)), STUDY.simulation.hospitals)
        self.held, self._replies = list[int](), list[weakref.ref[Any]]()

    def _answer(self, message: Message) -> Message:
        self.held.append(sum(reply() is not None for reply in self._replies))
        reply = super()._answer(message)
        if training(reply):
            self._replies.append(weakref.ref(reply.content["arrays"]["flat"]))
        return reply


def test_a_reply_is_gone_before_the_next_one_is_fetched(tmp_path: Path) -> None:
    grid = CountingGrid()
    with open_run(tmp_path / "run", STUDY) as folder:
        run_rounds(grid, STUDY, SmallLearner(), folder, names(STUDY))
    assert len(grid._replies) == 9 and set(grid.held) == {0}


def test_the_rounds_are_federated_averaging(tmp_path: Path) -> None:
    """Against a loop over hospitals in plain tensors."""
    vector = SmallLearner().start()
    sites = [SmallSites(STUDY).site(index) for index in range(3)]
    weights = torch.tensor([20.0, 30.0, 40.0], dtype=torch.float64)
    has_class = torch.tensor([[1.0, 1, 1], [1, 1, 1], [1, 1, 0]], dtype=torch.float64)
    for round_ in (1, 2, 3):
        deltas = [SmallLearner().train(vector, None, round_, site.name).delta.double() for site in sites]  # type: ignore[arg-type]
        change = (weights @ torch.stack(deltas)) / weights.sum()
        rows = (weights[:, None] * has_class)[:, :, None] * torch.stack([delta[20:].view(3, 4) for delta in deltas])
        change[20:] = (rows.sum(0) / (weights @ has_class)[:, None]).flatten()
        vector = (vector.double() + change).float()
    assert torch.allclose(vector_after(tmp_path / "run"), vector, atol=1e-6)


def test_the_report_can_read_the_folder(tmp_path: Path) -> None:
    state = run_small(tmp_path / "run", STUDY)
    read = read_run(tmp_path / "run")
    assert [record.model_dump(exclude={"counts"}) for record in read.rounds] == [
        {name: value for name, value in vars(summary).items() if name != "counts"} for summary in state.history
    ]
    assert [record.counts.to_json() for record in read.rounds] == [entry.counts.to_json() for entry in state.history]


def test_the_last_round_holds_the_whole_model(tmp_path: Path) -> None:
    state = run_small(tmp_path / "run", STUDY)
    expected = SmallLearner().weights(state.server.vector)
    read = RunFolder(tmp_path / "run").read_model(3)
    assert read.keys() == expected.keys() and all(torch.equal(read[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda reply: with_update(reply, delta=torch.full((SmallLearner.size,), math.nan)), Code.NOT_FINITE),
        (lambda reply: with_update(reply, delta=torch.zeros(5)), Code.LENGTH),
        (lambda reply: with_update(reply, delta=torch.full((SmallLearner.size,), 1e6)), Code.NORM),
        (lambda reply: with_update(reply, weight=-10), Code.WEIGHT),
        (lambda reply: with_update(reply, hospital="hospital-1"), Code.NAME),
        (lambda reply: with_update(reply, hospital="stranger"), Code.NAME),
        (lambda reply: [Message(Error(1, "failed"), reply_to=reply)], Code.FAILED),
        (lambda reply: [Message(Error(3, "node 7: /home/anna lost"), reply_to=reply)], Code.LOST),
    ],
)
def test_a_bad_reply_leaves_its_sender_out_of_the_round(
    tmp_path: Path, change: Callable[[Message], list[Message]], code: Code
) -> None:
    def spoil(reply: Message) -> list[Message]:
        kept = reply.metadata
        spoilt = change(reply)
        for message in spoilt:
            message.metadata.__dict__.update(vars(kept))
        return spoilt

    run = Run(tmp_path / "run", tamper=only(2, spoil))
    state = run.go()
    assert all(summary.refused == {"hospital-2": code} for summary in state.history[1:])
    assert all(summary.answered == ("hospital-1", "hospital-3") for summary in state.history[1:])
    assert [(event.hospital, event.code) for event in run.of(LeftOut)] == [("hospital-2", code)] * 3
    silent = Run(tmp_path / "silent", tamper=only(2, lambda reply: []))
    assert torch.equal(state.server.vector, silent.go().server.vector), "as if it had said nothing"
    assert "anna" not in (tmp_path / "run" / "journal.jsonl").read_text()


def test_whoever_is_silent_is_left_out_at_the_deadline(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", tamper=only(3, lambda reply: []))
    state = run.go()
    assert state.history[1].refused == {"hospital-3": Code.LATE}
    waited = STUDY.federation.deadline_s * STUDY.federation.rounds
    assert waited <= run.clock.time < waited + 1
    assert set(run.clock.pauses) == {0.05, 0.1, 0.2}


def test_too_much_silence_fails_the_round(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", tamper=lambda reply: [] if training(reply) and node(reply) > 1 else [reply])
    with pytest.raises(RoundError, match="1 of 3 hospitals answered, expected at least 2"):
        run.go()
    assert [event.round for event in run.of(Failed)] == [1]
    assert RunFolder(run.path).last_round() == 0, "a failed round is never a finished one"
    again = Run(tmp_path / "run")
    assert torch.equal(again.go().server.vector, vector_after(tmp_path / "whole"))
    assert again.of(Started)[0].attempt == 2


def test_an_evaluation_below_the_quorum_fails_the_round(tmp_path: Path) -> None:
    silent = Run(tmp_path / "run", tamper=lambda reply: [reply] if training(reply) or node(reply) == 1 else [])
    with pytest.raises(RoundError, match="round 0 failed"):
        silent.go()


def test_a_late_reply_is_dropped(tmp_path: Path) -> None:
    """It comes after the deadline, when the next round is under way."""
    kept: list[Message] = []

    def delay(reply: Message) -> list[Message]:
        late, kept[:] = list(kept), []
        if node(reply) == 3 and training(reply) and reply.metadata.group_id == "1":
            kept.append(reply)
            return []
        return [*late, reply]

    run = Run(tmp_path / "run", tamper=delay)
    assert run.go().history[1].refused == {"hospital-3": Code.LATE}
    assert [event.reason for event in run.of(Dropped)] == ["late"]


def test_a_duplicate_reply_counts_once(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", tamper=lambda reply: [reply, reply])
    assert torch.equal(run.go().server.vector, vector_after(tmp_path / "once"))
    assert {event.reason for event in run.of(Dropped)} == {"duplicate"}
    assert len(run.of(Answered)) == 3 * 7


class RestartingGrid(TamperingGrid):
    """A grid one of whose nodes forgets the first question of every phase, and is started anew a little later."""

    def __init__(self, study: Study, clock: FakeClock, loses: bool, comes_back: bool) -> None:
        super().__init__(study, lambda reply: [reply])
        self._clock, self._loses, self._comes_back = clock, loses, comes_back
        self._activation, self._due = 1, math.inf
        self.asks: list[Any] = []

    def activations(self) -> dict[int, str]:
        if self._clock.now() >= self._due:
            self._activation, self._due = self._activation + 1, math.inf
        return {node: str(self._activation) if node == FIRST else "1" for node in self.get_node_ids()}

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        for identity in message_ids:
            message = self._waiting.get(identity)
            asked = 1 if message is None else message.content["header"]["ask"]
            if message is not None and message.metadata.dst_node_id == FIRST:
                self.asks.append(asked)
                if asked == 1:
                    yield from self._forget(identity, message)
                    continue
            yield from super().pull_messages([identity])

    def _forget(self, identity: str, message: Message) -> Iterator[Message]:
        if self._comes_back and self._due == math.inf:
            self._due = self._clock.now() + 2.0
        if self._loses:
            del self._waiting[identity]
            yield Message(Error(0, "the node is gone"), reply_to=message)


@pytest.mark.parametrize("loses", [True, False], ids=["error reply", "silence"])
def test_a_node_that_was_started_anew_is_asked_again(tmp_path: Path, loses: bool) -> None:
    run = Run(tmp_path / "run")
    grid = RestartingGrid(STUDY, run.clock, loses, comes_back=True)
    run.go(grid)
    assert max(grid.asks) == 2
    assert not run.of(LeftOut)
    assert torch.equal(vector_after(run.path), run_small(tmp_path / "other", STUDY).server.vector)


def test_a_node_that_never_comes_back_is_left_out_as_lost(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.go(RestartingGrid(STUDY, run.clock, loses=True, comes_back=False))
    assert {entry.code for entry in run.of(LeftOut)} == {Code.LOST}


def test_an_old_answer_under_a_new_message_is_refused(tmp_path: Path) -> None:
    first: dict[int, Any] = {}

    def replay(reply: Message) -> list[Message]:
        reply.content = first.setdefault(node(reply), reply.content)
        return [reply]

    run = Run(tmp_path / "run", tamper=only(1, replay))
    state = run.go()
    assert [summary.refused for summary in state.history[1:]] == [{}, {"hospital-1": "stale"}, {"hospital-1": "stale"}]


def test_the_order_of_replies_changes_no_bit(tmp_path: Path) -> None:
    class ShufflingGrid(TamperingGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
            replies = list(super().pull_messages(message_ids))
            random.Random(5).shuffle(replies)
            yield from replies

    state = Run(tmp_path / "run").go(ShufflingGrid(STUDY, lambda reply: [reply]))
    assert torch.equal(state.server.vector, vector_after(tmp_path / "ordered"))


def test_a_hospital_that_comes_back_joins_the_next_round(tmp_path: Path) -> None:
    def leave_and_return(event: Event) -> None:
        if isinstance(event, RoundDone):
            grid.offline = {1002} if event.summary.round == 0 else set()

    run = Run(tmp_path / "run")
    grid = TamperingGrid(STUDY, run.tamper)
    run.events = _Calls(leave_and_return)
    history = run.go(grid).history
    assert history[1].refused == {"hospital-3": Code.ABSENT} and history[2].refused == {}


class _Calls(list[Event]):
    """A list that also tells somebody."""

    def __init__(self, tell: Callable[[Event], None]) -> None:
        super().__init__()
        self._tell = tell

    def append(self, event: Event) -> None:
        super().append(event)
        self._tell(event)


def test_too_few_connected_hospitals_fail_the_round(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    grid = TamperingGrid(STUDY, run.tamper)
    grid.offline = {1000, 1001}
    with pytest.raises(RoundError, match="1 of 3 hospitals"):
        run.go(grid)
    assert run.clock.time >= STUDY.federation.deadline_s, "it waited for them"


def test_hospitals_without_patients_fail_the_round(tmp_path: Path) -> None:
    nobody = torch.zeros(3, dtype=torch.int64)
    run = Run(
        tmp_path / "run",
        tamper=lambda reply: with_update(reply, weight=0, class_weights_K=nobody) if training(reply) else [reply],
    )
    with pytest.raises(RoundError, match="has patients to train on"):
        run.go()


def test_a_registered_node_has_its_own_name_only(tmp_path: Path) -> None:
    roster = {1000: "hospital-1", 1001: "hospital-3", 1002: "hospital-2"}
    with pytest.raises(RoundError, match="hospital-2 wrong-name, hospital-3 wrong-name"):
        Run(tmp_path / "run", roster=roster).go()


def test_an_unregistered_node_is_not_asked(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", roster={1000: "hospital-1", 1001: "hospital-2"})
    assert run.go().history[1].answered == ("hospital-1", "hospital-2")
    assert run.of(Aggregated)[0].weight == 50


def test_a_learnt_name_is_kept() -> None:
    roster = Roster(["north", "south"])
    assert roster.name(7) == "node-7"
    roster.admit(7, "north")
    assert roster.name(7) == "north"
    for number, name in ((7, "south"), (8, "north")):
        with pytest.raises(Exception, match="wrong-name"):
            roster.admit(number, name)


@pytest.mark.parametrize(
    ("share", "hospitals", "least"), [(0.6, 5, 3), (0.55, 20, 11), (0.5, 3, 2), (0.1, 3, 1), (1, 7, 7)]
)
def test_a_quorum_is_a_whole_number_of_hospitals(share: float, hospitals: int, least: int) -> None:
    assert least_answers(share, hospitals) == least
