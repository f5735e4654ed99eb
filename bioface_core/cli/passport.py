"""What can be typed about a model that leaves the lab? To export it, and to check one that has come."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bioface_core.cli.terminal import AsJson, show


def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    key: Annotated[Path, typer.Option(help="The Ed25519 key that seals it; made there if nothing is.")] = Path(
        "passport-key.pem"
    ),
    as_json: AsJson = False,
) -> None:
    """A run's last model as a sealed folder: weights, ONNX, model card. Asks nothing of the network."""
    from bioface_core.passport.export import export as run_export
    from bioface_core.passport.words import exported

    made = run_export(run, out, key)
    result = {"folder": str(made.folder), "signer": made.sealed.signer, "off": made.card.off}
    show(result if as_json else exported(made), as_json)


def verify(
    folder: Annotated[Path, typer.Argument(help="An exported model.")],
    signer: Annotated[str | None, typer.Option(help="The key that must have sealed it, 64 hexadecimal digits.")] = None,
    as_json: AsJson = False,
) -> None:
    """Whether an exported model is what its maker sealed."""
    from bioface_core.passport import seal
    from bioface_core.passport.words import verified

    found = seal.verify(folder, signer)
    show({"signer": found.signer, "files": found.files} if as_json else verified(found, signer), as_json)
