"""Who is asked, and whose answer counts? One request to every connected hospital, and the good replies as they come.

A reply counts once, if it answers exactly what was asked, passes the checks on receipt and names a hospital that may.
Whoever sends anything else, or nothing before the deadline, is left out of the round with one word of ``Code``.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar, runtime_checkable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from bioface_core.errors import WireError
from bioface_core.messages import Code, Contract, Reply, Request, Ticket
from bioface_core.wire import pack_request, payload_bytes, unpack_reply
from server.journal import Answered, Dropped, Entry, LeftOut

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 0.2  # between two looks for replies
_LOOK_S = 1.0  # between two looks for nodes that were started anew
_MOST_ASKS = 8  # of one node in one phase; a node that is started anew again and again has another problem


@dataclass(frozen=True)
class Clock:
    """Where time comes from; a test brings its own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class Roster:
    """Which hospitals belong to the run, and which node is which.

    Args:
        hospitals: names by node where the lab registered the nodes; names alone where nodes come as they please (a
            simulation): a node's name is then learnt from its first good reply, and kept.
    """

    def __init__(self, hospitals: Mapping[int, str] | Sequence[str]) -> None:
        registered = isinstance(hospitals, Mapping)
        self._registered = registered
        self._names: dict[int, str] = dict(hospitals) if isinstance(hospitals, Mapping) else {}
        self.hospitals = tuple(hospitals.values()) if isinstance(hospitals, Mapping) else tuple(hospitals)
        assert len(set(self.hospitals)) == len(self.hospitals) > 0, "hospitals are one or more, with different names"

    def expects(self, node: int) -> bool:
        """Whether this node may be asked."""
        return not self._registered or node in self._names

    def name(self, node: int) -> str:
        """The hospital's name, or the node's number as long as no name is known."""
        return self._names.get(node, f"node-{node}")

    def admit(self, node: int, hospital: str) -> None:
        """Learns or checks the name that a node gives.

        Raises:
            WireError: not in the roster, or another node's.
        """
        known = self._names.get(node)
        taken = hospital in self._names.values() and known != hospital
        if hospital not in self.hospitals or taken or (known is not None and known != hospital):
            raise WireError(Code.NAME, f"node {node}")
        self._names[node] = hospital


class Named(Protocol):
    """A reply."""

    @property
    def hospital(self) -> str:
        """Whose it says it is."""


R = TypeVar("R", bound=Named)


@dataclass(frozen=True)
class Question(Generic[R]):
    """What is asked of some nodes, and how their replies are read.

    Attributes:
        kind: type of the messages, and what the journal calls it.
        ticket: of the question; a node that is asked again is asked under another.
        pack: the records for a node, under a ticket.
        read: the reply in the records that answer a ticket; raises ``WireError``.
    """

    kind: str
    ticket: Ticket
    pack: Callable[[int, Ticket], RecordDict]
    read: Callable[[RecordDict, Ticket], R]


def plain_question(request: Request, contract: Contract) -> Question[Reply]:
    """A request to which every node replies for itself; its vector is encoded once for all."""
    content = pack_request(request)

    def pack(node: int, ticket: Ticket) -> RecordDict:
        return content if ticket == request.ticket else pack_request(replace(request, ticket=ticket))

    def read(record: RecordDict, ticket: Ticket) -> Reply:
        return unpack_reply(record, contract, ticket)

    return Question(request.ticket.phase.value, request.ticket, pack, read)


@dataclass
class Collected:
    """What came of a request.

    Attributes:
        answered: hospitals whose reply counts, as they came.
        refused: the others that were asked, and why not.
        down: bytes of the arrays sent to each node.
        up: bytes of the arrays of each node's reply that counts.
    """

    answered: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    down: Counter[int] = field(default_factory=Counter)
    up: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True)
class Exchange:
    """The server's end of the wire.

    Attributes:
        grid: any engine's.
        roster: who may answer.
        record: is told of every reply, before it counts.
        clock: for deadlines and pauses.
    """

    grid: Grid
    roster: Roster
    record: Callable[[Entry], None]
    clock: Clock

    def connected(self, wanted: int, patience_s: float) -> list[int]:
        """The nodes that can be asked now, in order.

        Args:
            wanted: enough of them to stop waiting for more.
            patience_s: how long to wait for so many.
        """
        until, pause = self.clock.now() + patience_s, _FIRST_PAUSE_S
        while True:
            nodes = sorted(node for node in self.grid.get_node_ids() if self.roster.expects(node))
            if len(nodes) >= wanted or self.clock.now() >= until:
                return nodes
            self.clock.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def ask(self, question: Question[R], nodes: list[int], deadline_s: float, accept: Callable[[R], None]) -> Collected:
        """Sends a question and hands on every good reply until all have answered or the deadline is over.

        A node that was started anew in between has forgotten the question, and is asked again.

        Args:
            question: what is asked.
            nodes: whom to ask.
            deadline_s: also the lifetime of the messages.
            accept: takes a good reply; called once for a hospital at most.
        """
        until = self.clock.now() + deadline_s
        broadcast = _Broadcast(self, question, accept, until)
        broadcast.send(nodes)
        pause = _FIRST_PAUSE_S
        while broadcast.unsettled:
            if broadcast.pull():
                pause = _FIRST_PAUSE_S
            elif self.clock.now() >= until:
                break
            else:
                broadcast.ask_again()
                self.clock.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
        broadcast.give_up()
        return broadcast.collected

    def activations(self) -> Mapping[int, str] | None:
        """The connected nodes, each with a word that changes when it is started anew; None if the engine cannot say."""
        return self.grid.activations() if isinstance(self.grid, Watched) else None


