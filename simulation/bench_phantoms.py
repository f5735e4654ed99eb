"""How fast are phantoms drawn? Aligned ones, beside the rate that was promised."""

from __future__ import annotations

from functools import partial

import torch

from bioface_core.config import find_study, read_study
from simulation import phantom
from simulation.ratio import Ratio, timed

_PAIRS = 3
_PHOTOS_PER_SECOND = 150  # what phantoms promise, one core, 112 px


def phantoms_ratios() -> list[Ratio]:
    """Aligned phantoms of ten syndromes beside the promised rate."""
    torch.set_num_threads(1)
    syndromes = read_study(find_study("demo")).syndromes
    phantom.patients(1, syndromes, 2, 1)
    timings = [timed(partial(phantom.patients, seed, syndromes, 10, 2))[1] for seed in range(_PAIRS)]
    pairs = [(cpu / 200, 1 / _PHOTOS_PER_SECOND) for _, cpu in timings]
    return [Ratio.of_pairs("phantom photo / promised time", 1.0, pairs)]
