"""What is going on at the lab? What `bioface lab run` waits for, and what `bioface lab status` says; all from files."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
from flwr.supercore.constant import NodeStatus
from rich.console import Group
from rich.table import Table
from rich.text import Text

from bioface_core.errors import LabError
from server.grid import Admin
from server.lab import Enrolled, Lab
from server.provision import warnings
from server.serve import Status, is_served, read_status, rounds_done

_LOOK_S = 0.2
_PATIENCE_S = 30.0  # for `bioface lab serve` to take an order


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        state: finished, failed or stopped.
        study: its name.
        study_id: its id.
        rounds: how many rounds are complete, not counting round 0.
        restarts: how often the ServerApp was started again.
        reason: why it failed.
        folder: of the run.
    """

    state: str
    study: str
    study_id: str
    rounds: int
    restarts: int
    reason: str
    folder: Path

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {**asdict(self), "folder": str(self.folder)}

    def describe(self) -> str:
        """For people."""
        why = f": {self.reason}" if self.reason else ""
        return f"{self.study} {self.state} after round {self.rounds}{why}; {self.folder}"


@dataclass(frozen=True)
class Overview:
    """What an administrator wants to know of a lab."""

    served: bool
    status: Status
    rounds: int
    hospitals: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        hospitals = [{"name": name, "state": state} for name, state in self.hospitals]
        return {
            "served": self.served,
            **asdict(self.status),
            "rounds": self.rounds,
            "hospitals": hospitals,
            "warnings": list(self.warnings),
        }

    def table(self) -> Group:
        """For people."""
        grid = Table("hospital", "state", title="served" if self.served else "not served", title_justify="left")
        for row in self.hospitals:
            grid.add_row(*row)
        run = f"{self.status.study or 'no study'}: {self.status.state}, round {self.rounds}. {self.status.reason}"
        # As text: what a reason has in brackets is no markup.
        return Group(grid, *(Text(line) for line in (run, *(f"warning: {line}" for line in self.warnings))))


def follow(lab: Lab, number: int, on_round: Callable[[int, int], None]) -> Ended:
    """Waits until the run of an order has ended, however long that takes.

    Args:
        lab: the lab.
        number: of the order.
        on_round: called with (rounds done, rounds in all).

    Raises:
        LabError: nobody serves the lab any more.
    """
    wait_for(lab, number)
    total = lab.ordered_study().federation.rounds
    while (status := read_status(lab)).state == "running" and status.number == number:
        on_round(max(0, rounds_done(lab, status.study)), total)
        if not is_served(lab):
            raise LabError("`bioface lab serve` ended; start it again, and the run goes on")
        time.sleep(_LOOK_S)
    done = max(0, rounds_done(lab, status.study))
    on_round(done, total)
    folder = lab.runs / status.study
    return Ended(status.state, status.study, status.study_id, done, status.restarts, status.reason, folder)


def wait_for(lab: Lab, number: int) -> None:
    """Waits until an order is taken.

    Raises:
        LabError: nobody takes it.
    """
    until = time.monotonic() + _PATIENCE_S
    while read_status(lab).number < number:
        if time.monotonic() > until:
            raise LabError(f"`bioface lab serve` does not take orders: see {lab.logs}")
        time.sleep(_LOOK_S)


def _connected(lab: Lab) -> set[bytes] | None:
    """The keys of the nodes that are connected; None if the SuperLink does not answer."""
    admin = Admin(lab.admin)
    try:
        return {key for key, node in admin.nodes().items() if node.status == NodeStatus.ONLINE}
    except httpx.HTTPError:
        return None
    finally:
        admin.close()


def _state(one: Enrolled, connected: set[bytes] | None) -> str:
    """What an administrator calls it."""
    if one.revoked_at is not None:
        return "revoked"
    if connected is None:
        return "invited"
    return "connected" if one.node_public_bytes in connected else "away"


def overview(lab: Lab) -> Overview:
    """The lab at this moment."""
    status, served = read_status(lab), is_served(lab)
    connected = _connected(lab) if served else None
    hospitals = tuple((one.name, _state(one, connected)) for one in lab.roster())
    return Overview(served, status, max(0, rounds_done(lab, status.study)), hospitals, tuple(warnings(lab)))
