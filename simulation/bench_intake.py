"""What does it cost to take in photos? A folder into a store, beside facenet-pytorch's own loop over the same files.

Ours is ``bioface prepare``: detection, quality gate, alignment, duplicates, the split by patient, a store on the disk
and a report. The loop is facenet-pytorch's guide's: open, ``MTCNN(photo, save_path=...)``, which detects, crops
and saves one face after the other; it checks nothing and leaves faces as they are turned. Photos are phantoms of 400
pixels in JPEG files. CPU seconds of one thread.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import torch
from facenet_pytorch import MTCNN
from PIL import Image

from bioface_core.config import find_study, read_study
from bioface_core.photos import FACE_SIZE_PX
from client.prepare import prepare
from simulation import phantom
from simulation.ratio import Ratio, timed

_PHOTOS, _SIZE_PX, _PAIRS = 150, 400, 3
_PART = 0.5  # promised
_FOUND = 0.9  # less would be another measurement


def intake_ratios(photos: int = _PHOTOS, pairs: int = _PAIRS) -> list[Ratio]:
    """CPU time of each photo.

    Args:
        photos: in the folder; half of them of one syndrome, half of another.
        pairs: of both in turn; medians count.
    """
    torch.set_num_threads(1)
    rival = MTCNN(image_size=FACE_SIZE_PX)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        paths = _photograph(folder / "photos", photos)
        costs = [(_ours(folder, number, photos), _loops(rival, folder, number, paths)) for number in range(pairs)]
    per_photo = [(ours / photos, other / photos) for ours, other in costs]
    return [Ratio.of_pairs(f"each of {photos} photos / facenet-pytorch's loop", _PART, per_photo)]


def _photograph(folder: Path, count: int) -> list[Path]:
    """A folder per syndrome, one photo of each patient."""
    study, numbers = read_study(find_study("demo")), torch.arange(count)
    photos = phantom.render(4, numbers, numbers % 2, None, study.simulation.phantoms, size_px=_SIZE_PX)
    paths = [folder / study.syndromes[number % 2] / f"{number:03}.jpg" for number in range(count)]
    for path, photo_CHW in zip(paths, photos.photos_NCHW, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo_CHW.permute(1, 2, 0).numpy()).save(path, quality=92)
    return paths


def _ours(folder: Path, number: int, photos: int) -> float:
    outcome, (_, cpu_s) = timed(partial(prepare, folder / "photos", folder / f"store-{number}"))
    assert outcome.kept > _FOUND * photos, "our gate refused phantoms"
    return cpu_s


def _loops(rival: MTCNN, folder: Path, number: int, paths: list[Path]) -> float:
    def loop() -> int:
        faces = folder / f"faces-{number}"
        return sum(rival(Image.open(path), save_path=str(faces / path.name)) is not None for path in paths)

    found, (_, cpu_s) = timed(loop)
    assert found > _FOUND * len(paths), "MTCNN found too few"
    return cpu_s
