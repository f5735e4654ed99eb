"""What does a hospital put into a masked sum, and what does the sum say? A reply as integers that may be added up.

Of an update: every value times the hospital's weight over the largest weight, as fixed point; then the weight and the
weights of the classes, as they are; then the weight times the loss, as fixed point, unless the study keeps the loss
private. Of an evaluation: its counts. Everything is an integer modulo 2**32, and bounds are such that no sum of
all hospitals comes near it. What a sum says is checked, for integers that were masked twice or not at all are noise.

Where the study has updates travel in 16 bits, they are integers modulo 2**16. So few are not laid out for the longest
update but for the largest value that the study names; a scale that follows the values, as where nothing is masked,
would be each hospital's own, and could not be summed. Weights and loss need more: each is an integer of 32 bits, cut
into three digits of 11 bits, whose sums stay below 2**16 with 32 hospitals or fewer, so that no carry is lost.

Legend: n values of the vector, K syndromes, D embedding, m integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bioface_core.config import Study
from bioface_core.errors import WireError
from bioface_core.evaluate import Counts, cells_of
from bioface_core.fixed_point import FixedPoint
from bioface_core.messages import Code, Evaluation, Phase, Reply, Shape, Update, demand
from bioface_core.secret import SecretRandom
from bioface_core.secure import Words
from bioface_core.secure.session import MOST_MEMBERS
from bioface_core.wire import norm

_LARGEST_LOSS = 1024.0  # the mean loss of a hospital; what is above is no training
_LARGEST_SUM = 2**31
_ROUNDING = 1 + 2**-20  # of norms in float32
_DIGITS, _DIGIT_BITS = 3, 11
_MOST_DIGITS_SUMMED = 2 ** (16 - _DIGIT_BITS)
assert MOST_MEMBERS <= _MOST_DIGITS_SUMMED, "a carry could be lost"


class Embedding(Shape, Protocol):
    """What both sides must know of the model."""

    @property
    def embedding(self) -> int:
        """The length D of an embedding; the last K * D values of the vector are the prototypes."""


@dataclass(frozen=True)
class Vector:
    """What is summed.

    Attributes:
        length: the number m of integers.
        dtype: ``uint32`` or ``uint16``.
    """

    length: int
    dtype: Literal["uint32", "uint16"]


@dataclass(frozen=True)
class UpdateSum:
    """What the updates of the hospitals add up to.

    Attributes:
        values: float32 (n,), the sum of weight times value; prototypes by the weights of their classes.
        weight: of all.
        class_weights_K: int64, of all.
        loss: mean by weight; None where it is private.
    """

    values: Tensor
    weight: int
    class_weights_K: Tensor
    loss: float | None


@dataclass(frozen=True)
class Summand:
    """How replies become integers in one study.

    Attributes:
        size: n.
        classes: K.
        embedding: D.
        members: most hospitals in a sum.
        largest_weight: at which a weight is cut off.
        bound: largest norm of an update.
        has_loss: whether the loss is part of it.
        largest_value: of an update in 16 bits, at which values are cut off; None where it takes 32.
    """

    size: int
    classes: int
    embedding: int
    members: int
    largest_weight: int
    bound: float
    has_loss: bool
    largest_value: float | None = None

    @staticmethod
    def of(study: Study, model: Embedding) -> Summand:
        """What follows from a study and its model."""
        largest = 1 if study.federation.weighting == "equal" else study.secure.largest_weight
        shape, has_loss = (model.size, model.classes, model.embedding), study.privacy.unit != "patient"
        largest_value = None if study.federation.update_bits == 32 else study.secure.largest_value
        return Summand(*shape, len(study.roster), largest, study.update_bound, has_loss, largest_value)

    def vector(self, phase: Phase) -> Vector:
        """What is summed in a phase: counts always take 32 bits."""
        if phase is Phase.EVALUATE:
            return Vector(cells_of(self.classes), "uint32")
        others = 1 + self.classes + self.has_loss
        if self.largest_value is None:
            return Vector(self.size + others, "uint32")
        return Vector(self.size + _DIGITS * others, "uint16")

    def encode(self, reply: Reply, secret: SecretRandom) -> Words:
        """A reply as integers.

        Args:
            reply: as it may leave.
            secret: rounds at random.

        Returns:
            (m,), of the type that ``vector`` says.

        Raises:
            WireError: a number that is none, or too large to be added up.
        """
        if isinstance(reply, Evaluation):
            return self._encode_counts(reply.counts)
        return self._encode_update(reply, secret)

    def left_behind(self, update: Update, encoded_m: Words) -> Tensor:
        """What of an update is not in its integers, float32 (n,); 0 where the hospital has no weight.

        Args:
            update: one hospital's.
            encoded_m: what ``encode`` made of it.
        """
        own = self.updates(encoded_m, 1)
        if own.weight == 0:
            return torch.zeros_like(update.delta)
        left = update.delta - self.mean(own)
        self._parts(left)[1].mul_((own.class_weights_K > 0)[:, None])
        return left

    def updates(self, total_m: Words, hospitals: int) -> UpdateSum:
        """What the sum of so many updates says.

        Raises:
            WireError: no updates add up to that.
        """
        values_n = total_m[: self.size]
        others = total_m[self.size :] if self.largest_value is None else joined(total_m[self.size :])
        weights, losses = np.split(others, [1 + self.classes])
        weight, class_weights_K = int(weights[0]), torch.from_numpy(weights[1:].astype(np.int64))
        demand(weight <= hospitals * self.largest_weight, Code.WEIGHT, f"{weight} of {hospitals} hospitals")
        demand(bool((class_weights_K <= weight).all()), Code.WEIGHT, "of a class")
        values = (self._steps.decode(values_n) * self.largest_weight).float()
        slack = hospitals * math.sqrt(self.size) / self._steps.scale * self.largest_weight
        demand(norm(values) <= weight * self.bound * _ROUNDING + slack, Code.NORM, "of the sum")
        return UpdateSum(values, weight, class_weights_K, self._mean_loss(losses, weight))

    def counts(self, total_m: Words, hospitals: int) -> Counts:
        """What the sum of so many counts says.

        Raises:
            WireError: no counts add up to that.
        """
        demand(bool((total_m < hospitals * self._most_patients).all()), Code.COUNTS, "out of range")
        try:
            return Counts.from_cells(torch.from_numpy(total_m.astype(np.int64)), self.classes)
        except ValueError as error:
            raise WireError(Code.COUNTS, str(error)) from error

    def mean(self, total: UpdateSum) -> Tensor:
        """The weighted mean of the updates, float32 (n,): 0 in prototype rows that nobody has.

        The weights must not all be 0.
        """
        assert total.weight > 0, "no update has weight"
        divisors = total.class_weights_K.clamp(min=1).float()
        network, prototypes_KD = self._parts(total.values)
        return torch.cat([network / total.weight, (prototypes_KD / divisors[:, None]).flatten()])

    @property
    def _steps(self) -> FixedPoint:
        """Of the values: a weight is at most the largest, so that an entry is at most an update's norm."""
        if self.largest_value is None:
            return FixedPoint(self.bound, self.members)
        return FixedPoint(self.largest_value, self.members, bits=16)

    @property
    def _loss_steps(self) -> FixedPoint:
        return FixedPoint(_LARGEST_LOSS, self.members)

    @property
    def _most_patients(self) -> int:
        """In one cell of a hospital's counts."""
        return _LARGEST_SUM // self.members

    def _encode_update(self, update: Update, secret: SecretRandom) -> Words:
        weight = min(update.weight, self.largest_weight)
        class_weights_K = update.class_weights_K.clamp(max=weight)
        network, prototypes_KD = self._parts(self._cut_off(update.delta))
        rows_KD = prototypes_KD * (class_weights_K / self.largest_weight)[:, None]
        values = torch.cat([network * (weight / self.largest_weight), rows_KD.flatten()])
        encoded, others = self._steps.encode(values, secret), np.array([weight, *class_weights_K.tolist()], np.uint32)
        if self.has_loss:
            demand(abs(update.loss) <= _LARGEST_LOSS, Code.NOT_FINITE, "loss")
            loss = torch.tensor([update.loss * (weight / self.largest_weight)])
            others = np.concatenate([others, self._loss_steps.encode(loss, secret)])
        return np.concatenate([encoded, others if self.largest_value is None else cut(others)])

    def _cut_off(self, delta: Tensor) -> Tensor:
        """The update as far as 16 bits reach; float32 below the bound, for the nearest may be above it."""
        if self.largest_value is None:
            return delta
        most = float(np.nextafter(np.float32(self.largest_value), np.float32(0)))
        return delta.clamp(-most, most)

    def _encode_counts(self, counts: Counts) -> Words:
        demand(int(counts.cells.max()) < self._most_patients, Code.COUNTS, "too many patients to be added up")
        return counts.cells.numpy().astype(np.uint32)

    def _mean_loss(self, losses: Words, weight: int) -> float | None:
        if not self.has_loss or weight == 0:
            return None
        return float(self._loss_steps.decode(losses)[0]) * self.largest_weight / weight

    def _parts(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Views of the network (flat) and the prototypes (K, D) of a vector."""
        network, prototypes = vector.tensor_split([self.size - self.classes * self.embedding])
        return network, prototypes.view(-1, self.embedding)


def cut(integers: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint16]:
    """Each integer as three digits of 11 bits, the lowest first."""
    shifts = np.arange(_DIGITS, dtype=np.uint32) * np.uint32(_DIGIT_BITS)
    digits = integers[:, None] >> shifts & np.uint32(2**_DIGIT_BITS - 1)
    return digits.astype(np.uint16).ravel()


def joined(digits: Words) -> npt.NDArray[np.uint32]:
    """The integers, modulo 2**32, whose digits these are, or whose digits they are the sums of."""
    places = np.uint64(1) << np.arange(_DIGITS, dtype=np.uint64) * np.uint64(_DIGIT_BITS)
    whole = digits.reshape(-1, _DIGITS).astype(np.uint64) @ places
    return (whole & np.uint64(2**32 - 1)).astype(np.uint32)
