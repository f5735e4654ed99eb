"""How does a report become a page? One HTML file with style and pictures inside; it asks the network for nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bioface_core.errors import RunError
from bioface_core.files import write_text
from bioface_core.report import embedding_map, matrix, words
from bioface_core.report.attacks import HEADINGS, Attacks, cells, reading
from bioface_core.report.build import catalogue_names, report_of
from bioface_core.report.curves import loss_curve, rate_curve
from bioface_core.report.facts import Report, Syndrome
from bioface_core.report.run_folder import Embeddings, read_run
from bioface_core.report.sureness import coverage_rows, sureness
from bioface_core.web import STYLE

_HARDEST_SHOWN = 12
REPORT_STYLE = Path(__file__).parent / "report.css"  # what a report has beside the house style


@dataclass(frozen=True)
class Map:
    """A map of the embeddings and its legend.

    Attributes:
        title: what it is coloured by.
        picture: the drawing.
        legend: (number, mark, name) of each group; empty where groups are too many to be told apart.
    """

    title: str
    picture: Markup
    legend: tuple[tuple[int, Markup, str], ...]


def write_report(folder: Path, names: Mapping[str, str] | None = None) -> Report:
    """Computes the report of a run and writes report.json and report.html into its folder.

    Args:
        folder: the run folder.
        names: see ``build``.

    Returns:
        The report.

    Raises:
        RunError: no run there, a damaged one, or a folder that cannot be written.
    """
    run = read_run(folder)
    report = report_of(run, catalogue_names() if names is None else names)
    try:
        write_text(folder / "report.json", json.dumps(report.to_json(), indent=1, ensure_ascii=False, allow_nan=False))
        write_text(folder / "report.html", render(report, run.embeddings))
    except OSError as error:
        raise RunError(f"{folder} cannot be written ({error.strerror}): free space or change its rights") from error
    return report


def render(report: Report, embeddings: Embeddings | None) -> str:
    """The page.

    Args:
        report: what it says.
        embeddings: for the map; None leaves it out.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": words.percent,
        "interval": words.interval,
        "points": words.points,
        "data": words.data_size,
        "short": short_name,
        "reading": reading,
        "sureness": sureness,
    }
    template = environment.get_template("report.html.j2")
    return template.render(
        report=report,
        style=Markup("".join(file.read_text(encoding="utf-8") for file in (STYLE, REPORT_STYLE))),
        curves=[rate_curve(report, 1), rate_curve(report, 3), loss_curve(report)],
        in_a_table=len(report.syndromes) <= matrix.MOST_CLASSES_IN_A_TABLE,
        confusion=matrix.confusion_rows(report.confusion),
        confusion_picture=matrix.confusion_picture(report),
        hospital_rows=matrix.hospital_rows(report.hospitals, len(report.syndromes)),
        ranked=ranked(report.syndromes),
        hardest=_HARDEST_SHOWN,
        maps=maps(report, embeddings),
        photos_drawn=embedding_map.MOST_DRAWN,
        facts=facts(report),
        covered=coverage_rows(report.calibration),
        attacked=attack_rows(report.attacks),
        recipe=report.study.to_yaml(),
        known=words.NOT_KNOWN,
    )


def ranked(syndromes: Sequence[Syndrome]) -> list[Syndrome]:
    """Hardest first, those without patients last."""
    return sorted(syndromes, key=lambda one: math.inf if math.isnan(one.sensitivity.value) else one.sensitivity.value)


def maps(report: Report, embeddings: Embeddings | None) -> list[Map]:
    """The embeddings by syndrome and by hospital; none where there are no embeddings, or none that are numbers."""
    if embeddings is None:
        return []
    finite_N = embeddings.embeddings_ND.isfinite().all(dim=1).nonzero()[:, 0]
    if not len(finite_N):
        return []
    chosen_M = finite_N[embedding_map.drawn(len(finite_N))]
    places_M2 = embedding_map.project(embeddings.embeddings_ND[chosen_M])
    hospitals_M = embeddings.hospitals_N[chosen_M]
    hospital_names = [hospital.name for hospital in report.hospitals]
    hospital_names += [f"hospital {number + 1}" for number in range(len(hospital_names), int(hospitals_M.max()) + 1)]
    names = [syndrome.name for syndrome in report.syndromes]
    return [
        _map("By syndrome", places_M2, embeddings.labels_N[chosen_M], names, numbered=True),
        _map("By hospital", places_M2, hospitals_M, hospital_names, numbered=False),
    ]


def _map(title: str, places_M2: torch.Tensor, indices_M: torch.Tensor, names: Sequence[str], numbered: bool) -> Map:
    groups = embedding_map.groups_of(places_M2, indices_M, names)
    apart = len(groups) <= embedding_map.MOST_GROUPS_APART
    legend = tuple((group.number, embedding_map.key(group), group.name) for group in groups) if apart else ()
    return Map(title, embedding_map.draw(f"Embedding map, {title.lower()}", groups, numbered), legend)


def facts(report: Report) -> list[tuple[str, str]]:
    """What was run, term by term."""
    study = report.study
    photos = "real photos, from stores" if study.simulation.stores else "phantoms (drawn by a program)"
    network = f"SE-ResNet-{study.model.depth}, width {study.model.width:g}, embedding {study.model.embedding}"
    loss = f"{study.loss.mode}, margin {study.loss.margin:g}, scale {study.loss.scale:g}"
    return [
        ("Study", study.name),
        ("Study id", report.study_id),
        ("Seed", str(study.seed)),
        ("Photos", photos),
        ("Engine", study.simulation.engine),
        ("Network", f"{network}, norm {study.model.norm}, trains {study.model.trainable}"),
        ("Base", f"{study.model.base}, SHA-256 {study.model.base_sha256 or 'not recorded'}"),
        ("Loss", loss),
        ("Local training", f"{words.plural(study.train.epochs, 'epoch')} a round, batch {study.train.batch}"),
        ("Federation", f"{study.federation.strategy}, {words.plural(study.federation.rounds, 'round')}"),
        ("Privacy", words.privacy(study)),
        ("Secure aggregation", "on: the lab's side sees sums" if study.secure.enabled else "off"),
        *((name, version) for name, version in report.software.items()),
    ]


def attack_rows(attacks: Attacks | None) -> list[tuple[str, ...]]:
    """What attacks found: a heading, and the figure under each setting."""
    if attacks is None:
        return []
    return list(zip(HEADINGS, *(cells(defence) for defence in attacks.defences), strict=True))


def short_name(name: str) -> str:
    """A syndrome's name where every entry is a syndrome."""
    return name.removesuffix(" syndrome")
