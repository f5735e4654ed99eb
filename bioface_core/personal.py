"""What is a hospital's own model? The shared one, trained on at a hospital; it stays there.

    study.yaml          what was trained, the shared study with the part that was
    model.safetensors   every tensor
    personal.json       which shared model it comes from, its calibration, and how it compares

Nothing sends it: `bioface export` refuses it, a study cannot start from it, and no part of a node reads it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from bioface_core.calibration import Calibration
from bioface_core.config import Study, read_study
from bioface_core.errors import PassportError
from bioface_core.files import write_bytes, write_text
from bioface_core.private import new_private_folder

_STUDY, _MODEL, _PERSONAL = "study.yaml", "model.safetensors", "personal.json"


def is_personal(folder: Path) -> bool:
    """Whether a folder claims to hold a hospital's own model."""
    return (folder / _PERSONAL).is_file()


def write_personal(
    folder: Path,
    study: Study,
    weights: Mapping[str, Tensor],
    calibration: Calibration,
    compared: Mapping[str, Any],
) -> None:
    """Writes a hospital's own model into a folder that only this account may enter.

    Args:
        folder: new, or empty.
        study: what was trained.
        weights: the whole model's tensors, as ``Learner.weights`` gives them.
        calibration: how sure it may be.
        compared: how it compares with the shared one, as JSON.

    Raises:
        PassportError: something is there, or nothing can be written.
    """
    content = save({name: tensor.contiguous() for name, tensor in weights.items()})
    told = {
        "model_sha256": hashlib.sha256(content).hexdigest(),
        "calibration": dataclasses.asdict(calibration),
        "compared": dict(compared),
    }
    with new_private_folder(folder, PassportError) as fresh:
        write_bytes(fresh / _MODEL, content)
        write_text(fresh / _STUDY, study.to_yaml())
        write_text(fresh / _PERSONAL, json.dumps(told, indent=1))


def read_personal(folder: Path) -> tuple[Study, dict[str, Tensor], Calibration]:
    """What ``write_personal`` wrote.

    Raises:
        PassportError: a part is missing or was changed.
    """
    try:
        told = json.loads((folder / _PERSONAL).read_text(encoding="utf-8"))
        content = (folder / _MODEL).read_bytes()
        if hashlib.sha256(content).hexdigest() != told["model_sha256"]:
            raise PassportError(f"{folder / _MODEL} was changed: make the hospital's own model anew")
        return read_study(folder / _STUDY), load(content), Calibration.from_json(told["calibration"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        kind = type(error).__name__
        raise PassportError(f"{folder} is damaged ({kind}): make the hospital's own model anew") from error
