"""What goes to and fro between the page and this process? JSON; pictures in it are PNG files as base64.

An aligned face makes the way unchanged: PNG loses nothing.
"""

from __future__ import annotations

import base64
import math
from io import BytesIO
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field
from torch import Tensor

from bioface_core.errors import PhotoError
from bioface_core.photos import FACE_SIZE_PX
from bioface_core.predict import Prediction
from client.clinic.consult import Look, Why

MOST_PHOTOS = 12  # of one patient
Faces = Annotated[list[Base64Bytes], Field(min_length=1, max_length=MOST_PHOTOS)]
Terms = Annotated[list[str], Field(max_length=60)]


class _Question(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LookAt(_Question):
    """A photo to be looked at: an image file."""

    photo: Base64Bytes


class Ask(_Question):
    """Faces of one patient to be answered for, and what the clinician found."""

    faces: Faces
    present: Terms = []
    absent: Terms = []


class AskWhy(_Question):
    """Faces of one patient, and the syndrome that is to be explained."""

    faces: Faces
    syndrome: str


def face_of(content: bytes) -> Tensor:
    """An aligned face, uint8 (3, 112, 112), from the PNG that ``picture`` made of it.

    Raises:
        PhotoError: it is no such PNG.
    """
    try:
        with Image.open(BytesIO(content), formats=["PNG"]) as image:
            if image.size != (FACE_SIZE_PX, FACE_SIZE_PX) or image.mode != "RGB":
                raise PhotoError(f"a face is {FACE_SIZE_PX} x {FACE_SIZE_PX} RGB pixels, not {image.size} {image.mode}")
            return torch.from_numpy(np.array(image)).permute(2, 0, 1)
    except PhotoError:
        raise
    except Exception as error:  # a decoder fails in many ways
        raise PhotoError("a face is the PNG that looking at a photo gave; this is none") from error


def picture(face_CHW: Tensor) -> str:
    """A picture, uint8 (3, H, W), as the address of an image that holds it."""
    file = BytesIO()
    Image.fromarray(face_CHW.permute(1, 2, 0).cpu().numpy()).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def look_to_json(look: Look) -> dict[str, Any]:
    """What was seen on a photo."""
    return {
        "reason": look.reason,
        "detail": look.detail,
        "face": None if look.face_CHW is None else picture(look.face_CHW),
        "quality": None if look.quality is None else vars(look.quality),
    }


def why_to_json(why: Why) -> dict[str, Any]:
    """What speaks for a syndrome; of a region, the factor by which the odds change when it is blurred."""
    return {
        "overlays": [picture(overlay_CHW) for overlay_CHW in why.overlays_NCHW],
        "regions": [
            {"name": one.region.name, "hpo": one.region.hpo, "term": one.region.term, "factor": math.exp(-one.fall)}
            for one in why.effects
        ],
    }


def prediction_to_json(prediction: Prediction) -> dict[str, Any]:
    """An answer; terms by their names, and what each did to a syndrome as a factor."""
    return {
        "answer": prediction.answer,
        "nearness": prediction.nearness,
        "threshold": prediction.threshold,
        "photos": prediction.photos,
        "ranking": [vars(one) for one in prediction.ranking],
        "neighbours": [vars(one.entry) | {"cosine": one.cosine} for one in prediction.neighbours],
        "updated": [
            {
                "key": one.key,
                "after": one.after,
                "moved": [
                    {
                        "hpo": move.finding.term.hpo,
                        "label": move.finding.term.label,
                        "present": move.finding.present,
                        "frequency": move.frequency,
                        "factor": move.factor,
                    }
                    for move in one.moved
                ],
            }
            for one in prediction.updated
        ],
    }
