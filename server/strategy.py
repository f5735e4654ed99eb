"""How do the hospitals' updates become one step? An exact weighted sum as they arrive, then the server's optimiser.

The sum is kept in 64-bit integers, so that it is the same bit for bit in whatever order replies come, and as large for
three hospitals as for three hundred. Why it cannot overflow: an entry of an update is at most the norm bound B, a
weight at most W, and there are S hospitals, so that at scale 2**k every partial sum is at most S W B 2**k + S/2 in
magnitude, and ``k`` is chosen so that S W B 2**k <= 2**62.

Legend: n values of the vector, K syndromes, D embedding, S hospitals.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bioface_core.messages import WEIGHT_BOUND, Update
from bioface_core.precision import Coded, as_float16
from bioface_core.sections import Federation

_CHUNK = 2**18  # values at a time: float64 copies stay in the processor's cache


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
        self._total = torch.zeros(size, dtype=torch.int64)
        self._class_weights_K = torch.zeros(classes, dtype=torch.int64)
        self.weight, self._left = 0, hospitals

    def add(self, update: Update) -> None:
        """Adds an update that has passed the checks on receipt."""
        assert self._left > 0, "more updates than hospitals"
        self._left -= 1
        self.weight += update.weight
        self._class_weights_K += update.class_weights_K
        scale = 2.0**self.scale_bits
        network, prototypes = self._parts(update.delta)
        for total, part in zip(self._parts(self._total)[0].split(_CHUNK), network.split(_CHUNK), strict=True):
            total += _fixed_point(part, update.weight * scale)
        row_scales_K1 = update.class_weights_K.double()[:, None] * scale
        self._parts(self._total)[1].add_(_fixed_point(prototypes, row_scales_K1))

    def mean(self) -> Tensor:
        """The pseudo-gradient, float32 (n,): 0 in prototype rows that nobody has.

        The weights must not all be 0.
        """
        assert self.weight > 0, "no update has weight"
        mean = torch.empty(len(self._total), dtype=torch.float32)
        unit = 2.0**-self.scale_bits
        total_network, total_KD = self._parts(self._total)
        mean_network, mean_KD = self._parts(mean)
        for target, total in zip(mean_network.split(_CHUNK), total_network.split(_CHUNK), strict=True):
            target.copy_(total.double().mul_(unit).div_(self.weight))
        mean_KD.copy_(total_KD.double() * unit / self._class_weights_K.clamp(min=1)[:, None])
        return mean

    def _parts(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Views of the network (flat) and the prototypes (K, D) of a vector."""
        network, prototypes = vector.tensor_split([self._network])
        return network, prototypes.view(-1, self._embedding)


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
    return ServerState(state.vector + settings.server_rate * direction, moments)


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


def _fixed_point(values: Tensor, scale: float | Tensor) -> Tensor:
    """``values`` (float32) times ``scale``, rounded to int64.

    A product of a float32 (24 bits) and a weight (20 bits) is exact in float64, and a power of two changes no bit: the
    one rounding is the one to an integer.
    """
    return (values.double() * scale).round_().to(torch.int64)
