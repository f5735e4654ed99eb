"""What does a round cost where the frozen front of the trunk has done its work before? CPU seconds of one thread.

Two learners do the same rounds with the last stage and the head training: one keeps what the front made of its photos,
the other computes it at every step. The first round fills the cache and does not count; then they take turns. The first
ten rounds of a study, filling included, are measured too, for a network where that takes seconds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bioface_core.config import Study, find_study, read_study
from bioface_core.learner import Learner
from bioface_core.photos import FACE_SIZE_PX, PhotoSet
from bioface_core.sections import Model
from bioface_core.seeding import generator
from bioface_core.weights import Base, random_base
from simulation.ratio import Ratio

_TARGET = 0.25
_PHOTOS, _PEOPLE, _BATCH = 64, 32, 32
_SE_IR_18, _IR_SE_50 = Model(), Model(depth=50)


def cache_ratios() -> list[Ratio]:
    """A cached round beside one that is not, for three networks; and the first ten rounds, for the demo's."""
    torch.set_num_threads(1)
    demo = read_study(find_study("demo")).model
    networks = (("demo's net", demo, 9), ("SE-IR-18", _SE_IR_18, 3), ("IR-SE-50", _IR_SE_50, 3))
    steady = [steady_ratio(name, model, pairs) for name, model, pairs in networks]
    return [*steady, first_rounds_ratio("demo's net", demo)]


def steady_ratio(name: str, model: Model, pairs: int) -> Ratio:
    """A round after the first; medians over ``pairs`` of rounds in turn."""
    cached, plain = (Rounds.of(model, keep, views=1) for keep in (True, False))
    for arm in (cached, plain):
        arm.next()
    taken = [(cached.next(), plain.next()) for _ in range(pairs)]
    return Ratio.of_pairs(f"{name}, last-stage, cached round / round", _TARGET, taken)


def first_rounds_ratio(name: str, model: Model, rounds: int = 10) -> Ratio:
    """All rounds from the first on, with four views of each photo and two passes in a round."""
    cached, plain = (Rounds.of(model, keep, views=4, epochs=2) for keep in (True, False))
    taken = [(cached.next(), plain.next()) for _ in range(rounds)]
    whole = [(sum(ours for ours, _ in taken), sum(other for _, other in taken))]
    return Ratio.of_pairs(f"{name}, last-stage, the first {rounds} rounds, 4 views", _TARGET, whole)


@dataclass
class Rounds:
    """A hospital that trains round after round.

    Attributes:
        learner: with or without a cache.
        photos: of its patients.
        vector: the model after its rounds.
        done: how many rounds it has trained.
    """

    learner: Learner
    photos: PhotoSet
    vector: Tensor
    done: int = field(default=0)

    @staticmethod
    def of(model: Model, keep: bool, views: int, epochs: int = 1) -> Rounds:
        """A hospital with random photos, and public people of whom as many are shown."""
        study = _study(model, keep, {"batch": _BATCH, "epochs": epochs, "views": views})
        base = Base(random_base(study.model, 0).trunk, torch.randn(8, model.embedding, generator=generator("ids")))
        learner = Learner(study, base, _photos(_PEOPLE, "people"))
        return Rounds(learner, _photos(_PHOTOS, "patients"), learner.start())

    def next(self) -> float:
        """Trains a round; its CPU seconds."""
        start = time.process_time()
        self.done += 1
        self.vector = self.vector + self.learner.train(self.vector, self.photos, self.done, "hospital-1").delta
        return time.process_time() - start


def _study(model: Model, keep: bool, train: dict[str, Any]) -> Study:
    return Study().replace(
        {
            "syndromes": [f"syndrome-{number}" for number in range(8)],
            "model": {**model.model_dump(), "trainable": "last-stage"},
            "federation": {"rounds": 100},
            "train": {**train, "rate": 1e-4},
            "speed": {"cache_trunk": keep},
        }
    )


def _photos(count: int, what: str) -> PhotoSet:
    shape = (count, 3, FACE_SIZE_PX, FACE_SIZE_PX)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator("bench", what))
    return PhotoSet(pixels, torch.arange(count) % 8, torch.arange(count))
