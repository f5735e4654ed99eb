"""How does the server come by a masked sum? Five questions to the hospitals that are still in it, within one deadline.

    keys      who takes part; nobody else may answer from here on
    shares    everybody gets everybody's keys, and seals pieces of its secrets for the others
    mask      everybody gets the pieces for it, works, and answers with a masked vector: the survivors
    confirm   every survivor signs who they are
    unmask    every survivor gets the signatures, and opens what stands between the server and the sum

Whoever does not answer a step is out of the rest. A survivor's vector stays in the sum even if the hospital is gone
afterwards, as long as the threshold of the others is there. The list of survivors is in the journal before the first of
them is asked to open anything, and binds every later attempt at the same round: hospitals help to open one list only.

Legend: m integers of a masked vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from flwr.app import ArrayRecord, RecordDict

from bioface_core.config import Study
from bioface_core.errors import RoundError, SecureError
from bioface_core.messages import Contract, Request, Ticket
from bioface_core.secure import Advert, Session, Words, check_advert, check_confirmation, threshold_of
from bioface_core.secure.session import require
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
from bioface_core.summand import Embedding, Summand, Vector
from bioface_core.wire import array_records
from server.collect import Collected, Exchange, Question
from server.journal import Survived
from server.secure import unmask

# When a step is over at the latest, as a share of the deadline: most of it is for the work between shares and masks.
_ENDS = {Step.KEYS: 0.1, Step.SHARES: 0.2, Step.MASK: 0.8, Step.CONFIRM: 0.9, Step.UNMASK: 1.0}
_SUMMED = (Step.KEYS, Step.SHARES, Step.MASK)  # whoever is missing in one of these is missing in the sum

A = TypeVar("A", bound=Answer)


@dataclass(frozen=True)
class Summed:
    """A sum without its masks.

    Attributes:
        total_m: uint32 or uint16 (m,).
        survivors: whose vectors are in it, in the roster's order.
    """

    total_m: Words
    survivors: tuple[str, ...]


@dataclass(frozen=True)
class Circle:
    """Who may be in a sum, and how many must.

    Attributes:
        roster: identity keys by name.
        threshold: so many must stay to the end.
        quorum: so many vectors must be in the sum.
    """

    roster: Mapping[str, str]
    threshold: int
    quorum: int

    @staticmethod
    def of(study: Study, quorum: int) -> Circle:
        """What follows from a study."""
        roster = {member.name: member.identity_key for member in study.roster}
        return Circle(roster, threshold_of(study.secure.threshold, len(roster)), quorum)

    def session(self, ticket: Ticket) -> Session:
        """The session of a question."""
        place = (ticket.study_id, ticket.run_id, ticket.round, ticket.attempt, ticket.phase.value)
        return Session(*place, tuple(self.roster), self.threshold)


class MaskedExchange:
    """The server's end of the wire, where everything is masked.

    Args:
        exchange: with every engine.
        study: says who is in the sums.
        model: says how long they are.
        quorum: so many hospitals' vectors must be in a sum.
    """

    def __init__(self, exchange: Exchange, study: Study, model: Embedding, quorum: int) -> None:
        self._exchange, self._circle = exchange, Circle.of(study, quorum)
        self._contract, self.summand = Contract.of(study, model), Summand.of(study, model)

    def sum(
        self,
        request: Request,
        nodes: list[int],
        deadline_s: float,
        opened: tuple[str, ...],
        note: Callable[[Collected], None],
    ) -> Summed:
        """Asks, and adds up.

        Args:
            request: as it is asked where nothing is masked.
            nodes: whom to ask.
            deadline_s: for all five steps together.
            opened: the survivors of an earlier attempt that may have been opened; none if there was none.
            note: is told what came of each step.

        Raises:
            RoundError: too few hospitals, or not those that were opened before, or a sum that cannot be opened.
        """
        masked, began = self.summand.vector(request.ticket.phase), self._exchange.clock.now()
        until = {step: began + share * deadline_s for step, share in _ENDS.items()}
        sides = self._exchange, self._contract, self._circle
        try:
            return _Course(*sides, request, nodes, until, opened, note, masked).run()
        except SecureError as error:
            raise RoundError(f"the masked sum cannot be opened ({error})") from error


@dataclass
class _Course:
    """One sum on its way.

    Attributes:
        exchange: with every engine.
        contract: what a good answer looks like.
        circle: who may take part.
        request: as it is asked where nothing is masked.
        nodes: who is still in it.
        until: when each step is over.
        opened: whom the sum must be of; anybody, if it is empty.
        note: is told what came of each step.
        masked: what the hospitals send in place of a vector.
    """

    exchange: Exchange
    contract: Contract
    circle: Circle
    request: Request
    nodes: list[int]
    until: Mapping[Step, float]
    opened: tuple[str, ...]
    note: Callable[[Collected], None]
    masked: Vector

    def __post_init__(self) -> None:
        self.ticket, self.session = self.request.ticket, self.circle.session(self.request.ticket)

    def run(self) -> Summed:
        """The five steps."""
        adverts = self._keys()
        shares = self._shares(adverts)
        masked_m = self._mask(shares)
        sharers, survivors = self.session.ordered(shares, "sharers"), self.session.ordered(self._names(), "survivors")
        confirmations = self._confirm(sharers, survivors)
        place = self.ticket.round, self.ticket.attempt, self.ticket.phase.value
        self.exchange.record(Survived(*place, survivors))
        openings = self._unmask(sharers, survivors, confirmations)
        revealed = {name: opening.revealed for name, opening in openings.items()}
        model = self.request.vector_sha256
        return Summed(unmask(self.session, adverts, sharers, masked_m, survivors, revealed, model), survivors)

    def _keys(self) -> tuple[Advert, ...]:
        """The adverts of those who take part."""

        def check(keys: Keys) -> None:
            check_advert(self.session, self.circle.roster, keys.advert)

        answers = self._gather(Keys, Step.KEYS, lambda _, ticket: AskKeys(ticket, self.request.schema), check)
        return tuple(answers[name].advert for name in self._names())

    def _shares(self, adverts: tuple[Advert, ...]) -> dict[str, Shares]:
        """Everybody's sealed pieces, by sender."""
        everybody = {advert.hospital for advert in adverts}

        def check(shares: Shares) -> None:
            require(shares.sealed.keys() == everybody - {shares.hospital}, "shares are not for the others")

        answers = self._gather(
            Shares, Step.SHARES, lambda _, ticket: AskShares(ticket, self.request.schema, adverts), check
        )
        return {name: answers[name] for name in self._names()}

    def _mask(self, shares: dict[str, Shares]) -> Words:
        """The sum of the masked vectors, (m,)."""
        total_m: Words = np.zeros(self.masked.length, self.masked.dtype)
        [vector] = array_records(pack_asked(AskMasked(self.request, {})))

        def asked(node: int, ticket: Ticket) -> AskMasked:
            name = self.exchange.roster.name(node)
            sealed = {sender: sent.sealed[name] for sender, sent in shares.items() if sender != name}
            return AskMasked(replace(self.request, ticket=ticket), sealed)

        def add(masked: Masked) -> None:
            np.add(total_m, masked.values_m, out=total_m)

        self._ask(Masked, Step.MASK, asked, lambda masked: None, add, vector)
        return total_m

    def _confirm(self, sharers: tuple[str, ...], survivors: tuple[str, ...]) -> dict[str, bytes]:
        """The signatures over the survivors, by hospital."""

        def check(confirmation: Confirmation) -> None:
            who = confirmation.hospital, confirmation.signature
            check_confirmation(self.session, self.circle.roster, *who, sharers, survivors)

        answers = self._gather(
            Confirmation, Step.CONFIRM, lambda _, ticket: AskConfirmation(ticket, self.request.schema, survivors), check
        )
        return {name: answer.signature for name, answer in answers.items()}

    def _unmask(
        self, sharers: tuple[str, ...], survivors: tuple[str, ...], confirmations: dict[str, bytes]
    ) -> dict[str, Opening]:
        """What was revealed, by hospital."""
        dropped = set(sharers) - set(survivors)

        def check(opening: Opening) -> None:
            seeds, keys = opening.revealed.self_seeds.keys(), opening.revealed.mask_keys.keys()
            require(seeds == set(survivors) and keys == dropped, "other secrets than were asked for")

        def asked(_: int, ticket: Ticket) -> AskOpening:
            return AskOpening(ticket, self.request.schema, confirmations)

        return self._gather(Opening, Step.UNMASK, asked, check)

    def _gather(
        self, kind: type[A], step: Step, asked: Callable[[int, Ticket], Asked], check: Callable[[A], None]
    ) -> dict[str, A]:
        """The good answers to a step, by hospital."""
        answers: dict[str, A] = {}

        def keep(answer: A) -> None:
            answers[answer.hospital] = answer

        self._ask(kind, step, asked, check, keep)
        return answers

    def _ask(
        self,
        kind: type[A],
        step: Step,
        asked: Callable[[int, Ticket], Asked],
        check: Callable[[A], None],
        accept: Callable[[A], None],
        vector: ArrayRecord | None = None,
    ) -> None:
        """One step; whoever does not answer it well is out."""

        def pack(node: int, ticket: Ticket) -> RecordDict:
            return pack_asked(asked(node, ticket), vector)

        def read(record: RecordDict, ticket: Ticket) -> A:
            answer = unpack_answer(record, self.contract, ticket, step, self.masked)
            assert isinstance(answer, kind)
            check(answer)
            return answer

        question = Question(message_type(self.ticket.phase, step), self.ticket, pack, read)
        left_s = max(0.0, self.until[step] - self.exchange.clock.now())
        collected: Collected = self.exchange.ask(question, self.nodes, left_s, accept)
        self.note(collected)
        stay = {*collected.answered} & {*(self.opened or collected.answered)}
        self.nodes = [node for node in self.nodes if self.exchange.roster.name(node) in stay]
        self._check_enough(step)

    def _check_enough(self, step: Step) -> None:
        """Whether the sum can still be made.

        Raises:
            RoundError: it cannot.
        """
        names, in_sum = self._names(), step in _SUMMED
        missing = [name for name in self.opened if name not in names]
        if in_sum and missing:
            raise RoundError(
                f"the sum of {', '.join(self.opened)} may have been opened before, and that of others would give one "
                f"hospital's part away; {', '.join(missing)} did not answer: wait until it is back"
            )
        least = max(self.circle.threshold, self.circle.quorum if in_sum else 0)
        if len(names) < least:
            kind, whole = message_type(self.ticket.phase, step), len(self.circle.roster)
            raise RoundError(f"{len(names)} of {whole} hospitals answered {kind}, expected at least {least}")

    def _names(self) -> list[str]:
        """Who is still in it."""
        return [self.exchange.roster.name(node) for node in self.nodes]
