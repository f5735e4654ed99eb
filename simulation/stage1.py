"""Where does a study start from? A base: trained on identities here, drawn at random, or read from a file.

Legend: N photos, I identities, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from bioface_core.config import Study
from bioface_core.errors import ConfigError
from bioface_core.model import SEResNet, to_float
from bioface_core.photos import PhotoSet
from bioface_core.pretrain import Epoch, pretrain
from bioface_core.start import Start
from bioface_core.store import read_store
from bioface_core.weights import Base, random_base, read_base
from simulation import phantom

_EMBED_BATCH = 64


def make_start(
    study: Study,
    on_photos: Callable[[int, int], None],
    on_epoch: Callable[[Epoch], None],
    device: torch.device,
) -> Start:
    """Makes what the study starts from.

    Args:
        study: ``model.base`` says how.
        on_photos: called with (photos made, photos in all) while phantoms are drawn.
        on_epoch: called after each epoch of stage 1.
        device: where stage 1 trains.

    Raises:
        ConfigError, WeightsError, PhotoError: the base or the people cannot be used.
    """
    needed = study.model.base == "pretrain" or study.loss.identifies
    people = public_people(study, on_photos) if needed else None
    if study.model.base == "scratch":
        base = random_base(study.model, study.seed)
    elif study.model.base == "pretrain":
        assert people is not None
        base = pretrain(study, people.to(device), device, on_epoch)
    else:
        base = read_base(Path(study.model.base), study.model)
    if not study.loss.identifies:
        return Start(base, None)
    assert people is not None
    return Start(_with_identities(base, study, people), people)


def public_people(study: Study, on_photos: Callable[[int, int], None]) -> PhotoSet:
    """The people of stage 1, labels 0..I-1: phantoms who are nobody's patients, or a store of people.

    Raises:
        PhotoError: the store cannot be read.
        ConfigError: the store holds fewer than two people.
    """
    settings = study.pretrain
    if settings.people == "phantoms":
        dials = study.simulation.phantoms
        return phantom.identities(study.seed, settings.identities, settings.photos_per_person, dials, on_photos)
    store = read_store(Path(settings.people))
    if len(store.classes) < 2:
        raise ConfigError(f"pretrain.people: {settings.people} holds {len(store.classes)} person, expected at least 2")
    return store.photos


def _with_identities(base: Base, study: Study, people: PhotoSet) -> Base:
    """The base with a prototype per identity: those stage 1 has just learned, or each person's mean embedding.

    Prototypes that came with a file are of whoever it was trained on, and not of these people.
    """
    if study.model.base == "pretrain":
        return base
    return Base(base.trunk, _mean_embeddings(base, study, people))


def _mean_embeddings(base: Base, study: Study, people: PhotoSet) -> Tensor:
    trunk = SEResNet(study.model).eval()
    trunk.load_state_dict(base.trunk, strict=False)
    with torch.inference_mode():
        parts = [trunk(to_float(photos_NCHW)) for photos_NCHW in people.photos_NCHW.split(_EMBED_BATCH)]
    means_ID = torch.zeros(int(people.labels_N.max()) + 1, study.model.embedding)
    return F.normalize(means_ID.index_add_(0, people.labels_N, torch.cat(parts)))
