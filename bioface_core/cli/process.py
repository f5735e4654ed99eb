"""Which processes do `lab serve` and `hospital join` start? Each is a command of its own, hidden from the help.

They end with whoever started them. What they have to say is in the log of their folder; the exit status is that of
every other command.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument()]


def link(folder: Folder) -> None:
    """The SuperLink behind its two listeners."""
    from bioface_core.logs import start_logging
    from bioface_core.supervise import end_with_supervisor
    from server.lab import Lab
    from server.link import run_link

    end_with_supervisor()
    lab = Lab.open(folder)
    start_logging("superlink", lab.logs, quiet=True)
    run_link(lab.link)


def serverapp(folder: Folder) -> None:
    """The ServerApp of the study that is wanted."""
    from bioface_core.logs import start_logging
    from bioface_core.supervise import end_with_supervisor
    from server.lab import Lab
    from server.process import run_ordered_study

    end_with_supervisor()
    lab = Lab.open(folder)
    start_logging("serverapp", lab.logs, quiet=True)
    run_ordered_study(lab)


def node(folder: Folder) -> None:
    """Flower's SuperNode, which starts nothing."""
    from bioface_core.logs import start_logging
    from bioface_core.supervise import end_with_supervisor
    from client.executor import run_node
    from client.hospital import Hospital

    end_with_supervisor()
    hospital = Hospital.open(folder)
    start_logging("node", hospital.logs, quiet=True)
    run_node(hospital.node)


def site(folder: Folder) -> None:
    """The process that owns the photos and takes the SuperNode's tasks."""
    from bioface_core.logs import start_logging
    from bioface_core.supervise import end_with_supervisor
    from client.hospital import Hospital
    from client.node import run_site

    end_with_supervisor()
    hospital = Hospital.open(folder)
    start_logging("site", hospital.logs, quiet=True)
    run_site(hospital)


def lab(folder: Folder) -> None:
    """`bioface lab serve`, for as long as a rehearsal lasts."""
    from bioface_core.cli import lab as commands
    from bioface_core.supervise import end_with_supervisor

    end_with_supervisor()
    commands.serve(folder)


def hospital(folder: Folder) -> None:
    """`bioface hospital join`, for as long as a rehearsal lasts."""
    from bioface_core.cli import hospital as commands
    from bioface_core.supervise import end_with_supervisor

    end_with_supervisor()
    commands.join(folder)


def evil_site(folder: Folder) -> None:
    """What a rehearsal of faults puts in the place of a site process."""
    from bioface_core.supervise import end_with_supervisor
    from client.hospital import Hospital
    from simulation.rehearse.evil import run_evil_site

    end_with_supervisor()
    run_evil_site(Hospital.open(folder))


COMMANDS = (lab, hospital, evil_site, link, serverapp, node, site)