@runtime_checkable
class Watched(Protocol):
    """A grid whose nodes may be started anew while it waits for them."""

    def activations(self) -> dict[int, str]:
        """The connected nodes, each with a word that changes when it is started anew."""


@dataclass
class _Asked:
    """A node that has not answered yet.

    Attributes:
        ticket: of the last message to it.
        activation: what its grid said of it then.
        code: why nothing has come.
    """

    ticket: Ticket
    activation: str
    code: Code = Code.LATE


class _Broadcast(Generic[R]):
    """One question on its way: who has not answered, and what has come."""

    def __init__(self, exchange: Exchange, question: Question[R], accept: Callable[[R], None], until: float) -> None:
        self._exchange, self._question, self._accept, self._until = exchange, question, accept, until
        self.collected = Collected()
        self.unsettled: dict[int, _Asked] = {}
        self._pending: dict[str, tuple[int, Ticket]] = {}
        self._seen: set[str] = set()
        self._look_again = exchange.clock.now() + _LOOK_S

    def send(self, nodes: list[int]) -> None:
        """One message to each node, pushed one by one so that each is known by its own id."""
        activations = self._exchange.activations() or {}
        for node in nodes:
            self.unsettled[node] = _Asked(self._question.ticket, activations.get(node, ""))
            self._push(node)

    def ask_again(self) -> None:
        """Asks the nodes again that were started anew since they were asked; looks for them now and then."""
        if self._exchange.clock.now() < self._look_again:
            return
        self._look_again = self._exchange.clock.now() + _LOOK_S
        for node, activation in (self._exchange.activations() or {}).items():
            asked = self.unsettled.get(node)
            if asked is not None and asked.activation != activation and asked.ticket.ask < _MOST_ASKS:
                asked.activation = activation
                asked.ticket = replace(asked.ticket, ask=asked.ticket.ask + 1)
                self._push(node)

    def pull(self) -> bool:
        """Settles what has come; whether that was anything."""
        before = len(self.unsettled)
        for message in self._exchange.grid.pull_messages(list(self._pending)):
            self._settle(message)
            del message  # it is as large as the model, and the next one is fetched now
        return len(self.unsettled) < before

    def give_up(self) -> None:
        """Leaves out whoever has not answered."""
        for node, asked in list(self.unsettled.items()):
            self._leave_out(node, asked.code)

    def _push(self, node: int) -> None:
        asked, lifetime_s = self.unsettled[node], self._until - self._exchange.clock.now()
        content, group = self._question.pack(node, asked.ticket), str(asked.ticket.round)
        message = Message(content, node, self._question.kind, ttl=max(1.0, lifetime_s), group_id=group)
        ids = [identity for identity in self._exchange.grid.push_messages([message]) if identity]
        self._pending |= dict.fromkeys(ids, (node, asked.ticket))
        self.collected.down[node] += payload_bytes(content)
        if not ids:
            self._leave_out(node, Code.LOST)

    def _leave_out(self, node: int, code: str) -> None:
        """Notes that a node's hospital does not count in this round."""
        del self.unsettled[node]
        name = self._exchange.roster.name(node)
        self.collected.refused[name] = code
        self._exchange.record(LeftOut(*self._place(), name, code))

    def _settle(self, message: Message) -> None:
        """Counts a message, or notes why it does not count."""
        identity = message.metadata.reply_to_message_id
        node, ticket = self._pending.get(identity, (None, self._question.ticket))
        if node is not None and message.has_content() and message.metadata.src_node_id != node:
            return self._exchange.record(Dropped(*self._place(), "foreign"))
        self._pending.pop(identity, None)
        if node is None or node not in self.unsettled:
            reason = "duplicate" if node is not None or identity in self._seen else "late"
            return self._exchange.record(Dropped(*self._place(), reason))
        self._seen.add(identity)
        try:
            reply = self._read(message, node, ticket)
        except WireError as error:
            return self._fail(node, Code(error.code))
        del self.unsettled[node]
        self._exchange.record(Answered(*self._place(), reply.hospital))
        self.collected.answered.append(reply.hospital)
        self.collected.up[node] += payload_bytes(message.content)
        self._accept(reply)

    def _fail(self, node: int, code: Code) -> None:
        """What the transport lost may still come, if the node is started anew; everything else is settled."""
        if code is Code.LOST and self._exchange.activations() is not None:
            self.unsettled[node].code = code
        else:
            self._leave_out(node, code)

    def _read(self, message: Message, node: int, ticket: Ticket) -> R:
        """The checks on receipt."""
        if message.has_error():
            raise WireError(_code_in(message.error.reason))
        if not message.has_content():
            raise WireError(Code.MALFORMED, "empty")
        reply = self._question.read(message.content, ticket)
        self._exchange.roster.admit(node, reply.hospital)
        return reply

    def _place(self) -> tuple[int, int, str]:
        ticket = self._question.ticket
        return ticket.round, ticket.attempt, self._question.kind


def _code_in(reason: str | None) -> Code:
    """The word a hospital sent, or ``LOST`` for whatever the transport has to say."""
    return Code(reason) if reason in list(Code) else Code.LOST
