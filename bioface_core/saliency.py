"""What on a face speaks for a syndrome? A heat map of each photo, and what is lost when a region is blurred.

Both explain one number, the *log odds* of the syndrome against all others that are ranked: what raises every syndrome
alike explains nothing.

    heat     Grad-CAM on both views: where the feature maps push the log odds up. It is read from the last maps of at
             least 14 x 14 positions; on the 7 x 7 or 4 x 4 behind them an eye and a brow are one.
    effect   how much the log odds fall when a region is blurred on every photo: an experiment, not a derivative. Below
             zero, the region speaks against the syndrome.

Neither proves anything about the patient. They show what this model reacts to.

Legend: N photos of one patient, C channels, H W pixels, R regions, V variants of the photos, S ranked syndromes.

Source: Selvaraju et al. 2017, "Grad-CAM"; Draelos and Carin 2020, "Use HiResCAM instead of Grad-CAM" (weights by
position, as our pooling keeps positions); Zeiler and Fergus 2014 (occlusion).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bioface_core.augment import mirror
from bioface_core.expert import Expert
from bioface_core.gallery import Gallery, new_syndromes, scores
from bioface_core.model import SEResNet, memory_format, to_float
from bioface_core.photos import FACE_SIZE_PX
from bioface_core.regions import REGIONS, Region, masks

FINEST = 14  # positions along a side of the maps that are looked at, at least
_BLUR_PX, _BLURS = 21, 3  # three box blurs are nearly a Gaussian, here of 10 pixels: no detail is left
_EDGE_PX = 5  # of a blurred region: a sharp edge would be a feature of its own


@dataclass(frozen=True)
class Effect:
    """What a region does.

    Attributes:
        region: which one.
        fall: of the log odds when it is blurred; below 0, they rise.
    """

    region: Region
    fall: float


@dataclass(frozen=True)
class Explanation:
    """What speaks for a syndrome.

    Attributes:
        heat_NHW: float32 0..1 on the CPU, of each photo; 1 is the hottest place of all its photos.
        effects: of each region on all photos together, greatest fall first.
    """

    heat_NHW: Tensor
    effects: tuple[Effect, ...]


def explain(expert: Expert, gallery: Gallery, faces_NCHW: Tensor, syndrome: str) -> Explanation:
    """Explains one syndrome's place in the ranking of one patient.

    Args:
        expert: the trained model; it is left as it was.
        gallery: of this model, perhaps an empty one.
        faces_NCHW: uint8, 3 x 112 x 112, of one patient; at least one.
        syndrome: key of one of the S that are ranked; S is 2 or more.
    """
    target = (*expert.syndromes, *new_syndromes(expert, gallery)).index(syndrome)
    faces_NCHW = faces_NCHW.to(expert.device)
    return Explanation(_heat(expert, gallery, faces_NCHW, target), _effects(expert, gallery, faces_NCHW, target))


def _heat(expert: Expert, gallery: Gallery, faces_NCHW: Tensor, target: int) -> Tensor:
    """Grad-CAM of each photo, its two views together, 0..1."""
    layout = memory_format(expert.study.model, expert.study.speed.channels_last)
    views_MCHW = to_float(torch.cat([faces_NCHW, mirror(faces_NCHW)])).contiguous(memory_format=layout)
    maps_MCHW, rest = _maps(expert.network.trunk, views_MCHW)
    with torch.enable_grad():
        maps_MCHW.requires_grad_()
        patient_1D = F.normalize(F.normalize(rest(maps_MCHW)).sum(0, keepdim=True))
        odds = _log_odds(expert, scores(expert, gallery, patient_1D), target).sum()
        (slope_MCHW,) = torch.autograd.grad(odds, maps_MCHW)
    upright_NHW, mirrored_NHW = (slope_MCHW * maps_MCHW.detach()).sum(1).float().relu().chunk(2)
    coarse_N1HW = (upright_NHW + mirrored_NHW.flip(2))[:, None]
    heat_NHW = F.interpolate(coarse_N1HW, (FACE_SIZE_PX, FACE_SIZE_PX), mode="bilinear", align_corners=False)[:, 0]
    return (heat_NHW / heat_NHW.amax().clamp(min=torch.finfo().tiny)).cpu()


def _maps(trunk: SEResNet, views_MCHW: Tensor) -> tuple[Tensor, nn.Sequential]:
    """The last maps of at least ``FINEST`` positions along a side, and the layers behind them."""
    with torch.no_grad():
        maps_MCHW, depth = trunk.input_layer(views_MCHW), 0
        while depth < len(trunk.body) and (following := trunk.body[depth](maps_MCHW)).shape[2] >= FINEST:
            maps_MCHW, depth = following, depth + 1
    return maps_MCHW, nn.Sequential(*trunk.body[depth:], trunk.output_layer)


def _effects(expert: Expert, gallery: Gallery, faces_NCHW: Tensor, target: int) -> tuple[Effect, ...]:
    """What blurring each region does, in one batch."""
    variants_VNCHW = torch.stack([faces_NCHW, *(blurred(faces_NCHW, mask_HW) for mask_HW in masks())])
    embeddings_VND = expert.embed(variants_VNCHW.flatten(0, 1)).unflatten(0, variants_VNCHW.shape[:2])
    odds_V = _log_odds(expert, scores(expert, gallery, F.normalize(embeddings_VND.sum(1))), target)
    falls = (odds_V[0] - odds_V[1:]).tolist()
    found = [Effect(region, fall) for region, fall in zip(REGIONS, falls, strict=True)]
    return tuple(sorted(found, key=lambda one: -one.fall))


def blurred(faces_NCHW: Tensor, mask_HW: Tensor) -> Tensor:
    """Faces without detail where the mask is true, and as they were elsewhere.

    Args:
        faces_NCHW: uint8.
        mask_HW: bool.
    """
    soft_NCHW = faces_NCHW.float()
    for _ in range(_BLURS):
        soft_NCHW = _box_blur(soft_NCHW, _BLUR_PX)
    share_11HW = _box_blur(mask_HW.to(faces_NCHW.device).float()[None, None], _EDGE_PX)
    return torch.lerp(faces_NCHW.float(), soft_NCHW, share_11HW).round().to(torch.uint8)


def _box_blur(maps_NCHW: Tensor, width_px: int) -> Tensor:
    padding = (width_px // 2,) * 4
    return F.avg_pool2d(F.pad(maps_NCHW, padding, mode="replicate"), width_px, stride=1)


def _log_odds(expert: Expert, scores_PS: Tensor, target: int) -> Tensor:
    """Of one syndrome against all others together, by the calibrated softmax, (P,)."""
    logits_PS = scores_PS / expert.calibration.temperature
    others_PS = torch.cat([logits_PS[:, :target], logits_PS[:, target + 1 :]], 1)
    return logits_PS[:, target] - others_PS.logsumexp(1)
