"""How does a run become a model that can be handed on? A folder that is complete, checked and sealed.

    model.safetensors   every tensor, for `bioface predict`, `bioface clinic` and further training
    model.onnx          faces in, calibrated answer out; the same answer to ``graph.TOLERANCE``
    study.yaml          what was run, without paths of the machine it ran on
    card.json, .html    what must be known before it is used
    rank.py             asks model.onnx; needs no torch and nothing of ours
    passport.json       the hash of each of these, signed

Nothing in it is derived from a single patient but the weights themselves, which the hospitals agreed to share.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from safetensors.torch import save

from bioface_core import __version__
from bioface_core.checkpoint import RunFolder
from bioface_core.config import Study
from bioface_core.errors import PassportError
from bioface_core.expert import read_expert
from bioface_core.files import replace_folder, write_bytes, write_text
from bioface_core.gallery import fingerprint
from bioface_core.groups import SMALLEST
from bioface_core.identity import make_identity, read_identity
from bioface_core.passport.card import Card, card_of
from bioface_core.passport.graph import write_graph
from bioface_core.passport.seal import CARD, GRAPH, MODEL, STUDY, Sealed, is_sealed, seal
from bioface_core.personal import is_personal
from bioface_core.report import words
from bioface_core.report.page import REPORT_STYLE
from bioface_core.report.run_folder import read_run
from bioface_core.report.sureness import coverage_rows, sureness
from bioface_core.web import STYLE

_HERE = Path(__file__).parent
_PAGE, _RANK = "card.html", "rank.py"
_BUILT_IN = ("pretrain", "scratch", "phantoms")


@dataclass(frozen=True)
class Exported:
    """An exported model.

    Attributes:
        folder: where it lies.
        card: what it says.
        sealed: under whose key.
    """

    folder: Path
    card: Card
    sealed: Sealed


def export(run_folder: Path, out: Path, key_file: Path, made: date | None = None) -> Exported:
    """Exports the last model of a run.

    Args:
        run_folder: with at least one complete round.
        out: the folder to make; nothing may be there.
        key_file: the Ed25519 key that seals it; made there if nothing is.
        made: the card's date; today if None.

    Raises:
        RunError: no run there, no complete round, or damaged.
        PassportError: something is in the way, or what makes ONNX files is missing.
    """
    if out.exists():
        raise PassportError(f"{out} is there already: choose a new folder")
    if is_sealed(run_folder):
        raise PassportError(f"{run_folder} is an exported model already: name the run it was made from")
    if is_personal(run_folder):
        raise PassportError(f"{run_folder} is a hospital's own model, which stays there: export the shared one")
    expert, run, rounds = read_expert(run_folder), read_run(run_folder), RunFolder(run_folder)
    key = read_identity(key_file, PassportError) if key_file.exists() else None
    software = {"bioface": __version__, "torch": version("torch")} | run.software
    try:
        with replace_folder(out.resolve()) as folder:
            off = write_graph(expert, folder / GRAPH)
            write_bytes(folder / MODEL, save(rounds.read_model(rounds.last_round())))
            write_text(folder / STUDY, without_paths(run.study).to_yaml())
            card = card_of(run, expert, fingerprint(expert), str(made or date.today()), software, off)
            write_text(folder / CARD, json.dumps(card.to_json(), indent=1, ensure_ascii=False, allow_nan=False))
            write_text(folder / _PAGE, page(card))
            shutil.copyfile(_HERE / _RANK, folder / _RANK)
            sealed = seal(folder, key or make_identity(key_file))
    except OSError as error:
        raise PassportError(f"{out} cannot be written ({error.strerror}): choose another place") from error
    return Exported(out, card, sealed)


def without_paths(study: Study) -> Study:
    """The study with the names of files in place of their paths: those say whose machine it was."""
    named: dict[str, Any] = {
        "model": {"base": _name(study.model.base)},
        "pretrain": {"people": _name(study.pretrain.people)},
        "simulation": {"stores": [_name(store) for store in study.simulation.stores]},
    }
    return study.replace(named)


def _name(place: str) -> str:
    return place if place in _BUILT_IN else Path(place).name


def page(card: Card) -> str:
    """The card as one HTML file that asks the network for nothing."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": words.percent, "interval": words.interval, "sureness": sureness}
    return environment.get_template("card.html.j2").render(
        card=card,
        covered=coverage_rows(card.calibration),
        factors=list(dict.fromkeys(one.factor for one in card.groups)),
        known=words.NOT_KNOWN,
        smallest=SMALLEST,
        style=Markup("".join(file.read_text(encoding="utf-8") for file in (STYLE, REPORT_STYLE))),
    )
