"""Can a photo be read out of an update? The update is a gradient, and one looks for the photo that has the same.

Two things are matched. What went into the embedding layer stands in the update as it is: the gradient of that layer's
weights is the outer product of its bias' gradient and its input. And the whole gradient: the cosine between the update
and that of the searched photo, under a penalty on total variation. The search starts at the mean of public faces and
moves on several scales at once, from the whole photo's tone to single pixels; without the coarse ones, brightness and
large shapes are found slowly or not at all.

Legend: n values of the vector, N photos (one), C channels, H W pixels, F values that enter the embedding layer.

Source: Geiping et al. 2020, "Inverting gradients" (cosine, total variation, Adam); Zhu et al. 2019, "Deep leakage from
gradients"; Phong et al. 2018 (the input of a linear layer from its gradients).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bioface_core import loss
from bioface_core.config import Study
from bioface_core.layout import layout_of
from bioface_core.model import Recogniser, set_trainable
from bioface_core.photos import FACE_SIZE_PX
from bioface_core.weights import Base

STEPS = 200
_SCALES_PX = (1, 4, 7, 14, 28, 56, FACE_SIZE_PX)
_RATE, _SMOOTHNESS = 0.01, 1.0
_EMBEDDING_LAYER = "output_layer.3"


@dataclass(frozen=True)
class Known:
    """What the attacker knows besides the update.

    Attributes:
        study: every parameter.
        base: where the trunk started from.
        vector: float32 (n,), the model that the hospital received.
        round: the number of the round.
        face_1CHW: where the search starts, such as the mean of public faces, -1..1.
    """

    study: Study
    base: Base
    vector: Tensor
    round: int
    face_1CHW: Tensor


class Inverter:
    """An attacker with one model, who can look for many photos.

    Args:
        known: the rest.
    """

    def __init__(self, known: Known) -> None:
        self._known = known
        self._model = Recogniser(known.study.model, len(known.study.syndromes))
        self._model.trunk.load_state_dict(known.base.trunk, strict=False)
        set_trainable(self._model, known.study.model.trainable)
        layout = layout_of(self._model)
        layout.load(self._model, known.vector)
        self._model.eval()
        self._shapes = layout.shapes
        parameters = dict(self._model.named_parameters())
        self._parameters = [parameters[name] for name in self._shapes]
        progress = (known.round - 1) / known.study.federation.rounds
        self._margin = loss.margin_at(known.study.loss, progress)
        self._entered: Tensor
        self._model.trunk.get_submodule(_EMBEDDING_LAYER).register_forward_pre_hook(self._note)

    def invert(self, update: Tensor, label_1: Tensor, every_syndrome: bool, steps: int = STEPS) -> Tensor:
        """Looks for the photo behind an update.

        Args:
            update: float32 (n,), what the lab sees.
            label_1: int64, the patient's syndrome, which the attacker knows.
            every_syndrome: whether the hospital's loss counted all syndromes as present (it is private).
            steps: of the search.

        Returns:
            The photo (1, C, H, W), -1..1.
        """
        sizes = [torch.Size(shape).numel() for shape in self._shapes.values()]
        wanted, input_F = -F.normalize(update, dim=0), self._embedding_input(update)
        present_K = torch.full((len(self._known.study.syndromes),), every_syndrome)
        present_K[label_1] = True
        layers = [torch.zeros(1, 3, size, size, requires_grad=True) for size in _SCALES_PX]
        optimiser = torch.optim.Adam(layers, lr=_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(steps):
            photo_1CHW = self._photo(layers)
            distance = self._distance(photo_1CHW, label_1, present_K, wanted.split(sizes))
            if input_F is not None:
                distance = distance + F.mse_loss(self._entered.flatten(), input_F) / input_F.var()
            optimiser.zero_grad()
            (distance + _SMOOTHNESS * _variation(photo_1CHW)).backward()
            optimiser.step()
            schedule.step()
        return self._photo(layers).detach()

    def _distance(self, photo_1CHW: Tensor, label_1: Tensor, present_K: Tensor, wanted: tuple[Tensor, ...]) -> Tensor:
        """One minus the cosine between the photo's gradient and the wanted direction."""
        settings = self._known.study.loss
        embedding_1D = self._model(photo_1CHW)
        patient_loss = loss.syndrome_loss(
            embedding_1D, label_1, self._model.prototypes, present_K, settings, self._margin
        )
        gradients = torch.autograd.grad(patient_loss, self._parameters, create_graph=True)
        along = sum((one.flatten() @ part for one, part in zip(gradients, wanted, strict=True)), torch.zeros(()))
        length = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(one) for one in gradients]))
        distance: Tensor = 1 - along / length
        return distance

    def _embedding_input(self, update: Tensor) -> Tensor | None:
        """What entered the embedding layer (F,), where that trains and somebody's photo has left a trace."""
        sizes = [torch.Size(shape).numel() for shape in self._shapes.values()]
        parts = dict(zip(self._shapes, update.split(sizes), strict=True))
        weight, bias = (parts.get(f"trunk.{_EMBEDDING_LAYER}.{name}") for name in ("weight", "bias"))
        if weight is None or bias is None or not bias.any():
            return None
        input_F: Tensor = bias @ weight.view(len(bias), -1) / (bias @ bias)
        return input_F

    def _photo(self, layers: list[Tensor]) -> Tensor:
        """The photo that the layers of all scales add up to."""
        size = (FACE_SIZE_PX, FACE_SIZE_PX)
        moved = [F.interpolate(layer, size=size, mode="bilinear", align_corners=False) for layer in layers]
        return (self._known.face_1CHW + torch.stack(moved).sum(0)).clamp(-1, 1)

    def _note(self, layer: nn.Module, entering: tuple[Tensor, ...]) -> None:
        self._entered = entering[0]


def _variation(photo_1CHW: Tensor) -> Tensor:
    """Mean difference between neighbouring pixels."""
    across = (photo_1CHW[..., 1:] - photo_1CHW[..., :-1]).abs().mean()
    return across + (photo_1CHW[..., 1:, :] - photo_1CHW[..., :-1, :]).abs().mean()
