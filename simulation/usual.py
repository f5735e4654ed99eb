"""What does training usually look like? A folder of JPEGs, a DataLoader, transforms photo by photo, a plain step.

The yardstick of ``bioface bench step``: the same network, loss and kinds of change as ours, written the way torch's and
torchvision's own pages do; PReLU and norms are torch's own.

Legend: N photos, C channels, H W pixels, K syndromes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode, v2

from bioface_core import loss
from bioface_core.config import Study
from bioface_core.learner import Learner
from bioface_core.model import Recogniser
from bioface_core.photos import PhotoSet
from bioface_core.sections import Augment
from simulation.torchs_own import with_torchs_own

_JPEG_QUALITY = 92


class Photos(Dataset[tuple[Tensor, int]]):
    """A folder of photos, each decoded and changed when it is asked for.

    Args:
        paths: the files.
        labels: their syndromes, as indices.
        change: from a picture to float32 -1..1 (C, H, W).
    """

    def __init__(self, paths: list[Path], labels: list[int], change: v2.Compose) -> None:
        self._paths, self._labels, self._change = paths, labels, change

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        """One photo and its label."""
        photo_CHW: Tensor = self._change(Image.open(self._paths[position]).convert("RGB"))
        return photo_CHW, self._labels[position]


def usual_loader(photos: PhotoSet, folder: Path, study: Study) -> DataLoader[tuple[Tensor, int]]:
    """The photos as files, and what reads them in this process.

    Args:
        photos: on the CPU.
        folder: empty; the files are written into it.
        study: batch and augmentation are used.
    """
    paths = [folder / f"{position:05}.jpg" for position in range(len(photos))]
    for path, photo_CHW in zip(paths, photos.photos_NCHW, strict=True):
        Image.fromarray(photo_CHW.permute(1, 2, 0).numpy()).save(path, quality=_JPEG_QUALITY)
    changed = Photos(paths, photos.labels_N.tolist(), transforms(study.train.augment))
    return DataLoader(changed, batch_size=study.train.batch, shuffle=True, num_workers=0)


def transforms(settings: Augment) -> v2.Compose:
    """Our kinds of change, each as torchvision has it."""
    return v2.Compose(
        [
            v2.RandomAffine(
                settings.rotate_deg,
                translate=(settings.shift, settings.shift),
                scale=(1 - settings.scale, 1 + settings.scale),
                interpolation=InterpolationMode.BILINEAR,
            ),
            v2.ColorJitter(settings.light, settings.light, settings.colour),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
            v2.RandomErasing(scale=(0.0001, settings.erase**2), ratio=(1.0, 1.0)),
        ]
    )


def usual_network(learner: Learner) -> Recogniser:
    """A learner's network at its start, in the default layout and with torch's own layers."""
    network = Recogniser(learner.study.model, learner.classes)
    network.load_state_dict(learner.weights(learner.start()), strict=False)
    return with_torchs_own(network).train()


def usual_epoch(
    network: Recogniser, loader: DataLoader[tuple[Tensor, int]], optimiser: torch.optim.Optimizer, study: Study
) -> None:
    """One pass over the photos, float32."""
    every_K, margin = torch.ones(len(study.syndromes), dtype=torch.bool), loss.margin_at(study.loss, 0.0)
    for photos_NCHW, labels_N in loader:
        value = loss.syndrome_loss(network(photos_NCHW), labels_N, network.prototypes, every_K, study.loss, margin)
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), study.train.clip)
        optimiser.step()
