"""Does a partition keep patients whole, leave no hospital empty, and do what its kind says?"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bioface_core.errors import ConfigError
from bioface_core.sections import Partition
from simulation.partition import holders, partition

kinds = st.sampled_from(["iid", "dirichlet", "realistic"])
labels = st.lists(st.integers(0, 9), min_size=12, max_size=120).map(torch.tensor)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _balanced(classes: int, patients: int) -> Tensor:
    return torch.arange(classes).repeat_interleave(patients)


@given(labels=labels, hospitals=st.integers(1, 12), kind=kinds, alpha=st.floats(0.01, 10), seed=st.integers(0, 99))
def test_every_patient_has_one_hospital_and_no_hospital_is_empty(
    labels: Tensor, hospitals: int, kind: str, alpha: float, seed: int
) -> None:
    settings = Partition(kind=kind, alpha=alpha)  # type: ignore[arg-type]
    hospital_P = partition(labels, hospitals, settings, _generator(seed))
    assert hospital_P.shape == labels.shape
    assert hospital_P.dtype == torch.int64
    assert (hospital_P.bincount(minlength=hospitals) > 0).all()
    assert hospital_P.max() < hospitals


@given(labels=labels, kind=kinds, seed=st.integers(0, 99))
def test_equal_generators_give_equal_partitions(labels: Tensor, kind: str, seed: int) -> None:
    settings = Partition(kind=kind)  # type: ignore[arg-type]
    first, second = (partition(labels, 5, settings, _generator(seed)) for _ in range(2))
    assert torch.equal(first, second)


@given(labels=labels, hospitals=st.integers(1, 12), seed=st.integers(0, 99))
def test_iid_hospitals_are_of_one_size(labels: Tensor, hospitals: int, seed: int) -> None:
    sizes = partition(labels, hospitals, Partition(kind="iid"), _generator(seed)).bincount(minlength=hospitals)
    assert sizes.max() - sizes.min() <= 1


@given(classes=st.integers(2, 12), hospitals=st.integers(2, 10), lacking=st.integers(0, 11), seed=st.integers(0, 99))
def test_lacking_hospitals_lack_what_they_should(classes: int, hospitals: int, lacking: int, seed: int) -> None:
    known = classes - lacking
    settings = Partition(kind="lacking", lacking=lacking)
    labels = _balanced(classes, hospitals)  # enough patients for every holder of a syndrome
    if known < 1 or hospitals * known < classes:
        with pytest.raises(ConfigError, match="lacking is .*, expected at most"):
            partition(labels, hospitals, settings, _generator(seed))
        return
    hospital_P = partition(labels, hospitals, settings, _generator(seed))
    present_SK = torch.zeros(hospitals, classes, dtype=torch.bool)
    present_SK[hospital_P, labels] = True
    assert (present_SK.sum(1) == known).all()
    assert (present_SK.sum(0) >= min(2, hospitals * known // classes)).all()


@given(classes=st.integers(2, 12), hospitals=st.integers(1, 10), seed=st.integers(0, 99))
def test_holders_are_spread_evenly(classes: int, hospitals: int, seed: int) -> None:
    held = holders(classes, hospitals, lacking=0, randomness=_generator(seed)).sum(1)
    assert held.max() - held.min() <= 1


def test_a_small_alpha_is_more_skewed_than_a_large_one() -> None:
    labels = _balanced(10, 60)
    largest = []
    for alpha in (0.1, 100.0):
        hospital_P = partition(labels, 5, Partition(kind="dirichlet", alpha=alpha), _generator(0))
        table_SK = torch.zeros(5, 10).index_put_((hospital_P, labels), torch.ones(600), accumulate=True)
        largest.append(float((table_SK.max(0).values / 60).mean()))
    assert largest[0] > 0.6 > 0.3 > largest[1]


def test_realistic_hospitals_differ_in_size() -> None:
    sizes = partition(_balanced(10, 60), 6, Partition(kind="realistic"), _generator(1)).bincount()
    assert sizes.max() > 3 * sizes.min()


def test_more_hospitals_than_patients_is_explained() -> None:
    with pytest.raises(ConfigError, match="simulation.hospitals is 5 for 3 patients"):
        partition(torch.zeros(3, dtype=torch.int64), 5, Partition(kind="iid"), _generator(0))


def test_lacking_too_much_is_explained() -> None:
    with pytest.raises(ConfigError, match="lacking is 9, expected at most 8 for 10 syndromes in 5 hospitals"):
        partition(_balanced(10, 5), 5, Partition(kind="lacking", lacking=9), _generator(0))
