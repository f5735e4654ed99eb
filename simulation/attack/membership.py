"""Was a patient among those trained on? One asks the final model how sure it is of them, and how sure others are.

A model is surer of whom it was trained on. But some patients are easy for any model: so the score is how much surer
the attacked model is than reference models that have not seen the patient (the offline likelihood-ratio attack with
one variance for all: the ratio then orders patients as this difference does). The reference models are trained by the
attacker on random halves of all patients, members or not, in pairs of complementary halves; so the attacker is assumed
to have everybody's photos, and to lack nothing but the knowledge of who was trained on.

Legend: N photos, P patients, K syndromes, M reference models.

Source: Carlini et al. 2022, "Membership inference attacks from first principles" (section 6, offline attack).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bioface_core import loss
from bioface_core.learner import Learner
from bioface_core.photos import PhotoSet
from bioface_core.report.attacks import Estimate, Membership
from bioface_core.seeding import generator

_RESAMPLES = 1000
_RATES = (0.01, 0.001)  # of false alarms


def confidences(learner: Learner, vector: Tensor, photos: PhotoSet) -> Tensor:
    """How sure a model is of each patient's syndrome, float32 (P,): log odds, the mean over the patient's photos.

    Args:
        learner: of the study.
        vector: float32 (n,), the model.
        photos: of patients 0 to P - 1.
    """
    prototypes_KD = vector[-learner.classes * learner.embedding :].view(learner.classes, -1)
    logits_NK = loss.scores(learner.embed(vector, photos), prototypes_KD, learner.study.loss)
    if learner.study.loss.mode != "ce":
        logits_NK = learner.study.loss.scale * logits_NK
    own_N = logits_NK.gather(1, photos.labels_N[:, None])[:, 0]
    others_NK = logits_NK.scatter(1, photos.labels_N[:, None], -torch.inf)
    odds_N = own_N - others_NK.logsumexp(1)
    count_P = torch.bincount(photos.patients_N).float()
    return torch.zeros(len(count_P)).index_add_(0, photos.patients_N, odds_N) / count_P


def surprise(target_P: Tensor, references_MP: Tensor, trained_MP: Tensor) -> Tensor:
    """How much surer the attacked model is of each patient than the references that have not seen them, (P,).

    Args:
        target_P: ``confidences`` of the attacked model.
        references_MP: of each reference model.
        trained_MP: bool, whom each was trained on; each patient is out of one at least.
    """
    out_MP = (~trained_MP).float()
    return target_P - (references_MP * out_MP).sum(0) / out_MP.sum(0)


def halves(patients: int, references: int, seed: int) -> Tensor:
    """Whom each reference model is trained on, bool (M, P): random halves, each followed by the other half."""
    trained: list[Tensor] = []
    for pair in range(-(-references // 2)):
        order_P = torch.randperm(patients, generator=generator(seed, "reference", pair))
        half_P = torch.zeros(patients, dtype=torch.bool)
        half_P[order_P[: patients // 2]] = True
        trained += [half_P, ~half_P]
    return torch.stack(trained[:references])


def membership(scores_P: Tensor, member_P: Tensor) -> Membership:
    """What the scores tell, with 95 % intervals over which patients there were (bootstrap).

    Args:
        scores_P: higher means rather a member.
        member_P: bool, who is.

    Returns:
        Area under the ROC curve, and the share of members found at each rate of false alarms; None where fewer than
        one of the non-members would be a false alarm, so that the rate cannot be seen.
    """
    inside_M, outside_M = scores_P[member_P], scores_P[~member_P]
    resampled = _resampled(inside_M, outside_M)
    found = [
        _estimate(_caught(inside_M, outside_M, rate), [_caught(*groups, rate) for groups in resampled])
        if rate * len(outside_M) >= 1
        else None
        for rate in _RATES
    ]
    area = _estimate(_area(inside_M, outside_M), [_area(*groups) for groups in resampled])
    return Membership(area, *found)


def _area(inside_M: Tensor, outside_M: Tensor) -> float:
    """The chance that a member scores higher than another one; ties count half."""
    sorted_M = outside_M.sort().values
    lower_M, not_higher_M = (torch.searchsorted(sorted_M, inside_M, right=right) for right in (False, True))
    return float((lower_M + not_higher_M).double().mean()) / (2 * len(outside_M))


def _caught(inside_M: Tensor, outside_M: Tensor, rate: float) -> float:
    """The share of the members above a threshold that no more than ``rate`` of the others pass."""
    threshold = outside_M.sort(descending=True).values[int(rate * len(outside_M) + 1e-9)]
    return float((inside_M > threshold).float().mean())


def _resampled(inside_M: Tensor, outside_M: Tensor) -> Sequence[tuple[Tensor, Tensor]]:
    """Both groups drawn again with replacement, many times."""
    randomness = generator("bootstrap")

    def again(group_M: Tensor) -> Tensor:
        return group_M[torch.randint(len(group_M), (len(group_M),), generator=randomness)]

    return [(again(inside_M), again(outside_M)) for _ in range(_RESAMPLES)]


def _estimate(value: float, resampled: Sequence[float]) -> Estimate:
    low, high = torch.tensor(resampled).quantile(torch.tensor([0.025, 0.975])).tolist()
    return Estimate(value, min(low, value), max(high, value))
