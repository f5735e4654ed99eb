"""Is a vector of few bits right on average, never far off, and read the same at both ends?"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bioface_core.precision import _CHUNK, BLOCK, Coded, as_float16, as_int8, coded_from, vector_bytes
from bioface_core.secret import SecretRandom
from bioface_core.wire import norm
from client.site import within

KEY = bytes(32)
FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)
LISTS = st.lists(FLOATS, min_size=1, max_size=3 * BLOCK)
SIZES = pytest.mark.parametrize("size", [1, BLOCK, BLOCK + 1, _CHUNK, 2 * _CHUNK + 3])


def drawn(size: int, spread: float = 3.0) -> Tensor:
    """Values of very different sizes."""
    generator = torch.Generator().manual_seed(size)
    return torch.randn(size, generator=generator) * torch.logspace(-spread, spread, size)


def plain_int8(values: list[float], key: bytes) -> list[float]:
    """What the receiver reads, value by value, in exact arithmetic but for float32 products."""
    chances, read = SecretRandom(key).bytes(4 * len(values)), []
    for at, value in enumerate(values):
        block = values[at // BLOCK * BLOCK :][:BLOCK]
        scale = scale_of(max(abs(Fraction(one)) for one in block))
        steps = float(np.float64(value) / np.float64(scale)) if scale else 0.0
        below, chance = math.floor(steps), int.from_bytes(chances[4 * at : 4 * at + 4], "little")
        read.append(float(np.float32(below + (chance < (steps - below) * 2**32)) * scale))
    return read


def scale_of(peak: Fraction) -> np.float32:
    """The least float32 of which 127 are at least the peak."""
    scale = np.float32(float(peak) / 127)
    while Fraction(float(scale)) * 127 < peak:
        scale = np.nextafter(scale, np.float32(np.inf))
    return scale


@settings(max_examples=60, deadline=None)
@given(LISTS, st.binary(min_size=32, max_size=32))
def test_int8_is_what_a_loop_makes(values: list[float], key: bytes) -> None:
    coded = as_int8(torch.tensor(values, dtype=torch.float32), SecretRandom(key))
    assert coded.vector.tolist() == plain_int8(values, key)


@settings(max_examples=60, deadline=None)
@given(LISTS, st.binary(min_size=32, max_size=32))
def test_int8_goes_to_a_neighbouring_step(values: list[float], key: bytes) -> None:
    vector = torch.tensor(values, dtype=torch.float32)
    coded = as_int8(vector, SecretRandom(key))
    steps_n = torch.from_numpy(np.repeat(coded.scales_b, BLOCK)[: len(values)].astype(np.float64))
    assert bool(((coded.vector.double() - vector.double()).abs() <= steps_n * (1 + 2**-16)).all())
    assert coded.values_n.min() >= -127, "no sender says -128"


@settings(max_examples=60, deadline=None)
@given(LISTS)
def test_float16_is_the_nearest_and_never_overflows(values: list[float]) -> None:
    vector = torch.tensor(values, dtype=torch.float32)
    coded, largest = as_float16(vector), float(vector.abs().max())
    assert bool(np.isfinite(coded.values_n).all()) and bool(coded.vector.isfinite().all())
    scale = float(coded.scales_b[0])
    assert math.frexp(scale)[0] == 0.5, "a power of two changes no bit"
    off_n, steps_n = (coded.vector.double() - vector.double()).abs(), vector.double().abs() * 2.0**-11
    assert bool((off_n <= torch.maximum(steps_n, torch.full_like(steps_n, scale * 2.0**-25))).all())
    assert largest / scale < 2**15 and (largest / scale >= 2**14 or largest < 2.0**-111)


@pytest.mark.parametrize("value", [0.3, -0.3, 0.001, -0.9999, 0.5])
def test_int8_is_right_on_average(value: float) -> None:
    """Of 10**5 draws the mean is off by a standard error of 0.0016 steps at most."""
    draws = 10**5
    vector = torch.full((draws,), value)
    vector[::BLOCK] = 1.0  # of every block the largest
    coded = as_int8(vector, SecretRandom(KEY))
    rounded = coded.vector[torch.arange(draws) % BLOCK != 0].double() * 127
    assert abs(float(rounded.mean()) - value * 127) < 7 * 0.5 / math.sqrt(draws) + 1e-4
    assert len(rounded.round().unique()) == 2, "the two steps around it"


@SIZES
def test_what_is_read_is_what_was_sent(size: int) -> None:
    for coded in (as_int8(drawn(size), SecretRandom()), as_float16(drawn(size))):
        content = coded.content()
        assert len(content) == vector_bytes(size, coded.bits)
        again = coded_from(content, size, coded.bits)
        assert torch.equal(again.vector, coded.vector) and again.content().tobytes() == content.tobytes()


def test_how_many_bytes() -> None:
    size = 100 * BLOCK
    assert [vector_bytes(size, bits) / vector_bytes(size, 32) for bits in (16, 8)] == pytest.approx(
        [0.5 + 1 / size, 0.25 + 1 / BLOCK]
    )


@pytest.mark.parametrize("size", [3, BLOCK + 3])
def test_nothing_stays_nothing(size: int) -> None:
    for coded in (as_int8(torch.zeros(size), SecretRandom()), as_float16(torch.zeros(size))):
        assert torch.equal(coded.vector, torch.zeros(size))


@pytest.mark.parametrize("length", [1e-20, 1e-3, 99.999, 1e6])
def test_rounding_carries_nothing_over_the_bound(length: float) -> None:
    """Whatever is as long as the bound before, is no longer after."""
    random, longer = torch.Generator().manual_seed(1), 0
    for trial in range(30):
        vector = torch.randn(5000, generator=random)
        vector *= length / norm(vector)
        bound = norm(vector)
        for coded in (as_int8(vector, SecretRandom(bytes([trial] * 32))), as_float16(vector)):
            longer += norm(coded.vector) > bound
            kept = within(coded, bound)
            assert norm(kept.vector) <= bound
            assert torch.allclose(kept.vector, coded.vector, rtol=1e-2, atol=0), "it is not thrown away"
    assert longer > 10, "often it would be"


def test_the_scale_is_each_block_s_own() -> None:
    """A large value costs its own block precision, and no other."""
    vector = torch.full((2 * BLOCK,), 1e-3)
    vector[0] = 100.0
    off_n = (as_int8(vector, SecretRandom(KEY)).vector - vector).abs()
    assert float(off_n[:BLOCK].max()) > 1e-4 and float(off_n[BLOCK:].max()) < 1e-5


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_is_not_hidden(value: float) -> None:
    """A model that diverged is refused where it arrives, as in float32."""
    assert not bool(as_float16(torch.tensor([1.0, value])).vector.isfinite().all())


def test_shortening_changes_scales_alone() -> None:
    coded = as_int8(drawn(1000), SecretRandom(KEY))
    half = coded.shortened(0.5)
    assert isinstance(half, Coded) and np.array_equal(half.values_n, coded.values_n)
    assert torch.equal(half.vector, coded.vector / 2)
