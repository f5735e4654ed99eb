"""What passes each layer? One forward and one backward over the data, and what is noted at the open layers on the way.

A *tap* sits on the output of each open layer. Going forward it keeps what went into the layer; going backward it sees
what comes back, works out the patients' gradients of this layer, and lets what it kept go. For autograd the parameters
are constants: it computes no gradients of its own for them, and keeps and visits nothing before the first tap.

Legend: N patients, D embedding, C channels, X positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call, grad_and_value, vmap

from bioface_core.clipping.gradients import Gradients, Stacked
from bioface_core.clipping.layers import gradients_of, over_positions, shown
from bioface_core.errors import ConfigError
from bioface_core.prelu import back_through

LossOf = Callable[[Tensor, Tensor, Mapping[str, Tensor]], Tensor]
"""(outputs of one patient (1, D), their label (1,), heads by name) -> scalar; torch.func.vmap maps it over patients."""
_Note = Callable[[Mapping[str, Gradients]], None]


@dataclass(frozen=True)
class Recorded:
    """What some patients say.

    Attributes:
        gradients: of every open parameter that the loss depends on, by name.
        norms_N: of each patient's whole gradient, float32.
        losses_N: of each patient, float32.
    """

    gradients: dict[str, Gradients]
    norms_N: Tensor
    losses_N: Tensor

    @staticmethod
    def of(gradients: dict[str, Gradients], losses_N: Tensor) -> Recorded:
        """Measures the gradients."""
        norms_N = [torch.zeros_like(losses_N), *(each.norms() for each in gradients.values())]
        return Recorded(gradients, torch.linalg.vector_norm(torch.stack(norms_N), dim=0), losses_N)

    def add_to(self, sums: Mapping[str, Tensor], bound: float) -> None:
        """Adds each patient's gradients, cut to ``bound``; one of nothing is left as it is."""
        factors_N = (bound / self.norms_N).clamp(max=1.0)
        # Autocast would round each gradient after it was measured, by up to 0.4 % of its length.
        with torch.autocast(factors_N.device.type, enabled=False):
            for name, gradients in self.gradients.items():
                gradients.add_to(sums[name], factors_N)


def record(
    network: nn.Module,
    layers: Mapping[str, nn.Module],
    heads: Mapping[str, Tensor],
    inputs_NX: Tensor,
    labels_N: Tensor,
    loss_of: LossOf,
) -> Recorded:
    """Each patient's gradients.

    Args:
        network: inputs to outputs, patient by patient.
        layers: its open layers, by name (``open_layers``).
        heads: what the loss trains besides, by name.
        inputs_NX: one photo of each patient.
        labels_N: theirs.
        loss_of: of one patient.

    Raises:
        ConfigError: the network runs a layer twice, or on other rows than one for each patient.
    """
    found: dict[str, Gradients] = {}
    if not len(labels_N):
        return Recorded.of(found, torch.zeros(0, device=inputs_NX.device))
    constants = {name: parameter.detach() for name, parameter in network.named_parameters()}
    with torch.enable_grad():
        with ExitStack() as hooks:
            for name, layer in layers.items():
                hooks.enter_context(layer.register_forward_hook(_Tapper(name, len(labels_N), found)))
            outputs_ND = functional_call(network, constants, (inputs_NX,))
        returned_ND, of_heads, losses_N = _through_loss(outputs_ND.detach(), heads, labels_N, loss_of)
        if outputs_ND.requires_grad:
            torch.autograd.backward(outputs_ND, returned_ND)
    found.update({name: Stacked(values.float()) for name, values in of_heads.items()})
    return Recorded.of(found, losses_N.float())


