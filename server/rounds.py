"""How does a run go from round to round, and survive? A journalled loop over any engine's ``Grid``.

select -> broadcast -> collect -> aggregate -> step -> evaluate -> checkpoint. What has happened is in the journal
before it takes effect, what a round made is in its checkpoint. A run that was killed goes on from its last complete
round, and begins the next one again under a new attempt number. A hospital's work depends on the model, the round and
its own name alone, so the end is the same bit for bit.

Legend: n values of the vector, S hospitals.
"""

from __future__ import annotations

import math
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn, Protocol, TypeVar

from flwr.serverapp import Grid
from torch import Tensor

from bioface_core.checkpoint import RoundSummary, RunFolder, digest, pack
from bioface_core.config import Study
from bioface_core.errors import RoundError, RunError, WireError
from bioface_core.evaluate import Counts
from bioface_core.messages import Code, Contract, Evaluation, Phase, Reply, Request, Ticket, Update
from bioface_core.secret import SecretRandom
from bioface_core.secure import Words
from bioface_core.speed import set_threads
from bioface_core.summand import Embedding, Summand
from server.central import CentralPlan
from server.collect import Clock, Collected, Exchange, Roster, plain_question
from server.journal import Aggregated, Checkpointed, Entry, Failed, Journal, Opened, Started
from server.masked import MaskedExchange
from server.strategy import ServerState, WeightedSum, shared, start_state, step

_VECTOR, _MOMENT = "vector", "moment."
T = TypeVar("T")


class SharedModel(Embedding, Protocol):
    """What the server needs of the model; a ``Learner`` has it."""

    def start(self) -> Tensor:
        """The vector before training, float32 CPU (n,)."""

    def weights(self, vector: Tensor) -> dict[str, Tensor]:
        """The whole model by name."""


@dataclass(frozen=True)
class RunState:
    """A run after a round.

    Attributes:
        round: the last finished one; 0 is the model before training.
        server: the shared vector and the optimiser's moments.
        history: one entry per finished round, from round 0.
    """

    round: int
    server: ServerState
    history: tuple[RoundSummary, ...]


@dataclass(frozen=True)
class RoundDone:
    """A round is finished and on the disk."""

    summary: RoundSummary


Event = Entry | RoundDone


def run_rounds(
    grid: Grid,
    study: Study,
    model: SharedModel,
    folder: RunFolder,
    hospitals: Mapping[int, str] | Sequence[str],
    on_event: Callable[[Event], None] = lambda event: None,
    clock: Clock = Clock(),  # noqa: B008 - immutable
) -> RunState:
    """Runs a study's rounds to the last, from wherever the folder says it stands.

    Args:
        grid: the engine.
        study: every parameter.
        model: the shared model, at its start.
        folder: open and locked.
        hospitals: names by node, or names alone (see ``Roster``).
        on_event: is told of everything, after it is in the journal.
        clock: for tests.

    Returns:
        The state after the last round.

    Raises:
        RoundError: a round had fewer good replies than the quorum; the run can be started again.
        RunError: the folder is damaged or cannot be written.
    """
    set_threads(study.speed)
    journal = Journal(folder.journal)
    try:
        return _Run(grid, study, model, folder, Roster(hospitals), journal, on_event, clock).finish()
    finally:
        journal.close()


def least_answers(share: float, hospitals: int) -> int:
    """The quorum in hospitals: 0.55 of 20 are 11, though 0.55 * 20 is a little more in binary."""
    return max(1, math.ceil(share * hospitals - 1e-9))


@dataclass
class _Tally:
    """What is known of a round that is under way."""

    round: int
    attempt: int
    nodes: list[int]
    began: float
    loss: float | None = None
    answered: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    down: Counter[int] = field(default_factory=Counter)
    up: Counter[int] = field(default_factory=Counter)


