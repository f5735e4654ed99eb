"""Does a run survive bad hospitals, silence, kill -9 and a wrong folder, and end with the right model?"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from flwr.app import Error, Message
from torch import Tensor

from bioface_core.checkpoint import RunFolder, open_run
from bioface_core.config import Study
from bioface_core.errors import RoundError, RunError
from bioface_core.files import write_text
from bioface_core.messages import Code, Phase, Ticket, Update
from bioface_core.report.run_folder import read_run
from bioface_core.wire import pack_reply, unpack_reply
from client.app import make_client_app
from server.collect import Clock, Roster
from server.journal import Aggregated, Answered, Checkpointed, Dropped, Failed, Journal, LeftOut, Opened, Started
from server.rounds import Event, RoundDone, RunState, run_rounds
from simulation.inline import InlineGrid
from tests.small_federation import SmallLearner, SmallSites, names, run_small, small_study

STUDY = small_study()
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["tests.small_federation"])

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
    assert last.bytes_down == 2 * 3 * 4 * SmallLearner.size and last.bytes_up == 3 * (4 * SmallLearner.size + 8 * 18)
    assert last.counts.patients_K.tolist() == [4, 3, 2]
    assert run.clock.pauses == [], "nothing waits when replies are there"


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


# Surviving: the server is killed at an event, or between the two files of a round, and started again.


def kill_at(path: Path, study: Study, event_number: int) -> None:
    """Runs until an event of this number, then dies as of kill -9."""
    seen: list[Event] = []

    def on_event(event: Event) -> None:
        seen.append(event)
        if len(seen) == event_number:
            os.kill(os.getpid(), signal.SIGKILL)

    run_small(path, study, on_event)


def kill_between_the_files(path: Path, study: Study, round_: int) -> None:
    """Dies when the tensors of a round are written and its JSON is not."""

    def die(file: Path, content: str) -> None:
        if file.name == f"round-{round_:04d}.json":
            os.kill(os.getpid(), signal.SIGKILL)
        write_text(file, content)

    with patch("bioface_core.checkpoint.write_text", die):
        run_small(path, study)


def in_a_process(target: Callable[..., None], *arguments: Any) -> int | None:
    """Runs it elsewhere; its exit code, which is -9 if it was killed."""
    process = FORK.Process(target=target, args=arguments)
    process.start()
    process.join(60)
    return process.exitcode


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


# Folders.


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


def test_every_strategy_resumes_with_its_memory(tmp_path: Path) -> None:
    for strategy in ("fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi"):
        study = small_study(rounds=2, strategy=strategy)
        first, path = run_small(tmp_path / strategy, study), tmp_path / strategy
        for file in path.glob("round-0002.*"):
            file.unlink()
        assert torch.equal(run_small(path, study).server.vector, first.server.vector), strategy
