"""Which processes are the benchmark's own? The site and the ServerApp, with a payload in place of a network."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from bioface_core.checkpoint import open_run
from bioface_core.store import read_store
from bioface_core.supervise import end_with_supervisor
from client.app import answer
from client.executor import TaskLoop
from client.gate import Gate
from client.hospital import Hospital
from client.memory import Memory
from client.residuals import Residuals
from client.site import Site
from server.app import make_server_app
from server.grid import server_task
from server.journal import Aggregated, Answered, Started
from server.lab import Lab
from server.process import hospitals_by_node
from server.rounds import Event, RoundDone
from simulation.deploy.payload import PayloadLearner


def main() -> None:
    """``site FOLDER VALUES`` or ``serverapp FOLDER VALUES``."""
    role, folder, values = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    {"site": _site, "serverapp": _serverapp}[role](folder, values)


def _site(folder: Path, values: int) -> None:
    """As ``client.node.run_site``, with the payload."""
    end_with_supervisor()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    hospital = Hospital.open(folder)
    kit, store = hospital.approved(), read_store(hospital.settings.store)
    learner = _learner(kit.study, values, hospital.state / "work.jsonl")
    gate = Gate(hospital.settings.policy, kit.study.study_id, hospital.rounding_key)
    memory, photos = Memory(hospital.memory), (store.train(), store.heldout())
    residuals = Residuals(hospital.residuals)
    site = Site(hospital.settings.name, kit.study, learner, *photos, gate, memory, residuals=residuals)
    port, spoken = hospital.settings.ports.runtime, partial(answer, open_site=lambda context: site)
    TaskLoop(port, hospital.secret, kit.bundle_sha256, spoken).run(stop)


def _serverapp(folder: Path, values: int) -> None:
    """As ``server.process.run_study``, with the payload; notes when things happened."""
    lab = Lab.open(folder)
    study, stamps = lab.issued(), _Stamps()
    with open_run(lab.runs / study.name, study) as run:
        hospitals = hospitals_by_node(lab, study)
        app = make_server_app(study, _learner(study, values), run, hospitals, stamps.note)
        with server_task(lab.admin, lab.bundle.read_bytes(), lab.bundle_sha256) as (grid, context):
            app(grid, context)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    notes = vars(stamps) | {"peak_bytes": int(peak.split()[1]) * 1024}
    (lab.state / "bench.json").write_text(json.dumps(notes), encoding="ascii")


def _learner(study: Any, values: int, notes: Path | None = None) -> PayloadLearner:
    return PayloadLearner(values, len(study.syndromes), study.model.embedding, notes=notes)


class _Stamps:
    """When what happened, round by round, from the first round of training on."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.answered: list[float] = []
        self.summed: list[float] = []
        self.done: list[float] = []

    def note(self, event: Event) -> None:
        """Keeps the time of an event."""
        now = time.time()
        if isinstance(event, Started) and event.round:
            self.asked.append(now)
        elif isinstance(event, Answered) and event.phase == "train":
            self.answered[len(self.summed) :] = [now]  # the last one of the round stays
        elif isinstance(event, Aggregated):
            self.summed.append(now)
        elif isinstance(event, RoundDone):
            self.done.append(now)
