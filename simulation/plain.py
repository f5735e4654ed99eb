"""What would a researcher write in an afternoon? Federated averaging as a plain loop: the benchmark's yardstick.

No site, no messages, no journal; the same network, loss, augmentation and steps as a federation of ours.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from bioface_core import augment, loss
from bioface_core.config import Study
from bioface_core.evaluate import Counts, count, per_patient
from bioface_core.model import Recogniser, random_directions, to_float
from bioface_core.optimise import make_optimiser, rate_at
from bioface_core.photos import PhotoSet, shuffled
from bioface_core.seeding import generator
from bioface_core.start import Start, read_start
from bioface_core.store import Store
from bioface_core.weights import Base
from simulation import sites

Named = dict[str, Tensor]


def run_plain(folder: Path, study: Study) -> Tensor:
    """Trains the study's federated arm on the files of a run folder, on the CPU.

    Args:
        folder: with base, identities and stores laid out.
        study: strategy ``fedavg``, mode ``cross-alternate``, weights by patients.

    Returns:
        The final parameters as one vector, prototypes last.
    """
    start = read_start(folder, study)
    stores = [sites.read_hospital(folder, study, index) for index in range(study.simulation.hospitals)]
    model = plain_model(study, start.base)
    for round_ in range(1, study.federation.rounds + 1):
        shared = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        changes = []
        for index, store in enumerate(stores, start=1):
            _load(model, shared)
            train_plain(model, study, store.train(), start, round_, f"hospital-{index}")
            changes.append({name: p.detach() - shared[name] for name, p in model.named_parameters()})
        _load(model, _averaged(shared, changes, stores, study))
        _evaluate(model, study, stores)
        weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, folder / "plain.safetensors")
    return plain_vector(model)


def plain_vector(model: Recogniser) -> Tensor:
    """All parameters as one vector, prototypes last."""
    parameters = dict(model.named_parameters())
    parameters["prototypes"] = parameters.pop("prototypes")
    return torch.cat([parameter.detach().reshape(-1) for parameter in parameters.values()])


def plain_model(study: Study, base: Base) -> Recogniser:
    """The network with the base in it, channels last."""
    model = Recogniser(study.model, len(study.syndromes))
    model.trunk.load_state_dict(base.trunk, strict=False)
    classes, dimensions = model.prototypes.shape
    directions_KD = random_directions(classes, dimensions, generator(study.seed, "prototypes"))
    model.prototypes.data.copy_(directions_KD)
    model = model.to(memory_format=torch.channels_last)
    return model


def train_plain(model: Recogniser, study: Study, photos: PhotoSet, start: Start, round_: int, stream: str) -> None:
    """One hospital's round.

    Args:
        model: the shared one; it is changed.
        study: mode ``cross-alternate``, float32.
        photos: the hospital's.
        start: whose people the mode identifies.
        round_: 1 for the first.
        stream: the hospital's name.
    """
    identities, prototypes_ID = start.identities, start.base.identities_ID
    assert identities is not None and prototypes_ID is not None, "the mode identifies"
    model.train()
    randomness, progress = generator(study.seed, "train", stream, round_), (round_ - 1) / study.federation.rounds
    optimiser = make_optimiser(model.named_parameters(), study.train, rate_at(study.train, progress))
    present_K = torch.bincount(photos.labels_N, minlength=len(study.syndromes)) > 0
    margin, step = loss.margin_at(study.loss, progress), 0
    for _ in range(study.train.epochs):
        for indices_B in shuffled(len(photos), study.train.batch, randomness):
            batch, step = photos.take(indices_B), step + 1
            embeddings_BD = model(_changed(batch.photos_NCHW, study, randomness))
            value = loss.syndrome_loss(embeddings_BD, batch.labels_N, model.prototypes, present_K, study.loss, margin)
            _step(model, optimiser, value, study)
            if step % study.loss.identification_every == 0:
                people = identities.take(torch.randint(len(identities), (study.train.batch,), generator=randomness))
                embeddings_BD = model(_changed(people.photos_NCHW, study, randomness))
                value = _public_loss(embeddings_BD, people.labels_N, model.prototypes, prototypes_ID, study)
                _step(model, optimiser, value, study)


def _public_loss(
    embeddings_BD: Tensor, labels_B: Tensor, prototypes_KD: Tensor, prototypes_ID: Tensor, study: Study
) -> Tensor:
    """L_id + lambda_out L_out."""
    cosines_BI = loss.cosines(embeddings_BD, prototypes_ID)
    value = loss.arcface(cosines_BI, labels_B, study.loss.scale, study.pretrain.margin)
    if study.loss.healthy == "repel":
        cosines_BK = loss.cosines(embeddings_BD, prototypes_KD)
        value = value + study.loss.healthy_weight * loss.repel(cosines_BK, study.loss.scale)
    return value


def _step(model: Recogniser, optimiser: torch.optim.Optimizer, value: Tensor, study: Study) -> None:
    optimiser.zero_grad()
    value.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), study.train.clip)
    optimiser.step()


def _changed(photos_NCHW: Tensor, study: Study, randomness: torch.Generator) -> Tensor:
    draws = augment.draw(len(photos_NCHW), study.train.augment, randomness)
    return augment.apply(photos_NCHW, draws).contiguous(memory_format=torch.channels_last)


def _averaged(shared: Named, changes: list[Named], stores: list[Store], study: Study) -> Named:
    """Weighted mean; a prototype's by the hospitals that have the syndrome."""
    step = study.federation.weight_step
    weights_S = torch.tensor([float(-(-store.train().patients() // step) * step) for store in stores])
    labels = [store.train().labels_N for store in stores]
    has_SK = torch.stack([torch.bincount(labels_N, minlength=len(study.syndromes)) > 0 for labels_N in labels])
    averaged = {}
    for name, value in shared.items():
        changes_S = torch.stack([change[name] for change in changes])
        weights = weights_S[:, None] * (has_SK if name == "prototypes" else torch.ones(len(stores), 1))
        weights = weights.view(*weights.shape, *[1] * (changes_S.ndim - weights.ndim))
        averaged[name] = value + (weights * changes_S).sum(0) / weights.sum(0).clamp_min(1)
    return averaged


def _evaluate(model: Recogniser, study: Study, stores: list[Store]) -> Counts:
    model.eval()
    total = Counts.zeros(len(study.syndromes))
    with torch.inference_mode():
        for photos in (store.heldout() for store in stores):
            parts = [
                model(to_float(views).contiguous(memory_format=torch.channels_last))
                for part in photos.photos_NCHW.split(64)
                for views in (part, augment.mirror(part))
            ]
            embeddings_ND = torch.cat([a + b for a, b in zip(parts[::2], parts[1::2], strict=True)])
            patients_PD, labels_P = per_patient(embeddings_ND, photos.labels_N, photos.patients_N)
            total = total + count(loss.scores(patients_PD, model.prototypes, study.loss), labels_P)
    return total


def _load(model: Recogniser, named: Named) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(named[name])
