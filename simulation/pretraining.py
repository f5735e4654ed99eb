"""How is stage 1 run on its own? People in, a file of weights out, and a check on people it has never seen."""

from __future__ import annotations

from pathlib import Path

import torch

from bioface_core.config import Study
from bioface_core.errors import WeightsError
from bioface_core.learner import use
from bioface_core.photos import PhotoSet
from bioface_core.pretrain import Epoch, identified, pretrain
from bioface_core.seeding import generator
from simulation.progress import Progress
from simulation.stage1 import public_people

_UNSEEN_SHARE = 0.1


def pretrain_to(path: Path, study: Study, progress: Progress) -> dict[str, float | int | str]:
    """Trains a base on nine tenths of the people and says how well it tells the others apart.

    Args:
        path: the weights to write, ``.safetensors``.
        study: ``pretrain``, ``model``, ``speed`` and ``seed`` are used.
        progress: is told what goes on.

    Returns:
        ``weights`` (the path), ``sha256``, ``people``, and ``identified_unseen``: the share of photos of unseen people
        whose nearest other photo is of the same person.

    Raises:
        WeightsError: ``path`` cannot be written, found out before any work is done.
        ConfigError, PhotoError: the people cannot be used.
    """
    _check_writable(path)
    device = use(study.speed)
    people = public_people(study, progress.bar("people"))
    seen, unseen = _part(people, study.seed)
    epochs, total = progress.bar("identification"), study.pretrain.epochs

    def on_epoch(epoch: Epoch) -> None:
        epochs(epoch.number, total, f"{epoch.accuracy:.0%} told apart")

    base = pretrain(study, seen.to(device), device, on_epoch)
    base.write(path)
    return {
        "weights": str(path),
        "sha256": base.sha256,
        "people": seen.patients(),
        "identified_unseen": round(identified(base, study.model, unseen.to(device)), 4),
    }


def _part(people: PhotoSet, seed: int) -> tuple[PhotoSet, PhotoSet]:
    """Most people to learn from, labels from 0 without gaps, and at least two unseen ones."""
    identities = int(people.labels_N.max()) + 1
    order_I = torch.randperm(identities, generator=generator(seed, "unseen people"))
    unseen = max(2, int(identities * _UNSEEN_SHARE))
    new_label_I = torch.empty_like(order_I).scatter_(0, order_I, torch.arange(identities))
    labels_N = new_label_I[people.labels_N]
    renamed = PhotoSet(people.photos_NCHW, labels_N, people.patients_N)
    return renamed.take(labels_N < identities - unseen), renamed.take(labels_N >= identities - unseen)


def _check_writable(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
        if not path.stat().st_size:
            path.unlink()
    except OSError as error:
        raise WeightsError(f"{path} cannot be written ({error.strerror}): choose a writable folder") from error
