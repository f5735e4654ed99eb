"""What travels when only the transport is measured? A vector of any length, "trained" by adding a constant to it.

Everything else is what a deployed federation has: site, gate, memory, messages, round loop, checkpoints.

Legend: n values of the vector.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import torch
from torch import Tensor

from bioface_core.accounting import Plan
from bioface_core.evaluate import Counts
from bioface_core.learner import LocalResult
from bioface_core.photos import PhotoSet

_CHANGE = 1e-3


class PayloadLearner:
    """A learner whose work is a wait of a known length.

    Args:
        size: n.
        classes: K.
        embedding: D.
        seconds_of_work: that training waits.
        notes: gets a line for each training, when it began and ended; None writes nothing.
    """

    def __init__(
        self, size: int, classes: int, embedding: int, seconds_of_work: float = 0.0, notes: Path | None = None
    ) -> None:
        self.size, self.classes, self.embedding = size, classes, embedding
        self.schema = hashlib.sha256(f"payload {size}".encode()).hexdigest()
        self._seconds, self._notes = seconds_of_work, notes

    def start(self) -> Tensor:
        """The vector before training."""
        return torch.zeros(self.size)

    def train(
        self, vector: Tensor, photos: PhotoSet, round_: int, stream: str, plan: Plan | None = None
    ) -> LocalResult:
        """One round."""
        began = time.time()
        time.sleep(self._seconds)
        result = LocalResult(torch.full((self.size,), _CHANGE), 1.0)
        if self._notes is not None:
            with self._notes.open("a", encoding="ascii") as notes:
                notes.write(json.dumps([began, time.time()]) + "\n")
        return result

    def evaluate(self, vector: Tensor, photos: PhotoSet) -> Counts:
        """Counts of nobody."""
        return Counts.zeros(self.classes)

    def weights(self, vector: Tensor) -> dict[str, Tensor]:
        """Nothing beside the vector itself."""
        return {}
