"""Is the cross-loss what its equations say? Against plain Python floats, and by gradcheck."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bioface_core import loss
from bioface_core.sections import Loss


def faces(seed: int, photos: int = 6, classes: int = 4, dimensions: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Random unit embeddings, labels and prototypes in float64."""
    generator = torch.Generator().manual_seed(seed)
    embeddings_ND = F.normalize(torch.randn(photos, dimensions, generator=generator, dtype=torch.float64))
    prototypes_KD = torch.randn(classes, dimensions, generator=generator, dtype=torch.float64)
    return embeddings_ND, torch.randint(0, classes, (photos,), generator=generator), prototypes_KD


def plain_cosine(one: list[float], other: list[float]) -> float:
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return dot / math.sqrt(sum(a * a for a in one)) / math.sqrt(sum(b * b for b in other))


def plain_cross_entropy(logits: list[float], label: int, present: list[bool]) -> float:
    total = sum(math.exp(logit) for logit, there in zip(logits, present, strict=True) if there)
    return math.log(total) - logits[label]


def plain_arcface(
    embeddings: list[list[float]],
    labels: list[int],
    prototypes: list[list[float]],
    scale: float,
    margin: float,
    present: list[bool],
) -> float:
    """Deng et al. 2019, eq. 3, photo by photo, angles and all."""
    total = 0.0
    for embedding, label in zip(embeddings, labels, strict=True):
        cosines = [plain_cosine(embedding, prototype) for prototype in prototypes]
        angle = math.acos(cosines[label])
        if angle + margin < math.pi:
            cosines[label] = math.cos(angle + margin)
        else:
            cosines[label] -= margin * math.sin(margin)
        total += plain_cross_entropy([scale * cosine for cosine in cosines], label, present)
    return total / len(labels)


def plain_triplet(embeddings: list[list[float]], labels: list[int], margin: float) -> float:
    """Hermans et al. 2017, eq. 5, photo by photo."""
    terms = []
    for i, anchor in enumerate(embeddings):
        distances = [1 - plain_cosine(anchor, other) for other in embeddings]
        own = [d for j, d in enumerate(distances) if labels[j] == labels[i] and j != i]
        rivals = [d for j, d in enumerate(distances) if labels[j] != labels[i]]
        if own and rivals:
            terms.append(max(0.0, margin + max(own) - min(rivals)))
    return sum(terms) / len(terms) if terms else 0.0


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), margin=st.floats(0, 1.4), scale=st.floats(1, 64))
def test_arcface_is_its_equation(seed: int, margin: float, scale: float) -> None:
    embeddings_ND, labels_N, prototypes_KD = faces(seed)
    cosines_NK = loss.cosines(embeddings_ND, prototypes_KD)
    expected = plain_arcface(
        embeddings_ND.tolist(), labels_N.tolist(), prototypes_KD.tolist(), scale, margin, [True] * 4
    )
    assert float(loss.arcface(cosines_NK, labels_N, scale, margin)) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_arcface_in_every_precision(dtype: torch.dtype, tolerance: float) -> None:
    embeddings_ND, labels_N, prototypes_KD = faces(3)
    exact = loss.arcface(loss.cosines(embeddings_ND, prototypes_KD), labels_N, 16.0, 0.3)
    rounded = loss.arcface(loss.cosines(embeddings_ND.to(dtype), prototypes_KD.to(dtype)), labels_N, 16.0, 0.3)
    assert float(rounded) == pytest.approx(float(exact), rel=tolerance)


def test_a_class_that_is_absent_takes_no_part() -> None:
    embeddings_ND, labels_N, prototypes_KD = faces(1)
    labels_N = labels_N % 2
    present_K = torch.tensor([True, True, False, False])
    expected = plain_arcface(
        embeddings_ND.tolist(), labels_N.tolist(), prototypes_KD.tolist(), 16.0, 0.3, present_K.tolist()
    )
    prototypes_KD.requires_grad_()
    value = loss.arcface(loss.cosines(embeddings_ND, prototypes_KD), labels_N, 16.0, 0.3, present_K)
    value.backward()
    assert float(value.detach()) == pytest.approx(expected, rel=1e-6)
    assert prototypes_KD.grad is not None
    assert prototypes_KD.grad[2:].abs().max() == 0
    assert prototypes_KD.grad[:2].abs().min() > 0


