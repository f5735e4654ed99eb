"""What can a lab ask that lies? Every step of a masked sum, of every hospital, with whatever it likes in it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import Context, Message, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata

from bioface_core.config import Study
from bioface_core.messages import Contract, Phase, Request, Ticket
from bioface_core.secure import Advert
from bioface_core.steps import (
    Answer,
    AskConfirmation,
    Asked,
    AskKeys,
    AskMasked,
    AskOpening,
    AskShares,
    Confirmation,
    Keys,
    Masked,
    Opening,
    Shares,
    Step,
    message_type,
)
from bioface_core.steps_wire import pack_asked, unpack_answer
from bioface_core.summand import Summand
from client.app import answer
from tests.masked_federation import MaskedSites
from tests.small_federation import SmallLearner, names

STEPS = {AskKeys: Step.KEYS, AskShares: Step.SHARES, AskMasked: Step.MASK, AskConfirmation: Step.CONFIRM}


def message_of(record: RecordDict, kind: str, round_: int) -> Message:
    """A message as it comes to a hospital."""
    return make_message(Metadata(1, "question", 1, 1000, "", str(round_), time.time(), 60.0, kind), content=record)


@dataclass
class LyingLab:
    """A server that asks what a test tells it to.

    Attributes:
        sites: of all hospitals.
        ticket: of its questions.
    """

    sites: MaskedSites
    ticket: Ticket = field(init=False)

    def __post_init__(self) -> None:
        self.ticket = Ticket(self.study.study_id, "run", 1, 1, Phase.TRAIN)

    @property
    def study(self) -> Study:
        return self.sites.study

    @property
    def names(self) -> tuple[str, ...]:
        return names(self.study)

    def ask(self, name: str, asked: Asked) -> Answer | str:
        """A hospital's answer, or the one word in place of it."""
        site, step = self.sites.site(self.names.index(name)), STEPS.get(type(asked), Step.UNMASK)
        message = message_of(pack_asked(asked), message_type(asked.ticket.phase, step), asked.ticket.round)
        context = Context(run_id=1, node_id=1000, node_config={}, state=RecordDict(), run_config={})
        reply = answer(message, context, lambda _: site)
        if reply.has_error():
            return str(reply.error.reason)
        contract, summand = Contract.of(self.study, SmallLearner()), Summand.of(self.study, SmallLearner())
        return unpack_answer(reply.content, contract, asked.ticket, step, summand.vector(asked.ticket.phase))

    def keys(self, name: str) -> Advert:
        found = self.ask(name, AskKeys(self.ticket, SmallLearner.schema))
        assert isinstance(found, Keys), found
        return found.advert

    def shares(self, name: str, adverts: Sequence[Advert]) -> dict[str, bytes] | str:
        found = self.ask(name, AskShares(self.ticket, SmallLearner.schema, tuple(adverts)))
        return found.sealed if isinstance(found, Shares) else str(found)

    def mask(self, name: str, sealed: Mapping[str, bytes]) -> Masked | str:
        request = Request(self.ticket, SmallLearner.schema, SmallLearner().start())
        found = self.ask(name, AskMasked(request, dict(sealed)))
        return found if isinstance(found, Masked) else str(found)

    def confirm(self, name: str, survivors: Sequence[str]) -> bytes | str:
        found = self.ask(name, AskConfirmation(self.ticket, SmallLearner.schema, tuple(survivors)))
        return found.signature if isinstance(found, Confirmation) else str(found)

    def unmask(self, name: str, confirmations: Mapping[str, bytes]) -> Opening | str:
        found = self.ask(name, AskOpening(self.ticket, SmallLearner.schema, dict(confirmations)))
        return found if isinstance(found, Opening) else str(found)

    def up_to_shares(self) -> dict[str, dict[str, bytes]]:
        """What every hospital sealed, by recipient, where nobody lied so far."""
        adverts = [self.keys(name) for name in self.names]
        shares = {name: self.shares(name, adverts) for name in self.names}
        return {name: sealed for name, sealed in shares.items() if not isinstance(sealed, str)}

    def up_to_masked(self) -> None:
        """Every hospital has sent its masked vector."""
        shares = self.up_to_shares()
        for name in self.names:
            masked = self.mask(name, {sender: sealed[name] for sender, sealed in shares.items() if sender != name})
            assert isinstance(masked, Masked), masked
