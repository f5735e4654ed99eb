"""What is each patient's gradient of a layer? A function of what went into it and what came back to it.

A kind of layer is supported by one function here; whatever else has parameters that train is refused, and so is
whatever would let one patient's values reach another's.

Legend: N patients, C channels, X positions (any number of axes, or none).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bioface_core.clipping.gradients import Convolved, Gradients, Listed, Products, Stacked, kernel_gradient
from bioface_core.errors import ConfigError
from bioface_core.prelu import PReLU

_GRAM_COST = 4  # of a multiplication for Gram matrices, in float64 and from unfolded maps, in those of a convolution
Rule = Callable[[nn.Module, Tensor, Tensor], dict[str, Gradients]]


def open_layers(network: nn.Module) -> dict[str, nn.Module]:
    """The layers of which something trains, by name.

    Raises:
        ConfigError: one of them is of a kind not known here, shares its parameters, or mixes patients.
    """
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or not module.track_running_stats):
            raise ConfigError(f"{shown(name)} is BatchNorm in training, which mixes patients: set model.norm: frozen")
    _check_unshared(network)
    layers = {name: module for name, module in network.named_modules() if opened(module)}
    for name, module in layers.items():
        _check_supported(name, module)
    return layers


def shown(name: str) -> str:
    """A module's name for a message."""
    return name or "the network"


def opened(module: nn.Module) -> list[str]:
    """The module's own parameters that train."""
    return [name for name, parameter in module.named_parameters(recurse=False) if parameter.requires_grad]


def gradients_of(layer: nn.Module, entering: Tensor, returned: Tensor) -> dict[str, Gradients]:
    """Each patient's gradients of the layer's open parameters, by their name in the layer.

    Args:
        layer: of a supported kind, but PReLU.
        entering: its input (N, ...).
        returned: the gradient of its output (N, ...).
    """
    return _RULES[type(layer)](layer, entering.to(returned.dtype), returned)


def over_positions(values_NCX: Tensor) -> Tensor:
    """The sum over all positions, float32 (N, C)."""
    return values_NCX.float() if values_NCX.ndim == 2 else values_NCX.flatten(2).sum(2, dtype=torch.float32)


def _check_unshared(network: nn.Module) -> None:
    """Refuses a parameter with two homes: hooks would see each alone, and the norm of the whole would be wrong."""
    homes: dict[nn.Parameter, str] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if parameter.requires_grad and parameter in homes:
            raise ConfigError(f"{name} and {homes[parameter]} are one parameter: make them two, or let neither train")
        homes[parameter] = name


def _check_supported(name: str, layer: nn.Module) -> None:
    kinds = [*_RULES, nn.PReLU]
    # The exact type: a subclass may compute something else.
    if type(layer) not in (*kinds, PReLU):
        known = ", ".join(kind.__name__ for kind in kinds)
        raise ConfigError(
            f"{shown(name)} is {type(layer).__name__}, expected {known}: let none of its parameters train"
        )
    if isinstance(layer, nn.Conv2d) and (isinstance(layer.padding, str) or layer.padding_mode != "zeros"):
        padding = layer.padding if isinstance(layer.padding, str) else layer.padding_mode
        raise ConfigError(f"{shown(name)} pads by {padding!r}: state the padding in pixels, of zeros")


def _convolution(layer: nn.Module, entering_NCHW: Tensor, returned_NCHW: Tensor) -> dict[str, Gradients]:
    assert isinstance(layer, nn.Conv2d)
    found: dict[str, Gradients] = {}
    if layer.weight.requires_grad:
        found["weight"] = _kernels(layer, entering_NCHW, returned_NCHW)
    return found | _bias(layer, returned_NCHW)


def _kernels(layer: nn.Conv2d, entering_NCHW: Tensor, returned_NCHW: Tensor) -> Gradients:
    """The form that costs least: of one position a product, of a few a convolution to come, of many a list.

    A window of one pixel needs no unfolding, so that a product of matrices gives everybody's at once. Else, with T
    positions the norm takes T x T (I + O) multiplications by Gram matrices, and T x I x O by the gradient
    itself, where I and O are the values that each position takes in and gives out.
    """
    if layer.groups == 1 and layer.kernel_size == entering_NCHW.shape[2:] == returned_NCHW.shape[2:] == (1, 1):
        return Products(entering_NCHW.flatten(1).float(), returned_NCHW.flatten(1).float())
    if layer.groups == 1 and layer.kernel_size == (1, 1) and layer.padding == (0, 0):
        return _pointwise(layer, entering_NCHW.float(), returned_NCHW.float())
    leaving, taken_in, positions = len(layer.weight), layer.weight[0].numel(), returned_NCHW[0, 0].numel()
    if layer.groups == 1 and _GRAM_COST * positions * (taken_in + leaving) <= taken_in * leaving:
        return Convolved.of(layer, entering_NCHW.float(), returned_NCHW.float())
    return _one_by_one(layer, entering_NCHW, returned_NCHW)


def _pointwise(layer: nn.Conv2d, entering_NCHW: Tensor, returned_NCHW: Tensor) -> Stacked:
    down, across = layer.stride
    looked_at_NIT = entering_NCHW[:, :, ::down, ::across].flatten(2)
    with torch.autocast(entering_NCHW.device.type, enabled=False):  # which would round what was made float32
        gradients_NOI = returned_NCHW.flatten(2) @ looked_at_NIT.mT
    return Stacked(gradients_NOI.view(-1, *layer.weight.shape))


def _one_by_one(layer: nn.Conv2d, entering_NCHW: Tensor, returned_NCHW: Tensor) -> Listed:
    """By the library's own kernel: measured three times faster than unfolding all, and it needs no memory.

    In channels last it gives the gradient in channels last, by way of a copy: where that is larger than the maps, it is
    cheaper to copy these.
    """
    if layer.weight.numel() > entering_NCHW[0].numel() + returned_NCHW[0].numel():
        entering_NCHW, returned_NCHW = entering_NCHW.contiguous(), returned_NCHW.contiguous()
    pairs = zip(entering_NCHW.split(1), returned_NCHW.split(1), strict=True)
    return Listed([kernel_gradient(layer, entering, returned).float() for entering, returned in pairs])


def _linear(layer: nn.Module, entering_NI: Tensor, returned_NO: Tensor) -> dict[str, Gradients]:
    found: dict[str, Gradients] = {}
    if layer.weight.requires_grad:
        found["weight"] = Products(entering_NI.float(), returned_NO.float())
    return found | _bias(layer, returned_NO)


def _group_norm(layer: nn.Module, entering_NCX: Tensor, returned_NCX: Tensor) -> dict[str, Gradients]:
    assert isinstance(layer, nn.GroupNorm)
    found: dict[str, Gradients] = {}
    if layer.weight.requires_grad:
        normed_NCX = F.group_norm(entering_NCX.float(), layer.num_groups, eps=layer.eps)
        found["weight"] = Stacked(over_positions(normed_NCX * returned_NCX))
    return found | _bias(layer, returned_NCX)


def _bias(layer: nn.Module, returned_NCX: Tensor) -> dict[str, Gradients]:
    return {"bias": Stacked(over_positions(returned_NCX))} if "bias" in opened(layer) else {}


_RULES: dict[type[nn.Module], Rule] = {nn.Conv2d: _convolution, nn.Linear: _linear, nn.GroupNorm: _group_norm}
