"""What does a syndrome do to a face? Each feature comes with its probability; a parameter takes its largest shift.

Shifts are never summed: two terms for one sign (low-set ears; low-set, posteriorly rotated ears) describe it once.

Legend: N rows, P people with one syndrome, J features of a syndrome, F parameters of the generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np
import torch
from torch import Tensor

from bioface_core.errors import ConfigError
from bioface_core.syndromes import Syndrome
from simulation.phantom.anatomy import FEATURES, INDEX
from simulation.phantom.randomness import Stream, philox

_PATIENT_RANGE = 0.3  # mild to marked: factor 0.7..1.3 for all features of a patient
_FEATURE_RANGE = 0.25  # and for each feature on its own


def syndrome_shifts(seed: int, people_N: Tensor, syndromes_N: Sequence[Syndrome | None], severity: float) -> Tensor:
    """Shifts of each row's features.

    Args:
        seed: of the whole set.
        people_N: int64; a person's features are the same on all photos.
        syndromes_N: None for healthy people.
        severity: 1 as described in configs/syndromes.yaml, 0 none.

    Returns:
        float32 (N, F), standard deviations.

    Raises:
        ConfigError: an effect names a parameter that phantoms do not have.
    """
    shifts_NF = torch.zeros(len(people_N), len(FEATURES))
    groups: dict[int, list[int]] = {}
    for row, syndrome in enumerate(syndromes_N):
        if syndrome is not None:
            groups.setdefault(id(syndrome), []).append(row)
    for rows in groups.values():
        syndrome = syndromes_N[rows[0]]
        assert syndrome is not None
        shifts_NF[rows] = severity * _group(seed, people_N[rows].tolist(), syndrome)
    return shifts_NF


def only_sex(syndromes_N: Sequence[Syndrome | None]) -> Tensor:
    """0 or 1 where a syndrome occurs in girls or in boys only, -1 elsewhere, int64 (N,)."""
    codes = {"female": 0, "male": 1}
    return torch.tensor([-1 if s is None or s.only is None else codes[s.only] for s in syndromes_N])


def _group(seed: int, people: list[int], syndrome: Syndrome) -> Tensor:
    """Shifts of people who share a syndrome, (P, F), at severity 1."""
    effects_JF = _effects(syndrome)
    probability_J = np.array([feature.probability for feature in syndrome.features])
    drawn = np.stack([philox(seed, Stream.SYNDROME, person).random(1 + 2 * len(probability_J)) for person in people])
    overall_P1, present_PJ, each_PJ = np.split(drawn, [1, 1 + len(probability_J)], axis=1)
    size_PJ = (1 + _PATIENT_RANGE * (2 * overall_P1 - 1)) * (1 + _FEATURE_RANGE * (2 * each_PJ - 1))
    factor_PJ = torch.from_numpy(size_PJ * (present_PJ < probability_J)).float()
    return _largest(factor_PJ[:, :, None] * effects_JF)


def _largest(shifts_PJF: Tensor) -> Tensor:
    """Of each parameter's shifts the one furthest from 0, (P, F)."""
    furthest_P1F = shifts_PJF.abs().argmax(1, keepdim=True)
    return shifts_PJF.gather(1, furthest_P1F)[:, 0]


def _effects(syndrome: Syndrome) -> Tensor:
    """(J, F)."""
    effects_JF = torch.zeros(len(syndrome.features), len(FEATURES))
    for row, feature in enumerate(syndrome.features):
        for name, shift in feature.effects.items():
            effects_JF[row, _position(name, syndrome.name)] = shift
    return effects_JF


def _position(name: str, syndrome: str) -> int:
    if name not in INDEX:
        nearest = get_close_matches(name, FEATURES, n=1, cutoff=0)[0]
        raise ConfigError(f"{syndrome}: effects names {name}, which phantoms do not have; nearest: {nearest}")
    return INDEX[name]
