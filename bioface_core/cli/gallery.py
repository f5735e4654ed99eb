"""What can be done with a hospital's gallery? Add a syndrome by a few photos, look, remove, measure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bioface_core.cli.terminal import AsJson, show

if TYPE_CHECKING:
    from rich.table import Table

    from bioface_core.gallery import Gallery
    from bioface_core.matching import Matched

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="The folder of a run, e.g. runs/demo.")]
File = Annotated[Path, typer.Option("--gallery", help="The gallery's file.")]
_FILE = Path("gallery.safetensors")


def add(
    model: Model,
    syndrome: Annotated[str, typer.Argument(help="Its key in configs/syndromes.yaml, or one of your own.")],
    photos: Annotated[list[Path], typer.Argument(help="One to five photos; more are welcome.")],
    name: Annotated[str | None, typer.Option(help="What people call it, if the key is your own.")] = None,
    share: Annotated[bool, typer.Option("--share", help="The entries may leave this hospital.")] = False,
    file: File = _FILE,
    as_json: AsJson = False,
) -> None:
    """Add a syndrome, or more photos of one, without training. The photos are looked at and not kept."""
    from bioface_core.expert import read_expert
    from client.gallery import add_photos

    done = add_photos(read_expert(model), file, syndrome, photos, name, local=not share)
    told = {"syndrome": done.key, "name": done.name, "added": done.added, "refused": done.refused}
    told["entries"] = done.gallery.count(done.key)
    refused = "".join(f"; {n} refused: {reason}" for reason, n in done.refused.items())
    show(told if as_json else f"{done.name}: {done.added} added, {told['entries']} in all{refused}", as_json)


def list_(model: Model, file: File = _FILE, as_json: AsJson = False) -> None:
    """Show what the gallery holds. Changes nothing."""
    from bioface_core.expert import read_expert
    from bioface_core.gallery_file import read_gallery

    gallery = read_gallery(file, read_expert(model))
    show(_content(gallery) if as_json else _listing(gallery), as_json)


def remove(
    model: Model,
    what: Annotated[str, typer.Argument(help="A syndrome's key, or an entry's id from `bioface gallery list`.")],
    file: File = _FILE,
) -> None:
    """Take an entry, or a whole syndrome, out of the gallery."""
    from bioface_core.expert import read_expert
    from client.gallery import remove_entries

    gallery = remove_entries(read_expert(model), file, what)
    show(f"{what} is removed; {len(gallery)} entries are left.", False)


def protocol(
    model: Model,
    store: Annotated[Path, typer.Argument(help="Prepared photos, from `bioface prepare`.")],
    database: Annotated[
        Path | None, typer.Option(help="The GestaltMatcher Database that the store was made of, for its own lists.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure as GestaltMatcher does: macro Top-1, 5, 10 and 30 by the nearest photo of each syndrome."""
    from bioface_core.expert import read_expert
    from client.gallery import match_store

    tables = match_store(read_expert(model), store, database)
    show([_row(one) for one in tables] if as_json else _protocol(tables), as_json)


def _content(gallery: Gallery) -> dict[str, Any]:
    from dataclasses import asdict

    return {"model": gallery.model, "entries": [asdict(entry) for entry in gallery.entries]}


def _listing(gallery: Gallery) -> Table | str:
    from rich.markup import escape

    if not len(gallery):
        return "The gallery is empty."
    grid = _grid("Syndrome", "Key", "Entry", "May leave")
    for entry in gallery.entries:
        grid.add_row(escape(entry.name), escape(entry.key), entry.id, "no" if entry.local else "yes")
    return grid


def _row(one: Matched) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(one) | {"top": {str(k): asdict(rate) for k, rate in one.top.items()}}


def _protocol(tables: tuple[Matched, ...]) -> Table:
    grid = _grid("Test", "Gallery", "Photos", "Tested", *(f"Top-{k}" for k in tables[0].top))
    for one in tables:
        sizes = (f"{number:,.0f}" for number in (one.gallery_photos, one.test_photos))
        rates = (f"{100 * r.value:.1f}\n{100 * r.low:.0f}-{100 * r.high:.0f}" for r in one.top.values())
        grid.add_row(one.test, "both" if "+" in one.gallery else one.gallery, *sizes, *rates)
    return grid


def _grid(*headings: str) -> Table:
    from rich import box
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in headings:
        grid.add_column(heading, no_wrap=heading != "Syndrome")
    return grid


list_.__name__ = "list"
COMMANDS = (add, list_, remove, protocol)
