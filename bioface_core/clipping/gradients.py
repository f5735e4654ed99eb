"""How are a parameter's gradients kept, one for each patient? In the form that costs the least memory traffic.

All are float32 by the time they are measured, so that the norm is the norm of what is added, whatever precision the
network computes in. Norms are taken row by row: torch's float32 norm of a whole 512 x 25088 gradient was
found 0.08 % too small, for it adds up squares without care. Where a norm is not taken of what is added (``Convolved``),
what rounding may put there is added to it: a lab may choose weights for which all but the rounding cancels.

Legend: N patients, I entering and O leaving values of a layer, T positions of a convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

_HALF_A_BIT = 2.0**-24  # of float32, the largest relative error of one rounding


class Gradients(Protocol):
    """One parameter's gradients."""

    def norms(self) -> Tensor:
        """Their Euclidean norms, float32 (N,)."""

    def add_to(self, total: Tensor, factors_N: Tensor) -> None:
        """Adds to ``total`` each patient's gradient times their factor."""


@dataclass(frozen=True)
class Stacked:
    """Small ones, in one tensor.

    Attributes:
        values: float32 (N, *shape of the parameter).
    """

    values: Tensor

    def norms(self) -> Tensor:
        """Row by row."""
        rows = tuple(range(2, self.values.ndim))
        return _norm(_norm(self.values, rows) if rows else self.values.view(len(self.values), -1), 1)

    def add_to(self, total: Tensor, factors_N: Tensor) -> None:
        """One product of matrices."""
        total.add_(torch.tensordot(factors_N, self.values, dims=1))


@dataclass(frozen=True)
class Listed:
    """Large ones, each where it was computed and in the memory format it was computed in: they are never copied.

    Attributes:
        values: N times float32, in the shape of the parameter.
    """

    values: list[Tensor]

    def norms(self) -> Tensor:
        """Row by row, each gradient."""
        rows = tuple(range(1, self.values[0].ndim))
        return _norm(torch.stack([_norm(value, rows) for value in self.values]), 1)

    def add_to(self, total: Tensor, factors_N: Tensor) -> None:
        """One gradient after another."""
        for value, factor in zip(self.values, factors_N.unbind(), strict=True):
            total.addcmul_(value, factor)


@dataclass(frozen=True)
class Products:
    """Those of a linear layer, which are outer products: they are never multiplied out.

    Attributes:
        entering_NI: float32, what went into the layer.
        returned_NO: float32, the gradient that came back to it.
    """

    entering_NI: Tensor
    returned_NO: Tensor

    def norms(self) -> Tensor:
        """The product of the factors' norms."""
        return (_norm(self.entering_NI.double(), 1) * _norm(self.returned_NO.double(), 1)).float()

    def add_to(self, total: Tensor, factors_N: Tensor) -> None:
        """One product of matrices."""
        total.view(len(total), -1).addmm_((self.returned_NO * factors_N[:, None]).T, self.entering_NI)


@dataclass(frozen=True)
class Convolved:
    """Those of a convolution with few positions and many weights: the sum is one convolution over all patients.

    Attributes:
        layer: the convolution.
        entering_NCHW: float32, what went into it.
        returned_NCHW: float32, the gradient that came back to it.
        norms_N: float32.
    """

    layer: nn.Conv2d
    entering_NCHW: Tensor
    returned_NCHW: Tensor
    norms_N: Tensor

    @staticmethod
    def of(layer: nn.Conv2d, entering_NCHW: Tensor, returned_NCHW: Tensor) -> Convolved:
        """Takes the norms by Gram matrices: |sum_t g_t a_t'|^2 = sum_st (a_s' a_t) (g_s' g_t).

        In float64, for its terms may cancel, and a norm that is too small would let a patient pull too far. What is
        added is a float32 sum of the same terms over positions and patients, which rounding moves by at most
        (N T + 2) / 2^24 times the sum of their norms (Higham 2002, section 4.2, for any order): that is put on top.

        Source: Bu et al. 2022, "Scalable and efficient training of large convolutional neural networks with
        differential privacy" (ghost norm).
        """
        entering_NCHW, returned_NCHW = entering_NCHW.contiguous(), returned_NCHW.contiguous()
        geometry = (layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        unfolded_NIT = F.unfold(entering_NCHW, *geometry).double()  # type: ignore[arg-type]
        returned_NOT = returned_NCHW.flatten(2).double()
        squares_N = (unfolded_NIT.mT @ unfolded_NIT).mul_(returned_NOT.mT @ returned_NOT).sum((1, 2))
        terms_N = (_norm(unfolded_NIT, 1) * _norm(returned_NOT, 1)).sum(1)
        rounding_N = terms_N * (len(unfolded_NIT) * unfolded_NIT.shape[2] + 2) * _HALF_A_BIT
        norms_N = squares_N.clamp_min_(0).sqrt_().add_(rounding_N).float()
        return Convolved(layer, entering_NCHW, returned_NCHW, norms_N)

    def norms(self) -> Tensor:
        """Taken when the layer was passed."""
        return self.norms_N

    def add_to(self, total: Tensor, factors_N: Tensor) -> None:
        """One gradient of all patients together."""
        total.add_(kernel_gradient(self.layer, self.entering_NCHW, self.returned_NCHW * factors_N.view(-1, 1, 1, 1)))


def kernel_gradient(layer: nn.Conv2d, entering_NCHW: Tensor, returned_NCHW: Tensor) -> Tensor:
    """The gradient of a convolution's weight, summed over the patients given."""
    assert not isinstance(layer.padding, str)
    geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # ten bits are not what was measured
        gradient: Tensor = conv2d_weight(entering_NCHW, layer.weight.shape, returned_NCHW, *geometry)
    return gradient


def _norm(values: Tensor, axes: int | tuple[int, ...]) -> Tensor:
    """The Euclidean norm over some axes."""
    norms: Tensor = torch.linalg.vector_norm(values, dim=axes)
    return norms
