"""What is the part of the trunk that trains given? Photos, or what the frozen front before it once made of them.

Where the front of the trunk is frozen, it makes the same of a photo in every round. A ``FrontCache`` keeps that for
each view of each photo (bioface_core/views.py), so that a round computes only what trains. It belongs to one set of
photos and one network; every simulated hospital has its own.

Rows are computed when one of them is first needed, always 32 at a time, filled up with others that will be needed:
kernels round differently for batches of different sizes, and so a row is a function of its photo and view alone.
Whether a run was killed and began with an empty cache, or which engine ran it, changes no bit.

Legend: N photos, B photos of a step, M keys of a cache.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from bioface_core.resident import MB, Arriving, DeviceMemory, Held
from bioface_core.speed import hand_over
from bioface_core.views import Keyed, Pick, Randomness, Views

_log = logging.getLogger("bioface.memory")

AnyViews = TypeVar("AnyViews")
ROWS = 32  # computed at a time: at this size a row does not depend on who else is in the batch (tests/test_front.py)
Front = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Batch:
    """What a step begins with.

    Attributes:
        network: what is run.
        inputs: what it is given, as soon as that is there; to be called once.
        labels_B: int64, on the device.
    """

    network: nn.Module
    inputs: Arriving
    labels_B: Tensor


class Shown:
    """A set of photos in a round: views are drawn, then fetched, then given to the network.

    Args:
        photos: the set.
        views: how they are shown.
        feed: what they become.
    """

    def __init__(self, photos: Held, views: Views, feed: Feed) -> None:
        self.photos, self._views, self._feed = photos, views, feed

    def pick(self, positions_B: Tensor, randomness: Randomness) -> Pick:
        """A view of each photo at ``positions_B`` (int64, CPU)."""
        return self._views.pick(positions_B, randomness)

    def start(self, pick: Pick) -> Batch:
        """Starts to bring what was picked."""
        labels_B = self.photos.labels_N[hand_over(pick.positions_B, self.photos.labels_N.device)]
        return Batch(self._feed.network, self._feed.start(pick), labels_B)


class Feed(Protocol):
    """What a step's photos become, up to where training begins."""

    network: nn.Module

    def start(self, pick: Pick) -> Arriving:
        """Starts to bring what ``network`` is given for a pick."""


class WholePhotos:
    """Photos as they are shown, for the whole network.

    Args:
        photos: the set.
        network: what they are given to.
        show: photos and draws to the network's input.
    """

    def __init__(self, photos: Held, network: nn.Module, show: Callable[[Tensor, Pick], Tensor]) -> None:
        self.network, self._photos, self._show = network, photos, show

    def start(self, pick: Pick) -> Arriving:
        """See ``Feed``."""
        arriving = self._photos.fetch(pick.positions_B)
        return lambda: self._show(arriving(), pick)


class FrontCache:
    """What the front made of each view, kept on the device.

    Args:
        keys: M, how many views there are.
        row: the shape, type and device of one row: the front's output for one photo, (1, ...).
    """

    def __init__(self, keys: int, row: Tensor) -> None:
        self.known_M = torch.zeros(keys, dtype=torch.bool)
        self._layout = torch.channels_last if _is_channels_last(row) else torch.contiguous_format
        self._rows_M = torch.empty((keys, *_stored(row, self._layout).shape[1:]), dtype=row.dtype, device=row.device)

    @staticmethod
    def fitting(keys: int, row: Tensor, memory: DeviceMemory) -> FrontCache | None:
        """A cache, if there is room for all of it."""
        if keys * row.numel() * row.element_size() > memory.free:
            return None
        cache = FrontCache(keys, row)
        memory.reserve(cache, keys * row.numel() * row.element_size())
        return cache

    def put(self, keys_B: Tensor, maps_B: Tensor) -> None:
        """Keeps what the front made of some views; a key may come twice."""
        assert maps_B.dtype == self._rows_M.dtype, "the cache is another front's"
        self._rows_M[hand_over(keys_B, self._rows_M.device)] = _stored(maps_B, self._layout)
        self.known_M[keys_B] = True

    def get(self, keys_B: Tensor) -> Tensor:
        """What the front made of views that are known, in the memory layout that it has itself."""
        assert bool(self.known_M[keys_B].all()), "a row that was never computed"
        rows_B = self._rows_M.index_select(0, hand_over(keys_B, self._rows_M.device))
        return rows_B.permute(0, 3, 1, 2) if self._layout is torch.channels_last else rows_B


