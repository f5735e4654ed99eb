"""What can a clinician's page ask? To look at a photo, to answer for the faces of one patient, and to say why.

Nothing is remembered between two questions: the page holds the faces and sends them again. So a photo is in this
process while it is looked at, and nowhere afterwards.

Legend: N photos, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor

from bioface_core.errors import PhotoError
from bioface_core.examine import examine
from bioface_core.expert import Expert
from bioface_core.faces import Detector
from bioface_core.gallery import Gallery, gallery_of, new_syndromes
from bioface_core.overlay import overlay
from bioface_core.pictures import PictureError, read_picture
from bioface_core.predict import Prediction, predict
from bioface_core.quality import Gate, Reason, judge
from bioface_core.saliency import Effect, explain
from bioface_core.terms import Finding


@dataclass(frozen=True)
class Quality:
    """How good the face on a photo is.

    Attributes:
        eye_distance_px: between the eyes, on the photo.
        yaw_deg: turn to the side, above 0 where the nose points to the right edge.
        blur: 0 sharp to 1.
    """

    eye_distance_px: float
    yaw_deg: float
    blur: float


@dataclass(frozen=True)
class Look:
    """What was seen on a photo.

    Attributes:
        reason: why it cannot be used; None where it can.
        detail: what is wrong with the file, in words; empty where nothing is.
        face_CHW: uint8, 3 x 112 x 112, the main face, aligned; None without a face.
        quality: of that face.
    """

    reason: Reason | None
    detail: str
    face_CHW: Tensor | None
    quality: Quality | None


@dataclass(frozen=True)
class Why:
    """What speaks for a syndrome.

    Attributes:
        overlays_NCHW: uint8, the heat on each face.
        effects: of each region of the face, greatest first.
    """

    overlays_NCHW: Tensor
    effects: tuple[Effect, ...]


class Clinic:
    """A model that is asked by a page.

    Args:
        expert: the trained model.
        gallery: of this model; None is an empty one.
    """

    def __init__(self, expert: Expert, gallery: Gallery | None = None) -> None:
        self.expert, self.gallery, self.gate = expert, gallery, Gate()
        self._detector = Detector(str(expert.device))
        self._one_at_a_time = Lock()  # a server answers in several threads; the memory of one look is enough

    def look(self, content: bytes) -> Look:
        """Looks for the face on a photo.

        Args:
            content: of an image file.
        """
        with self._one_at_a_time:
            try:
                picture_CHW = read_picture(content)
            except PictureError as error:
                return Look(error.reason, error.detail, None, None)
            findings = examine([picture_CHW], self._detector, self.gate)
        reason = judge(findings, self.gate)[0]
        if reason is Reason.NO_FACE:
            return Look(reason, "", None, None)
        values = (findings.eye_distance_N, findings.yaw_N, findings.blur_N)
        return Look(reason, "", findings.faces_NCHW[0], Quality(*(float(value_N[0]) for value_N in values)))

    def answer(self, faces: Sequence[Tensor], seen: Sequence[Finding]) -> Prediction:
        """The answer for one patient.

        Args:
            faces: aligned, uint8 (3, 112, 112), at least one.
            seen: terms that were found, or looked for and not found.

        Raises:
            PhotoError: the gallery is another model's.
            ConfigError: terms, and the model is not calibrated.
        """
        nobody_N = torch.zeros(len(faces), dtype=torch.int64)
        with self._one_at_a_time:
            return predict(self.expert, torch.stack(list(faces)), nobody_N, [()], self.gallery, seen)[0]

    def explain(self, faces: Sequence[Tensor], syndrome: str) -> Why:
        """What speaks for a syndrome on the faces of one patient.

        Args:
            faces: aligned, uint8 (3, 112, 112), at least one.
            syndrome: key of one that is ranked.

        Raises:
            PhotoError: the gallery is another model's, or no such syndrome is ranked.
        """
        gallery = Gallery.empty(self.expert) if self.gallery is None else gallery_of(self.expert, self.gallery)
        if syndrome not in (*self.expert.syndromes, *new_syndromes(self.expert, gallery)):
            raise PhotoError(f"no syndrome {syndrome!r} is ranked: ask for one of the ranking")
        faces_NCHW = torch.stack(list(faces))
        with self._one_at_a_time:
            found = explain(self.expert, gallery, faces_NCHW, syndrome)
        pairs = zip(faces_NCHW, found.heat_NHW, strict=True)
        return Why(torch.stack([overlay(face_CHW, heat_HW) for face_CHW, heat_HW in pairs]), found.effects)
