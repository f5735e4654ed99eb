"""What does a round cost under our deployment? Our own processes, keys and certificates, with a payload for a model.

Measured like stock Flower's (``simulation/stock/timings.py``): the same stamps, the same clock, the same work. A
round's training is taken, from the request to the sum; evaluation and checkpoint, which stock Flower is spared, are in
``rounds_s``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch
import yaml

from bioface_core.config import Study, load_yaml
from bioface_core.photos import FACE_SIZE_PX, Demographics, PhotoSet
from bioface_core.start import Start
from bioface_core.store import Store, write_store
from bioface_core.supervise import Child, command, stop_all
from bioface_core.weights import random_base
from client.enrol import approve, init_hospital
from client.hospital import Hospital, Ports
from server.grid import Admin
from server.lab import Lab
from server.provision import init_lab, invite, issue_kits
from simulation.rehearse.stage import LENIENT, LOOPBACK, child_environment, free_port

_SYNDROMES, _EMBEDDING = ("down", "noonan"), 8
_START_S, _RUN_S = 120.0, 600.0


@dataclass(frozen=True)
class OurTimings:
    """One run.

    Attributes:
        rounds_s: whole rounds after the first, with evaluation and checkpoint.
        overhead_s: of a round's training, after the first, what is not the longest work of a hospital.
        update_s: from the end of the last hospital's work to when the lab has every update; all rounds.
        peak_bytes: the most memory that the ServerApp's process held.
    """

    rounds_s: tuple[float, ...]
    overhead_s: tuple[float, ...]
    update_s: tuple[float, ...]
    peak_bytes: int


def run_ours(folder: Path, payload_bytes: int, hospitals: int, rounds: int) -> OurTimings:
    """Deploys a lab and hospitals on loopback, runs the rounds, and takes everything down.

    Args:
        folder: not there yet; logs are left in it.
        payload_bytes: of the vector, float32.
        hospitals: how many.
        rounds: the first is not counted.

    Raises:
        RuntimeError: a process did not start, or the run failed.
    """
    names = [f"hospital-{number}" for number in range(1, hospitals + 1)]
    lab, store = make_quick_lab(folder / "lab", rounds), make_store(folder / "store")
    joined = join_quickly([folder / name for name in names], lab, store)
    with _running(lab, joined, payload_bytes // 4):
        _run(lab, payload_bytes // 4)
    return _timings(json.loads((lab.state / "bench.json").read_text()), [_work(one) for one in joined])


def make_quick_lab(folder: Path, rounds: int) -> Lab:
    """A lab on free ports of this machine, without stage 1."""
    study = Study().replace(
        {
            "syndromes": list(_SYNDROMES),
            "model": {"depth": 10, "width": 0.125, "embedding": _EMBEDDING, "base": "scratch", "norm": "group"},
            "loss": {"mode": "arcface", "identification": False},
            "federation": {"rounds": rounds, "deadline_s": 300, "norm_bound": 1000},
        }
    )
    address = f"localhost:{free_port()}"
    ports = {name: free_port() for name in ("admin_port", "health_port", "metrics_port")}
    start = Start(random_base(study.model, study.seed), None)
    return init_lab(folder, address, study, start, listen=address.replace("localhost", LOOPBACK), **ports)


def make_store(folder: Path) -> Path:
    """A few blank photos: somebody must be there to train on."""
    labels_N = torch.tensor([0, 1] * 10)
    blank_NCHW = torch.zeros(len(labels_N), 3, FACE_SIZE_PX, FACE_SIZE_PX, dtype=torch.uint8)
    photos, heldout_N = PhotoSet(blank_NCHW, labels_N, torch.arange(len(labels_N))), torch.arange(len(labels_N)) < 4
    write_store(folder, Store(_SYNDROMES, photos, heldout_N, Demographics.unknown(len(labels_N))))
    return folder


def join_quickly(folders: list[Path], lab: Lab, store: Path) -> list[Hospital]:
    """Hospitals on free ports, named as their folders: made, invited and with the study approved."""
    invite(lab, [init_hospital(folder, folder.name, store) for folder in folders])
    issue_kits(lab)
    return [_approved(folder, lab) for folder in folders]


def _approved(folder: Path, lab: Lab) -> Hospital:
    settings = load_yaml(folder / "hospital.yaml")
    settings |= {"ports": {name: free_port() for name in Ports.model_fields}, "device": "cpu", "policy": LENIENT}
    (folder / "hospital.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    approve(Hospital.open(folder), lab.kits / folder.name)
    return Hospital.open(folder)


@contextmanager
def _running(lab: Lab, joined: list[Hospital], values: int) -> Iterator[None]:
    """SuperLink, SuperNodes and sites, with every node registered."""
    link = Child("superlink", command("link", str(lab.folder)), child_environment(), lab.logs / "superlink.out")
    children = [link]
    try:
        link.start()
        _register(lab)
        for hospital in joined:
            log = hospital.logs / "bench.out"
            children.append(Child("node", command("node", str(hospital.folder)), child_environment(), log))
            site = [*_role("site"), str(hospital.folder), str(values)]
            children.append(Child("site", site, child_environment(), log))
        for child in children[1:]:
            child.start()
        yield
    finally:
        stop_all(children)


def _register(lab: Lab) -> None:
    until, admin = time.monotonic() + _START_S, Admin(lab.admin)
    while True:
        try:
            admin.nodes()
            break
        except httpx.HTTPError as error:
            if time.monotonic() > until:
                raise RuntimeError(f"the SuperLink did not start; see {lab.logs}") from error
            time.sleep(0.1)
    for one in lab.roster():
        admin.register(one.node_public_bytes, one.name)
    admin.close()


def _run(lab: Lab, values: int) -> None:
    """The ServerApp, in a process of its own, whose memory is measured."""
    arguments, environment = [*_role("serverapp"), str(lab.folder), str(values)], child_environment()
    with (lab.logs / "bench.out").open("wb") as log:
        done = subprocess.run(arguments, env=environment, stdout=log, stderr=log, timeout=_RUN_S, check=False)
    if done.returncode:
        raise RuntimeError(f"the run failed; see {lab.logs / 'bench.out'}")


def _role(name: str) -> list[str]:
    """A process of the benchmark."""
    program = (
        "from bioface_core.app_path import add_app_to_path; add_app_to_path()\n"
        "from simulation.deploy.roles import main; main()"
    )
    return [sys.executable, "-P", "-c", program, name]


def _work(hospital: Hospital) -> list[tuple[float, float]]:
    """When each round's work began and ended."""
    lines = (hospital.state / "work.jsonl").read_text(encoding="ascii").splitlines()
    return [tuple(json.loads(line)) for line in lines]


def _timings(notes: dict[str, Any], work: list[list[tuple[float, float]]]) -> OurTimings:
    """From what the ServerApp and the hospitals noted."""
    rounds = list(zip(*work, strict=True))
    longest = [max(end - began for began, end in round_) for round_ in rounds]
    last = [max(end for _, end in round_) for round_ in rounds]
    training = [end - began for began, end in zip(notes["asked"], notes["summed"], strict=True)]
    return OurTimings(
        rounds_s=tuple(end - began for began, end in zip(notes["done"], notes["done"][1:], strict=False))[1:],
        overhead_s=tuple(whole - work_s for whole, work_s in zip(training, longest, strict=True))[1:],
        update_s=tuple(received - end for received, end in zip(notes["answered"], last, strict=True)),
        peak_bytes=notes["peak_bytes"],
    )