@pytest.mark.parametrize("absent", ["repel", "mask"])
@pytest.mark.parametrize("mode", ["ce", "joint"])
def test_prototypes_of_absent_syndromes_repel_but_stay(absent: str, mode: str) -> None:
    embeddings_ND, labels_N, prototypes_KD = faces(4)
    labels_N = labels_N % 2
    settings_ = Loss.model_validate({"mode": mode, "absent": absent})
    present_K = torch.tensor([True, True, False, False])
    embeddings_ND.requires_grad_(), prototypes_KD.requires_grad_()
    value = loss.syndrome_loss(embeddings_ND, labels_N, prototypes_KD, present_K, settings_, 0.2)
    towards_ND, moved_KD = torch.autograd.grad(value, (embeddings_ND, prototypes_KD))
    assert moved_KD[2:].abs().max() == 0 < moved_KD[:2].abs().min()
    without = loss.syndrome_loss(embeddings_ND, labels_N, prototypes_KD[:2], present_K[:2], settings_, 0.2)
    alone_ND = torch.autograd.grad(without, embeddings_ND)[0]
    assert torch.allclose(towards_ND, alone_ND) is (absent == "mask")


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 0], [0, 0, 0, 0, 0, 0], [0, 1, 2, 3, 1, 3]])
def test_triplet_is_its_equation(labels: list[int]) -> None:
    embeddings_ND, _, _ = faces(2)
    value = loss.batch_hard_triplet(embeddings_ND, torch.tensor(labels), 0.2)
    assert float(value) == pytest.approx(plain_triplet(embeddings_ND.tolist(), labels, 0.2), rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("mode", ["ce", "arcface", "joint", "cross-sum", "cross-alternate"])
@pytest.mark.parametrize("metric", ["pull", "triplet"])
def test_gradient_of_every_mode(mode: str, metric: str) -> None:
    embeddings_ND, labels_N, prototypes_KD = faces(5)
    settings_ = Loss.model_validate({"mode": mode, "metric": metric, "scale": 4.0})
    present_K = torch.ones(4, dtype=torch.bool)

    def value(raw_ND: Tensor, prototypes_KD: Tensor) -> Tensor:
        return loss.syndrome_loss(F.normalize(raw_ND), labels_N, prototypes_KD, present_K, settings_, 0.3)

    assert torch.autograd.gradcheck(value, (embeddings_ND.requires_grad_(), prototypes_KD.requires_grad_()))


def test_repel_is_its_equation_and_its_gradient() -> None:
    draw = torch.Generator().manual_seed(2)
    cosines_NK = torch.rand(5, 3, dtype=torch.float64, generator=draw) * 2 - 1
    expected = sum(math.log1p(sum(math.exp(8 * one) for one in row)) for row in cosines_NK.tolist()) / 5
    assert float(loss.repel(cosines_NK, 8.0)) == pytest.approx(expected)
    assert torch.autograd.gradcheck(lambda values_NK: loss.repel(values_NK, 8.0), cosines_NK.requires_grad_())


def test_pull_is_one_minus_the_own_cosine() -> None:
    embeddings_ND, labels_N, prototypes_KD = faces(7)
    pairs = zip(embeddings_ND.tolist(), labels_N.tolist(), strict=True)
    expected = sum(1 - plain_cosine(e, prototypes_KD[label].tolist()) for e, label in pairs) / len(labels_N)
    assert float(loss.pull(loss.cosines(embeddings_ND, prototypes_KD), labels_N)) == pytest.approx(expected)


def test_gradient_stays_finite_at_the_prototype_and_opposite() -> None:
    prototypes_KD = torch.eye(3)
    embeddings_ND = torch.cat([prototypes_KD, -prototypes_KD]).requires_grad_()
    loss.arcface(embeddings_ND @ prototypes_KD.T, torch.tensor([0, 1, 2, 0, 1, 2]), 64.0, 0.5).backward()
    assert embeddings_ND.grad is not None
    assert embeddings_ND.grad.isfinite().all()


def test_margin_grows_to_its_full_size() -> None:
    settings_ = Loss(margin=0.4, margin_ramp=0.5)
    assert [loss.margin_at(settings_, progress) for progress in (0.0, 0.25, 0.5, 1.0)] == [0.0, 0.2, 0.4, 0.4]
    assert loss.margin_at(Loss(margin=0.4, margin_ramp=0.0), 0.0) == 0.4
