"""What does a network make of faces when it is not trained? Unit embeddings, the mirrored view averaged.

Legend: N photos, C channels, H W pixels, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bioface_core.augment import mirror
from bioface_core.model import to_float

BATCH = 64


def embed(network: nn.Module, photos_NCHW: Tensor, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    """Embeds aligned faces.

    Args:
        network: a trunk or a recogniser in evaluation mode.
        photos_NCHW: uint8 0..255, or float -1..1, 3 x 112 x 112, on the network's device; at least one.
        layout: the memory layout that the network's convolutions want.

    Returns:
        Unit embeddings (N, D), without a graph.
    """
    return embed_pairs(network, (both_views(part, layout) for part in photos_NCHW.split(BATCH)))


def embed_pairs(network: nn.Module, pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Embeds what a network is given of faces and of their mirror images, batch by batch.

    Returns:
        Unit embeddings (N, D), without a graph.
    """
    with torch.inference_mode():
        unit_ND = F.normalize(torch.cat([network(upright) + network(mirrored) for upright, mirrored in pairs]))
    return unit_ND.clone()


def both_views(photos_NCHW: Tensor, layout: torch.memory_format) -> tuple[Tensor, Tensor]:
    """Faces as they are and mirrored, float, in ``layout``."""
    upright_NCHW, mirrored_NCHW = (
        to_float(view).contiguous(memory_format=layout) for view in (photos_NCHW, mirror(photos_NCHW))
    )
    return upright_NCHW, mirrored_NCHW
