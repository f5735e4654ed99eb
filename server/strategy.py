"""How do the hospitals' updates become one step? An exact weighted sum as they arrive, then the server's optimiser.

The sum is kept in 64-bit integers, so that it is the same bit for bit in whatever order replies come, and as large for
three hospitals as for three hundred. Why it cannot overflow: an entry of an update is at most the norm bound B, a
weight at most W, and there are S hospitals, so that at scale 2**k every partial sum is at most S W B 2**k + S/2 in
magnitude, and ``k`` is chosen so that S W B 2**k <= 2**62.

A float becomes an integer by an addition: next to 1.5 * 2**52 the floats are whole numbers, so that adding it to a
product below 2**50 rounds, halves to even, and the bits of the result are a constant plus the integer. They are added
up as they are, and the constants are taken off at the end. It is the same integer as rounding gives, in half the time.

Legend: n values of the vector, K syndromes, D embedding, S hospitals.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bioface_core.messages import WEIGHT_BOUND, Update
from bioface_core.precision import Coded, as_float16
from bioface_core.sections import Federation

_CHUNK = 2**17  # values at a time: float64 copies stay in the processor's cache
_WHOLE = 1.5 * 2.0**52
_WHOLE_BITS = int(np.float64(_WHOLE).view(np.int64))
_ROUNDED_BY_ADDING = 2.0**50  # products below; 2**51 would do


class WeightedSum:
    """The weighted mean of updates, summed as they arrive.

    The network is averaged by the hospitals' weights, each prototype row by the weights of the hospitals that have the
    class.

    Args:
        size: n.
        classes: K.
        embedding: D; the last K * D values are the prototypes.
        hospitals: S, the most updates that may be added.
        norm_bound: largest Euclidean norm of an update.
    """

    def __init__(self, size: int, classes: int, embedding: int, hospitals: int, norm_bound: float) -> None:
        self._network, self._embedding = size - classes * embedding, embedding
        assert self._network >= 0, "the prototypes are part of the vector"
        self.scale_bits = 62 - math.ceil(math.log2(hospitals * WEIGHT_BOUND * norm_bound))
        self._total = torch.zeros(size, dtype=torch.int64)  # and _WHOLE_BITS for each update
        self._class_weights_K = torch.zeros(classes, dtype=torch.int64)
        self.weight, self._added, self._hospitals = 0, 0, hospitals
        self._norm_bound, self._scratch = norm_bound, np.empty(_CHUNK)

    def add(self, update: Update) -> None:
        """Adds an update that has passed the checks on receipt."""
        assert self._added < self._hospitals, "more updates than hospitals"
        self._added += 1
        self.weight += update.weight
        self._class_weights_K += update.class_weights_K
        weights = (update.weight, *update.class_weights_K.tolist())
        for total, values, weight in zip(self._pieces(self._total), self._pieces(update.delta), weights, strict=True):
            for start in range(0, len(total), _CHUNK):
                part = slice(start, start + _CHUNK)
                total[part] += self._fixed_point(values[part], weight)

    def mean(self) -> Tensor:
        """The pseudo-gradient, float32 (n,): 0 in prototype rows that nobody has.

        The weights must not all be 0.
        """
        assert self.weight > 0, "no update has weight"
        mean = torch.empty(len(self._total), dtype=torch.float32)
        weights = (self.weight, *self._class_weights_K.clamp(min=1).tolist())
        for target, total, weight in zip(self._pieces(mean), self._pieces(self._total), weights, strict=True):
            for start in range(0, len(total), _CHUNK):
                part = slice(start, start + _CHUNK)
                target[part] = self._divided(total[part], weight)
        return mean

    def _fixed_point(self, values: npt.NDArray[np.float32], weight: int) -> npt.NDArray[np.int64]:
        """``values`` times ``weight`` at the scale, rounded, plus ``_WHOLE_BITS``; at most a chunk of them.

        A product of a float32 (24 bits) and a weight (20 bits) is exact in float64, and a power of two changes no bit:
        the one rounding is the one to an integer.
        """
        steps, scale = self._scratch[: len(values)], weight * 2.0**self.scale_bits
        np.copyto(steps, values)
        steps *= scale
        if self._norm_bound * scale < _ROUNDED_BY_ADDING:
            steps += _WHOLE
            return steps.view(np.int64)
        return np.rint(steps, out=steps).astype(np.int64) + _WHOLE_BITS

    def _divided(self, total: npt.NDArray[np.int64], weight: int) -> npt.NDArray[np.float64]:
        """What at most a chunk of sums comes to; a sum beyond 64 bits has wrapped around, and wraps back."""
        quotients = self._scratch[: len(total)]
        whole = quotients.view(np.int64)
        np.subtract(total, np.int64(_wrapped(self._added * _WHOLE_BITS)), out=whole)
        np.copyto(quotients, whole)
        quotients /= weight * 2.0**self.scale_bits
        return quotients

    def _pieces(self, vector: Tensor) -> list[npt.NDArray[Any]]:
        """What has a weight of its own in a vector, as views: the network, and each row of the prototypes."""
        network, prototypes = vector.tensor_split([self._network])
        return [network.numpy(), *prototypes.view(-1, self._embedding).numpy()]


@dataclass(frozen=True)
class ServerState:
    """The shared model and the memory of the server's optimiser.

    Attributes:
        vector: float32 (n,); what the hospitals get of it is ``shared``.
        moments: named float32 (n,) tensors, those that the strategy keeps.
    """

    vector: Tensor
    moments: dict[str, Tensor]


def start_state(settings: Federation, vector: Tensor) -> ServerState:
    """The state before the first step.

    Source:
        Reddi et al. 2021, algorithm 2: the second moment starts at tau squared, its smallest allowed value.
    """
    first, second = torch.zeros_like, partial(torch.full_like, fill_value=settings.server_tau**2)
    kept: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {
        "fedavg": {},
        "fedavgm": {"first": first},
        "fedadagrad": {"second": second},
        "fedadam": {"first": first, "second": second},
        "fedyogi": {"first": first, "second": second},
    }
    return ServerState(vector, {name: make(vector) for name, make in kept[settings.strategy].items()})


def shared(settings: Federation, state: ServerState) -> tuple[Tensor, Coded | None]:
    """The model of a round, which hospitals get, train and evaluate, and as it travels where that is in 16 bits.

    The server steps from its own, float32: so what rounding takes away is not lost.
    """
    if settings.model_bits == 32:
        return state.vector, None
    coded = as_float16(state.vector)
    return coded.vector, coded


def step(settings: Federation, state: ServerState, change: Tensor) -> ServerState:
    """One step of the server's optimiser.

    Args:
        settings: strategy, rate, momentum, beta 2 and tau.
        state: before.
        change: the weighted mean of the updates, float32 (n,), the negative of the pseudo-gradient.

    Returns:
        The state after; ``state`` is left alone.

    Source:
        McMahan et al. 2017, algorithm 1 (FedAvg); Hsu et al. 2019, section 4 (FedAvgM); Reddi et al. 2021,
        "Adaptive federated optimization", algorithm 2 (FedAdagrad, FedAdam, FedYogi; no bias correction).
    """
    rule = _RULES[settings.strategy]
    direction, moments = rule(settings, state.moments, change)
    return ServerState((settings.server_rate * direction).add_(state.vector), moments)


_Step = tuple[Tensor, dict[str, Tensor]]


def _average(_: Federation, moments: dict[str, Tensor], change: Tensor) -> _Step:
    return change, moments


def _momentum(settings: Federation, moments: dict[str, Tensor], change: Tensor) -> _Step:
    """Sets m = beta1 m + change; x += rate * m."""
    first = settings.server_momentum * moments["first"] + change
    return first, {"first": first}


def _adagrad(settings: Federation, moments: dict[str, Tensor], change: Tensor) -> _Step:
    """Sets v += change^2; x += rate * change / (sqrt(v) + tau)."""
    second = moments["second"] + change.square()
    return change / (second.sqrt() + settings.server_tau), {"second": second}


def _adam(settings: Federation, moments: dict[str, Tensor], change: Tensor) -> _Step:
    """Sets v = beta2 v + (1 - beta2) change^2."""
    beta2 = settings.server_beta2
    return _adaptive(settings, moments, change, beta2 * moments["second"] + (1 - beta2) * change.square())


def _yogi(settings: Federation, moments: dict[str, Tensor], change: Tensor) -> _Step:
    """Sets v -= (1 - beta2) change^2 sign(v - change^2)."""
    second, square = moments["second"], change.square()
    return _adaptive(
        settings, moments, change, second - (1 - settings.server_beta2) * square * (second - square).sign()
    )


def _adaptive(settings: Federation, moments: dict[str, Tensor], change: Tensor, second: Tensor) -> _Step:
    """Sets m = beta1 m + (1 - beta1) change; x += rate * m / (sqrt(v) + tau)."""
    beta1 = settings.server_momentum
    first = beta1 * moments["first"] + (1 - beta1) * change
    return first / (second.sqrt() + settings.server_tau), {"first": first, "second": second}


_RULES: dict[str, Callable[[Federation, dict[str, Tensor], Tensor], _Step]] = {
    "fedavg": _average,
    "fedavgm": _momentum,
    "fedadagrad": _adagrad,
    "fedadam": _adam,
    "fedyogi": _yogi,
}


def _wrapped(number: int) -> int:
    """What 64 bits hold of an integer."""
    return (number + 2**63) % 2**64 - 2**63
