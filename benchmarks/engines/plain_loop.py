"""What does a hospital compute, whoever coordinates it? The loop every framework of the comparison is given.

Plain PyTorch over our network, loss, augmentation and optimiser, which are functions: no message, no site, no engine of
ours. Photos and start are read from the files that ``run.py`` laid out.

Legend: N photos, P patients.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from bioface_core import augment, loss
from bioface_core.config import Study, read_study
from bioface_core.evaluate import per_patient
from bioface_core.model import Recogniser, random_directions, to_float
from bioface_core.optimise import make_optimiser
from bioface_core.photos import PhotoSet, shuffled
from bioface_core.seeding import generator
from bioface_core.store import read_store
from bioface_core.weights import read_base

_EVALUATED_AT_ONCE = 64


@dataclass(frozen=True)
class Order:
    """What a framework's script is asked to do.

    Attributes:
        laid: folder with study, start and hospitals.
        rounds: of the federation.
        workers: hospitals that train at the same time.
        out: file for the result.
    """

    laid: Path
    rounds: int
    workers: int
    out: Path


def read_order(arguments: list[str] | None = None) -> Order:
    """The order on the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("laid", type=Path)
    parser.add_argument("rounds", type=int)
    parser.add_argument("workers", type=int)
    parser.add_argument("out", type=Path)
    torch.set_num_threads(1)
    return Order(**vars(parser.parse_args(arguments)))


@lru_cache(maxsize=1)
def study_of(laid: Path) -> Study:
    """The study that everybody runs."""
    return read_study(laid / "study.yaml")


@lru_cache(maxsize=64)
def hospital(laid: Path, number: int) -> tuple[PhotoSet, PhotoSet]:
    """Photos to train on, and of held-out patients, of a hospital counted from 1; kept in this process."""
    store = read_store(laid / "hospitals" / f"hospital-{number}")
    return store.train(), store.heldout()


def make_model(laid: Path) -> Recogniser:
    """The network as it is before training."""
    study = study_of(laid)
    model = Recogniser(study.model, len(study.syndromes))
    model.trunk.load_state_dict(read_base(laid / "base.safetensors", study.model).trunk, strict=False)
    classes, dimensions = model.prototypes.shape
    model.prototypes.data.copy_(random_directions(classes, dimensions, generator(study.seed, "prototypes")))
    return model.to(memory_format=torch.channels_last)


@lru_cache(maxsize=1)
def resident_model(laid: Path) -> Recogniser:
    """A network that stays in this process, for a framework that calls a function for each message."""
    torch.set_num_threads(1)
    return make_model(laid)


def train(model: nn.Module, study: Study, photos: PhotoSet, number: int, round_: int) -> float:
    """One epoch of a hospital in a round, counted from 1; gives the mean loss."""
    model.train()
    randomness = generator(study.seed, "train", f"hospital-{number}", round_)
    optimiser = make_optimiser(model.named_parameters(), study.train, study.train.rate)
    losses = []
    for indices_B in shuffled(len(photos), study.train.batch, randomness):
        value = batch_loss(model, study, photos.take(indices_B), randomness)
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), study.train.clip)
        optimiser.step()
        losses.append(value.detach())
    return float(torch.stack(losses).mean())


def batch_loss(model: nn.Module, study: Study, batch: PhotoSet, randomness: torch.Generator) -> Tensor:
    """The loss of a batch, augmented."""
    draws = augment.draw(len(batch), study.train.augment, randomness)
    views_NCHW = augment.apply(batch.photos_NCHW, draws).contiguous(memory_format=torch.channels_last)
    every_K = torch.ones(len(study.syndromes), dtype=torch.bool)
    prototypes_KD = model.get_parameter("prototypes")
    return loss.syndrome_loss(model(views_NCHW), batch.labels_N, prototypes_KD, every_K, study.loss, study.loss.margin)


@torch.inference_mode()
def recognised(model: nn.Module, study: Study, heldout: PhotoSet) -> tuple[int, int]:
    """How many held-out patients are recognised, and how many there are; photos are seen mirrored as well."""
    model.eval()
    embeddings_ND = torch.cat(list(_embedded(model, heldout.photos_NCHW)))
    patients_PD, labels_P = per_patient(embeddings_ND, heldout.labels_N, heldout.patients_N)
    scores_PK = loss.scores(patients_PD, model.get_parameter("prototypes"), study.loss)
    return int((scores_PK.argmax(1) == labels_P).sum()), len(labels_P)


def write_result(order: Order, model: nn.Module) -> None:
    """Leaves the final model's accuracy on the held-out patients of all hospitals."""
    study = study_of(order.laid)
    counts = [recognised(model, study, hospital(order.laid, number)[1]) for number in numbers(study)]
    right, patients = (sum(column) for column in zip(*counts, strict=True))
    order.out.write_text(json.dumps({"right": right, "patients": patients}), encoding="utf-8")


def numbers(study: Study) -> Iterable[int]:
    """The hospitals, from 1."""
    return range(1, study.simulation.hospitals + 1)


def _embedded(model: nn.Module, photos_NCHW: Tensor) -> Iterator[Tensor]:
    for part in photos_NCHW.split(_EVALUATED_AT_ONCE):
        both = (to_float(views).contiguous(memory_format=torch.channels_last) for views in (part, augment.mirror(part)))
        yield sum((model(views) for views in both), torch.zeros(()))
