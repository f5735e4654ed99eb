"""What of a hospital can the lab see? Every byte that leaves one is recorded, and searched; so is what the lab writes.

The hospital is real processes with a policy; the SuperLink runs in this process, so that what reaches its public port
can be kept: every header and every body of every request.
"""

from __future__ import annotations

import base64
import getpass
import json
import logging
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.main import create_app

from bioface_core.checkpoint import RunFolder, open_run
from bioface_core.config import load_yaml
from bioface_core.evaluate import Counts
from bioface_core.learner import Learner
from bioface_core.logs import start_logging
from bioface_core.photos import FACE_SIZE_PX, Demographics, PhotoSet
from bioface_core.start import read_start
from bioface_core.store import Store, write_store
from bioface_core.supervise import Child, stop_all
from client.enrol import approve
from client.hospital import Hospital
from server.app import make_server_app
from server.grid import Admin, server_task
from server.journal import Aggregated
from server.lab import Lab
from server.link import PublicGuard, _flower_settings
from server.process import hospitals_by_node
from server.rounds import Event
from simulation.deploy.timings import join_quickly, make_quick_lab
from simulation.rehearse.stage import child_environment
from tests.test_fleet import _listening

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),  # Flower's database migrations
    pytest.mark.filterwarnings("ignore:Accessing argon2:DeprecationWarning"),
]

MACHINE = "scanner-room-three.saint-mary.example"
WARD, PATIENT, PHOTO = "ward-seven-of-saint-mary", "MRN-4711-0815", "anna-schmidt-frontal.jpg"
TRAINING, HELD_OUT = (14, 13), (7, 6)  # patients of the two syndromes; none a multiple of a step
SYNDROMES = ("down", "noonan")


# This machine's own name may be too short to search for: the hospital's processes are told another one.
ON_MACHINE = f"""
import os, platform, socket, sys
socket.gethostname = socket.getfqdn = platform.node = lambda *_: {MACHINE!r}
real = os.uname()
os.uname = lambda: os.uname_result((real.sysname, {MACHINE!r}, real.release, real.version, real.machine))
from bioface_core.cli import main
main()
"""


def on_machine(name: str, folder: Path) -> list[str]:
    """The command line of a hospital's process, on a machine with a name to search for."""
    return [sys.executable, "-P", "-c", ON_MACHINE, "process", name, str(folder)]


@dataclass
class Recorder:
    """Keeps what comes to the public port, and passes it on."""

    app: Any
    kept: list[bytes] = field(default_factory=list)

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        body: list[bytes] = []

        async def receiving() -> MutableMapping[str, Any]:
            event = await receive()
            body.append(event.get("body", b""))
            return event

        self.kept.append(repr((scope.get("path"), scope.get("query_string"), scope.get("headers"))).encode())
        await self.app(scope, receiving, send)
        self.kept.append(b"".join(body))


def make_store(folder: Path) -> Path:
    """Random faces of patients; beside them a note that says who they are."""
    labels = [label for label, count in enumerate(TRAINING) for _ in range(count)]
    labels += [label for label, count in enumerate(HELD_OUT) for _ in range(count)]
    randomness = torch.Generator().manual_seed(0)
    shape = (len(labels), 3, FACE_SIZE_PX, FACE_SIZE_PX)
    photos_NCHW = torch.randint(0, 256, shape, dtype=torch.uint8, generator=randomness)
    photos = PhotoSet(photos_NCHW, torch.tensor(labels), torch.arange(len(labels)))
    heldout_N = torch.arange(len(labels)) >= sum(TRAINING)
    store = Store(SYNDROMES, photos, heldout_N, Demographics.unknown(len(labels)))
    write_store(folder, store, {"report.csv": f"photo,patient\n{PHOTO},{PATIENT}\n"})
    return folder


def strict(hospital: Hospital, lab: Lab) -> Hospital:
    """The hospital with rules as they are shipped, but for what a study without privacy needs."""
    settings = load_yaml(hospital.folder / "hospital.yaml") | {
        "policy": {"metrics": ["loss", "counts"], "epsilon": None, "must_mask": False, "largest_share": 1}
    }
    (hospital.folder / "hospital.yaml").write_text(yaml.safe_dump(settings))
    approve(Hospital.open(hospital.folder), lab.kits / hospital.folder.name)
    return Hospital.open(hospital.folder)


