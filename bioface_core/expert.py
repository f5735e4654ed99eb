"""What does a trained model make of faces? Embeddings, and how near each is to every syndrome.

An expert is the shared model at the end of a run, without whatever it took to train it. It is a function of its file:
the same faces give the same answer at the lab, at every hospital, and years later.

Legend: N photos, C channels, H W pixels, D embedding, K syndromes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bioface_core import loss
from bioface_core.checkpoint import RunFolder
from bioface_core.config import Study
from bioface_core.embed import embed
from bioface_core.errors import RunError
from bioface_core.model import Recogniser, memory_format
from bioface_core.report.run_folder import read_study_of


@dataclass(frozen=True)
class Expert:
    """A trained model, at rest.

    Attributes:
        study: what it was trained as.
        network: trunk and prototypes, on the device that asks it.
    """

    study: Study
    network: Recogniser

    @staticmethod
    def of(study: Study, weights: dict[str, Tensor], device: torch.device | str = "cpu") -> Expert:
        """The expert of a study with the whole model's tensors by name."""
        network = Recogniser(study.model, len(study.syndromes))
        network.load_state_dict(weights, strict=False)
        network.requires_grad_(False).eval()
        expert = Expert(study, network)
        network.to(device, memory_format=expert._layout)  # type: ignore[call-overload]
        return expert

    @property
    def syndromes(self) -> tuple[str, ...]:
        """Keys of the K syndromes, in the order of the scores."""
        return self.study.syndromes

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return self.network.prototypes.device

    def embed(self, faces_NCHW: Tensor) -> Tensor:
        """Unit embeddings (N, D) of aligned faces, the mirrored view averaged.

        Args:
            faces_NCHW: uint8, 3 x 112 x 112, on any device; at least one.
        """
        return embed(self.network, faces_NCHW.to(self.device), self._layout)

    def scores(self, embeddings_ND: Tensor) -> Tensor:
        """How near each embedding is to each syndrome, (N, K): cosines, or the linear scores of mode ``ce``."""
        return loss.scores(embeddings_ND, self.network.prototypes, self.study.loss)

    @property
    def _layout(self) -> torch.memory_format:
        return memory_format(self.study.model, self.study.speed.channels_last)


def read_expert(path: Path, device: torch.device | str = "cpu") -> Expert:
    """The model after the last complete round of a run.

    Args:
        path: a run's folder.
        device: where the network is to live.

    Raises:
        RunError: no run there, no complete round, or damaged.
    """
    study, run = read_study_of(path), RunFolder(path)
    last = run.last_round()
    if last < 0:
        raise RunError(f"{path} has no complete round yet: finish the run first")
    return Expert.of(study, run.read_model(last), device)
