"""How does a hospital take part in a masked sum? It keeps its keys in memory, and what it has opened on its disk.

The rules of the five steps are ``Party``'s (bioface_core/secure). Here they are tied to tickets: one session at a time
in each phase, none that was begun before, and no second sum of the same answers with other hospitals in it. The keys of
a session are nowhere but in this process: with the process the session is gone, and the hospital is a drop-out of that
sum. Its answer is not gone: under the next attempt it is masked again, with new keys.

Legend: n values of the vector, m integers of a masked vector.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bioface_core.config import Study
from bioface_core.errors import SecureError
from bioface_core.messages import Code, Phase, Request, Ticket, demand
from bioface_core.secret import SecretRandom
from bioface_core.secure import Advert, Party, Revealed, Sealed, Session, Words, threshold_of
from bioface_core.steps import (
    Answer,
    AskConfirmation,
    Asked,
    AskKeys,
    AskMasked,
    AskShares,
    Confirmation,
    Keys,
    Masked,
    Opening,
    Shares,
)
from client.memory import Memory


@dataclass
class _Open:
    """A session under way.

    Attributes:
        session: this one.
        party: the hospital's side.
        parts: names what the hospitals put into the sum; empty before.
        survivors: in the roster's order, those that this hospital signed; empty before.
    """

    session: Session
    party: Party
    parts: str = ""
    survivors: tuple[str, ...] = ()


class Masking:
    """A hospital's side of the masked sums of one study.

    Args:
        study: the hospital's own copy; its roster says who the others are.
        hospital: its name there.
        identity: its own.
        memory: of what it opened; None forgets it with the process, for a simulation.
        fewest_survivors: hospitals that a sum must be of before this one helps to open it.
    """

    def __init__(
        self,
        study: Study,
        hospital: str,
        identity: Ed25519PrivateKey,
        memory: Memory | None = None,
        fewest_survivors: int = 0,
    ) -> None:
        self._roster = {member.name: member.identity_key for member in study.roster}
        self._threshold = threshold_of(study.secure.threshold, len(study.roster))
        self._hospital, self._identity, self._memory = hospital, identity, memory
        self._fewest_survivors = fewest_survivors
        self._fresh_in_each_run = study.privacy.unit == "patient"
        self._open: dict[Phase, _Open] = {}

    def answer(self, asked: Asked, integers: Callable[[Request], Words]) -> Answer:
        """One step of a sum.

        Args:
            asked: of this study, and admitted.
            integers: gives the plain reply to a request, as integers.

        Raises:
            SecureError: not played by the rules; the session is over.
            WireError: there is no plain reply, or the policy does not let it into such a sum.
        """
        ticket, name = asked.ticket, self._hospital
        if isinstance(asked, AskKeys):
            return Keys(ticket, name, self._begin(ticket))
        if isinstance(asked, AskShares):
            return Shares(ticket, name, self._share(ticket, asked.adverts))
        if isinstance(asked, AskMasked):
            return Masked(ticket, name, self._mask(asked, integers))
        if isinstance(asked, AskConfirmation):
            return Confirmation(ticket, name, self._confirm(ticket, asked.survivors))
        return Opening(ticket, name, self._reveal(ticket, asked.confirmations))

    def rounding(self, request: Request) -> SecretRandom:
        """What rounds the answer to a request: nobody else can tell it, and the same question is rounded the same.

        So a sum that is made again after a crash is the same bit for bit.
        """
        question = f"rounding\0{request.ticket.study_id}\0{request.ticket.round}\0".encode()
        key = hmac.new(self._identity.private_bytes_raw(), question, hashlib.sha256)
        key.update(request.vector.numpy().data)
        return SecretRandom(key.digest())

    def _begin(self, ticket: Ticket) -> Advert:
        """New keys; those of the phase's last session are forgotten."""
        session = self._session(ticket)
        known = self._open.get(ticket.phase)
        if known is not None and known.session == session:
            raise SecureError("this sum was begun before")
        if self._memory is not None:
            self._memory.begin(ticket)
        self._open[ticket.phase] = _Open(session, Party(session, self._hospital, self._identity, self._roster))
        return self._open[ticket.phase].party.advert()

    def _share(self, ticket: Ticket, adverts: Sequence[Advert]) -> dict[str, bytes]:
        """Ciphertexts by recipient."""
        return {sealed.recipient: sealed.ciphertext for sealed in self._known(ticket).party.share(adverts)}

    def _mask(self, asked: AskMasked, integers: Callable[[Request], Words]) -> Words:
        """The masked vector; nothing is computed, nor taken note of, for a session in which this is not the next step.

        Else a second question, which is refused, would leave its own name on the answer to the first.
        """
        known = self._known(asked.ticket)
        known.party.expect("mask")
        known.parts = self._parts(asked.request)
        sealed = [Sealed(sender, self._hospital, ciphertext) for sender, ciphertext in asked.sealed.items()]
        return known.party.mask(integers(asked.request), sealed, asked.request.vector_sha256)

    def _parts(self, request: Request) -> str:
        """A name for what is put into a sum, the same wherever the parts are.

        Counts follow from the model and the hospital alone, in whatever round and run it is asked. Updates follow from
        the round as well, and private ones have fresh noise in every run.
        """
        ticket = request.ticket
        trains = ticket.phase is Phase.TRAIN
        round_, run = str(ticket.round) if trains else "", ticket.run_id if trains and self._fresh_in_each_run else ""
        place = (ticket.study_id, ticket.phase.value, round_, run, request.vector_sha256)
        return hashlib.sha256("\0".join(place).encode()).hexdigest()

    def _confirm(self, ticket: Ticket, survivors: Sequence[str]) -> bytes:
        """The signature over the survivors, if this hospital may help to open their sum."""
        known = self._known(ticket)
        ordered = known.session.ordered(survivors, "survivors")
        self._check_enough(ordered)
        if self._memory is not None:
            self._memory.check_opened(known.parts, ordered)
        signature = known.party.confirm(ordered)
        known.survivors = ordered  # not before: a second list is refused, and must not take the place of the first
        return signature

    def _reveal(self, ticket: Ticket, confirmations: Mapping[str, bytes]) -> Revealed:
        """The pieces that open the sum, once it is on the disk which sum that is."""
        known = self._known(ticket)
        revealed = known.party.reveal(confirmations)
        self._check_enough(known.survivors)
        if self._memory is not None:
            self._memory.note_opened(known.parts, known.survivors)
        return revealed

    def _check_enough(self, survivors: Sequence[str]) -> None:
        """Holds a sum against the policy."""
        enough = len(survivors) >= self._fewest_survivors
        demand(enough, Code.POLICY, f"{len(survivors)} in the sum, the policy demands {self._fewest_survivors}")

    def _known(self, ticket: Ticket) -> _Open:
        """The session of a ticket.

        Raises:
            SecureError: it was not begun by this process, or another was begun since.
        """
        known = self._open.get(ticket.phase)
        if known is None or known.session != self._session(ticket):
            raise SecureError("no such sum was begun since this process was started")
        return known

    def _session(self, ticket: Ticket) -> Session:
        place = (ticket.study_id, ticket.run_id, ticket.round, ticket.attempt, ticket.phase.value)
        return Session(*place, tuple(self._roster), self._threshold)