class CachedFront:
    """What the front made of photos, for the rest of the network. For one round: it knows what is on its way.

    Args:
        photos: the set.
        views: of it.
        cache: of these views.
        front: a batch of views to maps, without a graph.
        rest: what they are given to.
    """

    def __init__(self, photos: Held, views: Keyed, cache: FrontCache, front: Front, rest: nn.Module) -> None:
        self.network, self._front = rest, front
        self._photos, self._views, self._cache = photos, views, cache
        self._claimed_M = cache.known_M.clone()

    def start(self, pick: Pick) -> Arriving:
        """See ``Feed``."""
        assert pick.keys_B is not None, "views that never come again"
        return self.start_keys(pick.keys_B)

    def start_keys(self, keys_B: Tensor) -> Arriving:
        """Starts to bring the maps of the views with these keys; photos are fetched of those that are new."""
        wanted_M = self._claim(keys_B)
        if not len(wanted_M):
            return lambda: self._cache.get(keys_B)
        arriving = self._photos.fetch(self._views.positions(wanted_M))

        def computed() -> Tensor:
            shown_M = self._views.show(arriving(), wanted_M)
            for part_M, keys_M in zip(shown_M.split(ROWS), wanted_M.split(ROWS), strict=True):
                self._cache.put(keys_M, self._front(part_M))
            return self._cache.get(keys_B)

        return computed

    def _claim(self, keys_B: Tensor) -> Tensor:
        """The keys to compute: those that are new, and as many others as make whole batches; none if none is new."""
        new: Tensor = keys_B[~self._claimed_M[keys_B]].unique()
        if not len(new):
            return new
        self._claimed_M[new] = True
        others = (~self._claimed_M).nonzero()[:, 0][: -len(new) % ROWS]
        self._claimed_M[others] = True
        wanted = torch.cat([new, others])
        return torch.cat([wanted, wanted[:1].expand(-len(wanted) % ROWS)])


def _is_channels_last(maps: Tensor) -> bool:
    return maps.ndim == 4 and maps.is_contiguous(memory_format=torch.channels_last)


def _stored(maps_B: Tensor, layout: torch.memory_format) -> Tensor:
    """The maps as they lie in memory, channels behind positions where the front has them so."""
    return maps_B.permute(0, 2, 3, 1) if layout is torch.channels_last else maps_B


class FrontCaches:
    """The caches of one front: one for each set of photos and way of showing it, for as long as the photos live.

    Args:
        front: a batch of views to maps; None where nothing is frozen, or nothing is to be kept.
        memory: of the device.
        example: one photo as a view, on the device.
    """

    def __init__(self, front: Front | None, memory: DeviceMemory, example: Tensor) -> None:
        self._front, self._memory, self._example = front, memory, example
        self._row: Tensor | None = None
        self._kept: Any = WeakIdKeyDictionary()  # photos -> name -> views and cache

    def of(self, photos_NCHW: Tensor, name: str, views: Callable[[], AnyViews]) -> tuple[AnyViews, FrontCache | None]:
        """The views of a set, drawn when it is first asked for, and their cache if there is one.

        Args:
            photos_NCHW: the set, recognised by being the same tensor; nobody may change it.
            name: of the way of showing it.
            views: draws them.
        """
        kept = self._kept.setdefault(photos_NCHW, {})
        if name not in kept:
            drawn = views()
            kept[name] = (drawn, self._cache(getattr(drawn, "keys", 0)))
        found: tuple[AnyViews, FrontCache | None] = kept[name]
        return found

    def _cache(self, keys: int) -> FrontCache | None:
        if self._front is None or not keys:
            return None
        if self._row is None:
            self._row = self._front(self._example)
        cache = FrontCache.fitting(keys, self._row, self._memory)
        if cache is None:
            needed, left = keys * self._row.numel() * self._row.element_size() / MB, self._memory.free / MB
            _log.warning(
                "%.0f MB for what the frozen trunk makes of photos do not fit into the %.0f MB left on %s: it is "
                "computed anew at every step (speed.device_memory_mb)",
                needed,
                left,
                self._memory.device,
            )
        return cache
