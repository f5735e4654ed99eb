"""What can be typed on one machine? A simulation, photos into a store, stage 1, a report, a benchmark."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bioface_core.cli.terminal import AsJson, Overrides, StudyArgument, show, study_of


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
        folder = run(study_of(study, overrides), runs, progress)
    result = report.write_report(folder)
    show(result.to_json() if as_json else report.table(result), as_json)
    print(f"report: {folder / 'report.html'}", file=sys.stderr)


def prepare(
    photos: Annotated[Path, typer.Argument(help="A folder per syndrome (or person), a CSV manifest, or a database.")],
    out: Annotated[Path, typer.Option(help="The store to make.")],
    heldout: Annotated[float, typer.Option(help="Share of the patients never trained on.")] = 0.33,
    seed: Annotated[int, typer.Option(help="Chooses who is held out.")] = 0,
    sheet: Annotated[Path | None, typer.Option(help="Also draw a contact sheet with landmarks.")] = None,
    layout: Annotated[str, typer.Option(help="auto, or gmdb: the GestaltMatcher Database.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Detect, check, align and split photos into a store. Nothing leaves this machine."""
    from client.prepare import PrepareOptions, describe
    from client.prepare import prepare as run
    from simulation.progress import Progress

    with Progress() as progress:
        outcome = run(photos, out, PrepareOptions(heldout, seed, sheet, layout=layout), progress.bar("photos"))
    show(outcome.to_json() if as_json else describe(outcome), as_json)


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
        outcome = pretrain_to(out, study_of(study, overrides), progress)
    lines = "\n".join(f"{name}: {value}" for name, value in outcome.items())
    show(outcome if as_json else lines, as_json)


def sweep(
    name: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep file, or the name of a shipped one.")],
    overrides: Overrides = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Folder of the sweeps' folders.")] = Path("sweeps"),
    seeds: Annotated[int | None, typer.Option(help="How many seeds, in place of the sweep's.")] = None,
    workers: Annotated[int, typer.Option(help="Processes of one thread; 0 is one for each processor.")] = 0,
    as_json: AsJson = False,
) -> None:
    """A study times a grid of overrides times seeds: a table, intervals, figures. Goes on where it stopped."""
    from simulation.progress import Progress
    from simulation.sweep import find_sweep, read_sweep, run_sweep, write_results

    asked = read_sweep(find_sweep(name), tuple(overrides), seeds)
    with Progress() as progress:
        folder, rows = run_sweep(asked, out, workers, progress.bar("runs"))
    text = write_results(folder, asked, rows)
    show({"sweep": asked.name, "folder": str(folder), "rows": rows} if as_json else text, as_json)
    print(f"table: {folder / 'table.csv'}", file=sys.stderr)


def report(
    run: Annotated[Path, typer.Argument(help="A run folder, e.g. runs/demo.")],
    as_json: AsJson = False,
) -> None:
    """Compute the report of a run again from its raw files."""
    from bioface_core import report

    result = report.write_report(run)
    show(result.to_json() if as_json else report.table(result), as_json)


def attack(
    run: Annotated[Path, typer.Argument(help="The folder of a simulated run, e.g. runs/demo.")],
    as_json: AsJson = False,
) -> None:
    """Attack a simulated run: photos out of updates, who was trained on, and the epsilon that canaries prove."""
    import dataclasses

    from bioface_core import report
    from bioface_core.report.attacks import attack_table
    from simulation.attack.run import attack as run_attack
    from simulation.progress import Progress

    with Progress() as progress:
        found = run_attack(run, progress)
    name = report.write_report(run).study.name
    show(dataclasses.asdict(found) if as_json else attack_table(found, name), as_json)
    print(f"report: {run / 'report.html'}", file=sys.stderr)


def bench(
    name: Annotated[
        str,
        typer.Argument(
            help="simulate, phantoms, deploy, secure, dp, predict, aggregate, intake, bytes, step, cache or gpu."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Measure a claim on this machine, side by side in one run."""
    from simulation.bench import run_benchmark, table

    result = run_benchmark(name)
    show(result if as_json else table(result), as_json)
