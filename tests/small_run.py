"""A finished run of an untrained network, made in a moment: it ranks, if not well."""

from __future__ import annotations

from pathlib import Path

import torch

from bioface_core.calibration import NEARNESS_BINS, Reliability
from bioface_core.checkpoint import RoundSummary, RunFolder, pack
from bioface_core.config import find_study, read_study
from bioface_core.evaluate import Counts
from bioface_core.learner import Learner
from bioface_core.weights import random_base

SYNDROMES = ("down", "williams", "noonan")
SMALL = ("model.width=0.125", "model.embedding=16", "model.pool=global", "loss.identification=false", "loss.scale=16")


def counted(patients: int, near: float = 0.0) -> Reliability:
    """Everybody right, unsure at every temperature, and as near as said."""
    reliability = Reliability.zeros()
    reliability.confidence_TB2[:, 7, 1] = patients
    reliability.nearness_B2[int((near + 1) * NEARNESS_BINS / 2), 1] = patients
    return reliability


def write_small_run(path: Path, reliability: Reliability | None = None) -> Path:
    """Writes the run into a folder that exists.

    Args:
        path: the folder.
        reliability: of 40 patients who are all recognised, if none is given.
    """
    study = read_study(find_study("smoke"), (*SMALL, f"syndromes=[{','.join(SYNDROMES)}]"))
    learner = Learner(study, random_base(study.model, 0))
    (path / "study.yaml").write_text(study.to_yaml())
    nobody_KK = torch.zeros(3, 3, dtype=torch.int64)
    counts = Counts(nobody_KK, nobody_KK, counted(40, near=-1.0) if reliability is None else reliability)
    summary = RoundSummary(0, 1.0, None, (), {}, 0, 0, counts)
    RunFolder(path).write_round(summary, pack({}, learner.weights(learner.start())))
    return path
