"""What does a hospital answer? The trust boundary: a request comes in, an update or counts go out, nothing else.

Every parameter comes from the hospital's own copy of the study; a message brings the shared vector and says which
round it is. Photos, labels and patients are used here and referred to by nothing that leaves. The gate decides what is
let in and what is let out; the memory answers what was asked before.

Legend: n values of the vector, K syndromes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from bioface_core.accounting import Charge, Plan, plan_of, rounded_up
from bioface_core.config import Study
from bioface_core.errors import SecureError, WireError
from bioface_core.evaluate import Counts
from bioface_core.learner import LocalResult
from bioface_core.messages import (
    WEIGHT_BOUND,
    Code,
    Contract,
    Evaluation,
    Phase,
    Reply,
    Request,
    Ticket,
    Update,
    demand,
)
from bioface_core.photos import PhotoSet
from bioface_core.precision import Coded, as_float16, as_int8
from bioface_core.sections import Federation
from bioface_core.secure import Words
from bioface_core.steps import Answer, Asked
from bioface_core.summand import Embedding, Summand
from bioface_core.wire import norm
from client.gate import Gate, open_gate
from client.masking import Masking
from client.memory import Memory
from client.residuals import Residuals

_INSIDE = 1 - 2**-20  # rounding in float32 must not carry a clipped update over the bound


class LocalLearner(Embedding, Protocol):
    """What a site needs of the learner."""

    def train(
        self, vector: Tensor, photos: PhotoSet, round_: int, stream: str, plan: Plan | None = None
    ) -> LocalResult:
        """Trains for one round, with a plan so that no patient is betrayed."""

    def evaluate(self, vector: Tensor, photos: PhotoSet) -> Counts:
        """Counts on held-out photos."""


class Site:
    """One hospital: its photos, its copy of the study, its model, its rules and its memory.

    Args:
        name: in the roster; seeds the hospital's randomness.
        study: the hospital's own copy.
        learner: the resident model, built from that copy.
        train: photos to learn from, in the host's memory; the learner takes them to its device if they fit there.
        heldout: photos of patients who are never trained on, likewise.
        gate: the hospital's; None lets everything through, for a simulation, whose hospitals are invented.
        memory: of the answers given; None forgets them, for the same.
        charge: puts what a private round costs on the hospital's books, or raises; called before anything is drawn.
            None keeps no books, for the same.
        masking: its side of the masked sums, where the study has them.
        residuals: what rounding left behind, where the study has updates travel in fewer than 32 bits.
    """

    def __init__(
        self,
        name: str,
        study: Study,
        learner: LocalLearner,
        train: PhotoSet,
        heldout: PhotoSet,
        gate: Gate | None = None,
        memory: Memory | None = None,
        charge: Callable[[Ticket, Charge], None] | None = None,
        masking: Masking | None = None,
        residuals: Residuals | None = None,
    ) -> None:
        self.name = name
        self.contract = Contract.of(study, learner)
        self._study, self._learner, self._memory, self._charge = study, learner, memory, charge
        if gate is not None and charge is None and study.privacy.unit == "patient":
            raise ValueError("a hospital with a policy keeps books of privacy: give the site its charge")
        if residuals is None and self.contract.update_bits < 32:
            raise ValueError("updates of few bits leave something behind: give the site its residuals")
        self._residuals = None if self.contract.update_bits == 32 else residuals
        self._gate = gate or open_gate(study)
        private = study.privacy.unit == "patient"
        self._train, self._heldout = self._gate.select(train, heldout, learner.classes, private)
        self._patients = self._train.patients()
        self._weight = patient_weight(self._patients, study.federation)
        self._class_weights_K = self._weight * self._shown_classes_K()
        self._plan = self._private_plan()
        self._masking = masking

    @property
    def masks(self) -> bool:
        """Whether it answers in the steps of a masked sum, and in no other way."""
        return self._study.secure.enabled

    def answer(self, request: Request) -> Reply:
        """Trains or evaluates, whichever is asked, or gives the answer that was given before.

        Args:
            request: well-formed, but not yet trusted.

        Raises:
            WireError: another study, layout or round; not approved, or against the policy; a ticket that was answered
                before; or training left the finite numbers.
        """
        demand(not self.masks, Code.SECURE, "what leaves must be masked")
        self.contract.check(request.ticket, request.schema)
        self._gate.admit(request, self._study, self._patients)
        return self._plain(request)

    def answer_step(self, asked: Asked) -> Answer:
        """Takes a step in a masked sum.

        Args:
            asked: well-formed, but not yet trusted.

        Raises:
            WireError: as of ``answer``; or the step is not played by the rules, and the sum is over for this hospital.
        """
        self.contract.check(asked.ticket, asked.schema)
        self._gate.admit(asked, self._study, self._patients)
        if self._masking is None or not self.masks:
            raise SecureError("the study masks nothing")
        return self._masking.answer(asked, partial(self._integers, self._masking))

    def _integers(self, masking: Masking, request: Request) -> Words:
        """The plain answer, as it is put into a masked sum."""
        summand, reply = Summand.of(self._study, self._learner), self._plain(request)
        integers = summand.encode(reply, masking.rounding(request))
        if self._residuals is not None and isinstance(reply, Update):
            self._residuals.keep(request.ticket, summand.left_behind(reply, integers))
        return integers

    def _plain(self, request: Request) -> Reply:
        """The answer to a request that was admitted, as it may leave, or for a masked sum enter into that."""
        if self._memory is None:
            return self._released(request)
        reply = self._memory.once(request, lambda: self._released(request))
        return self._gate.release(reply, self._study)  # an old answer may be older than the policy

    def _released(self, request: Request) -> Reply:
        """A new answer, as it may leave."""
        reply = self._update(request) if request.ticket.phase is Phase.TRAIN else self._evaluation(request)
        return self._gate.release(reply, self._study)

    def _evaluation(self, request: Request) -> Evaluation:
        return Evaluation(request.ticket, self.name, self._learner.evaluate(request.vector, self._heldout))

    def _update(self, request: Request) -> Update:
        if self._plan is not None and self._charge is not None:
            self._charge(request.ticket, self._plan.round_charge)
        result = self._learner.train(request.vector, self._train, request.ticket.round, self.name, self._plan)
        delta, schema = self._clipped(request, result.delta), self.contract.schema
        update = Update(request.ticket, self.name, schema, delta, self._weight, self._class_weights_K, result.loss)
        return self._coded(request, update)

    def _clipped(self, request: Request, change: Tensor) -> Tensor:
        """What training gave and earlier rounds left behind, as long as it may be; what is cut off is lost for good."""
        left = None if self._residuals is None else self._residuals.before(request.ticket)
        return clip(change if left is None else change + left, self.contract.norm_bound)

    def _coded(self, request: Request, update: Update) -> Update:
        """The update as it travels in few bits; one for a masked sum is rounded when it is put into that."""
        if self._residuals is None or self.masks:
            return update
        small = self.contract.update_bits == 8
        coded = as_int8(update.delta, self._gate.chance(request, self.name)) if small else as_float16(update.delta)
        coded = within(coded, self.contract.norm_bound)
        self._residuals.keep(request.ticket, update.delta - coded.vector)
        return replace(update, delta=coded.vector, coded=coded)

    def _shown_classes_K(self) -> Tensor:
        """Which syndromes count as present, int64: under privacy all, for it takes one patient to be there."""
        if self._study.privacy.unit != "none":
            return torch.ones(self._learner.classes, dtype=torch.int64)
        return (torch.bincount(self._train.labels_N, minlength=self._learner.classes).cpu() > 0).long()

    def _private_plan(self) -> Plan | None:
        if self._study.privacy.unit != "patient":
            return None
        return plan_of(self._study, rounded_up(self._patients, self._study.federation.weight_step))


def patient_weight(patients: int, federation: Federation) -> int:
    """How much a hospital counts in the average, so coarse that no exact number of patients leaves.

    Args:
        patients: training patients.
        federation: ``equal`` gives 1 to whoever has patients; ``patients`` rounds up to a multiple of ``weight_step``.
    """
    if federation.weighting == "equal":
        return min(1, patients)
    return min(WEIGHT_BOUND, rounded_up(patients, federation.weight_step))


def clip(delta: Tensor, bound: float) -> Tensor:
    """``delta`` (float32, (n,)), shortened if it is longer than ``bound``.

    Raises:
        WireError: a value is not finite.
    """
    length = norm(delta)
    if not math.isfinite(length):
        raise WireError(Code.NOT_FINITE, "training diverged")
    return delta if length <= bound else delta * (bound / length * _INSIDE)


def within(coded: Coded, bound: float) -> Coded:
    """``coded``, whose scales are made smaller where rounding has carried what the server reads over ``bound``."""
    length = norm(coded.vector)
    return coded if length <= bound else coded.shortened(bound / length * _INSIDE)
