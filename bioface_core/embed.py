"""What does a network make of faces when it is not trained? Unit embeddings, the mirrored view averaged.

Legend: N photos, C channels, H W pixels, D embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bioface_core.augment import mirror
from bioface_core.model import to_float

_BATCH = 64


def embed(network: nn.Module, photos_NCHW: Tensor, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    """Embeds aligned faces.

    Args:
        network: a trunk or a recogniser in evaluation mode.
        photos_NCHW: uint8 0..255, or float -1..1, 3 x 112 x 112, on the network's device; at least one.
        layout: the memory layout that the network's convolutions want.

    Returns:
        Unit embeddings (N, D), without a graph.
    """
    with torch.inference_mode():
        parts = [_both_views(network, part, layout) for part in photos_NCHW.split(_BATCH)]
        unit_ND = F.normalize(torch.cat(parts))
    return unit_ND.clone()


def _both_views(network: nn.Module, photos_NCHW: Tensor, layout: torch.memory_format) -> Tensor:
    views = [to_float(view).contiguous(memory_format=layout) for view in (photos_NCHW, mirror(photos_NCHW))]
    upright_ND: Tensor = network(views[0])
    mirrored_ND: Tensor = network(views[1])
    return upright_ND + mirrored_ND
