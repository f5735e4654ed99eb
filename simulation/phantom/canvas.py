"""What is a phantom painted on? A grid over half a face, and the few brushes that everything is painted with.

The other half is painted mirrored, with its own measures, so faces are slightly asymmetric. Coordinates: the mid-line
is x = 0, x grows outwards; the pupils lie at y = 0, y grows downwards; one unit is about 94 mm.

Sizes are multiples of 32 cells: torch's vectorised loops then leave no remainder, which the processor would compute
with other rounding, and a face is the same in every batch.

Legend: M half faces, C colours, Y X cells of the grid, y x cells of the coarse grid (half of it).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CELL = 0.02  # face units; a cell is about a pixel of the aligned photo
COLUMNS, ROWS = 64, 152
WIDTH = COLUMNS * CELL
TOP, BOTTOM = -1.60, -1.60 + ROWS * CELL
_EDGE = 0.010  # how soft an edge is


@dataclass(frozen=True)
class Window:
    """A rectangle of the grid: its slice, and the coordinates of its cells as (1, 1, 1, X) and (1, 1, Y, 1)."""

    rows: slice
    columns: slice
    x: Tensor
    y: Tensor

    def of(self, image_MCYX: Tensor) -> Tensor:
        """The part of a picture inside the window, a view."""
        return image_MCYX[:, :, self.rows, self.columns]


def window(right: float, top: float, bottom: float) -> Window:
    """The window from the mid-line to ``right``, widened to whole blocks of 8 x 4 cells."""
    columns = min(COLUMNS, -(-int(right / CELL) // 8) * 8)
    first = max(0, int((top - TOP) / CELL) // 4 * 4)
    last = min(ROWS, -(-int((bottom - TOP) / CELL) // 4) * 4)
    return Window(slice(first, last), slice(0, columns), _centres(0.0, CELL, 0, columns), _down(CELL, first, last))


def _centres(start: float, cell: float, first: int, last: int) -> Tensor:
    return (start + (torch.arange(first, last) + 0.5) * cell)[None, None, None, :]


def _down(cell: float, first: int, last: int) -> Tensor:
    return _centres(TOP, cell, first, last).transpose(2, 3).contiguous()


WHOLE = window(WIDTH, TOP, BOTTOM)
COARSE = Window(
    slice(0, ROWS // 2), slice(0, COLUMNS // 2), _centres(0.0, 2 * CELL, 0, COLUMNS // 2), _down(2 * CELL, 0, ROWS // 2)
)


def inside(distance: Tensor, softness: float | Tensor = _EDGE) -> Tensor:
    """1 where ``distance`` is well above 0, 0 where it is well below: an anti-aliased edge."""
    return torch.sigmoid(distance * (1 / softness))


def bell(x: Tensor, centre: Tensor | float, deviation: Tensor | float) -> Tensor:
    """exp(-z^2 / 2): 1 at ``centre``."""
    z = (x - centre) / deviation
    return torch.exp(-0.5 * z * z)


def spot(where: Window, x: Tensor | float, y: Tensor | float, wide: Tensor | float, high: Tensor | float) -> Tensor:
    """A soft oval spot: 1 at (x, y), with deviations ``wide`` and ``high``."""
    return bell(where.x, x, wide) * bell(where.y, y, high)


def ramp(t: Tensor) -> Tensor:
    """0 below 0, 1 above 1, smooth between."""
    t = t.clamp(0, 1)
    return t * t * (3 - 2 * t)


def blend(image_MCYX: Tensor, where: Window, opacity: Tensor, colour: Tensor) -> None:
    """Lays ``colour`` over the window of a picture, in place."""
    part = where.of(image_MCYX)
    part += opacity * (colour - part)


def rgb(red: float, green: float, blue: float) -> Tensor:
    """A colour as (1, 3, 1, 1)."""
    return torch.tensor([red, green, blue]).reshape(1, 3, 1, 1)


def whole_face(halves_MCYX: Tensor) -> Tensor:
    """The N left halves, mirrored, beside the N right halves: (N, C, Y, 2X)."""
    left, right = halves_MCYX.chunk(2)
    return torch.cat([left.flip(3), right], 3)


def halves(face_NCYX: Tensor) -> Tensor:
    """The other way round: (M, C, Y, X)."""
    left, right = face_NCYX.chunk(2, dim=3)
    return torch.cat([left.flip(3), right])


def enlarge(coarse: Tensor) -> Tensor:
    """From the coarse grid, or any other, to the whole grid of a half face."""
    return F.interpolate(coarse, size=(ROWS, COLUMNS), mode="bilinear", align_corners=False)


def double(coarse: Tensor) -> Tensor:
    """From the coarse grid over a whole face to the fine one."""
    return F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
