"""Which hospital does each patient go to? Always whole patients, and no hospital stays empty.

``iid`` deals patients out evenly; ``dirichlet`` gives each syndrome its own shares of the hospitals; ``lacking`` leaves
every hospital without some syndromes; ``realistic`` makes a few hospitals large and most small.

Legend: P patients, K syndromes, S hospitals.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bioface_core.errors import ConfigError
from bioface_core.sections import Partition

_SIZE_EXPONENT = 1.0  # realistic: the n-th largest hospital has 1/n of the largest one's patients
_SPECIALISATION = 6.0  # realistic: concentration of a syndrome's shares around the hospitals' sizes


def partition(labels_P: Tensor, hospitals: int, settings: Partition, randomness: torch.Generator) -> Tensor:
    """Assigns patients to hospitals.

    Args:
        labels_P: int64 syndrome of each patient.
        hospitals: S, at least 1.
        settings: which kind, and its parameters.
        randomness: CPU generator; equal states give equal partitions.

    Returns:
        int64 (P,), 0..S-1; every hospital has at least one patient.

    Raises:
        ConfigError: fewer patients than hospitals, or more syndromes lacking than can be.
    """
    if len(labels_P) < hospitals:
        raise ConfigError(
            f"simulation.hospitals is {hospitals} for {len(labels_P)} patients, expected at least one patient each: "
            "lower it or raise simulation.patients_per_syndrome"
        )
    if settings.kind == "iid":
        return _deal(torch.arange(len(labels_P)), list(range(hospitals)), torch.empty_like(labels_P), randomness)
    if settings.kind == "lacking":
        return _without_empty(_lacking(labels_P, hospitals, settings.lacking, randomness), labels_P, hospitals)
    source = _numpy(randomness)
    if settings.kind == "dirichlet":
        shares_KS = source.dirichlet(np.full(hospitals, settings.alpha), _classes(labels_P))
    else:
        sizes_S = source.permutation(np.arange(1, hospitals + 1) ** -_SIZE_EXPONENT)
        shares_KS = source.dirichlet(_SPECIALISATION * hospitals * sizes_S / sizes_S.sum(), _classes(labels_P))
    return _without_empty(_by_shares(labels_P, shares_KS, randomness), labels_P, hospitals)


def holders(classes: int, hospitals: int, lacking: int, randomness: torch.Generator) -> Tensor:
    """Which hospitals know which syndromes, as evenly as possible.

    Args:
        classes: K.
        hospitals: S.
        lacking: how many syndromes each hospital lacks.
        randomness: CPU generator.

    Returns:
        bool (K, S): K - ``lacking`` per hospital; how many hospitals hold a syndrome differs by at most one.

    Raises:
        ConfigError: a syndrome would be left without a hospital.
    """
    known = classes - lacking
    if known < 1 or hospitals * known < classes:
        most = classes - -(-classes // hospitals)
        raise ConfigError(
            f"simulation.partition.lacking is {lacking}, expected at most {most} for {classes} syndromes in "
            f"{hospitals} hospitals: else a syndrome is nowhere, or a hospital has none"
        )
    holders_KS = torch.zeros(classes, hospitals, dtype=torch.bool)
    for hospital in range(hospitals):
        chance_K = torch.rand(classes, generator=randomness)
        rarest_first = (holders_KS.sum(1) + chance_K).argsort()
        holders_KS[rarest_first[:known], hospital] = True
    return holders_KS


def _lacking(labels_P: Tensor, hospitals: int, lacking: int, randomness: torch.Generator) -> Tensor:
    present = labels_P.unique()
    holders_KS = holders(len(present), hospitals, lacking, randomness)
    hospital_P = torch.empty_like(labels_P)
    for label, holders_S in zip(present, holders_KS, strict=True):
        members = (labels_P == label).nonzero()[:, 0]
        _deal(members, holders_S.nonzero()[:, 0].tolist(), hospital_P, randomness)
    return hospital_P


def _deal(members: Tensor, hospitals: list[int], hospital_P: Tensor, randomness: torch.Generator) -> Tensor:
    """Deals ``members`` (positions) like cards, writes their hospital into ``hospital_P`` and returns it."""
    cards = members[torch.randperm(len(members), generator=randomness)]
    seats = torch.tensor(hospitals)[torch.randperm(len(hospitals), generator=randomness)]
    hospital_P[cards] = seats[torch.arange(len(cards)) % len(seats)]
    return hospital_P


def _by_shares(labels_P: Tensor, shares_KS: np.ndarray, randomness: torch.Generator) -> Tensor:
    """Cuts each syndrome's shuffled patients at its shares."""
    hospital_P = torch.empty_like(labels_P)
    for label in labels_P.unique().tolist():
        members = (labels_P == label).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=randomness)]
        ends = (shares_KS[label].cumsum() * len(members)).round().astype(int)[:-1].clip(max=len(members))
        for hospital, part in enumerate(members.tensor_split(torch.from_numpy(ends))):
            hospital_P[part] = hospital
    return hospital_P


def _without_empty(hospital_P: Tensor, labels_P: Tensor, hospitals: int) -> Tensor:
    """Gives each empty hospital one patient of the largest, of the syndrome that one has most of."""
    hospital_P = hospital_P.clone()
    for empty in (hospital_P.bincount(minlength=hospitals) == 0).nonzero()[:, 0].tolist():
        largest = int(hospital_P.bincount(minlength=hospitals).argmax())
        commonest = int(labels_P[hospital_P == largest].bincount().argmax())
        donor = ((hospital_P == largest) & (labels_P == commonest)).nonzero()[0, 0]
        hospital_P[donor] = empty
    return hospital_P


def _classes(labels_P: Tensor) -> int:
    return int(labels_P.max()) + 1


def _numpy(randomness: torch.Generator) -> np.random.Generator:
    """Torch has no public Dirichlet that takes a generator; numpy's is seeded from ours."""
    return np.random.default_rng(int(torch.randint(2**62, (1,), generator=randomness)))
