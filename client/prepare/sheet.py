"""Do the landmarks sit where they should? A contact sheet of the aligned faces, to be looked at."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from bioface_core.align import similarity, transform
from bioface_core.files import write_bytes
from bioface_core.photos import FACE_SIZE_PX
from bioface_core.quality import Findings
from client.prepare.report import Verdict

_ACROSS = 12
_MOST = 600  # faces on a sheet; of more, every second, third, ... is drawn
_GAP_PX, _DOT_PX = 4, 1.5
_COLOURS = ("#ffd400", "#ffd400", "#00e5ff", "#ff4da6", "#ff4da6")  # eyes, nose, corners of the mouth
_REFUSED = "#e00000"


def draw_sheet(path: Path, findings: Findings, verdicts: list[Verdict]) -> None:
    """Draws every face that was found, with its landmarks; those refused in a red frame.

    Args:
        path: a PNG or JPEG file.
        findings: of all photos.
        verdicts: one for each.

    Raises:
        OSError: the file cannot be written.
    """
    rows_M = findings.probability_N.nonzero().flatten()
    rows_M = rows_M[:: -(-len(rows_M) // _MOST) or 1]
    shown = findings.take(rows_M)
    points_ML2 = transform(similarity(shown.landmarks_NL2), shown.landmarks_NL2)
    cell = FACE_SIZE_PX + _GAP_PX
    sheet = Image.new("RGB", (_ACROSS * cell + _GAP_PX, max(1, -(-len(rows_M) // _ACROSS)) * cell + _GAP_PX), "white")
    for place, row in enumerate(rows_M.tolist()):
        left, top = (part * cell + _GAP_PX for part in (place % _ACROSS, place // _ACROSS))
        face = Image.fromarray(shown.faces_NCHW[place].permute(1, 2, 0).numpy())
        if verdicts[row].reason:
            sheet.paste(_REFUSED, (left - _GAP_PX, top - _GAP_PX, left + cell, top + cell))
        sheet.paste(_dotted(face, points_ML2[place]), (left, top))
    _save(sheet, path)


def _dotted(face: Image.Image, points_L2: torch.Tensor) -> Image.Image:
    pen = ImageDraw.Draw(face)
    for (x, y), colour in zip(points_L2.tolist(), _COLOURS, strict=True):
        pen.ellipse((x - _DOT_PX, y - _DOT_PX, x + _DOT_PX, y + _DOT_PX), fill=colour)
    return face


def _save(sheet: Image.Image, path: Path) -> None:
    content = io.BytesIO()
    sheet.save(content, "PNG" if path.suffix.lower() == ".png" else "JPEG", quality=90)
    write_bytes(path, content.getvalue())
