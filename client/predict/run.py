"""How do files become answers? Read, find the face, check, embed; a few photos in memory at a time.

Files are decoded by threads, while faces of others are being looked for: decoders let go of the interpreter.

Legend: N photos.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bioface_core.examine import examine
from bioface_core.expert import Expert
from bioface_core.faces import Detector
from bioface_core.gallery import Gallery
from bioface_core.pictures import PictureError, read_picture
from bioface_core.predict import Prediction, predict
from bioface_core.quality import Gate, Reason, judge
from bioface_core.terms import Finding
from client.predict.cases import Case

_BATCH = 32  # photos looked at together
_READERS = 2


@dataclass(frozen=True)
class Result:
    """An answer to a case.

    Attributes:
        case: who was asked about.
        prediction: the answer.
        details: what is wrong with photos that could not be read, in words.
        seconds: of its share in the work, all photos of a batch alike.
    """

    case: Case
    prediction: Prediction
    details: tuple[str, ...]
    seconds: float

    def to_json(self, top: int) -> dict[str, Any]:
        """All of it, with the first ``top`` syndromes."""
        prediction = replace(self.prediction, ranking=self.prediction.ranking[:top])
        head = {"case": self.case.name, "seconds": round(self.seconds, 4), "details": self.details}
        return head | asdict(prediction)


Picture = Tensor | PictureError
Refused = Sequence[tuple[Reason, ...]]


def predict_cases(
    expert: Expert,
    cases: Sequence[Case],
    gallery: Gallery | None = None,
    seen: Sequence[Finding] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Result]:
    """Answers cases in order, a batch at a time.

    Args:
        expert: the trained model, on the device to be used.
        cases: who is asked about.
        gallery: of this model; None is an empty one.
        seen: terms that hold for every case.
        progress: called with (photos done, photos in all).
    """
    total, done = sum(len(case.photos) for case in cases), 0
    answering = partial(predict, expert, gallery=gallery, seen=seen)
    detector = Detector(str(expert.device))
    with ThreadPoolExecutor(_READERS) as readers:
        waiting = iter(_batches(cases))
        ahead = [(batch, _read(readers, batch)) for batch in islice(waiting, 1)]
        while ahead:
            batch, pictures = ahead.pop()
            ahead += [(later, _read(readers, later)) for later in islice(waiting, 1)]
            began = time.perf_counter()
            answers = list(_answer(answering, detector, batch, list(pictures)))
            each = (time.perf_counter() - began) / sum(len(case.photos) for case in batch)
            for case, (prediction, details) in zip(batch, answers, strict=True):
                done += len(case.photos)
                progress(done, total)
                yield Result(case, prediction, details, each * len(case.photos))


def _batches(cases: Sequence[Case]) -> Iterator[list[Case]]:
    """Cases whose photos come to a batch, or one case of more."""
    batch: list[Case] = []
    for case in cases:
        if batch and sum(len(one.photos) for one in batch) + len(case.photos) > _BATCH:
            yield batch
            batch = []
        batch.append(case)
    if batch:
        yield batch


def _read(readers: ThreadPoolExecutor, batch: list[Case]) -> Iterator[Picture]:
    """Starts to read a batch; the pictures come in order."""
    return readers.map(_picture, [photo for case in batch for photo in case.photos])


def _picture(path: Path) -> Picture:
    try:
        return read_picture(path)
    except PictureError as error:
        return error


def _answer(
    answering: Callable[[Tensor, Tensor, Refused], tuple[Prediction, ...]],
    detector: Detector,
    batch: list[Case],
    pictures: list[Picture],
) -> Iterator[tuple[Prediction, tuple[str, ...]]]:
    """Each case's answer, and what was wrong with files that could not be read."""
    faces_NCHW, reasons = look_at(pictures, detector, Gate())
    patients_N = torch.tensor([number for number, case in enumerate(batch) for _ in case.photos])
    usable_N = torch.tensor([reason is None for reason in reasons])
    refused = [tuple(r for r, n in zip(reasons, patients_N, strict=True) if r and n == p) for p in range(len(batch))]
    predictions = answering(faces_NCHW[usable_N], patients_N[usable_N], refused)
    for number, prediction in enumerate(predictions):
        own = [picture for picture, n in zip(pictures, patients_N, strict=True) if n == number]
        yield prediction, tuple(one.detail for one in own if isinstance(one, PictureError) and one.detail)


def look_at(pictures: Sequence[Picture], detector: Detector, gate: Gate) -> tuple[Tensor, list[Reason | None]]:
    """The aligned face of each picture, uint8 (N, 3, 112, 112), and what is against it; None where nothing is."""
    blank_CHW = torch.zeros(3, 1, 1, dtype=torch.uint8)  # stands in for a file that cannot be read
    findings = examine([blank_CHW if isinstance(one, PictureError) else one for one in pictures], detector, gate)
    verdicts = judge(findings, gate)
    reasons = [
        one.reason if isinstance(one, PictureError) else verdict
        for one, verdict in zip(pictures, verdicts, strict=True)
    ]
    return findings.faces_NCHW, reasons
