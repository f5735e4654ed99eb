"""What does an answer cost? One photo beside its detection alone, and a folder beside facenet-pytorch's own loop.

Photos are phantoms of 400 pixels in JPEG files; the network is the demo's, untrained, and our two views of each face
are within our time. Wall and CPU time of one thread are nearly the same; the CPU's is given.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from facenet_pytorch import MTCNN
from PIL import Image
from torch import nn

from bioface_core.calibration import Reliability
from bioface_core.config import Study, find_study, read_study
from bioface_core.expert import Expert
from bioface_core.learner import Learner
from bioface_core.photos import FACE_SIZE_PX
from bioface_core.predict import Answer
from bioface_core.weights import random_base
from client.predict import Case, predict_cases
from simulation import phantom
from simulation.ratio import Ratio

_PHOTOS, _SIZE_PX, _PAIRS, _SINGLES = 200, 400, 3, 15


def predict_ratios() -> list[Ratio]:
    """One photo, and a folder of two hundred."""
    torch.set_num_threads(1)
    study = read_study(find_study("demo"), ("loss.identification=false",))
    expert = _untrained(study)
    with tempfile.TemporaryDirectory() as scratch:
        photos = _photograph(Path(scratch), study)
        rival = MTCNN(image_size=FACE_SIZE_PX, post_process=True)
        return [_one(expert, rival, photos), _folder(expert, rival, photos)]


def _untrained(study: Study) -> Expert:
    learner = Learner(study, random_base(study.model, 0))
    return Expert.of(study, learner.weights(learner.start()), Reliability.zeros())


def _photograph(folder: Path, study: Study) -> list[Path]:
    numbers = torch.arange(_PHOTOS)
    photos = phantom.render(3, numbers, torch.zeros_like(numbers), None, study.simulation.phantoms, size_px=_SIZE_PX)
    paths = [folder / f"{number:03}.jpg" for number in range(_PHOTOS)]
    for path, photo_CHW in zip(paths, photos.photos_NCHW, strict=True):
        Image.fromarray(photo_CHW.permute(1, 2, 0).numpy()).save(path, quality=92)
    return paths


def _one(expert: Expert, rival: MTCNN, photos: list[Path]) -> Ratio:
    """From the file to the ranking, beside MTCNN's detection and one forward pass."""
    face_1CHW = torch.zeros(1, 3, FACE_SIZE_PX, FACE_SIZE_PX)

    def detect_and_embed(path: Path) -> None:
        rival.detect(Image.open(path), landmarks=True)
        with torch.inference_mode():
            expert.network(face_1CHW)

    pairs = [(_seconds(_answer, expert, [path]), _seconds(detect_and_embed, path)) for path in photos[: 1 + _SINGLES]]
    return Ratio.of_pairs("one photo, file to ranking / MTCNN and one forward pass", 1.3, pairs[1:])


def _folder(expert: Expert, rival: MTCNN, photos: list[Path]) -> Ratio:
    """All photos, beside detection, cropping and embedding one by one."""
    pairs = [(_seconds(_answer, expert, photos), _seconds(_loop, expert.network, rival, photos)) for _ in range(_PAIRS)]
    per_photo = [(ours / _PHOTOS, other / _PHOTOS) for ours, other in pairs]
    return Ratio.of_pairs(f"each of {_PHOTOS} photos / facenet-pytorch's loop", 0.4, per_photo)


def _loop(network: nn.Module, rival: MTCNN, photos: list[Path]) -> None:
    for path in photos:
        face_CHW = rival(Image.open(path))
        if face_CHW is not None:
            with torch.inference_mode():
                network(face_CHW[None])


def _answer(expert: Expert, photos: list[Path]) -> None:
    results = predict_cases(expert, [Case(path.name, (path,)) for path in photos])
    assert sum(result.prediction.answer is not Answer.UNUSABLE for result in results) > 0.9 * len(photos)


def _seconds(work: Callable[..., None], *arguments: Any) -> float:
    start = time.process_time()
    work(*arguments)
    return time.process_time() - start
