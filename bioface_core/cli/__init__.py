"""What can be typed? Every command of ``bioface``; each imports what it needs when it runs, so that help is instant.

Standard output carries the result (a table, or one JSON object with ``--json``); progress and errors go to standard
error. Exit status: 0 done, 1 the work failed, 2 a user's mistake (one line), 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from bioface_core import __version__
from bioface_core.app_path import add_app_to_path
from bioface_core.cli import clinic, gallery, hospital, lab, local, passport, predict, process
from bioface_core.errors import BioFaceError, UserError


def _group(name: str, help_: str, hidden: bool = False) -> typer.Typer:
    return typer.Typer(
        name=name,
        help=help_,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        hidden=hidden,
    )


app = _group("bioface", "Recognise genetic syndromes from facial photos together, without a photo leaving a hospital.")
_COMMANDS = (
    local.simulate,
    local.prepare,
    local.pretrain,
    local.sweep,
    predict.predict,
    clinic.clinic,
    local.report,
    local.attack,
    passport.export,
    passport.verify,
    local.bench,
)
for _command in _COMMANDS:
    app.command()(_command)
_GROUPS: tuple[tuple[typer.Typer, tuple[Callable[..., None], ...]], ...] = (
    (_group("lab", "The coordinating lab: make it, invite hospitals, serve, run a study."), lab.COMMANDS),
    (_group("hospital", "A hospital: keys and request, review and approve a study, take part."), hospital.COMMANDS),
    (_group("gallery", "A hospital's own syndromes: add by a few photos, look, remove, measure."), gallery.COMMANDS),
    (_group("process", "Processes that other commands start.", hidden=True), process.COMMANDS),
)
for _subcommands, _commands in _GROUPS:
    for _subcommand in _commands:
        _subcommands.command()(_subcommand)
    app.add_typer(_subcommands)


def main() -> None:
    """The ``bioface`` command: runs the app and turns errors into one line and an exit status."""
    add_app_to_path()
    try:
        app()
    except UserError as error:
        _fail(error, 2)
    except BioFaceError as error:
        _fail(error, 1)
    except PermissionError as error:
        _fail(UserError(f"{error.filename} is not this account's to use: be the one it belongs to"), 2)
    except KeyboardInterrupt:
        _fail(KeyboardInterrupt("interrupted; the same command goes on where it stopped"), 130)


def _fail(error: BaseException, status: int) -> None:
    print(f"bioface: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(status)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"bioface {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass
