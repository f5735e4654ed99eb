"""In which order do a model's tensors form one flat vector? What trains, in the model's order, prototypes last."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bioface_core.model import Recogniser


@dataclass(frozen=True)
class Layout:
    """Names and shapes behind a flat vector.

    Attributes:
        shapes: name to shape, in order; the last entry is ``prototypes`` (K, D).
    """

    shapes: dict[str, tuple[int, ...]]

    @property
    def size(self) -> int:
        """n, the length of the vector."""
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())

    @property
    def schema(self) -> str:
        """SHA-256 of names and shapes, 64 hexadecimal digits: two sides that agree on it agree on every position."""
        return hashlib.sha256(json.dumps(list(self.shapes.items())).encode("utf-8")).hexdigest()

    def flatten(self, model: Recogniser) -> Tensor:
        """The model's vector, float32 (n,), a copy on the model's device."""
        tensors = _moving(model)
        return torch.cat([tensors[name].detach().reshape(-1) for name in self.shapes])

    def load(self, model: Recogniser, vector: Tensor) -> None:
        """Writes a vector into the model.

        Args:
            model: of this layout.
            vector: float32 (n,), on any device.
        """
        assert len(vector) == self.size, f"{len(vector)} values for {self.size} places"
        tensors = _moving(model)
        with torch.no_grad():
            for (name, shape), part in zip(self.shapes.items(), vector.split(self._sizes()), strict=True):
                tensors[name].copy_(part.view(shape))

    def _sizes(self) -> list[int]:
        return [torch.Size(shape).numel() for shape in self.shapes.values()]


def layout_of(model: Recogniser) -> Layout:
    """The layout of what trains in ``model``, as ``set_trainable`` left it."""
    return Layout({name: tuple(tensor.shape) for name, tensor in _moving(model).items()})


def _moving(model: Recogniser) -> dict[str, Tensor]:
    """What changes in training: open parameters, the statistics of training BatchNorm, and last the prototypes."""
    moving: dict[str, Tensor] = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    for path, module in model.named_modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            moving |= {f"{path}.{name}": getattr(module, name) for name in ("running_mean", "running_var")}
    moving["prototypes"] = moving.pop("prototypes")
    return moving
