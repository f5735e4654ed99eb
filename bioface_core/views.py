"""How is a photo shown? Changed afresh each time, in one of a few views drawn for good, or as it is and mirrored.

Everything random in a step is drawn here, on the CPU, before anything is fetched or computed: so the photos of the next
step can be on their way while this one computes. A view that comes again has a *key*, by which what the frozen front of
the trunk made of it is found again (bioface_core/front.py).

Legend: N photos of a set, B photos of a step, V views of a photo, M keys, C channels, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bioface_core import augment
from bioface_core.augment import Draws, mirror
from bioface_core.model import to_float
from bioface_core.secret import SecretRandom
from bioface_core.sections import Augment, Train

Randomness = torch.Generator | SecretRandom
_SIDES = 2


@dataclass(frozen=True)
class Pick:
    """Photos of a step, and how each is shown. All of it is on the CPU.

    Attributes:
        positions_B: int64, in the set.
        draws: what is done to each.
        keys_B: int64, each view's key; None where views are drawn afresh and none comes again.
    """

    positions_B: Tensor
    draws: Draws
    keys_B: Tensor | None = None


class Views(Protocol):
    """How the photos of a set are shown in training."""

    def pick(self, positions_B: Tensor, randomness: Randomness) -> Pick:
        """Draws a view of each photo."""


class Keyed(Protocol):
    """Views that come again."""

    @property
    def keys(self) -> int:
        """M, how many there are of all photos together."""

    def positions(self, keys_M: Tensor) -> Tensor:
        """Which photos the views are of."""

    def show(self, photos_MCHW: Tensor, keys_M: Tensor) -> Tensor:
        """The views with these keys of these photos (uint8, on their device), float32 -1..1."""


@dataclass(frozen=True)
class FreshViews:
    """Each photo is changed anew at every step."""

    settings: Augment

    def pick(self, positions_B: Tensor, randomness: Randomness) -> Pick:
        """See ``Views``."""
        return Pick(positions_B, augment.draw(len(positions_B), self.settings, randomness))


@dataclass(frozen=True)
class FixedViews:
    """Each photo has a few views, drawn for good.

    Attributes:
        each: V, views of a photo.
        draws: of view v of photo n in row n V + v, which is also its key.
    """

    each: int
    draws: Draws

    @property
    def keys(self) -> int:
        """See ``Keyed``."""
        return len(self.draws.offset_N)

    def pick(self, positions_B: Tensor, randomness: Randomness) -> Pick:
        """See ``Views``."""
        keys_B = positions_B * self.each + _below(self.each, len(positions_B), randomness)
        return Pick(positions_B, self.draws.take(keys_B), keys_B)

    def positions(self, keys_M: Tensor) -> Tensor:
        """See ``Keyed``."""
        return keys_M // self.each

    def show(self, photos_MCHW: Tensor, keys_M: Tensor) -> Tensor:
        """See ``Keyed``."""
        return augment.apply(photos_MCHW, self.draws.take(keys_M).to(photos_MCHW.device))


@dataclass(frozen=True)
class BothSides:
    """Each photo as it is (key 2 n) and mirrored (2 n + 1): for evaluation.

    Attributes:
        photos: N.
    """

    photos: int

    @staticmethod
    def of(positions_B: Tensor) -> tuple[Tensor, Tensor]:
        """The keys of photos as they are, and mirrored."""
        return _SIDES * positions_B, _SIDES * positions_B + 1

    @property
    def keys(self) -> int:
        """See ``Keyed``."""
        return _SIDES * self.photos

    def positions(self, keys_M: Tensor) -> Tensor:
        """See ``Keyed``."""
        return keys_M // _SIDES

    def show(self, photos_MCHW: Tensor, keys_M: Tensor) -> Tensor:
        """See ``Keyed``."""
        mirrored_M111 = (keys_M % _SIDES == 1).to(photos_MCHW.device)[:, None, None, None]
        return to_float(torch.where(mirrored_M111, mirror(photos_MCHW), photos_MCHW))


def draw_views(photos: int, train: Train, randomness: Randomness) -> FreshViews | FixedViews:
    """How the photos of a set are shown in a study.

    Args:
        photos: N.
        train: ``views`` and how far these go.
        randomness: of fixed views; used only where there are any.
    """
    if not train.views:
        return FreshViews(train.augment)
    return FixedViews(train.views, augment.draw(photos * train.views, train.augment, randomness))


def _below(limit: int, count: int, randomness: Randomness) -> Tensor:
    """Int64 (count,), uniform from 0 to ``limit`` exclusive."""
    if isinstance(randomness, SecretRandom):
        return randomness.below(torch.full((count,), limit))
    return torch.randint(limit, (count,), generator=randomness)
