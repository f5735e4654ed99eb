"""What is the sum of the patients' gradients, each cut to the clipping norm?

Legend: N patients, D embedding, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bioface_core.clipping.layers import open_layers
from bioface_core.clipping.record import LossOf, record

_GRADIENTS_AT_ONCE = 2**27  # floats that the patients' gradients of convolutions may take: 512 MiB


@dataclass(frozen=True)
class Clipped:
    """The clipped sum.

    Attributes:
        sums: float32, the network's open parameters by name, then the heads: the sum over patients of
            gradient x min(1, bound / norm).
        norms_N: each patient's norm before the cut, over network and heads together; infinite or NaN where the
            gradient is, and then the patient is left out.
        losses_N: each patient's loss.
    """

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
    at_once: int | None = None,
) -> Clipped:
    """Adds up the patients' gradients, each cut to ``bound``.

    Args:
        network: inputs to outputs (N, ...), one row for each patient; its parameters that require a gradient train.
            Their ``grad`` is neither read nor written.
        heads: what the loss trains besides, by name, such as ``prototypes``.
        inputs_NX: one photo of each patient, in any memory format; there may be none.
        labels_N: int64.
        loss_of: the loss of one patient.
        bound: C, the clipping norm, above 0.
        at_once: patients at a time. It changes seconds and memory only; None chooses by the size of the convolutions.

    Returns:
        Sums, norms and losses.

    Raises:
        ConfigError: a layer that trains is of an unknown kind, is used twice, or mixes patients.
    """
    assert bound > 0, f"a clipping norm of {bound}"
    layers = open_layers(network)
    sums = _zeros(network, heads)
    norms, losses = [], []
    for inputs_PX, labels_P in _parts(inputs_NX, labels_N, at_once or _patients_at_once(layers)):
        part = record(network, layers, heads, inputs_PX, labels_P, loss_of)
        norms.append(part.norms_N)
        losses.append(part.losses_N)
        sound_P = part.norms_N.isfinite()
        if not bool(sound_P.all()):
            # Nothing times NaN is NaN: whoever brings one is taken out of the pass as well.
            inputs_PX, labels_P = inputs_PX[sound_P], labels_P[sound_P]
            part = record(network, layers, heads, inputs_PX, labels_P, loss_of)
        part.add_to(sums, bound)
    nobody = torch.zeros(0, device=inputs_NX.device)
    return Clipped(sums, torch.cat([nobody, *norms]), torch.cat([nobody, *losses]))


def _zeros(network: nn.Module, heads: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Float32 zeros for whatever trains, contiguous."""
    named = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert not named.keys() & heads.keys(), "a head has the name of a parameter"
    return {
        name: torch.zeros(value.shape, device=value.device, dtype=torch.float32)
        for name, value in {**named, **heads}.items()
    }


def _parts(inputs_NX: Tensor, labels_N: Tensor, at_once: int) -> Iterator[tuple[Tensor, Tensor]]:
    """At most ``at_once`` patients at a time, and nothing where there are none."""
    for first in range(0, len(labels_N), at_once):
        yield inputs_NX[first : first + at_once], labels_N[first : first + at_once]


def _patients_at_once(layers: Mapping[str, nn.Module]) -> int:
    """As many as find room for their gradients; those of linear layers take none."""
    convolutions = [layer.weight for layer in layers.values() if isinstance(layer, nn.Conv2d)]
    each = sum(weight.numel() for weight in convolutions if weight.requires_grad)
    return max(1, _GRADIENTS_AT_ONCE // max(1, each))
