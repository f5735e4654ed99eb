"""What does a simulated hospital run on? On what the simulation laid into the run folder: base, identities, stores.

Everything is read from files, so that a process of any engine (this one, a comparison's, a Ray actor's) finds the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from flwr.app import Context

from bioface_core.config import Study, read_study
from bioface_core.learner import Learner, use
from bioface_core.start import read_start
from bioface_core.store import Store, photos_in, read_store, write_store
from client.masking import Masking
from client.residuals import Residuals
from client.site import Site
from simulation.hospitals import hospital_names
from simulation.identities import open_identity

_HOSPITALS, _RESIDUALS = "hospitals", "residuals"


@dataclass(frozen=True)
class SiteOpener:
    """Opens the site that a node of the simulation stands for; picklable, and cached in each process.

    Args:
        folder: the run folder.
    """

    folder: Path

    def __call__(self, context: Context) -> Site:
        """The site of the node's ``partition-id``."""
        return open_site(self.folder, int(context.node_config["partition-id"]))


def lay_hospitals(folder: Path, study: Study, stores: list[Store]) -> None:
    """Writes the hospitals' stores."""
    for name, store in zip(hospital_names(study), stores, strict=True):
        write_store(folder / _HOSPITALS / name, store)


def has_hospitals(folder: Path, study: Study) -> bool:
    """Whether ``lay_hospitals`` was completed."""
    return all((folder / _HOSPITALS / name).exists() for name in hospital_names(study))


def read_hospital(folder: Path, study: Study, index: int) -> Store:
    """The store of hospital ``index``, from 0."""
    return read_store(folder / _HOSPITALS / hospital_names(study)[index])


def photos_of_hospitals(folder: Path, study: Study) -> list[int]:
    """How many photos each hospital has, in their order."""
    return [photos_in(folder / _HOSPITALS / name) for name in hospital_names(study)]


@lru_cache(maxsize=2)
def open_study(folder: Path) -> Study:
    """The study of a run, read once in this process: YAML is slow."""
    return read_study(folder / "study.yaml")


@lru_cache(maxsize=2)
def open_learner(folder: Path) -> Learner:
    """The network of a run, resident in this process: every hospital's, and they share the memory of its device."""
    study = open_study(folder)
    device, start = use(study.speed), read_start(folder, study)
    return Learner(study, start.base, start.identities, device)


@lru_cache(maxsize=64)
def open_store(folder: Path, index: int) -> Store:
    """The store of hospital ``index``, kept in this process."""
    return read_hospital(folder, open_study(folder), index)


@lru_cache(maxsize=64)
def open_site(folder: Path, index: int) -> Site:
    """The site of hospital ``index``, with its photos; the learner takes them to the device."""
    learner = open_learner(folder)
    store = open_store(folder, index)
    study, name = learner.study, hospital_names(learner.study)[index]
    masking = Masking(study, name, open_identity(folder, name)) if study.secure.enabled else None
    photos, residuals = (store.train(), store.heldout()), Residuals(folder / _RESIDUALS / name)
    return Site(name, study, learner, *photos, masking=masking, residuals=residuals)
