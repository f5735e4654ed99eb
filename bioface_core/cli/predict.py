"""What can be asked of a trained model? Photos in, ranked syndromes out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bioface_core.cli.terminal import AsJson, show


def predict(
    photos: Annotated[list[Path], typer.Argument(help="Photos, folders, or CSV files with photo[,patient].")],
    model: Annotated[Path, typer.Option(help="The folder of a run, e.g. runs/demo.")],
    top: Annotated[int, typer.Option(min=1, help="How many syndromes to show.")] = 5,
    gallery: Annotated[Path | None, typer.Option(help="A gallery of this model, to be ranked as well.")] = None,
    present: Annotated[list[str], typer.Option(help="An HPO term that was found; may be repeated.")] = [],  # noqa: B006
    absent: Annotated[list[str], typer.Option(help="One that was looked for and is not there.")] = [],  # noqa: B006
    together: Annotated[bool, typer.Option("--together", help="All photos are of one patient.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Rank syndromes for photos of patients. Nothing leaves this machine, and no photo is kept."""
    from bioface_core.expert import read_expert
    from bioface_core.gallery_file import load_gallery
    from bioface_core.learner import device_named
    from bioface_core.terms import findings
    from client.predict import cases_of, describe, predict_cases, table
    from simulation.progress import Progress

    cases, seen = cases_of(photos, together), findings(present, absent)
    expert = read_expert(model, device_named(device))
    known = None if gallery is None else load_gallery(gallery)
    with Progress() as progress:
        results = list(predict_cases(expert, cases, known, seen, progress.bar("photos")))
    show({"results": [result.to_json(top) for result in results]} if as_json else table(results, top), as_json)
    print(describe(results, expert.calibration.patients), file=sys.stderr)
