"""Is a sum of fixed-point numbers exact, right on average, and never too large?"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bioface_core.errors import WireError
from bioface_core.fixed_point import _CHUNK, FixedPoint
from bioface_core.messages import Code
from bioface_core.secret import SecretRandom

BOUNDS = st.floats(1e-12, 1e12)
KEY = bytes(32)


@given(BOUNDS, st.integers(1, 20))
@example((2**31 - 1) / 20 - 0.5, 20)  # without room for rounding up, scale 1 would do
def test_no_sum_overflows_and_no_bit_is_wasted(bound: float, members: int) -> None:
    """In exact arithmetic: the proof of the class, and that the next power of two would break it."""
    scale = Fraction(FixedPoint(bound, members).scale)
    assert math.log2(scale) == round(math.log2(scale))
    assert members * (Fraction(bound) * scale + 1) < 2**31 <= members * (Fraction(bound) * 2 * scale + 1) + 1


@settings(max_examples=30, deadline=None)
@given(BOUNDS, st.integers(1, 20), st.binary(min_size=32, max_size=32))
def test_the_largest_values_add_up(bound: float, members: int, key: bytes) -> None:
    fixed, secret = FixedPoint(bound, members), SecretRandom(key)
    largest = np.nextafter(np.float32(bound), np.float32(0))
    values_n = torch.tensor([largest, -largest, 0.0], dtype=torch.float32)
    total_n = np.zeros(3, np.uint32)
    for _ in range(members):
        total_n += fixed.encode(values_n, secret)
    off_n = (fixed.decode(total_n) - members * values_n.double()).abs() * fixed.scale
    assert float(off_n.max()) <= members


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=50), st.binary(min_size=32, max_size=32))
def test_each_value_goes_to_a_neighbouring_step(values: list[float], key: bytes) -> None:
    fixed = FixedPoint(3.0, 5)
    steps_n = np.array([Fraction(value) * Fraction(fixed.scale) for value in values])
    encoded_n = fixed.encode(torch.tensor(values, dtype=torch.float32), SecretRandom(key)).view(np.int32)
    for encoded, steps in zip(encoded_n.tolist(), steps_n, strict=True):
        assert math.floor(steps) <= encoded <= math.ceil(steps)


@pytest.mark.parametrize("steps", [0.25, -0.25, 1000.9, -3.001])
def test_rounding_is_right_on_average(steps: float) -> None:
    """A step in 10**5 draws has a standard error of 0.0016 at most; nearest rounding is off by 0.25 in the first."""
    fixed, draws = FixedPoint(100.0, 5), 10**5
    value = np.float32(steps / fixed.scale)
    encoded_n = fixed.encode(torch.full((draws,), float(value)), SecretRandom(KEY)).view(np.int32)
    expected = float(value) * fixed.scale
    assert abs(encoded_n.mean() - expected) < 7 * 0.5 / math.sqrt(draws)
    assert set(encoded_n.tolist()) == {math.floor(expected), math.ceil(expected)}


def test_whole_steps_are_never_rounded() -> None:
    fixed = FixedPoint(100.0, 5)
    whole_n = torch.arange(-500, 500, dtype=torch.float32)
    encoded_n = fixed.encode(whole_n / fixed.scale, SecretRandom())
    assert np.array_equal(encoded_n.view(np.int32), whole_n.int().numpy())
    assert torch.equal(fixed.decode(encoded_n), whole_n.double() / fixed.scale)


@pytest.mark.parametrize("size", [0, 1, _CHUNK, 2 * _CHUNK + 3])
def test_any_length(size: int) -> None:
    fixed, values_n = FixedPoint(5.0, 3), torch.linspace(-5, 5, size)
    kept_n = values_n.clone()
    encoded_n = fixed.encode(values_n, SecretRandom())
    assert encoded_n.dtype == np.uint32
    assert torch.equal(values_n, kept_n)
    assert torch.allclose(fixed.decode(encoded_n), values_n.double(), rtol=0, atol=1 / fixed.scale)


@pytest.mark.parametrize("value", [0.1000001, -0.1000001, math.inf, -math.inf, math.nan, float(np.float32(0.1))])
def test_beyond_the_bound_is_refused(value: float) -> None:
    """The last is a value that rounding to float32 pushed beyond 0.1."""
    with pytest.raises(WireError) as refused:
        FixedPoint(0.1, 3).encode(torch.tensor([0.0, value]), SecretRandom())
    assert refused.value.code == Code.NORM


def test_two_roundings_share_no_chance() -> None:
    fixed, values_n = FixedPoint(5000.0, 3), torch.full((64,), 0.1)
    assert not np.array_equal(fixed.encode(values_n, SecretRandom()), fixed.encode(values_n, SecretRandom()))
