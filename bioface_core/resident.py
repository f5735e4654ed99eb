"""Where do the photos lie that a device trains on? On it as long as they fit, else in the host's memory.

One ``DeviceMemory`` keeps account of a device, for all the sets of photos that are trained on there, of one hospital
or of several simulated ones, and for what is kept of them (bioface_core/front.py). Who comes first gets the room; who
finds none stays in the host's memory, which is said in the log and costs seconds only. Of such a set, the photos of a
step are gathered into page-locked memory and copied on a stream of their own while the step before computes. The set
itself need not be page-locked for that, and is not: the machine would lack that memory.

Legend: N photos of a set, B photos of a step.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from bioface_core.photos import PhotoSet
from bioface_core.speed import hand_over

_log = logging.getLogger("bioface.memory")

Item = TypeVar("Item")
Begun = TypeVar("Begun")
Arriving = Callable[[], Tensor]
"""What was asked for, as soon as it is there; to be called once."""

_SHARE = 0.5  # of a GPU's free memory: the other half is for training itself
_CPU_MB = 2048
MB = 10**6


def is_apart(device: torch.device) -> bool:
    """Whether photos have to be copied to be on a device; one that has the host's memory reads them where they lie."""
    return device.type != "cpu"


def limit_bytes(device: torch.device, limit_mb: int | None) -> int:
    """How much of a device's memory photos and what is kept of them may take.

    Args:
        device: which.
        limit_mb: ``speed.device_memory_mb``.
    """
    if limit_mb is not None:
        return limit_mb * MB
    if device.type == "cuda":
        return int(_SHARE * torch.cuda.mem_get_info(device)[0])
    return _CPU_MB * MB


class DeviceMemory:
    """The account of a device's memory.

    Args:
        device: which.
        limit_mb: ``speed.device_memory_mb``.
    """

    def __init__(self, device: torch.device, limit_mb: int | None = None) -> None:
        self.device, self.free = device, limit_bytes(device, limit_mb)
        self._copier = Copier(device)
        self._copies: Any = WeakIdKeyDictionary()  # photos in the host's memory -> _Copy on the device, or None

    def reserve(self, owner: object, size: int) -> bool:
        """Books ``size`` bytes for as long as ``owner`` lives; False where there is no room for them."""
        if size > self.free:
            return False
        self.free -= size
        weakref.finalize(owner, self._give_back, size)
        return True

    def hold(self, photos: PhotoSet) -> Held:
        """A set of photos for use on the device: copied there once, or left where it is if it does not fit."""
        pixels_NCHW = photos.photos_NCHW
        if pixels_NCHW.device.type != "cpu" or not is_apart(self.device):
            return Held(photos, pixels_NCHW, self._copier)
        if pixels_NCHW not in self._copies:
            self._copies[pixels_NCHW] = self._copy(pixels_NCHW)
        copy = self._copies[pixels_NCHW]
        return Held(photos, None if copy is None else copy.pixels_NCHW, self._copier)

    def _copy(self, pixels_NCHW: Tensor) -> _Copy | None:
        copy, size = _Copy(), pixels_NCHW.numel()
        if self.reserve(copy, size):
            copy.pixels_NCHW = pixels_NCHW.to(self.device, copy=True)
            return copy
        _log.warning(
            "%.0f MB of photos do not fit into the %.0f MB left on %s: they stay in the host's memory and are copied "
            "step by step (speed.device_memory_mb)",
            size / MB,
            self.free / MB,
            self.device,
        )
        return None

    def _give_back(self, size: int) -> None:
        self.free += size


class _Copy:
    """Photos on the device; an object of its own, so that its end can be noticed."""

    pixels_NCHW: Tensor


class Held:
    """A set of photos for use on a device: labels and patients there, photos there or on call.

    Args:
        photos: the set.
        resident_NCHW: its photos on the device, or None where they stay in the host's memory.
        copier: which then brings them.
    """

    def __init__(self, photos: PhotoSet, resident_NCHW: Tensor | None, copier: Copier) -> None:
        self._photos, self._resident_NCHW, self._copier = photos, resident_NCHW, copier
        self.labels_N = photos.labels_N.to(copier.device)
        self.patients_N = photos.patients_N.to(copier.device)

    def __len__(self) -> int:
        return len(self._photos)

    @property
    def spilled(self) -> bool:
        """Whether the photos stayed in the host's memory."""
        return self._resident_NCHW is None

    def fetch(self, positions_B: Tensor) -> Arriving:
        """Starts to bring photos; they need not be there when this returns.

        Args:
            positions_B: int64, on the CPU.
        """
        if self._resident_NCHW is None:
            return self._copier.start(self._photos.photos_NCHW, positions_B)
        resident_NCHW = self._resident_NCHW
        return lambda: resident_NCHW.index_select(0, hand_over(positions_B, resident_NCHW.device))


class Copier:
    """Brings rows from the host's memory to a device: on a GPU beside what that computes.

    Args:
        device: where to.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def start(self, rows_N: Tensor, positions_B: Tensor) -> Arriving:
        """Gathers the rows at ``positions_B`` and starts to copy them.

        Args:
            rows_N: in the host's memory.
            positions_B: int64, on the CPU.
        """
        shape = (len(positions_B), *rows_N.shape[1:])
        gathered_B = torch.empty(shape, dtype=rows_N.dtype, pin_memory=self._stream is not None)
        torch.index_select(rows_N, 0, positions_B, out=gathered_B)
        return self._beside(self._stream, gathered_B) if self._stream else lambda: gathered_B.to(self.device)

    def _beside(self, stream: torch.cuda.Stream, gathered_B: Tensor) -> Arriving:
        """Torch keeps page-locked memory from being used anew until the copy out of it is done."""
        with torch.cuda.stream(stream):
            copied_B = gathered_B.to(self.device, non_blocking=True)
            done = stream.record_event()

        def arrived() -> Tensor:
            using = torch.cuda.current_stream(self.device)
            using.wait_event(done)
            copied_B.record_stream(using)  # or its memory could be given away while it is still read
            return copied_B

        return arrived


def ahead(items: Iterable[Item], start: Callable[[Item], Begun]) -> Iterator[Begun]:
    """Starts each item before the one in front of it is used, and no earlier.

    Args:
        items: in order; the next is asked for when its turn to start has come.
        start: begins what takes time.

    Yields:
        What ``start`` gave, in order.
    """
    waiting: list[Begun] = []
    for item in items:
        waiting.append(start(item))
        if len(waiting) > 1:
            yield waiting.pop(0)
    yield from waiting
