"""What is the smallest federation? A learner that only does sums, so that a test is about the rounds around it."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context
from torch import Tensor

from bioface_core.accounting import Plan
from bioface_core.checkpoint import RunFolder, open_run
from bioface_core.config import Study
from bioface_core.evaluate import Counts, count
from bioface_core.learner import LocalResult
from bioface_core.photos import FACE_SIZE_PX, PhotoSet
from bioface_core.seeding import generator
from client.app import make_client_app
from client.residuals import Residuals
from client.site import Site
from server.app import make_server_app
from server.rounds import Event, RunState
from simulation.inline import run_inline

# Processes to kill: forked from one that has imported everything and does nothing else.
_FORK = multiprocessing.get_context("forkserver")
_FORK.set_forkserver_preload(["tests.small_federation"])

CLASSES, EMBEDDING, NETWORK = 3, 4, 20
SIZE = NETWORK + CLASSES * EMBEDDING


def small_study(**federation: Any) -> Study:
    """Three syndromes, a few rounds, three hospitals."""
    return Study().replace(
        {
            "syndromes": ["down", "noonan", "williams"],
            "model": {"embedding": 8},
            "federation": {"rounds": 3, "deadline_s": 5.0} | federation,
            "simulation": {"hospitals": 3},
        }
    )


class SmallLearner:
    """Answers like ``Learner``, by arithmetic that is a function of its arguments."""

    size, classes, embedding = SIZE, CLASSES, EMBEDDING
    schema = hashlib.sha256(b"small").hexdigest()

    def start(self) -> Tensor:
        return torch.randn(SIZE, generator=generator("start"))

    def train(
        self, vector: Tensor, photos: PhotoSet, round_: int, stream: str, plan: Plan | None = None
    ) -> LocalResult:
        noise = torch.randn(SIZE, generator=generator("train", stream, round_))
        return LocalResult(0.1 * noise - 0.05 * vector, float(noise.abs().mean()))

    def evaluate(self, vector: Tensor, photos: PhotoSet) -> Counts:
        scores_PK = torch.randn(len(photos), CLASSES, generator=generator("evaluate")) + vector[:CLASSES]
        return count(scores_PK, photos.labels_N)

    def weights(self, vector: Tensor) -> dict[str, Tensor]:
        return {"network": vector[:NETWORK].clone(), "prototypes": vector[NETWORK:].view(CLASSES, EMBEDDING).clone()}


def photos_of(labels: list[int]) -> PhotoSet:
    """One blank photo per patient."""
    blank = torch.zeros(len(labels), 3, FACE_SIZE_PX, FACE_SIZE_PX, dtype=torch.uint8)
    return PhotoSet(blank, torch.tensor(labels, dtype=torch.int64), torch.arange(len(labels)))


# The third hospital lacks a class; nobody's weight is another's.
TRAINED = ([0, 1, 2] * 4, [0, 1, 2] * 8, [0, 1] * 16)
HELD_OUT = ([0, 1, 2], [0, 0, 1, 2], [0, 1])


@dataclass(frozen=True)
class SmallSites:
    """Opens the site of a node; picklable.

    Attributes:
        study: of all.
        folder: of the run, for what rounding leaves behind.
    """

    study: Study
    folder: Path | None = None

    def __call__(self, context: Context) -> Site:
        return self.site(int(context.node_config["partition-id"]))

    def site(self, index: int) -> Site:
        """Hospital ``index``, from 0."""
        train, heldout = photos_of(TRAINED[index]), photos_of(HELD_OUT[index])
        name = f"hospital-{index + 1}"
        residuals = None if self.folder is None else Residuals(self.folder / "residuals" / name)
        return Site(name, self.study, SmallLearner(), train, heldout, residuals=residuals)


def names(study: Study) -> tuple[str, ...]:
    return tuple(f"hospital-{number + 1}" for number in range(study.simulation.hospitals))


def run_small(path: Path, study: Study, on_event: Callable[[Event], None] = lambda event: None) -> RunState:
    """The whole federation in this process."""
    ended: list[RunState] = []
    with open_run(path, study) as folder:
        app = small_server(study, folder, on_event, ended.append)
        run_inline(app, make_client_app(SmallSites(study, path)), study.simulation.hospitals)
    return ended[0]


def small_server(
    study: Study, folder: RunFolder, on_event: Callable[[Event], None], on_end: Callable[[RunState], None]
) -> Any:
    return make_server_app(study, SmallLearner(), folder, names(study), on_event, on_end)


def in_a_process(target: Callable[..., None], *arguments: Any) -> int | None:
    """Runs it elsewhere; its exit code, which is -9 if it was killed."""
    process = _FORK.Process(target=target, args=arguments)
    process.start()
    process.join(60)
    return process.exitcode


def dying_at(event_number: int) -> Callable[[Event], None]:
    """Called with every event of a run, dies as of kill -9 at the one of this number."""
    seen: list[Event] = []

    def on_event(event: Event) -> None:
        seen.append(event)
        if len(seen) == event_number:
            os.kill(os.getpid(), signal.SIGKILL)

    return on_event
