"""What do phantoms look like? A contact sheet: a row for each syndrome, a column for each phantom.

python -m simulation.phantom.sheet docs/images/phantoms.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from bioface_core.sections import PhantomDials
from bioface_core.syndromes import catalogue
from simulation.phantom.sets import patient_numbers, render

_SIDE_PX, _LABEL_PX, _GAP_PX = 144, 150, 4
_PAPER, _INK = (255, 255, 255), (30, 30, 30)


def contact_sheet(seed: int, keys: tuple[str, ...], phantoms: int, dials: PhantomDials) -> Image.Image:
    """Draws the sheet.

    Args:
        seed: of the phantoms.
        keys: syndromes, from top to bottom.
        phantoms: different patients in a row.
        dials: severity, nuisance and spread.

    Raises:
        ConfigError: an unknown syndrome.
    """
    people_N, labels_N = patient_numbers(keys, phantoms)
    syndromes = catalogue().pick(keys)
    rows = [syndromes[label] for label in labels_N.tolist()]
    photos = render(seed, people_N, torch.zeros_like(people_N), rows, dials, size_px=_SIDE_PX).photos_NCHW
    sheet = Image.new("RGB", (_LABEL_PX + phantoms * (_SIDE_PX + _GAP_PX), len(keys) * (_SIDE_PX + _GAP_PX)), _PAPER)
    for row, syndrome in enumerate(syndromes):
        _paste_row(sheet, row, syndrome.name, photos[row * phantoms : (row + 1) * phantoms])
    return sheet


def _paste_row(sheet: Image.Image, row: int, name: str, photos_NCHW: Tensor) -> None:
    top = row * (_SIDE_PX + _GAP_PX)
    label = (
        name.replace(" syndrome", "\nsyndrome").replace("Cornelia ", "Cornelia\n").replace(" deletion", "\ndeletion")
    )
    ImageDraw.Draw(sheet).multiline_text((8, top + _SIDE_PX // 2 - 16), label, _INK, ImageFont.load_default(size=16))
    for column, photo_CHW in enumerate(photos_NCHW):
        photo = Image.fromarray(photo_CHW.permute(1, 2, 0).contiguous().numpy())
        sheet.paste(photo, (_LABEL_PX + column * (_SIDE_PX + _GAP_PX), top))


def main() -> None:
    """Writes the sheet of the docs."""
    parser = argparse.ArgumentParser(description="Draws a contact sheet of phantoms.")
    parser.add_argument("out", type=Path, help="the picture to write, .jpg or .png")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--phantoms", type=int, default=8, help="patients of each syndrome")
    parser.add_argument("--severity", type=float, default=0.8)
    parser.add_argument("--nuisance", type=float, default=0.5)
    parser.add_argument("--unseen", action="store_true", help="the syndromes kept out of training")
    chosen = parser.parse_args()
    keys = catalogue().unseen if chosen.unseen else catalogue().seen
    dials = PhantomDials(severity=chosen.severity, nuisance=chosen.nuisance)
    contact_sheet(chosen.seed, keys, chosen.phantoms, dials).save(chosen.out, quality=88)


if __name__ == "__main__":
    main()
