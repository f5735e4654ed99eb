"""What does a hospital send that lies? A changed reply, alone or beside others, in a federation where no time is lost.

A ``Liar`` notes what a server must make of each of its replies; its ``Twin`` sends just that, so that two whole runs
can be compared bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata

from bioface_core.checkpoint import open_run
from bioface_core.config import Study
from bioface_core.messages import Contract, Phase, Ticket
from client.app import make_client_app
from server.collect import Clock
from server.rounds import Event, RunState, run_rounds
from simulation.inline import InlineGrid
from tests.damage import changed
from tests.mutations import Draft
from tests.plain_contract import is_good_reply
from tests.small_federation import SmallLearner, SmallSites, small_study

LIAR, LIARS_NODE = "hospital-2", 1001
ROSTER = {1000: "hospital-1", LIARS_NODE: LIAR, 1002: "hospital-3"}

Conduct = Callable[[Message], list[Message]]
Place = tuple[str, str]  # round and phase

_REASONS = (None, "", "failed", "policy", "LATE", "policy\n", "no such file: /home/anna", "x" * 10_000)


@dataclass
class Liar:
    """A hospital that works honestly and sends something else; the same for the same seed.

    Attributes:
        seed: decides everything.
        contract: of the study.
        counted: what a server must make of each question: the reply that counts, or None.
        sent: what was done, for whoever looks for a failing case.
    """

    seed: str
    contract: Contract
    counted: dict[Place, RecordDict | None] = field(default_factory=dict)
    sent: dict[Place, str] = field(default_factory=dict)
    _before: Message | None = None

    def __call__(self, honest: Message) -> list[Message]:
        """What arrives in place of an honest reply."""
        place = place_of(honest)
        random = Random(f"{self.seed}-{place}")
        delivery = random.choice(_DELIVERIES)
        lie, done = lied(honest, random, self.contract.norm_bound)
        messages = delivery(honest, lie, self._before or lie)
        self.sent[place] = f"seed {self.seed}, {place}: {delivery.__name__}, {done}"
        self.counted[place] = self._counted(messages, honest)
        self._before = honest
        return messages

    def _counted(self, messages: list[Message], honest: Message) -> RecordDict | None:
        """The content of the first reply to the question, if it is good."""
        question = honest.metadata.reply_to_message_id
        first = next((it for it in messages if it.metadata.reply_to_message_id == question), None)
        if first is None or not first.has_content():
            return None
        good = is_good_reply(first.content, self.contract, ticket_in(honest.content))
        return first.content if good and dict(first.content["header"])["hospital"] == LIAR else None


@dataclass
class Twin:
    """Sends without further ado what a server must make of a liar: a good reply, or that it failed.

    Attributes:
        counted: the liar's.
    """

    counted: dict[Place, RecordDict | None]

    def __call__(self, honest: Message) -> list[Message]:
        """What arrives in place of an honest reply."""
        told = self.counted[place_of(honest)]
        if told is None:
            return [make_message(honest.metadata, error=Error(1, "failed"))]
        ours, its = honest.content.config_records["header"], told.config_records["header"]
        header = ConfigRecord(dict(its) | {name: ours[name] for name in ("run", "attempt", "ask")})
        return [make_message(honest.metadata, content=RecordDict({"header": header, "arrays": told["arrays"]}))]


def lied(honest: Message, random: Random, bound: float) -> tuple[Message, str]:
    """A changed copy of a reply, and what was done; an error reply where Flower could not read the copy."""
    if random.random() < 0.05:
        error = Error(random.choice([0, 1, 3, 2**31]), random.choice(_REASONS))
        return make_message(honest.metadata, error=error), f"error {error.reason!r:.40}"
    copy = make_message(_copied(honest.metadata), content=honest.content)
    try:
        return changed(copy, random, bound, in_bytes=random.random() < 0.3)
    except Exception:  # whatever Flower raises
        return make_message(honest.metadata, error=Error(1, "unreadable")), "unreadable"


def place_of(reply: Message) -> Place:
    """Round and phase."""
    return reply.metadata.group_id, reply.metadata.message_type


def ticket_in(record: RecordDict) -> Ticket:
    """The ticket that a good message names."""
    header: dict[str, Any] = dict(record["header"])
    study, run, round_, attempt = (header[name] for name in ("study", "run", "round", "attempt"))
    return Ticket(study, run, round_, attempt, Phase(header["phase"]), header["ask"])


class HostileGrid(InlineGrid):
    """A grid on which some nodes' replies are replaced."""

    def __init__(self, study: Study, conducts: dict[int, Conduct], folder: Path) -> None:
        super().__init__(make_client_app(SmallSites(study, folder)), len(ROSTER))
        self._conducts = conducts

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        for reply in super().pull_messages(message_ids):
            conduct = self._conducts.get(reply.metadata.src_node_id)
            yield from [reply] if conduct is None else conduct(reply)


def study_of(rounds: int, **federation: Any) -> Study:
    """So many rounds, and two of three hospitals are enough."""
    return small_study(rounds=rounds, quorum=0.5, **federation)


def federate(
    path: Path, study: Study, conducts: dict[int, Conduct], on_event: Callable[[Event], None] = lambda event: None
) -> RunState:
    """A whole run in which the hospitals at some nodes behave as told; time passes only while the server waits."""
    passed = [0.0]

    def sleep(seconds: float) -> None:
        passed[0] += seconds

    with open_run(path, study) as folder:
        clock = Clock(lambda: passed[0], sleep)
        return run_rounds(HostileGrid(study, conducts, path), study, SmallLearner(), folder, ROSTER, on_event, clock)


def _copied(metadata: Metadata) -> Metadata:
    fields = {name.removeprefix("_"): value for name, value in vars(metadata).items()}
    del fields["delivered_at"]
    return Metadata(**fields)


def _alone(honest: Message, lie: Message, before: Message) -> list[Message]:
    return [lie]


def _lie_first(honest: Message, lie: Message, before: Message) -> list[Message]:
    return [lie, honest]


def _lie_after(honest: Message, lie: Message, before: Message) -> list[Message]:
    return [honest, lie]


def _withheld(honest: Message, lie: Message, before: Message) -> list[Message]:
    return []


def _before_again(honest: Message, lie: Message, before: Message) -> list[Message]:
    """The reply to the question before: too late if it was withheld then, else once more."""
    return [before, before, lie]


def _before_as_new(honest: Message, lie: Message, before: Message) -> list[Message]:
    """The reply to the question before, as if it were one to this."""
    return [make_message(honest.metadata, content=before.content) if before.has_content() else lie]


def _as_another(honest: Message, lie: Message, before: Message) -> list[Message]:
    """A good reply under another hospital's name."""
    draft = Draft.of(honest.content)
    draft.header["hospital"] = "hospital-3"
    return [make_message(honest.metadata, content=draft.build())]


_DELIVERIES = (*[_alone] * 8, _lie_first, _lie_after, _withheld, _before_again, _before_as_new, _as_another)
