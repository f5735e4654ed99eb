"""How does a step change the network? By AdamW or SGD with a schedule over rounds, clipping, and FedProx's pull.

Source: Loshchilov and Hutter 2019 (decoupled weight decay); Li et al. 2020 (FedProx, eq. 2).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

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
        self._named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._parameters = list(self._named.values())
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
            nn.utils.clip_grad_norm_(self._parameters, self._train.clip, foreach=True)
        self._optimiser.step()

    def step_along(self, gradients: Mapping[str, Tensor], public_loss: Tensor | None = None) -> None:
        """One step down gradients that are private already: they are clipped no more.

        Args:
            gradients: by name, of every open parameter.
            public_loss: of people who are no patients; its gradient is added.
        """
        self._optimiser.zero_grad()
        if public_loss is not None:
            public_loss.backward()
        for name, gradient in gradients.items():
            parameter = self._named[name]
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        if self._train.proximal:
            self._pull_back()
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
        return torch.optim.SGD(groups, lr=rate, momentum=_SGD_MOMENTUM, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=rate, fused=True)


def rate_at(train: Train, progress: float) -> float:
    """The learning rate at ``progress`` 0..1 of the run."""
    if train.schedule == "constant":
        return train.rate
    return train.rate * (_FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * progress)))
