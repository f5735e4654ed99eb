"""What is the smallest lab with hospitals? Real keys, certificates and kits, and a network that has learnt nothing."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from bioface_core.config import Study
from bioface_core.photos import Demographics
from bioface_core.start import Start
from bioface_core.store import Store, write_store
from bioface_core.weights import random_base
from client.enrol import approve, init_hospital
from client.hospital import Hospital, Kit
from server.lab import Lab
from server.provision import init_lab, invite, issue_kits
from tests.small_federation import photos_of, small_study

NAMES = ("charite", "bonn")
ADDRESS = "lab.example.org:8443"


@dataclass(frozen=True)
class World:
    """A lab that has invited two hospitals and issued their kits; nothing is approved yet."""

    folder: Path
    lab: Lab
    hospitals: dict[str, Hospital]

    def copy(self, folder: Path) -> World:
        """The same in another folder, for a test to do with what it likes."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return World(folder, Lab.open(folder / "lab"), {name: Hospital.open(folder / name) for name in self.hospitals})

    def kit(self, name: str = NAMES[0]) -> Path:
        return self.lab.kits / name

    def approve(self, name: str = NAMES[0]) -> Kit:
        return approve(self.hospitals[name], self.kit(name))


def a_world(folder: Path) -> World:
    """Everything that is done before a hospital approves."""
    lab = a_lab(folder / "lab")
    invite(lab, [a_request(folder / name, name) for name in NAMES])
    issue_kits(lab)
    return World(folder, lab, {name: allowing(folder / name) for name in NAMES})


def lab_study() -> Study:
    """A study without stage 1, so that a lab is made in no time."""
    model = {"depth": 10, "width": 0.125, "embedding": 8, "stem": "strided", "pool": "global"}
    return small_study().replace({"model": model, "loss": {"identification": False, "mode": "arcface"}})


def a_lab(folder: Path, address: str = ADDRESS, **settings: Any) -> Lab:
    return init_lab(folder, address, lab_study(), Start(random_base(lab_study().model, seed=0), None), **settings)


def a_request(folder: Path, name: str) -> Path:
    """The join request of a new hospital in ``folder``, whose photos lie beside it."""
    store = folder.with_name("store")
    if not store.exists():
        photos = photos_of([0, 1, 2] * 4)
        classes, nobody_N = ("down", "noonan", "williams"), torch.zeros(len(photos), dtype=torch.bool)
        write_store(store, Store(classes, photos, nobody_N, Demographics.unknown(len(photos))))
    return init_hospital(folder, name, store)


def allowing(folder: Path) -> Hospital:
    """The hospital in ``folder`` once its administrator has allowed what a study needs."""
    path = folder / "hospital.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings["policy"] |= {"metrics": ["loss", "counts"], "epsilon": None, "must_mask": False}
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return Hospital.open(folder)


def edit(path: Path, **changes: Any) -> None:
    """Changes a JSON file as whoever has it in their hands could."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def private_halves(folder: Path) -> list[bytes]:
    """What must stay in a folder: each secret of its keys, whole and line by line."""
    files = [path.read_bytes() for path in sorted((folder / "keys").iterdir()) if path.suffix != ".crt"]
    lines = [line for content in files for line in content.splitlines() if len(line) > 40]
    return [*(content.strip() for content in files), *lines]
