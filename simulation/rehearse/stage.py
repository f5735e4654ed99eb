"""What is a rehearsal played on? A lab and its hospitals in one folder, with real keys, certificates and processes.

Everything that is done here is done by the functions behind the commands that a lab and a hospital would type; what
runs is started as they would start it, and ended when the rehearsal ends, even if that is killed.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from bioface_core.checkpoint import open_run
from bioface_core.config import Study, load_yaml
from bioface_core.learner import use
from bioface_core.start import read_start, write_start
from bioface_core.store import write_store
from bioface_core.supervise import Child, command, import_path, stop_all
from client.enrol import approve, init_hospital
from client.hospital import Hospital, Ports
from server.lab import Lab
from server.provision import init_lab, invite, issue_kits
from simulation.hospitals import hospital_names, make_hospitals
from simulation.identities import identity_file
from simulation.progress import Progress
from simulation.rehearse.cable import Cable
from simulation.stage1 import make_start

LOOPBACK = "127.0.0.1"
LENIENT = {
    "fewest_patients": 1,
    "fewest_patients_per_class": 1,
    "metrics": ["loss", "counts"],
    "epsilon": None,
    "delta": 0.01,
    "least_noise": 0,
    "must_mask": False,
    "largest_share": 1,
}


@dataclass
class Stage:
    """A lab and its hospitals.

    Attributes:
        folder: everything lies in here.
        lab: the opened lab.
        study: as issued.
        hospitals: opened, by name.
        cables: the way from each hospital to the lab.
        serving: the process of `bioface lab serve`.
        joined: the processes of `bioface hospital join`, by name.
        evil: the processes that take a hospital's place, while they do.
    """

    folder: Path
    lab: Lab
    study: Study
    hospitals: dict[str, Hospital]
    cables: dict[str, Cable]
    serving: Child
    joined: dict[str, Child] = field(default_factory=dict)
    evil: list[Child] = field(default_factory=list)

    @contextmanager
    def playing(self) -> Iterator[None]:
        """Lab and hospitals run until the block ends."""
        try:
            for cable in self.cables.values():
                cable.plug_in()
            for child in (*self.joined.values(), self.serving):
                child.start()
            yield
        finally:
            stop_all([*self.evil, *self.joined.values(), self.serving])
            for cable in self.cables.values():
                cable.close()

    @property
    def inline(self) -> Path:
        """A run folder with the same hospitals and start, for the same study inline."""
        return self.folder / "inline"


def set_stage(folder: Path, study: Study, progress: Progress) -> Stage:
    """Makes the lab and the hospitals, invites, reviews, approves.

    Args:
        folder: does not exist yet.
        study: with as many hospitals as its simulation says.
        progress: is told of stage 1.
    """
    lab = _make_lab(folder / "lab", study, progress)
    names = hospital_names(study)
    for name, store in zip(names, make_hospitals(study, progress.bar("patients")), strict=True):
        write_store(folder / "stores" / name, store)
    requests = [init_hospital(folder / name, name, folder / "stores" / name) for name in names]
    invite(lab, requests)
    issue_kits(lab)
    cables = {name: Cable(lab.settings.address) for name in names}
    hospitals = {name: _make_hospital(folder / name, lab, cables[name]) for name in names}
    issued = lab.issued(None)
    _lay_inline(folder / "inline", folder / "stores", lab, issued)
    for hospital in hospitals.values():  # so that the twin rounds as they do
        twin = identity_file(folder / "inline", hospital.settings.name)
        twin.parent.mkdir(exist_ok=True)
        twin.symlink_to(hospital.identity_key)
    serving = _process("lab", folder / "lab")
    joined = {name: _process("hospital", folder / name) for name in names}
    return Stage(folder, lab, issued, hospitals, cables, serving, joined)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        return int(free.getsockname()[1])


def child_environment() -> dict[str, str]:
    """What the processes of a rehearsal inherit: one thread each, since they share a machine."""
    return dict(os.environ) | {"PYTHONPATH": import_path(), "OMP_NUM_THREADS": "1"}


def _make_lab(folder: Path, study: Study, progress: Progress) -> Lab:
    """A lab on free ports of this machine."""
    epochs, total = progress.bar("identification"), study.pretrain.epochs
    start = make_start(study, progress.bar("people"), lambda epoch: epochs(epoch.number, total), use(study.speed))
    address = f"localhost:{free_port()}"
    ports = {"admin_port": free_port(), "health_port": free_port(), "metrics_port": free_port()}
    return init_lab(folder, address, study, start, listen=address.replace("localhost", LOOPBACK), **ports)


def _make_hospital(folder: Path, lab: Lab, cable: Cable) -> Hospital:
    """A hospital on free ports, whose cable leads to the lab and whose rules fit its few phantoms."""
    settings = load_yaml(folder / "hospital.yaml")
    ports = {name: free_port() for name in Ports.model_fields}
    settings |= {"address": f"localhost:{cable.port}", "ports": ports, "device": "cpu", "policy": LENIENT}
    (folder / "hospital.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    approve(Hospital.open(folder), lab.kits / folder.name)
    return Hospital.open(folder)


def _lay_inline(folder: Path, stores: Path, lab: Lab, study: Study) -> None:
    """The run folder of the inline twin: the same study, the same stores, the same start."""
    with open_run(folder, study):
        (folder / "hospitals").symlink_to(stores)
        write_start(folder, read_start(lab.start, study))


def _process(kind: str, folder: Path) -> Child:
    """A command as an administrator would start it, but for this: it ends with the rehearsal."""
    return Child(kind, command(kind, str(folder)), child_environment(), folder / f"{kind}.out")