@dataclass
class Seen:
    """What a run left for the lab to see."""

    lab: Lab
    hospital: Hospital
    recorded: bytes
    events: list[Event]

    def written(self) -> bytes:
        """Database, logs and run folder, byte for byte."""
        folders = (self.lab.state, self.lab.logs, self.lab.runs)
        return b"\n".join(path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("leaks")
    lab = make_quick_lab(folder / "lab", rounds=2)
    hospital = strict(join_quickly([folder / "hospital-1"], lab, make_store(folder / WARD))[0], lab)
    app = create_app(_flower_settings(lab.link), SuperLinkLifespan)
    recorder = Recorder(PublicGuard(app))
    log = hospital.logs / "children.out"
    start_logging("superlink", lab.logs, quiet=True)
    children = [Child(name, on_machine(name, hospital.folder), child_environment(), log) for name in ("node", "site")]
    events: list[Event] = []
    with (
        _listening(app, lab.settings.admin_port, lab.link, "on"),
        _listening(recorder, lab.link.public[1], lab.link, "off"),
    ):
        try:
            run(lab, children, events)
        finally:
            stop_all(children)
            logging.getLogger().handlers.clear()
    yield Seen(lab, hospital, b"\n".join(recorder.kept), events)


def run(lab: Lab, children: list[Child], events: list[Event]) -> None:
    admin = Admin(lab.admin)
    admin.register(lab.roster()[0].node_public_bytes, "hospital-1")
    admin.close()
    for child in children:
        child.start()
    study = lab.issued()
    learner = Learner(study, read_start(lab.start, study).base)
    with open_run(lab.runs / study.name, study) as folder:
        app = make_server_app(study, learner, folder, hospitals_by_node(lab, study), events.append)
        with server_task(lab.admin, lab.bundle.read_bytes(), lab.bundle_sha256) as (grid, context):
            app(grid, context)


def forms(needle: str) -> list[bytes]:
    """As it is, and as it may be packed."""
    plain = needle.encode()
    return [plain, plain.hex().encode(), base64.b64encode(plain).rstrip(b"="), needle.encode("utf-16-le")]


def found(needle: str, haystack: bytes) -> bool:
    return any(form in haystack for form in forms(needle))


def test_the_search_finds_what_does_leave(seen: Seen) -> None:
    assert (seen.lab.logs / "superlink.jsonl").stat().st_size > 1000, "the lab's log is part of what is searched"
    for needle in ("hospital-1", seen.lab.issued().study_id):
        assert found(needle, seen.recorded) and found(needle, seen.written())
    assert len(seen.recorded) > 100_000, "an update is in there"


@pytest.mark.parametrize("needle", [WARD, PATIENT, PHOTO, "anna", "MRN-"])
def test_no_path_and_no_patient(seen: Seen, needle: str) -> None:
    assert not found(needle, seen.recorded)
    assert not found(needle, seen.written())


def test_no_name_of_the_machine_and_no_folder_of_the_hospital(seen: Seen) -> None:
    for needle in (MACHINE, str(seen.hospital.folder), f"{getpass.getuser()}@"):
        assert not found(needle, seen.recorded), needle
        assert not found(needle, seen.written()), needle


def test_no_label_comes_from_the_hospital(seen: Seen) -> None:
    """The study, which is public, names the syndromes; a hospital never does."""
    for needle in SYNDROMES:
        assert not found(needle, seen.recorded)


def test_counts_and_weights_are_rounded(seen: Seen) -> None:
    aggregated = [event for event in seen.events if isinstance(event, Aggregated)]
    assert [event.weight for event in aggregated] == [30, 30] and sum(TRAINING) == 27
    study = seen.lab.issued()
    folder = RunFolder(seen.lab.runs / study.name)
    for round_ in range(study.federation.rounds + 1):
        counts: Counts = folder.read_summary(round_).counts
        assert not ((counts.confusion_KK % 5).any() or (counts.ranks_KK % 5).any())
        assert counts.patients_K.tolist() != list(HELD_OUT)


def test_how_long_the_hospital_worked_is_not_told(seen: Seen) -> None:
    """Flower would send it to the microsecond."""
    with closing(sqlite3.connect(seen.lab.link.database)) as database:
        assert database.execute("SELECT clientapp_runtime FROM run").fetchall() == [(0.0,)]


def test_the_journal_holds_no_number_of_patients(seen: Seen) -> None:
    lines = (seen.lab.runs / seen.lab.issued().name / "journal.jsonl").read_text().splitlines()
    numbers = {value for line in lines for value in json.loads(line).values() if isinstance(value, int)}
    assert not numbers & {sum(TRAINING), *TRAINING, sum(HELD_OUT), *HELD_OUT}
