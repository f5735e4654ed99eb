"""How does the network learn to tell people apart before it sees a patient? Stage 1: ArcFace over identities.

Legend: N photos, I identities, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bioface_core import augment, loss
from bioface_core.config import Study
from bioface_core.embed import embed
from bioface_core.model import Recogniser, SEResNet, initialise, memory_format, random_directions
from bioface_core.optimise import make_optimiser
from bioface_core.photos import PhotoSet, shuffled
from bioface_core.sections import Model
from bioface_core.seeding import generator
from bioface_core.speed import TrainingPass, hand_over
from bioface_core.weights import Base, without_counters

_WARM_UP = 0.1  # share of the steps before the rate falls
_GRADIENT_NORM = 5.0


@dataclass(frozen=True)
class Epoch:
    """What an epoch of stage 1 gave: its number from 1, mean loss and share of photos told apart."""

    number: int
    loss: float
    accuracy: float


def pretrain(
    study: Study, people: PhotoSet, device: torch.device | str, on_epoch: Callable[[Epoch], None] = lambda epoch: None
) -> Base:
    """Trains a trunk to identify people.

    Args:
        study: ``model``, ``pretrain``, ``speed`` and ``seed`` are used. The norm is ``batch`` unless the study's is
            ``group``: statistics that are frozen later have to come from somewhere.
        people: photos whose labels 0..I-1 are identities, on ``device``.
        device: where to train.
        on_epoch: called after each epoch.

    Returns:
        The trunk and the identities' prototypes, on the CPU.
    """
    config = study.model.model_copy(update={"norm": "group" if study.model.norm == "group" else "batch"})
    model = Recogniser(config, int(people.labels_N.max()) + 1)
    initialise(model.trunk, generator(study.seed, "initial weights"))
    directions_ID = random_directions(len(model.prototypes), config.embedding, generator(study.seed, "identities"))
    model.prototypes.data.copy_(directions_ID)
    model = model.to(device, memory_format=memory_format(config))  # type: ignore[call-overload]
    for epoch in _epochs(model, study, people):
        on_epoch(epoch)
    trunk = {name: tensor.cpu() for name, tensor in without_counters(model.trunk.state_dict()).items()}
    return Base(trunk, model.prototypes.detach().cpu())


def identified(base: Base, config: Model, people: PhotoSet) -> float:
    """How well a base tells people apart: the share of photos whose nearest other photo shows the same person.

    Args:
        base: of ``config``'s network.
        config: the network.
        people: photos of people the base has not been trained on, at least two of each.

    Returns:
        0..1; the mirrored view is averaged.
    """
    trunk = SEResNet(config.model_copy(update={"norm": "group" if config.norm == "group" else "frozen"})).eval()
    trunk.load_state_dict(base.trunk, strict=False)
    trunk = trunk.to(people.labels_N.device)
    embeddings_ND = embed(trunk, people.photos_NCHW)
    cosines_NN = (embeddings_ND @ embeddings_ND.T).fill_diagonal_(-2)
    return float((people.labels_N[cosines_NN.argmax(1)] == people.labels_N).float().mean())


def _epochs(model: Recogniser, study: Study, people: PhotoSet) -> Iterator[Epoch]:
    settings, randomness = study.pretrain, generator(study.seed, "pretrain")
    steps = settings.epochs * -(-len(people) // settings.batch)
    device = people.labels_N.device
    optimiser, embed_training = _optimiser(model, study), TrainingPass(model.trunk, study.speed, device)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.rate, steps, pct_start=_WARM_UP, cycle_momentum=False
    )
    model.train()
    taken = 0
    for number in range(1, settings.epochs + 1):
        total, right = torch.zeros(2, device=device).unbind()
        for indices_B in shuffled(len(people), settings.batch, randomness):
            margin = settings.margin * min(1.0, 2 * taken / steps)
            batch = people.take(hand_over(indices_B, device))
            embeddings_ND = embed_training(_changed(batch, study, randomness))
            batch_loss, hits = _step(model, embeddings_ND, batch.labels_N, study, margin, optimiser)
            schedule.step()
            total, right, taken = total + batch_loss * len(indices_B), right + hits, taken + 1
        yield Epoch(number, float(total) / len(people), float(right) / len(people))


def _changed(batch: PhotoSet, study: Study, randomness: torch.Generator) -> Tensor:
    draws = augment.draw(len(batch), study.pretrain.augment, randomness).to(batch.labels_N.device)
    return augment.apply(batch.photos_NCHW, draws).contiguous(memory_format=memory_format(study.model))


def _step(
    model: Recogniser,
    embeddings_ND: Tensor,
    labels_N: Tensor,
    study: Study,
    margin: float,
    optimiser: torch.optim.Optimizer,
) -> tuple[Tensor, Tensor]:
    """One step; returns its loss and how many photos were identified, both on the device."""
    cosines_NI = loss.cosines(embeddings_ND, model.prototypes)
    batch_loss = loss.arcface(cosines_NI, labels_N, study.pretrain.scale, margin)
    optimiser.zero_grad()
    batch_loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), _GRADIENT_NORM, foreach=True)
    optimiser.step()
    return batch_loss.detach(), (cosines_NI.argmax(1) == labels_N).sum()


def _optimiser(model: Recogniser, study: Study) -> torch.optim.Optimizer:
    train = study.train.model_copy(update={"weight_decay": study.pretrain.weight_decay, "optimiser": "adamw"})
    return make_optimiser(model.named_parameters(), train, study.pretrain.rate)