def _through_loss(
    outputs_ND: Tensor, heads: Mapping[str, Tensor], labels_N: Tensor, loss_of: LossOf
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Each patient's gradients of their output and of the heads, and their loss."""

    def loss_of_one(output_D: Tensor, heads: dict[str, Tensor], label: Tensor) -> Tensor:
        return loss_of(output_D[None], label[None], heads)

    constants = {name: head.detach() for name, head in heads.items()}
    each = vmap(grad_and_value(loss_of_one, argnums=(0, 1)), in_dims=(0, None, 0))
    (returned_ND, of_heads), losses_N = each(outputs_ND, constants, labels_N)
    return returned_ND, of_heads, losses_N


class _Tapper:
    """Puts a tap on a layer's output, once.

    Args:
        name: the layer's.
        patients: N.
        found: where its gradients go.
    """

    def __init__(self, name: str, patients: int, found: dict[str, Gradients]) -> None:
        self._name, self._patients, self._found = name, patients, found
        self._ran = False

    def __call__(self, layer: nn.Module, arguments: tuple[Tensor, ...], leaving: Tensor) -> Tensor:
        """The forward hook."""
        [entering] = arguments
        self._check(layer, entering)
        # Requires a gradient, and so makes the first tap the place where autograd begins.
        beginning = torch.zeros((), requires_grad=True)
        if isinstance(layer, nn.PReLU):
            tapped: Tensor = _PReLU.apply(entering, layer.weight, beginning, self._note)
        else:
            tapped = _Tap.apply(leaving, entering, beginning, self._work_out(layer))
        return tapped

    def _check(self, layer: nn.Module, entering: Tensor) -> None:
        if self._ran:
            raise ConfigError(f"{shown(self._name)} runs twice in one pass: make it two layers, or let it not train")
        self._ran = True
        axes = {nn.Conv2d: 4, nn.Linear: 2}.get(type(layer), max(2, entering.ndim))
        if len(entering) != self._patients or entering.ndim != axes:
            found, expected = tuple(entering.shape), f"{axes} axes, the first for the {self._patients} patients"
            raise ConfigError(
                f"{shown(self._name)} gets values of shape {found}, expected {expected}: let it not train"
            )

    def _work_out(self, layer: nn.Module) -> Callable[[Tensor, Tensor], None]:
        return lambda entering, returned: self._note(gradients_of(layer, entering, returned))

    def _note(self, gradients: Mapping[str, Gradients]) -> None:
        prefix = f"{self._name}." if self._name else ""
        self._found.update({prefix + name: values for name, values in gradients.items()})


class _Tap(torch.autograd.Function):
    """Passes values on, and what comes back as well; tells ``note`` (what entered the layer, what came back)."""

    @staticmethod
    def forward(ctx: Any, leaving: Tensor, entering: Tensor, beginning: Tensor, note: Any) -> Tensor:
        # Saved the official way: autograd notices a change in place, and lets go as it moves on.
        ctx.save_for_backward(entering)
        ctx.note = note
        return leaving.view_as(leaving)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, returned: Tensor) -> tuple[Tensor, None, None, None]:
        [entering] = ctx.saved_tensors
        ctx.note(entering.detach(), returned)  # a tensor that knows its graph would keep the graph alive
        return returned, None, None, None


class _PReLU(torch.autograd.Function):
    """PReLU with a tap in it."""

    @staticmethod
    def forward(ctx: Any, entering_NCX: Tensor, weight_C: Tensor, beginning: Tensor, note: _Note) -> Tensor:
        ctx.save_for_backward(entering_NCX, weight_C)
        ctx.note = note
        return F.prelu(entering_NCX, weight_C)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, returned_NCX: Tensor) -> tuple[Tensor, None, None, None]:
        entering_NCX, weight_C = ctx.saved_tensors
        leading_NCX, shares_NCX = back_through(returned_NCX, entering_NCX, weight_C)
        slopes_NC = over_positions(shares_NCX)
        ctx.note({"weight": Stacked(slopes_NC if len(weight_C) > 1 else slopes_NC.sum(1, keepdim=True))})
        return leading_NCX, None, None, None
