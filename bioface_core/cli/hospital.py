"""What can a hospital type? Make its keys, review and approve a study, take part, find a fault, read its books."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bioface_core.cli.terminal import AsJson, show

At = Annotated[Path, typer.Option("--at", help="The hospital's folder.")]
KitArgument = Annotated[Path, typer.Argument(metavar="KIT", help="The start kit that the lab sent: a folder.")]
_HOSPITAL = Path("hospital")


def init(
    folder: Annotated[Path, typer.Argument(help="The folder to make.")],
    name: Annotated[str, typer.Option(help="The hospital's name in the federation: letters, digits, dots, dashes.")],
    store: Annotated[Path, typer.Option(help="Prepared photos, from `bioface prepare`.")],
) -> None:
    """Make keys, which never leave this machine, and a join request with their public halves."""
    from client.enrol import init_hospital

    request = init_hospital(folder, name, store)
    show(f"{folder} is made. Send {request} to the lab; edit {folder / 'hospital.yaml'} as you see fit.", False)


def review(kit: KitArgument, at: At = _HOSPITAL, as_json: AsJson = False) -> None:
    """Explain what a study would compute, on which data, what would leave and what it costs. Changes nothing."""
    from client.explain import describe
    from client.hospital import Hospital
    from client.review import review_kit

    found = review_kit(Hospital.open(at), kit)
    show(found.to_json() if as_json else describe(found), as_json)


def approve(kit: KitArgument, at: At = _HOSPITAL) -> None:
    """Approve the study of a kit, by its id; only what is approved is ever computed."""
    from client.enrol import approve as run
    from client.hospital import Hospital

    approved = run(Hospital.open(at), kit)
    show(f"study {approved.study.study_id} is approved; `bioface hospital join` takes part in it.", False)


def join(at: At = _HOSPITAL) -> None:
    """Take part in the approved study until stopped; reconnects by itself."""
    from bioface_core.logs import start_logging
    from client.hospital import Hospital
    from client.join import join as run

    hospital = Hospital.open(at)
    start_logging("hospital", hospital.logs)
    run(hospital)


def doctor(at: At = _HOSPITAL, as_json: AsJson = False) -> None:
    """Find out what keeps this hospital from taking part. Exit status 1 if something does."""
    from client.doctor import describe, diagnose
    from client.hospital import Hospital

    findings = diagnose(Hospital.open(at))
    show([finding.to_json() for finding in findings] if as_json else describe(findings), as_json)
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)


def ledger(at: At = _HOSPITAL, as_json: AsJson = False) -> None:
    """Show what this hospital's patients have spent of their privacy, and what is left. Changes nothing."""
    from client.hospital import Hospital
    from client.statement import describe, draw_up

    statement = draw_up(Hospital.open(at))
    show(statement.to_json() if as_json else describe(statement), as_json)


def audit(at: At = _HOSPITAL, as_json: AsJson = False) -> None:
    """Look through the log of all that was asked and all that left. Exit status 1 if a line was touched."""
    from client.audit import verify
    from client.hospital import Hospital

    hospital = Hospital.open(at)
    verdict = verify(hospital.audit, hospital.identity)
    in_order = f"{hospital.audit}: {verdict.lines} lines are in order, signed by {hospital.identity}"
    show(verdict.to_json() if as_json else f"{in_order}; {verdict.fault}" if verdict.fault else in_order, as_json)
    if verdict.fault:
        raise typer.Exit(1)


def personalise(
    model: Annotated[Path, typer.Argument(help="The shared model: an exported one, or the folder of a run.")],
    out: Annotated[Path, typer.Option(help="The folder to make; it stays in this hospital.")],
    at: At = _HOSPITAL,
    store: Annotated[Path | None, typer.Option(help="Prepared photos, in place of the hospital's.")] = None,
    start: Annotated[Path | None, typer.Option(help="What the study started from, in place of the kit's.")] = None,
    part: Annotated[str, typer.Option(help="What is trained: head, last-stage or all.")] = "head",
    epochs: Annotated[int, typer.Option(min=1, help="The most that are tried.")] = 10,
    folds: Annotated[int, typer.Option(min=2, help="Into which the training patients are split.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Train the shared model on at this hospital, and compare the two on its held-out patients. Nothing leaves."""
    from client.hospital import Hospital
    from client.personal import Plan, describe, personalise_to

    photos = store or Hospital.open(at).settings.store
    begun = start or Hospital.open(at).approved().start
    made = personalise_to(out, model, photos, begun, Plan(part, epochs, folds))
    show(made.to_json() if as_json else describe(made, out), as_json)


COMMANDS = (init, review, approve, join, doctor, ledger, audit, personalise)