class _Run:
    """One process's part in a run; the state goes from method to method, and to the disk."""

    def __init__(
        self,
        grid: Grid,
        study: Study,
        model: SharedModel,
        folder: RunFolder,
        roster: Roster,
        journal: Journal,
        on_event: Callable[[Event], None],
        clock: Clock,
    ) -> None:
        self._settings, self._model, self._folder, self._journal = study.federation, model, folder, journal
        self._study_id, self._on_event, self._clock = study.study_id, on_event, clock
        self._roster = roster
        self._run_id = journal.run_id() or uuid.uuid4().hex
        self._contract, self._exchange = Contract.of(study, model), Exchange(grid, roster, self._record, clock)
        self._private = study.privacy.unit == "patient"
        self._central = CentralPlan.of(study) if study.privacy.unit == "hospital" else None
        self._quorum = least_answers(self._settings.quorum, len(roster.hospitals))
        self._masked = MaskedExchange(self._exchange, study, model, self._quorum) if study.secure.enabled else None
        self._wanted = len(roster.hospitals)  # before the first round we wait for everybody, later for a quorum

    def finish(self) -> RunState:
        """Goes on until the last round is done."""
        state = self._resume()
        self._record(Opened(self._study_id, self._run_id, -1 if state is None else state.round))
        if state is None:
            state = self._first_round()
        while state.round < self._settings.rounds:
            state = self._next_round(state)
        return state

    def _resume(self) -> RunState | None:
        """The state after the last complete round, None in a new run."""
        last = self._folder.last_round()
        if last < 0:
            return None
        sha256 = self._journal.checkpoints().get(last)
        if sha256 is None:
            raise RunError(f"{self._folder.journal} does not know round {last}: restore it, or start a new run")
        server = _read_state(self._folder, last, sha256)
        expected = start_state(self._settings, server.vector)
        if len(server.vector) != self._model.size or server.moments.keys() != expected.moments.keys():
            raise RunError(f"{self._folder.path}: round {last} is of another model: choose another folder")
        return RunState(last, server, tuple(self._folder.read_summary(number) for number in range(last + 1)))

    def _first_round(self) -> RunState:
        """Round 0: the model as it is before training, evaluated."""
        tally = self._begin(0)
        server = start_state(self._settings, self._model.start())
        counts = self._evaluate(tally, server, tally.nodes)
        return self._checkpoint(tally, server, counts, ())

    def _next_round(self, state: RunState) -> RunState:
        """One round of training: the whole algorithm."""
        tally = self._begin(state.round + 1)
        change, nodes = self._train(tally, state.server)
        server = step(self._settings, state.server, change)
        counts = self._evaluate(tally, server, nodes)
        return self._checkpoint(tally, server, counts, state.history)

    def _begin(self, round_: int) -> _Tally:
        """Selects whoever is connected."""
        began = self._clock.now()
        nodes = self._exchange.connected(self._wanted, self._settings.deadline_s)
        self._wanted = self._quorum
        attempt = self._journal.attempts(round_) + 1
        self._record(Started(round_, attempt, tuple(self._roster.name(node) for node in nodes)))
        return _Tally(round_, attempt, nodes, began)

    def _train(self, tally: _Tally, server: ServerState) -> tuple[Tensor, list[int]]:
        """The mean update of the hospitals that answered, and those hospitals' nodes."""
        if self._masked is not None:
            return self._train_masked(tally, server, self._masked.summand)
        hospitals, bound = len(self._roster.hospitals), self._settings.norm_bound
        total = WeightedSum(self._model.size, self._model.classes, self._model.embedding, hospitals, bound)
        losses: list[tuple[int, float]] = []

        def accept(reply: Reply) -> None:
            assert isinstance(reply, Update)
            total.add(reply)
            losses.append((reply.weight, reply.loss))

        self._ask(tally, Phase.TRAIN, server, tally.nodes, accept)
        nodes = self._aggregated(tally, total.weight)
        if not self._private:
            tally.loss = math.fsum(weight * loss for weight, loss in losses) / total.weight
        return self._noised(total.mean(), total.weight), nodes

    def _train_masked(self, tally: _Tally, server: ServerState, summand: Summand) -> tuple[Tensor, list[int]]:
        """The same, of a sum in which no hospital's update can be told from another's."""
        total = self._sum(tally, Phase.TRAIN, server, tally.nodes, summand.updates)
        nodes = self._aggregated(tally, total.weight)
        tally.loss = total.loss
        return self._noised(summand.mean(total), total.weight), nodes

    def _noised(self, mean: Tensor, weight: int) -> Tensor:
        """With the noise of privacy for whole hospitals; each weighs 1, or nothing where it has no patients."""
        return mean if self._central is None else self._central.noisy(mean, weight, SecretRandom())

    def _aggregated(self, tally: _Tally, weight: int) -> list[int]:
        """Notes that the updates are complete; the nodes of the hospitals whose they are."""
        if weight == 0:
            self._fail(tally, Phase.TRAIN, "none of the hospitals that answered has patients to train on")
        self._record(Aggregated(tally.round, tally.attempt, self._in_order(tally.answered), weight))
        return [node for node in tally.nodes if self._roster.name(node) in tally.answered]

    def _evaluate(self, tally: _Tally, server: ServerState, nodes: list[int]) -> Counts:
        """The counts of all hospitals that answered, added up."""
        if self._masked is not None:
            return self._sum(tally, Phase.EVALUATE, server, nodes, self._masked.summand.counts)
        total = [Counts.zeros(self._model.classes)]

        def accept(reply: Reply) -> None:
            assert isinstance(reply, Evaluation)
            total[0] = total[0] + reply.counts

        self._ask(tally, Phase.EVALUATE, server, nodes, accept)
        return total[0]

    def _ask(
        self, tally: _Tally, phase: Phase, server: ServerState, nodes: list[int], accept: Callable[[Reply], None]
    ) -> None:
        """One exchange, noted in the tally; fails the round below the quorum."""
        question = plain_question(self._request(tally, phase, server), self._contract)
        collected = self._exchange.ask(question, nodes, self._settings.deadline_s, accept)
        self._note(tally, collected)
        tally.answered = tally.answered or collected.answered
        if len(collected.answered) < self._quorum:
            whole, found = len(self._roster.hospitals), len(collected.answered)
            self._fail(tally, phase, f"{found} of {whole} hospitals answered, expected at least {self._quorum}")

    def _sum(
        self,
        tally: _Tally,
        phase: Phase,
        server: ServerState,
        nodes: list[int],
        read: Callable[[Words, int], T],
    ) -> T:
        """One masked sum, noted in the tally; fails the round where there is none."""
        assert self._masked is not None, "the study masks nothing"
        request, opened = self._request(tally, phase, server), self._journal.survivors(tally.round, phase.value)
        note = partial(self._note, tally)
        try:
            found = self._masked.sum(request, nodes, self._settings.deadline_s, opened, note)
            tally.answered = tally.answered or list(found.survivors)
            return read(found.total_m, len(found.survivors))
        except RoundError as error:
            self._fail(tally, phase, str(error))
        except WireError as error:
            self._fail(tally, phase, f"no answers add up to the masked sum ({error})")

    def _request(self, tally: _Tally, phase: Phase, server: ServerState) -> Request:
        ticket = Ticket(self._study_id, self._run_id, tally.round, tally.attempt, phase)
        return Request(ticket, self._model.schema, *shared(self._settings, server))

    def _note(self, tally: _Tally, collected: Collected) -> None:
        """Puts into the tally what came of a question."""
        tally.down += collected.down
        tally.up += collected.up
        tally.refused |= collected.refused

    def _checkpoint(
        self, tally: _Tally, server: ServerState, counts: Counts, history: tuple[RoundSummary, ...]
    ) -> RunState:
        """Puts the round on the disk; until then it has not happened."""
        content = pack(_named(server), self._model.weights(shared(self._settings, server)[0]))
        self._record(Checkpointed(tally.round, tally.attempt, digest(content)))
        summary = self._summary(tally, counts)
        self._folder.write_round(summary, content)
        self._on_event(RoundDone(summary))
        return RunState(tally.round, server, (*history, summary))

    def _summary(self, tally: _Tally, counts: Counts) -> RoundSummary:
        """The round's record; hospitals that were not even connected are named as well."""
        missing = [name for name in self._roster.hospitals if name not in {*tally.answered, *tally.refused}]
        return RoundSummary(
            tally.round,
            round(self._clock.now() - tally.began, 3),
            tally.loss,
            self._in_order(tally.answered),
            tally.refused | dict.fromkeys(missing, Code.ABSENT.value),
            tally.down.total(),
            tally.up.total(),
            counts,
            {self._roster.name(node): (tally.down[node], tally.up[node]) for node in tally.nodes},
        )

    def _in_order(self, names: list[str]) -> tuple[str, ...]:
        """In the roster's order: who was fastest is nobody's business."""
        return tuple(name for name in self._roster.hospitals if name in names)

    def _fail(self, tally: _Tally, phase: Phase, reason: str) -> NoReturn:
        """Ends the run; a failed round is never a finished one."""
        why = ", ".join(f"{name} {code}" for name, code in sorted(tally.refused.items()))
        reason += f" ({why})" if why else ""
        self._record(Failed(tally.round, tally.attempt, phase.value, reason))
        raise RoundError(f"round {tally.round} failed: {reason}: start again to go on from round {tally.round - 1}")

    def _record(self, entry: Entry) -> None:
        self._journal.append(entry)
        self._on_event(entry)


def _named(server: ServerState) -> dict[str, Tensor]:
    return {_VECTOR: server.vector} | {_MOMENT + name: moment for name, moment in server.moments.items()}


def _read_state(folder: RunFolder, round_: int, sha256: str) -> ServerState:
    """What ``_named`` gave the checkpoint of a round."""
    tensors = folder.read_tensors(round_, sha256)
    moments = {name.removeprefix(_MOMENT): tensor for name, tensor in tensors.items() if name.startswith(_MOMENT)}
    return ServerState(tensors[_VECTOR], moments)
