"""Which photos are copies of one another? Those of which one face explains the other all but completely.

The usual hash of a picture does not tell copies from other photos here: aligned faces all look alike, and a copy that
was compressed or cropped is aligned a pixel differently, which changes it as much as a smile does. So a pair that looks
alike at 16 x 16 is compared by one least-squares fit: face A as a sum of face B, B's changes when it is shifted, turned
and resized a little, and a constant for the light. What the fit leaves is nearly nothing for a copy.

Measured, as a share of variance left (median, 95 %, largest): copies at JPEG quality 60 0.0002, 0.002, 0.03; at half
size 0.0000, 0.001, 0.14; turned by 3 degrees 0.0002, 0.007, 0.03. Two shots of one person a minute apart, same light,
same smile: at least 0.011. Different people: at least 0.09.

Legend: N photos, C channels, H W pixels, P pairs, D entries of a signature.

Source: Lucas and Kanade 1981 (the linear change of a picture that is moved a little).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from bioface_core.quality import LUMA_3

LEFT = 0.008  # share of variance that a copy may leave unexplained
ALIKE = 0.1  # 1 - correlation at 16 x 16 of pairs that are looked at closely
_ROWS_AT_ONCE, _PAIRS_AT_ONCE = 1024, 256  # some tens of megabytes of memory
_SMALL_PX, _SIGNATURE_PX = 56, 16
_FACE = (..., slice(8, 104), slice(16, 96))  # of 112: without the corners, where alignment differs most
_INNER = (..., slice(4, 52), slice(8, 48))  # the same of 56


def near_duplicates(faces_NCHW: Tensor) -> list[tuple[int, int]]:
    """Pairs of copies.

    Args:
        faces_NCHW: uint8, aligned; N squared pairs are compared, 10,000 faces in some seconds and more if many look
            alike.

    Returns:
        (earlier, later) positions, in order.
    """
    if len(faces_NCHW) < 2:
        return []
    luma_NHW = torch.cat([_luma(part) for part in faces_NCHW.split(_ROWS_AT_ONCE)])
    pairs_P2 = _alike(_signatures(luma_NHW))
    small_NHW = functional.avg_pool2d(functional.avg_pool2d(luma_NHW, 3, 1, 1), luma_NHW.shape[-1] // _SMALL_PX)
    left = [
        unexplained(small_NHW[part_P2[:, 0]], small_NHW[part_P2[:, 1]]) for part_P2 in pairs_P2.split(_PAIRS_AT_ONCE)
    ]
    copies_P2 = pairs_P2[torch.cat(left) < LEFT] if left else pairs_P2
    return sorted((int(earlier), int(later)) for earlier, later in copies_P2)


def unexplained(ones_PHW: Tensor, others_PHW: Tensor) -> Tensor:
    """Share of a picture's variance that its partner, moved and lit differently, leaves; the lesser of both ways.

    Args:
        ones_PHW: grey, float.
        others_PHW: their partners.

    Returns:
        float64 (P,), 0 for copies.
    """
    return torch.minimum(_fit(ones_PHW, others_PHW), _fit(others_PHW, ones_PHW))


def _luma(faces_NCHW: Tensor) -> Tensor:
    return torch.einsum("nchw,c->nhw", faces_NCHW.float(), LUMA_3.to(faces_NCHW.device))


def _signatures(luma_NHW: Tensor) -> Tensor:
    """What a face looks like from afar: unit vectors (N, D) without their mean."""
    coarse_ND = functional.adaptive_avg_pool2d(luma_NHW[_FACE], _SIGNATURE_PX).flatten(1)
    return functional.normalize(coarse_ND - coarse_ND.mean(1, keepdim=True), dim=1)


def _alike(signatures_ND: Tensor) -> Tensor:
    """Pairs (P, 2), earlier before later, that look alike from afar."""
    found = []
    for start in range(0, len(signatures_ND), _ROWS_AT_ONCE):
        likeness_MN = signatures_ND[start : start + _ROWS_AT_ONCE] @ signatures_ND.T
        pairs_P2 = (likeness_MN > 1 - ALIKE).nonzero() + torch.tensor([start, 0])
        found.append(pairs_P2[pairs_P2[:, 0] < pairs_P2[:, 1]])
    return torch.cat(found)


def _fit(targets_PHW: Tensor, sources_PHW: Tensor) -> Tensor:
    """What is left of the targets after least squares on the sources and their small changes."""
    down_PHW, right_PHW = torch.gradient(sources_PHW, dim=(1, 2))
    place = torch.linspace(-1, 1, sources_PHW.shape[-1])
    turned_PHW = place * down_PHW - place[:, None] * right_PHW
    resized_PHW = place * right_PHW + place[:, None] * down_PHW
    changes = [sources_PHW, torch.ones_like(sources_PHW), right_PHW, down_PHW, turned_PHW, resized_PHW]
    basis_PDX = torch.stack([change_PHW[_INNER].flatten(1) for change_PHW in changes], 1).double()
    target_PX1 = targets_PHW[_INNER].flatten(1)[..., None].double()
    gram_PDD = basis_PDX @ basis_PDX.mT
    ridge_PDD = torch.diag_embed(1e-6 * gram_PDD.diagonal(dim1=1, dim2=2) + 1e-9)  # an even face has no changes
    weights_PD1 = torch.linalg.solve(gram_PDD + ridge_PDD, basis_PDX @ target_PX1)
    rest_PX1 = target_PX1 - basis_PDX.mT @ weights_PD1
    spread_PX1 = target_PX1 - target_PX1.mean(1, keepdim=True)
    left_P: Tensor = rest_PX1.square().sum((1, 2)) / spread_PX1.square().sum((1, 2)).clamp(min=1e-9)
    return left_P
