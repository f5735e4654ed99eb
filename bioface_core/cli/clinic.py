"""What can be asked at a clinician's desk? A page on this machine that answers for photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bioface_core.cli.web import Open, Port, serve_page


def clinic(
    model: Annotated[Path, typer.Option(help="The folder of a run, or of an exported model.")],
    gallery: Annotated[Path | None, typer.Option(help="A gallery of this model, to be ranked as well.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    port: Port = 0,
    in_browser: Open = False,
) -> None:
    """Serve a page to this machine: drop a photo, see the ranking and why. No photo is kept, nothing is sent."""
    from bioface_core.expert import read_expert
    from bioface_core.gallery import gallery_of
    from bioface_core.gallery_file import load_gallery
    from bioface_core.learner import device_named
    from client.clinic import Clinic, clinic_app

    expert = read_expert(model, device_named(device))
    asked = Clinic(expert, None if gallery is None else gallery_of(expert, load_gallery(gallery)))
    serve_page(lambda token: clinic_app(asked, token), port, in_browser)
