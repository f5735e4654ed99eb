#!/usr/bin/env python3
"""Which syndrome might these faces point to? Asks model.onnx beside this file; needs numpy, pillow and onnxruntime.

    python rank.py FACE.png ...          one patient: all photos together
    python rank.py --each FACE.png ...   every photo a patient of its own
    python rank.py --json FACE.png ...   one JSON object

A face is an aligned photo, RGB: eyes, nose and mouth corners lie where card.json says (``landmarks_px``), as `bioface
prepare` lays them. For research: no answer is a diagnosis.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image

HERE = Path(__file__).resolve().parent
SHOWN = 5


class Mistake(Exception):
    """One line for whoever typed it."""


def main() -> None:
    """Ranks, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path, nargs="+")
    parser.add_argument("--each", action="store_true", help="every photo is a patient of its own")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    typed = parser.parse_args()
    try:
        card, session = read_model(HERE)
        patients = [[path] for path in typed.faces] if typed.each else [typed.faces]
        answers = [answer(card, session, faces) for faces in patients]
    except Mistake as mistake:
        print(f"rank: {mistake}", file=sys.stderr)
        raise SystemExit(2) from mistake
    print(json.dumps({"answers": answers}) if typed.json else "\n\n".join(map(told, answers)))


def read_model(folder: Path) -> tuple[dict[str, Any], InferenceSession]:
    """Card and graph, if they are the files that the passport names."""
    try:
        named = json.loads((folder / "passport.json").read_text(encoding="utf-8"))["files"]
        contents = {name: (folder / name).read_bytes() for name in ("card.json", "model.onnx")}
    except (OSError, ValueError, KeyError) as error:
        raise Mistake(f"{folder} is no exported model ({type(error).__name__}): get it anew") from error
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != named.get(name):
            raise Mistake(f"{folder / name} was changed after it was sealed: get the model anew")
    session = InferenceSession(contents["model.onnx"], providers=["CPUExecutionProvider"])
    return json.loads(contents["card.json"]), session


def read_face(path: Path, side: int) -> np.ndarray:
    """An aligned face, uint8 (3, side, side)."""
    try:
        with Image.open(path) as image:
            face = np.asarray(image.convert("RGB"))
    except Exception as error:  # a decoder fails in many ways
        raise Mistake(f"{path.name} cannot be read as an image: expected an aligned face") from error
    if face.shape != (side, side, 3):
        found = f"{face.shape[1]} x {face.shape[0]}"
        raise Mistake(f"{path.name} is {found} pixels, expected an aligned face of {side} x {side}")
    return face.transpose(2, 0, 1)


def answer(card: dict[str, Any], session: InferenceSession, paths: list[Path]) -> dict[str, Any]:
    """The answer for one patient: what is recognised, and the ranking."""
    faces = np.stack([read_face(path, card["face_size_px"]) for path in paths])
    probability, score, nearness = session.run(["probability", "score", "nearness"], {"faces": faces})
    calibration = card["calibration"]
    known = calibration is None or float(nearness) >= calibration["nearness"]
    ranking = [
        {
            "key": card["syndromes"][place]["key"],
            "name": card["syndromes"][place]["name"],
            "probability": None if calibration is None else float(probability[place]),
            "score": float(score[place]),
        }
        for place in np.argsort(-score, kind="stable")
    ]
    return {
        "photos": [path.name for path in paths],
        "answer": "ranked" if known else "no syndrome recognised",
        "nearness": float(nearness),
        "ranking": ranking,
    }


def told(found: dict[str, Any]) -> str:
    """An answer as lines of text."""
    lines = [f"{', '.join(found['photos'])}: {found['answer']}"]
    for one in found["ranking"][:SHOWN]:
        likely = "     -" if one["probability"] is None else f"{100 * one['probability']:5.1f}%"
        lines.append(f"  {likely}  {one['name']}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
