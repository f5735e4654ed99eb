"""What do server and hospital say to each other? A request with the shared vector; an update, or counts, in reply.

How they look as bytes is said in ``bioface_core/wire.py``. Whatever is not exactly as agreed raises ``WireError`` with
one of the words of ``Code``, and such a word is all that ever leaves a hospital that cannot answer.

Legend: n values of the vector, K syndromes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Protocol

from torch import Tensor

from bioface_core.config import Study
from bioface_core.errors import WireError
from bioface_core.evaluate import Counts
from bioface_core.precision import Bits, Coded

WEIGHT_BOUND = 2**20  # patients; the server's sum cannot overflow below it
COUNT_BOUND = 2**31  # patients in one cell; sums over classes and hospitals stay far inside int64


class Code(StrEnum):
    """Why a message was refused, or why a hospital is missing from a round: the whole list."""

    MALFORMED = "malformed"  # keys or types that were not agreed
    VERSION = "other-version"
    STUDY = "other-study"
    SCHEMA = "other-schema"
    ROUND = "no-such-round"
    STALE = "stale"  # of another run, round, attempt or phase
    NAME = "wrong-name"
    DTYPE = "wrong-dtype"
    LENGTH = "wrong-length"
    NOT_FINITE = "not-finite"
    NORM = "norm-above-bound"
    WEIGHT = "wrong-weight"
    COUNTS = "wrong-counts"
    BUNDLE = "other-bundle"  # the lab runs other code than was approved
    NOT_APPROVED = "not-approved"  # nobody at the hospital approved this study
    POLICY = "policy"  # the hospital's own rules forbid it; which one is in its log
    BUDGET = "budget"  # its patients have no privacy left to give; the figures are in its ledger
    SECURE = "secure"  # secure aggregation was not played by its rules; which one is in the hospital's log
    REPLAYED = "replayed"  # a question that was asked before
    FAILED = "failed"  # the hospital's own mistake; what it was stays in its log
    LOST = "lost"  # the transport could not deliver, or lost the hospital
    LATE = "no-answer"  # not before the deadline
    ABSENT = "absent"  # not connected when the round began


class Phase(StrEnum):
    """What is asked for; also the type of the transport's message."""

    TRAIN = "train"
    EVALUATE = "evaluate"


@dataclass(frozen=True)
class Ticket:
    """Which question a message belongs to. An answer repeats it, so that late and foreign ones are recognised.

    Attributes:
        study_id: 64 hexadecimal digits.
        run_id: names the run of the server.
        round: 0 for the model before training.
        attempt: 1 for the first; a server that was restarted asks again under the next number.
        phase: train or evaluate.
        ask: 1 for the first; a hospital whose node was restarted is asked again under the next number. A hospital
            answers no ticket twice.
    """

    study_id: str
    run_id: str
    round: int
    attempt: int
    phase: Phase
    ask: int = 1


@dataclass(frozen=True)
class Request:
    """What the server sends.

    Attributes:
        ticket: which question it is.
        schema: hash of the vector's layout.
        vector: float32 CPU (n,), the shared model, as its receiver reads it.
        coded: the same as it travels; None where it does so as float32.
    """

    ticket: Ticket
    schema: str
    vector: Tensor
    coded: Coded | None = None

    @cached_property
    def vector_sha256(self) -> str:
        """Names the shared model, the same on every machine, 64 hexadecimal digits."""
        return hashlib.sha256(self.vector.detach().numpy().astype("<f4", copy=False).data).hexdigest()


@dataclass(frozen=True)
class Update:
    """What a hospital sends after training.

    Attributes:
        ticket: the request's.
        hospital: its name in the roster.
        schema: hash of the vector's layout.
        delta: float32 CPU (n,), trained minus received, as its receiver reads it.
        weight: of its network, 0 to ``WEIGHT_BOUND``.
        class_weights_K: int64, of its prototypes, each 0 to ``weight``; 0 where it has no patients of the class.
        loss: mean over its steps.
        coded: ``delta`` as it travels; None where it does so as float32.
    """

    ticket: Ticket
    hospital: str
    schema: str
    delta: Tensor
    weight: int
    class_weights_K: Tensor
    loss: float
    coded: Coded | None = None


@dataclass(frozen=True)
class Evaluation:
    """What a hospital sends after evaluating: counts of its held-out patients."""

    ticket: Ticket
    hospital: str
    counts: Counts


Reply = Update | Evaluation


class Shape(Protocol):
    """What both sides must agree on about the model."""

    @property
    def size(self) -> int:
        """The length n of the vector."""

    @property
    def schema(self) -> str:
        """Hash of the vector's layout."""

    @property
    def classes(self) -> int:
        """The number K of syndromes."""


@dataclass(frozen=True)
class Contract:
    """What a reader knows before a message comes, each side from its own copy of the study.

    Attributes:
        study_id: 64 hexadecimal digits.
        schema: hash of the vector's layout.
        size: n.
        classes: K.
        rounds: the last round's number.
        norm_bound: largest accepted Euclidean norm of an update.
        largest_weight: of an update; 1 where all hospitals count the same.
        update_bits: of a value of an update.
        model_bits: of a value of the shared model.
    """

    study_id: str
    schema: str
    size: int
    classes: int
    rounds: int
    norm_bound: float
    largest_weight: int = WEIGHT_BOUND
    update_bits: Bits = 32
    model_bits: Bits = 32

    @staticmethod
    def of(study: Study, model: Shape) -> Contract:
        """The contract that follows from a study and its model."""
        federation, shape = study.federation, (model.schema, model.size, model.classes)
        largest = 1 if federation.weighting == "equal" else WEIGHT_BOUND
        bits = federation.update_bits, federation.model_bits
        return Contract(study.study_id, *shape, federation.rounds, study.update_bound, largest, *bits)

    def check(self, ticket: Ticket, schema: str) -> None:
        """Refuses a request that is not of this study.

        Raises:
            WireError: another study, another layout, or a round the study has not.
        """
        first = 1 if ticket.phase is Phase.TRAIN else 0
        demand(ticket.study_id == self.study_id, Code.STUDY, ticket.study_id[:12])
        demand(schema == self.schema, Code.SCHEMA, schema[:12])
        demand(
            first <= ticket.round <= self.rounds and ticket.attempt >= 1 and ticket.ask >= 1,
            Code.ROUND,
            str(ticket.round),
        )


def demand(agreed: bool, code: Code, detail: str = "") -> None:
    """Refuses a message unless ``agreed``.

    Raises:
        WireError: with the code, which may travel, and the detail, which may not.
    """
    if not agreed:
        raise WireError(code, detail)
