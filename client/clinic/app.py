"""What does the clinic's page answer? Its files, and four questions: the model, a look, an answer, an explanation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI

from bioface_core.terms import findings, known_terms
from bioface_core.web.door import Token, local_app
from client.clinic.consult import Clinic
from client.clinic.wire import (
    MOST_PHOTOS,
    Ask,
    AskWhy,
    LookAt,
    face_of,
    look_to_json,
    prediction_to_json,
    why_to_json,
)
from client.clinic.words import ADVICE, caveats

LARGEST_PHOTO = 40 * 2**20  # bytes
_HERE = Path(__file__).parent
_ASSETS = {"/": _HERE / "page.html", "/page.js": _HERE / "page.js", "/page.css": _HERE / "page.css"}


def clinic_app(clinic: Clinic, token: Token) -> FastAPI:
    """The page of a clinic.

    Args:
        clinic: whom it asks.
        token: what it must show.
    """
    app = local_app(token, _ASSETS, LARGEST_PHOTO * 4 // 3 + 2**10)  # base64 makes four bytes of three

    @app.get("/api/model")
    def model() -> dict[str, Any]:
        return _model(clinic)

    @app.post("/api/look")
    def look(question: LookAt) -> dict[str, Any]:
        return look_to_json(clinic.look(question.photo))

    @app.post("/api/answer")
    def answer(question: Ask) -> dict[str, Any]:
        faces = [face_of(face) for face in question.faces]
        return prediction_to_json(clinic.answer(faces, findings(question.present, question.absent)))

    @app.post("/api/explain")
    def explain(question: AskWhy) -> dict[str, Any]:
        return why_to_json(clinic.explain([face_of(face) for face in question.faces], question.syndrome))

    return app


def _model(clinic: Clinic) -> dict[str, Any]:
    """What the page says of the model, and what it lets be chosen."""
    expert, gate = clinic.expert, clinic.gate
    return {
        "study": expert.study.name,
        "syndromes": len(expert.syndromes),
        "gallery": 0 if clinic.gallery is None else len(clinic.gallery.names),
        "calibrated_on": expert.calibration.patients,
        "most_photos": MOST_PHOTOS,
        "largest_photo": LARGEST_PHOTO,
        "gate": {"eye_distance_px": gate.eye_distance_px, "yaw_deg": gate.yaw_deg, "blur": gate.blur},
        "terms": [vars(term) for term in known_terms().values()],
        "advice": {str(reason): advice for reason, advice in ADVICE.items()},
        "caveats": caveats(expert),
    }
