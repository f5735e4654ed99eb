"""How far can one patient pull? The sum of the patients' gradients, each cut to the clipping norm. (First version.)"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LossOf = Callable[[Tensor, Tensor, Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Clipped:
    """The clipped sum."""

    sums: dict[str, Tensor]
    norms_N: Tensor
    losses_N: Tensor


def clipped_sum(
    network: nn.Module,
    heads: Mapping[str, nn.Parameter],
    inputs_NX: Tensor,
    labels_N: Tensor,
    loss_of: LossOf,
    bound: float,
) -> Clipped:
    """One patient at a time."""
    named = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad} | dict(heads)
    sums = {name: torch.zeros_like(parameter) for name, parameter in named.items()}
    norms, losses = [], []
    for one in range(len(labels_N)):
        loss = loss_of(network(inputs_NX[one : one + 1]), labels_N[one : one + 1], heads)
        gradients = torch.autograd.grad(loss, list(named.values()))
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        factor = min(1.0, bound / (float(norm) + 1e-12))
        for name, gradient in zip(named, gradients, strict=True):
            sums[name].add_(gradient, alpha=factor)
        norms.append(norm)
        losses.append(loss.detach())
    empty = torch.zeros(0)
    return Clipped(sums, torch.stack(norms) if norms else empty, torch.stack(losses) if losses else empty)
