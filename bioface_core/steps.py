"""What is said in a masked sum? Five questions and five answers in place of one, so that no answer can be read alone.

    step     the server sends                        the hospital answers
    keys     that a sum begins                       two public keys, signed
    shares   everybody's keys                        pieces of its secrets, sealed for each of the others
    mask     the shared vector, the pieces for it    its update, or its counts, masked
    confirm  whose masked vectors have come          a signature over that list
    unmask   the signatures                          the pieces that open the sum

The type of the transport's message is the phase, with the step behind a dot unless the step is ``mask``:
``train.keys``, ``train.shares``, ``train``, ``train.confirm``, ``train.unmask``. How these messages look as bytes is
said in ``bioface_core/steps_wire.py``, what happens with them in ``bioface_core/secure``.

Legend: n values of the vector, m integers of a masked vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bioface_core.messages import Phase, Request, Ticket
from bioface_core.secure import Advert, Revealed, Words


class Step(StrEnum):
    """A question of a masked sum, in the order in which they are asked."""

    KEYS = "keys"
    SHARES = "shares"
    MASK = "mask"
    CONFIRM = "confirm"
    UNMASK = "unmask"


def message_type(phase: Phase, step: Step) -> str:
    """How the transport, and the journal, call a step."""
    return phase.value if step is Step.MASK else f"{phase.value}.{step.value}"


MESSAGE_TYPES = {message_type(phase, step): (phase, step) for phase in Phase for step in Step}


@dataclass(frozen=True)
class AskKeys:
    """A sum begins.

    Attributes:
        ticket: which question it is; all five steps have the same, but for ``ask``.
        schema: hash of the vector's layout.
    """

    ticket: Ticket
    schema: str


@dataclass(frozen=True)
class AskShares:
    """These hospitals take part.

    Attributes:
        ticket: which question it is.
        schema: hash of the vector's layout.
        adverts: their keys, the asked hospital's among them.
    """

    ticket: Ticket
    schema: str
    adverts: tuple[Advert, ...]


@dataclass(frozen=True)
class AskMasked:
    """The question itself.

    Attributes:
        request: as it is asked where nothing is masked.
        sealed: ciphertexts for the asked hospital, by sender.
    """

    request: Request
    sealed: dict[str, bytes]

    @property
    def ticket(self) -> Ticket:
        """Which question it is."""
        return self.request.ticket

    @property
    def schema(self) -> str:
        """Hash of the vector's layout."""
        return self.request.schema


@dataclass(frozen=True)
class AskConfirmation:
    """These masked vectors have come.

    Attributes:
        ticket: which question it is.
        schema: hash of the vector's layout.
        survivors: the hospitals whose they are.
    """

    ticket: Ticket
    schema: str
    survivors: tuple[str, ...]


@dataclass(frozen=True)
class AskOpening:
    """So many have signed the list of survivors.

    Attributes:
        ticket: which question it is.
        schema: hash of the vector's layout.
        confirmations: signatures by hospital.
    """

    ticket: Ticket
    schema: str
    confirmations: dict[str, bytes]


@dataclass(frozen=True)
class Keys:
    """Answers ``AskKeys``."""

    ticket: Ticket
    hospital: str
    advert: Advert


@dataclass(frozen=True)
class Shares:
    """Answers ``AskShares``.

    Attributes:
        ticket: the question's.
        hospital: its name in the roster.
        sealed: ciphertexts by recipient.
    """

    ticket: Ticket
    hospital: str
    sealed: dict[str, bytes]


@dataclass(frozen=True)
class Masked:
    """Answers ``AskMasked``.

    Attributes:
        ticket: the question's.
        hospital: its name in the roster.
        values_m: uint32 or uint16, uniform to whoever lacks the keys.
    """

    ticket: Ticket
    hospital: str
    values_m: Words


@dataclass(frozen=True)
class Confirmation:
    """Answers ``AskConfirmation``."""

    ticket: Ticket
    hospital: str
    signature: bytes


@dataclass(frozen=True)
class Opening:
    """Answers ``AskOpening``."""

    ticket: Ticket
    hospital: str
    revealed: Revealed


Asked = AskKeys | AskShares | AskMasked | AskConfirmation | AskOpening
Answer = Keys | Shares | Masked | Confirmation | Opening
