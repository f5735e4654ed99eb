"""What is a lab that runs, to somebody who wants to get in? Its two ports, its log, and a hospital with all its files.

SuperLink, SuperNode and site process are real, each a process of its own; the ServerApp's place is taken by the test,
which may ask the hospital anything.
"""

from __future__ import annotations

import json
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from flwr.app import ConfigRecord, Message, RecordDict

from bioface_core.learner import Learner
from bioface_core.messages import Phase, Request, Ticket
from bioface_core.start import read_start
from bioface_core.supervise import Child, command, stop_all
from bioface_core.wire import pack_request
from client.hospital import Hospital
from server.grid import Admin, LinkGrid, server_task
from server.lab import Lab
from simulation.deploy.timings import join_quickly, make_quick_lab, make_store
from simulation.rehearse.stage import child_environment

ROUNDS, FATAL_ROUND = 9, 9
SECRET = "/photos/ward-seven/anna-frontal.png of MRN-4711-0815 shows williams"

# The hospital's own site process, but for this: in one round, what goes wrong says what must not be said.
_STUMBLES = f"""
from bioface_core.learner import Learner
whole = Learner.train
def train(self, vector, photos, round_, stream):
    if round_ == {FATAL_ROUND}:
        raise RuntimeError({SECRET!r})
    return whole(self, vector, photos, round_, stream)
Learner.train = train
from bioface_core.cli import main
main()
"""


@dataclass
class LiveLab:
    """A lab in its folder, with its SuperLink up and two hospitals on its roster.

    Attributes:
        lab: opened.
        admin: its administrator.
        hospital: whose SuperNode and site process run.
        other: registered and approved; nothing of it runs.
        grid: the ServerApp's, of a run of the approved bundle.
        learner: the lab's.
    """

    lab: Lab
    admin: Admin
    hospital: Hospital
    other: Hospital
    grid: LinkGrid
    learner: Learner

    @property
    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.lab.authority))

    def refusals(self) -> list[dict[str, Any]]:
        """What the SuperLink's log says it refused."""
        return refused(self.lab.logs / "superlink.jsonl")

    def node_id(self, hospital: Hospital) -> int:
        key = next(one.node_public_bytes for one in self.lab.roster() if one.name == hospital.settings.name)
        return int(self.admin.nodes()[key].node_id)

    def request(self, round_: int, phase: Phase = Phase.TRAIN, study_id: str = "", run_id: str = "run") -> RecordDict:
        """A request as the lab's server would send it."""
        ticket = Ticket(study_id or self.lab.issued().study_id, run_id, round_, 1, phase)
        return pack_request(Request(ticket, self.learner.schema, self.learner.start()))

    def ask(self, content: RecordDict, kind: str = "train") -> Message:
        """The hospital's answer to a new message."""
        ids = list(self.grid.push_messages([Message(content, self.node_id(self.hospital), kind, ttl=60.0)]))
        replies: list[Message] = []

        def has_come() -> bool:
            replies.extend(self.grid.pull_messages(ids))
            return bool(replies)

        until(has_come)
        return replies[0]


@contextmanager
def live_lab(folder: Path) -> Iterator[LiveLab]:
    """Starts everything, and ends it."""
    lab = make_quick_lab(folder / "lab", ROUNDS)
    hospital, other = join_quickly([folder / "hospital-1", folder / "hospital-2"], lab, make_store(folder / "store"))
    link = Child("superlink", command("link", str(lab.folder)), child_environment(), lab.logs / "superlink.out")
    site = [sys.executable, "-P", "-c", _STUMBLES, "process", "site", str(hospital.folder)]
    children = [link, node_of(hospital), Child("site", site, child_environment(), hospital.logs / "site.out")]
    admin = Admin(lab.admin)
    try:
        link.start()
        until(lambda: answers(admin))
        for one in lab.roster():
            admin.register(one.node_public_bytes, one.name)
        for child in children[1:]:
            child.start()
        study = lab.issued()
        learner = Learner(study, read_start(lab.start, study).base)
        with server_task(lab.admin, lab.bundle.read_bytes(), lab.bundle_sha256) as (grid, _):
            until(lambda: bool(grid.get_node_ids()) and (hospital.logs / "site.jsonl").exists())
            yield LiveLab(lab, admin, hospital, other, grid, learner)
    finally:
        admin.close()
        stop_all(children)


def node_of(hospital: Hospital) -> Child:
    """The hospital's SuperNode, not yet started."""
    return Child("node", command("node", str(hospital.folder)), child_environment(), hospital.logs / "node.out")


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def answers(admin: Admin) -> bool:
    """Whether the SuperLink is up."""
    try:
        return admin.nodes() is not None
    except httpx.HTTPError:
        return False


def refused(log: Path) -> list[dict[str, Any]]:
    """The refusals in a log."""
    lines = log.read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if entry["event"] == "refused"]


def contents(hospital: Hospital) -> dict[str, bytes]:
    """Every file of a hospital but its logs: keys, kit, approvals, and the memory of its answers."""
    files = [path for path in hospital.folder.rglob("*") if path.is_file() and hospital.logs not in path.parents]
    return {str(path.relative_to(hospital.folder)): path.read_bytes() for path in files}


def with_field(content: RecordDict, name: str, value: float) -> RecordDict:
    """A request that says one thing more than it may."""
    header = content["header"]
    assert isinstance(header, ConfigRecord)
    return RecordDict(dict(content) | {"header": ConfigRecord(dict(header) | {name: value})})
