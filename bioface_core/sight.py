"""How does the network see photos? Brought to its device, changed, and where its front is frozen, looked at but once.

What is fetched, changed and kept is decided here; what is learned from it, in bioface_core/learner.py.

Legend: B photos of a step, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bioface_core import augment
from bioface_core.config import Study
from bioface_core.embed import BATCH, both_views
from bioface_core.front import Batch, CachedFront, Front, FrontCaches, Shown, WholePhotos
from bioface_core.model import Rest, SEResNet, frozen_front, memory_format, run
from bioface_core.photos import FACE_SIZE_PX, PhotoSet
from bioface_core.resident import DeviceMemory, ahead
from bioface_core.speed import TrainingPass
from bioface_core.views import BothSides, FreshViews, Pick, Randomness, draw_views


class Sight:
    """Photos for one trunk, in training and in evaluation.

    Args:
        trunk: on the device; what of it trains is settled.
        study: ``train``, ``model`` and ``speed`` are used.
        device: where it lives.

    Raises:
        ConfigError: the device lacks what ``study.speed`` asks for.
    """

    def __init__(self, trunk: SEResNet, study: Study, device: torch.device) -> None:
        self._trunk, self._settings, self._device = trunk, study.train, device
        self._format = memory_format(study.model, study.speed.channels_last)
        self.memory = DeviceMemory(device, study.speed.device_memory_mb)
        self._whole, self._rest = Rest(trunk), Rest(trunk, frozen_front(trunk))
        parts: tuple[nn.Module, ...] = (self._whole, self._rest)
        self._training = {part: TrainingPass(part, study.speed, device) for part in parts}
        keeps = study.speed.cache_trunk and self._rest.first > 0
        self._learned = self._caches_of(self._front_in_training if keeps else None)
        self._evaluated = self._caches_of(self._front if keeps else None)

    def embeddings(self, batch: Batch) -> Tensor:
        """Unit embeddings (B, D), to be trained by."""
        return self._training[batch.network](batch.inputs())

    def show(self, photos: PhotoSet, name: str, randomness: Randomness) -> Shown:
        """A set of photos for a round.

        Args:
            photos: the set.
            name: of whoever trains on it.
            randomness: of its views, where these are drawn for good.
        """
        held = self.memory.hold(photos)
        settings = self._settings
        views, cache = self._learned.of(photos.photos_NCHW, name, lambda: draw_views(len(photos), settings, randomness))
        if cache is None or isinstance(views, FreshViews):
            return Shown(held, views, WholePhotos(held, self._whole, self._changed))
        return Shown(held, views, CachedFront(held, views, cache, self._front_in_training, self._rest))

    def both_sides(self, photos: PhotoSet) -> tuple[nn.Module, Iterator[tuple[Tensor, Tensor]]]:
        """The network, and what it is given of each photo as it is and mirrored."""
        held, positions = self.memory.hold(photos), torch.arange(len(photos)).split(BATCH)
        sides, cache = self._evaluated.of(photos.photos_NCHW, "both sides", lambda: BothSides(len(photos)))
        if cache is None:
            fetched = ahead(positions, held.fetch)
            return self._whole, (both_views(arriving(), self._format) for arriving in fetched)
        feed = CachedFront(held, sides, cache, self._front, self._rest)
        begun = ahead(positions, lambda positions_B: [feed.start_keys(keys_B) for keys_B in sides.of(positions_B)])
        return self._rest, ((upright(), mirrored()) for upright, mirrored in begun)

    def _caches_of(self, front: Front | None) -> FrontCaches:
        """Places for what a front makes of photos; none where nothing is frozen, or nothing may be kept."""
        example_1CHW = torch.zeros(1, 3, FACE_SIZE_PX, FACE_SIZE_PX, device=self._device)
        return FrontCaches(front, self.memory, example_1CHW)

    def _front(self, shown_NCHW: Tensor) -> Tensor:
        """What the frozen front makes of photos, without a graph."""
        with torch.no_grad():
            return run(self._trunk.layers()[: self._rest.first], self._laid_out(shown_NCHW))

    def _front_in_training(self, shown_NCHW: Tensor) -> Tensor:
        """The same in the precision that the rest is trained in."""
        with self._training[self._rest].precision():
            return self._front(shown_NCHW)

    def _changed(self, photos_NCHW: Tensor, pick: Pick) -> Tensor:
        return self._laid_out(augment.apply(photos_NCHW, pick.draws.to(self._device)))

    def _laid_out(self, photos_NCHW: Tensor) -> Tensor:
        """The batch in the memory layout the convolutions want."""
        return photos_NCHW.contiguous(memory_format=self._format)
