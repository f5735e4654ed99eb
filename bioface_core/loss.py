"""Which terms has the cross-loss? Our reconstruction: part syndromes by angle, tighten each, keep telling people apart.

    L_cls   ArcFace over syndromes, prototypes as weights
    L_met   pull to one's own prototype (or batch-hard triplet)
    L_id    ArcFace over identities of public or phantom people
    L_out   pushes the same people away from every syndrome: they have none
    joint   L_cls + lambda_met L_met;  cross-sum adds lambda_id (L_id + lambda_out L_out);  cross-alternate takes the
            two in turn

The paper's abstract is all that is public of the original, so names and weights here are ours. Patients and people meet
in bioface_core/cross_loss.py.

Legend: N photos, K classes, D embedding.

Source: Wang et al. 2022, IEEE Access 10:117084 (idea); Deng et al. 2019 eq. 3 (ArcFace); Hermans et al. 2017
(batch-hard triplet); Hendrycks et al. 2019, "Deep anomaly detection with outlier exposure", and Liu et al. 2020,
"Energy-based out-of-distribution detection" (L_out).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bioface_core.sections import Loss

_EDGE = 1e-6  # keeps the arc cosine's derivative finite


def cosines(embeddings_ND: Tensor, prototypes_KD: Tensor) -> Tensor:
    """Cosine of each embedding to each prototype, (N, K).

    Args:
        embeddings_ND: unit embeddings.
        prototypes_KD: any length but zero.
    """
    return embeddings_ND @ F.normalize(prototypes_KD).T


def scores(embeddings_ND: Tensor, prototypes_KD: Tensor, loss: Loss) -> Tensor:
    """What a prediction ranks by, (N, K): cosines, or the linear scores of mode ``ce``."""
    return embeddings_ND @ prototypes_KD.T if loss.mode == "ce" else cosines(embeddings_ND, prototypes_KD)


def cross_entropy(logits_NK: Tensor, labels_N: Tensor, present_K: Tensor | None = None) -> Tensor:
    """Mean cross entropy over the classes that are present.

    Args:
        logits_NK: one row per photo.
        labels_N: int64 true classes.
        present_K: bool; the others take no part, as if the softmax had never heard of them. None: all.

    Returns:
        A scalar.
    """
    if present_K is not None:
        logits_NK = logits_NK.masked_fill(~present_K, -math.inf)
    return F.cross_entropy(logits_NK, labels_N)


def arcface(
    cosines_NK: Tensor, labels_N: Tensor, scale: float, margin: float, present_K: Tensor | None = None
) -> Tensor:
    """Additive angular margin loss: the true class must win by ``margin`` radians.

    Where the angle plus the margin would pass pi, the cosine is continued linearly (as in the reference
    implementation), so that the loss keeps falling towards the true class.

    Args:
        cosines_NK: cosines to every prototype.
        labels_N: int64 true classes.
        scale: s, the inverse temperature.
        margin: m, radians.
        present_K: bool mask of the classes that take part.

    Returns:
        A scalar.

    Source: Deng et al. 2019, eq. 3.
    """
    own_N1 = cosines_NK.gather(1, labels_N[:, None]).clamp(-1 + _EDGE, 1 - _EDGE)
    sine_N1 = (1 - own_N1 * own_N1).sqrt()
    shifted_N1 = own_N1 * math.cos(margin) - sine_N1 * math.sin(margin)
    beyond_N1 = own_N1 - margin * math.sin(margin)
    harder_N1 = torch.where(own_N1 > -math.cos(margin), shifted_N1, beyond_N1)
    return cross_entropy(scale * cosines_NK.scatter(1, labels_N[:, None], harder_N1), labels_N, present_K)


def pull(cosines_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Mean of one minus the cosine to one's own prototype: tightens a syndrome and couples no two patients."""
    return 1 - cosines_NK.gather(1, labels_N[:, None]).mean()


def repel(cosines_NK: Tensor, scale: float) -> Tensor:
    """Pushes people without a syndrome away from all K: mean of softplus(log of the sum of exp(s cosine)).

    It is small only where every cosine lies well below 0; a person near one syndrome costs as much as one near many.

    Args:
        cosines_NK: to every prototype.
        scale: s, the inverse temperature.

    Returns:
        A scalar.
    """
    return F.softplus((scale * cosines_NK).logsumexp(1)).mean()


def batch_hard_triplet(embeddings_ND: Tensor, labels_N: Tensor, margin: float) -> Tensor:
    """Mean over photos of [margin + farthest of the own class - nearest of another], in one minus cosine.

    A photo whose class or whose rivals are absent from the batch adds nothing.

    Args:
        embeddings_ND: unit embeddings.
        labels_N: int64 true classes.
        margin: distance in cosine.

    Returns:
        A scalar; 0 where no photo has both a partner and a rival.

    Source: Hermans et al. 2017, eq. 5.
    """
    distances_NN = 1 - embeddings_ND @ embeddings_ND.T
    same_NN = labels_N[:, None] == labels_N
    partner_NN = same_NN & ~torch.eye(len(labels_N), dtype=torch.bool, device=labels_N.device)
    farthest_N = distances_NN.masked_fill(~partner_NN, -math.inf).amax(1)
    nearest_N = distances_NN.masked_fill(same_NN, math.inf).amin(1)
    usable_N = partner_NN.any(1) & (~same_NN).any(1)
    hardness_N = torch.where(usable_N, margin + farthest_N - nearest_N, 0.0).clamp_min(0)
    return hardness_N.sum() / usable_N.sum().clamp_min(1)


def syndrome_loss(
    embeddings_ND: Tensor, labels_N: Tensor, prototypes_KD: Tensor, present_K: Tensor, loss: Loss, margin: float
) -> Tensor:
    """The part of the cross-loss that looks at patients.

    Args:
        embeddings_ND: unit embeddings of patients.
        labels_N: int64 syndromes.
        prototypes_KD: one per syndrome; those of absent syndromes get no gradient.
        present_K: bool, the syndromes this site has.
        loss: mode and weights.
        margin: the margin of this round, radians.

    Returns:
        A scalar.
    """
    prototypes_KD = torch.where(present_K[:, None], prototypes_KD, prototypes_KD.detach())
    rivals_K = present_K if loss.absent == "mask" else None
    if loss.mode == "ce":
        return cross_entropy(scores(embeddings_ND, prototypes_KD, loss), labels_N, rivals_K)
    cosines_NK = cosines(embeddings_ND, prototypes_KD)
    classified = arcface(cosines_NK, labels_N, loss.scale, margin, rivals_K)
    if loss.mode == "arcface" or loss.metric_weight == 0:
        return classified
    if loss.metric == "triplet":
        return classified + loss.metric_weight * batch_hard_triplet(embeddings_ND, labels_N, loss.triplet_margin)
    return classified + loss.metric_weight * pull(cosines_NK, labels_N)


def margin_at(loss: Loss, progress: float) -> float:
    """The margin at ``progress`` 0..1 of the run: it grows from 0 so that a random start can learn at all."""
    return loss.margin if loss.margin_ramp == 0 else loss.margin * min(1.0, progress / loss.margin_ramp)
