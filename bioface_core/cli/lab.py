"""What can a coordinating lab type? Make the lab, invite and revoke hospitals, serve, run a study, rehearse."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bioface_core.cli.terminal import AsJson, Overrides, show, study_of
from bioface_core.cli.web import Open, Port, serve_page

if TYPE_CHECKING:
    from bioface_core.config import Study
    from bioface_core.start import Start

LabOption = Annotated[Path, typer.Option("--lab", help="The lab's folder.")]
_LAB = Path("lab")


def init(
    folder: Annotated[Path, typer.Argument(help="The folder to make.")],
    address: Annotated[str, typer.Option(help="HOST:PORT at which hospitals reach this machine.")],
    study: Annotated[str, typer.Option(help="The study to start from: a file, or lab, paper, smoke.")] = "lab",
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Make a lab: its certificate authority, server certificate, study, and what all hospitals start from."""
    from bioface_core.config import check_federable
    from server.provision import init_lab, plan_lab

    plan_lab(folder, address)  # a mistake is found before stage 1 takes its minutes
    chosen = study_of(study, overrides)
    check_federable(chosen)
    lab = init_lab(folder, address, chosen, _start(chosen))
    show(f"{lab.folder} is made. Edit {lab.template_file}, then invite hospitals.", False)


def invite(
    requests: Annotated[list[Path], typer.Argument(help="Join requests of hospitals; none issues all kits anew.")] = [],  # noqa: B006
    lab: LabOption = _LAB,
) -> None:
    """Add hospitals to the roster and issue every hospital's start kit: the roster is part of the study."""
    from bioface_core.config import check_federable, read_study
    from server.lab import Lab
    from server.provision import fingerprint, issue_kits
    from server.provision import invite as run

    opened = Lab.open(lab)
    check_federable(read_study(opened.template_file))  # before the roster is changed: no kit could be issued
    if requests:
        run(opened, requests)
    kits = issue_kits(opened)
    named = {"study": opened.issued().study_id, "authority": fingerprint(opened.authority)}
    lines = [*(f"{kit.name}: {kit}" for kit in kits), *(f"{name} {sha256}" for name, sha256 in named.items())]
    show("\n".join([*lines, "Send each hospital its kit, and read it these two numbers on the telephone."]), False)


def revoke(name: Annotated[str, typer.Argument(help="A hospital of the roster.")], lab: LabOption = _LAB) -> None:
    """Shut a hospital out, from its next message on."""
    from server.lab import Lab
    from server.provision import revoke as run

    run(Lab.open(lab), name)
    show(f"{name} is revoked.", False)


def renew(lab: LabOption = _LAB) -> None:
    """Make a new server certificate with the same authority; hospitals notice nothing."""
    from server.lab import Lab
    from server.provision import renew as run

    run(Lab.open(lab))
    show("The server certificate is renewed; start `bioface lab serve` again to use it.", False)


def serve(lab: LabOption = _LAB) -> None:
    """Serve hospitals until stopped: SuperLink, watchdog, and the run that is wanted."""
    from bioface_core.logs import start_logging
    from server.lab import Lab
    from server.provision import warnings
    from server.serve import serve as run

    opened = Lab.open(lab)
    start_logging("lab", opened.logs)
    for line in warnings(opened):
        print(f"bioface: warning: {line}", file=sys.stderr)
    run(opened)


def run(
    study: Annotated[
        str | None, typer.Argument(help="A study file; the lab's own study.yaml if none is named.")
    ] = None,
    lab: LabOption = _LAB,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a study, or go on with it. Exit status: 0 finished, 1 failed or stopped, 2 a mistake."""
    from server.follow import follow
    from server.lab import Lab
    from server.serve import give_order
    from simulation.progress import Progress

    opened = Lab.open(lab)
    chosen = opened.issued(study_of(study, []) if study else None)
    number = give_order(opened, "run", chosen)
    if detach:
        return show({"study": chosen.study_id, "order": number} if as_json else f"ordered: {chosen.name}", as_json)
    with Progress() as progress:
        ended = follow(opened, number, progress.bar("rounds"))
    show(ended.to_json() if as_json else ended.describe(), as_json)
    if ended.state != "finished":
        raise typer.Exit(1)


def status(lab: LabOption = _LAB, as_json: AsJson = False) -> None:
    """Say what runs, which hospitals are known, and what is about to expire."""
    from server.follow import overview
    from server.lab import Lab

    found = overview(Lab.open(lab))
    show(found.to_json() if as_json else found.table(), as_json)


def dashboard(
    run: Annotated[Path, typer.Argument(help="A run folder: of a lab, or of a simulation; going on or finished.")],
    port: Port = 0,
    in_browser: Open = False,
) -> None:
    """Serve a live page of a run to this machine: rounds, hospitals, curves, budget, journal. Only reads."""
    from server.dashboard import Watch, dashboard_app

    watch = Watch(run)
    serve_page(lambda token: dashboard_app(watch, token), port, in_browser)


def stop(lab: LabOption = _LAB) -> None:
    """Stop the study that runs; `bioface lab run` goes on with it."""
    from server.follow import wait_for
    from server.lab import Lab
    from server.serve import give_order

    opened = Lab.open(lab)
    wait_for(opened, give_order(opened, "stop"))
    show("stopped", False)


def rehearse(
    chaos: Annotated[bool, typer.Option("--chaos", help="Injects faults, one after another.")] = False,
    keep: Annotated[Path | None, typer.Option(help="Keep everything in this folder, which must not exist.")] = None,
    masked: Annotated[bool, typer.Option("--masked", help="With secure aggregation.")] = False,
    as_json: AsJson = False,
) -> None:
    """A lab and three phantom hospitals on this machine, with real keys, certificates and processes; takes minutes."""
    from simulation.progress import Progress
    from simulation.rehearse import rehearse as run

    with Progress() as progress:
        outcome = run(progress, chaos=chaos, keep=keep, masked=masked)
    show(outcome.to_json() if as_json else outcome.table(), as_json)
    if not outcome.passed:
        raise typer.Exit(1)


def _start(study: Study) -> Start:
    """What all hospitals start from: stage 1 on this machine, unless the study names a file."""
    from bioface_core.learner import use
    from simulation.progress import Progress
    from simulation.stage1 import make_start

    with Progress() as progress:
        epochs, total = progress.bar("identification"), study.pretrain.epochs
        return make_start(
            study,
            progress.bar("people"),
            lambda epoch: epochs(epoch.number, total, f"{epoch.accuracy:.0%} told apart"),
            use(study.speed),
        )


COMMANDS = (init, invite, revoke, renew, serve, run, status, dashboard, stop, rehearse)
