"""What does a trained model make of faces? Embeddings, and how near each is to every syndrome.

An expert is the shared model at the end of a run, without whatever it took to train it. It is a function of its file:
the same faces give the same answer at the lab, at every hospital, and years later.

Legend: N photos, C channels, H W pixels, D embedding, K syndromes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from bioface_core import loss
from bioface_core.calibration import Calibration, Reliability, fit, nearness
from bioface_core.checkpoint import RunFolder, read_study_of
from bioface_core.config import Study, read_study
from bioface_core.embed import embed
from bioface_core.errors import RunError
from bioface_core.model import Recogniser, memory_format
from bioface_core.passport.seal import CARD, MODEL, STUDY, is_sealed, verify
from bioface_core.personal import is_personal, read_personal


@dataclass(frozen=True)
class Expert:
    """A trained model, at rest.

    Attributes:
        study: what it was trained as.
        network: trunk and prototypes, on the device that asks it.
        calibration: how sure it may be.
    """

    study: Study
    network: Recogniser
    calibration: Calibration

    @staticmethod
    def of(
        study: Study,
        weights: Mapping[str, Tensor],
        reliability: Reliability | None = None,
        device: torch.device | str = "cpu",
    ) -> Expert:
        """The expert of a study.

        Args:
            study: what was trained.
            weights: the whole model's tensors, as ``Learner.weights`` gives them.
            reliability: how sure and how right it was on held-out patients; None where nobody counted.
            device: where the network is to live.
        """
        network = Recogniser(study.model, len(study.syndromes))
        network.load_state_dict(dict(weights), strict=False)
        network.requires_grad_(False).eval()
        layout = memory_format(study.model, study.speed.channels_last)
        network = network.to(device, memory_format=layout)  # type: ignore[call-overload]
        return Expert(study, network, fit(reliability or Reliability.zeros(), study.loss))

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
        layout = memory_format(self.study.model, self.study.speed.channels_last)
        return embed(self.network, faces_NCHW.to(self.device), layout)

    def scores(self, embeddings_ND: Tensor) -> Tensor:
        """How near each embedding is to each syndrome, (N, K): cosines, or the linear scores of mode ``ce``."""
        return loss.scores(embeddings_ND, self.network.prototypes, self.study.loss)

    def nearness(self, embeddings_ND: Tensor) -> Tensor:
        """How near each embedding is to the nearest syndrome, (N,)."""
        return nearness(embeddings_ND, self.network.prototypes)


def read_expert(path: Path, device: torch.device | str = "cpu") -> Expert:
    """The model after the last complete round of a run, or one that was exported, or made a hospital's own.

    Args:
        path: a run's folder, an exported one, or a personal one.
        device: where the network is to live.

    Raises:
        RunError: no run there, no complete round, or damaged.
        PassportError: an exported model that is not what was sealed, or a personal one that is damaged.
    """
    if is_personal(path):
        study, weights, calibration = read_personal(path)
        return replace(Expert.of(study, weights, device=device), calibration=calibration)
    return _exported(path, device) if is_sealed(path) else _trained(path, device)


def _trained(path: Path, device: torch.device | str) -> Expert:
    study, run = read_study_of(path), RunFolder(path)
    last = run.last_round()
    if last < 0:
        raise RunError(f"{path} has no complete round yet: finish the run first")
    return Expert.of(study, run.read_model(last), run.read_summary(last).counts.reliability, device)


def _exported(path: Path, device: torch.device | str) -> Expert:
    """Whose files are exactly those that were sealed, so that they need no further checks."""
    verify(path)
    expert = Expert.of(read_study(path / STUDY), load_file(path / MODEL), device=device)
    told = json.loads((path / CARD).read_text(encoding="utf-8"))["calibration"]
    return expert if told is None else replace(expert, calibration=Calibration.from_json(told))
