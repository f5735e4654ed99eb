"""How does a step change the network? By AdamW or SGD with a schedule over rounds, clipping, and FedProx's pull.

Source: Loshchilov and Hutter 2019 (decoupled weight decay); Li et al. 2020 (FedProx, eq. 2).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from bioface_core.sections import Train

_FLOOR = 0.05  # of the rate, at the end of the cosine
_SGD_MOMENTUM = 0.9


class Optimiser:
    """The optimiser of one local round: made fresh, so that a hospital carries no state from round to round.

    Args:
        model: its open parameters are trained.
        train: the settings.
        progress: 0..1 of the run, for the schedule.
    """

    def __init__(self, model: nn.Module, train: Train, progress: float) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimiser = make_optimiser(model.named_parameters(), train, rate_at(train, progress))
        self._train = train
        self._received = [parameter.detach().clone() for parameter in self._parameters] if train.proximal else []

    def step(self, loss: Tensor) -> None:
        """One step down the gradient of ``loss``."""
        self._optimiser.zero_grad()
        loss.backward()
        if self._train.proximal:
            self._pull_back()
        if self._train.clip:
            nn.utils.clip_grad_norm_(self._parameters, self._train.clip)
        self._optimiser.step()

    def _pull_back(self) -> None:
        """Adds the gradient of mu/2 times the squared distance to the received model."""
        with torch.no_grad():
            for parameter, received in zip(self._parameters, self._received, strict=True):
                if parameter.grad is not None:
                    parameter.grad.add_(parameter - received, alpha=self._train.proximal)


def make_optimiser(
    named_parameters: Iterable[tuple[str, nn.Parameter]], train: Train, rate: float
) -> torch.optim.Optimizer:
    """AdamW or SGD over the open parameters; norms, biases, PReLUs and prototypes do not decay."""
    decaying: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            (decaying if parameter.ndim > 1 and name != "prototypes" else others).append(parameter)
    groups = [{"params": decaying, "weight_decay": train.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if train.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=_SGD_MOMENTUM, nesterov=True)
    return torch.optim.AdamW(groups, lr=rate, fused=True)


def rate_at(train: Train, progress: float) -> float:
    """The learning rate at ``progress`` 0..1 of the run."""
    if train.schedule == "constant":
        return train.rate
    return train.rate * (_FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * progress)))
