"""What does a hospital answer? The trust boundary: a request comes in, an update or counts go out, nothing else.

Every parameter comes from the hospital's own copy of the study; a message brings the shared vector and says which
round it is. Photos, labels and patients are used here and referred to by nothing that leaves.

Legend: n values of the vector, K syndromes.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from bioface_core.config import Study
from bioface_core.errors import WireError
from bioface_core.evaluate import Counts
from bioface_core.learner import LocalResult
from bioface_core.messages import WEIGHT_BOUND, Code, Contract, Evaluation, Phase, Reply, Request, Shape, Update
from bioface_core.photos import PhotoSet
from bioface_core.sections import Federation
from bioface_core.wire import norm

_INSIDE = 1 - 2**-20  # rounding in float32 must not carry a clipped update over the bound


class LocalLearner(Shape, Protocol):
    """What a site needs of the learner."""

    def train(self, vector: Tensor, photos: PhotoSet, round_: int, stream: str) -> LocalResult:
        """Trains for one round."""

    def evaluate(self, vector: Tensor, photos: PhotoSet) -> Counts:
        """Counts on held-out photos."""


class Site:
    """One hospital: its photos, its copy of the study, its model.

    Args:
        name: in the roster; seeds the hospital's randomness.
        study: the hospital's own copy.
        learner: the resident model, built from that copy.
        train: photos to learn from, on the learner's device.
        heldout: photos of patients who are never trained on, there too.
    """

    def __init__(self, name: str, study: Study, learner: LocalLearner, train: PhotoSet, heldout: PhotoSet) -> None:
        self.name = name
        self.contract = Contract.of(study, learner)
        self._learner, self._train, self._heldout = learner, train, heldout
        self._weight = patient_weight(train.patients(), study.federation)
        present_K = torch.bincount(train.labels_N, minlength=learner.classes).cpu() > 0
        self._class_weights_K = present_K.long() * self._weight

    def answer(self, request: Request) -> Reply:
        """Trains or evaluates, whichever is asked.

        Args:
            request: well-formed, but not yet trusted.

        Raises:
            WireError: another study, layout or round; or training left the finite numbers.
        """
        self.contract.check(request.ticket, request.schema)
        if request.ticket.phase is Phase.TRAIN:
            return self._update(request)
        return Evaluation(request.ticket, self.name, self._learner.evaluate(request.vector, self._heldout))

    def _update(self, request: Request) -> Update:
        result = self._learner.train(request.vector, self._train, request.ticket.round, self.name)
        delta, schema = clip(result.delta, self.contract.norm_bound), self.contract.schema
        return Update(request.ticket, self.name, schema, delta, self._weight, self._class_weights_K, result.loss)


def patient_weight(patients: int, federation: Federation) -> int:
    """How much a hospital counts in the average, so coarse that no exact number of patients leaves.

    Args:
        patients: training patients.
        federation: ``equal`` gives 1 to whoever has patients; ``patients`` rounds up to a multiple of ``weight_step``.
    """
    if federation.weighting == "equal":
        return min(1, patients)
    step = federation.weight_step
    return min(WEIGHT_BOUND, -(-patients // step) * step)


def clip(delta: Tensor, bound: float) -> Tensor:
    """``delta`` (float32, (n,)), shortened if it is longer than ``bound``.

    Raises:
        WireError: a value is not finite.
    """
    length = norm(delta)
    if not math.isfinite(length):
        raise WireError(Code.NOT_FINITE, "training diverged")
    return delta if length <= bound else delta * (bound / length * _INSIDE)
