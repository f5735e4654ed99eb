"""What can be typed? Every command of ``bioface``; each imports what it needs when it runs, so that help is instant.

Standard output carries the result (a table, or one JSON object with ``--json``); progress and errors go to standard
error. Exit status: 0 done, 1 the work failed, 2 a user's mistake (one line), 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bioface_core import __version__
from bioface_core.app_path import add_app_to_path
from bioface_core.errors import BioFaceError, UserError

if TYPE_CHECKING:
    from bioface_core.config import Study

app = typer.Typer(
    name="bioface",
    help="Recognise genetic syndromes from facial photos together, without a photo leaving a hospital.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

StudyArgument = Annotated[str, typer.Argument(metavar="[STUDY]", help="A study file, or demo, paper, smoke.")]
Overrides = Annotated[
    list[str], typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override, e.g. train.rate=1e-4.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def main() -> None:
    """The ``bioface`` command: runs the app and turns errors into one line and an exit status."""
    add_app_to_path()
    try:
        app()
    except UserError as error:
        _fail(error, 2)
    except BioFaceError as error:
        _fail(error, 1)
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


@app.command()
def simulate(
    study: StudyArgument = "demo",
    overrides: Overrides = [],  # noqa: B006
    runs: Annotated[Path, typer.Option(help="Folder of the run folders.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """A federation on this machine: hospitals alone, federated and pooled. Goes on where an earlier call stopped."""
    from bioface_core import report
    from simulation.progress import Progress
    from simulation.run import simulate as run

    with Progress() as progress:
        folder = run(_study(study, overrides), runs, progress)
    result = report.write_report(folder)
    _print(result.to_json() if as_json else report.table(result), as_json)
    print(f"report: {folder / 'report.html'}", file=sys.stderr)


@app.command()
def prepare(
    photos: Annotated[Path, typer.Argument(help="A folder per syndrome (or person), or a CSV manifest.")],
    out: Annotated[Path, typer.Option(help="The store to make.")],
    heldout: Annotated[float, typer.Option(help="Share of the patients never trained on.")] = 0.33,
    seed: Annotated[int, typer.Option(help="Chooses who is held out.")] = 0,
    sheet: Annotated[Path | None, typer.Option(help="Also draw a contact sheet with landmarks.")] = None,
    as_json: AsJson = False,
) -> None:
    """Detect, check, align and split photos into a store. Nothing leaves this machine."""
    from client.prepare import PrepareOptions, describe
    from client.prepare import prepare as run
    from simulation.progress import Progress

    with Progress() as progress:
        outcome = run(photos, out, PrepareOptions(heldout, seed, sheet), progress.bar("photos"))
    _print(outcome.to_json() if as_json else describe(outcome), as_json)


@app.command()
def pretrain(
    study: StudyArgument = "demo",
    overrides: Overrides = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="The weights to write (.safetensors).")] = Path("base.safetensors"),
    as_json: AsJson = False,
) -> None:
    """Stage 1: learn to tell people apart, from phantoms or from a store of people."""
    from simulation.pretraining import pretrain_to
    from simulation.progress import Progress

    with Progress() as progress:
        outcome = pretrain_to(out, _study(study, overrides), progress)
    lines = "\n".join(f"{name}: {value}" for name, value in outcome.items())
    _print(outcome if as_json else lines, as_json)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run folder, e.g. runs/demo.")],
    as_json: AsJson = False,
) -> None:
    """Compute the report of a run again from its raw files."""
    from bioface_core import report

    result = report.write_report(run)
    _print(result.to_json() if as_json else report.table(result), as_json)


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="simulate or phantoms.")],
    as_json: AsJson = False,
) -> None:
    """Measure a claim on this machine, side by side in one run."""
    from simulation.bench import run_benchmark, table

    result = run_benchmark(name)
    _print(result if as_json else table(result), as_json)


def _study(name: str, overrides: list[str]) -> Study:
    from bioface_core.config import find_study, read_study

    return read_study(find_study(name), tuple(overrides))


def _print(result: Any, as_json: bool) -> None:
    """The result on standard output."""
    if as_json:
        print(json.dumps(result))
        return
    from rich.console import Console

    Console(highlight=False).print(result)
