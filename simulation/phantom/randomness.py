"""Where does a phantom's randomness come from? From a counter: (seed, stream, person, photo) fixes every number.

Philox turns a key and a counter into random numbers, so a row can be drawn alone, in any batch and in any order, and
is the same each time. Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".

Legend: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import prod

import numpy as np
import torch
from torch import Tensor


class Stream(IntEnum):
    """What a number is for; streams share no number."""

    PERSON = 1
    SYNDROME = 2
    PHOTO = 3
    STYLE = 4
    SENSOR = 5
    SITE = 6


def philox(seed: int, stream: Stream, person: int = 0, photo: int = 0) -> np.random.Generator:
    """The generator of one cell; its low counter word counts what is drawn, the others say for whom."""
    key = np.array([seed, int(stream)], dtype=np.uint64)
    counter = np.array([0, photo, person, 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


@dataclass(frozen=True)
class Layout:
    """What is drawn for a row, by name.

    Attributes:
        uniform: numbers in [0, 1).
        normal: name -> shape of standard normals; ``()`` is one number.
    """

    uniform: Sequence[str]
    normal: Mapping[str, tuple[int, ...]]


def draw_rows(seed: int, stream: Stream, people_N: Tensor, photos_N: Tensor, layout: Layout) -> dict[str, Tensor]:
    """Draws ``layout`` for each row.

    Args:
        seed: of the whole set.
        stream: what for.
        people_N: int64, not negative.
        photos_N: int64, not negative.
        layout: names and shapes.

    Returns:
        name -> float32 (N,) or (N, *shape); a row depends on its own person and photo alone.
    """
    sizes = [prod(shape) for shape in layout.normal.values()]
    uniform = np.empty((len(people_N), len(layout.uniform)), dtype=np.float32)
    normal = np.empty((len(people_N), sum(sizes)), dtype=np.float32)
    for row, (person, photo) in enumerate(zip(people_N.tolist(), photos_N.tolist(), strict=True)):
        source = philox(seed, stream, person, photo)
        source.random(out=uniform[row], dtype=np.float32)
        source.standard_normal(out=normal[row], dtype=np.float32)
    columns = dict(zip(layout.uniform, torch.from_numpy(uniform).unbind(1), strict=True))
    parts = torch.from_numpy(normal).split(sizes, 1)
    for (name, shape), part in zip(layout.normal.items(), parts, strict=True):
        columns[name] = part.reshape(len(people_N), *shape)
    return columns
