"""Does the server learn the sum, exactly, whoever drops out? And does a mask hide all there is to hide?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from hypothesis import given, settings
from hypothesis import strategies as st

from bioface_core.errors import WireError
from bioface_core.messages import Code
from bioface_core.secure import Advert, SecureError, Session, Words, threshold_of
from bioface_core.secure.keys import pair_keys, self_key
from bioface_core.secure.masks import _CHUNK, add_masks
from bioface_core.secure.pieces import cut, rebuild_mask_key, rebuild_seed
from server.secure import unmask
from simulation.bench_secure import mask_ratios, secagg_ratios
from tests.circle import MODEL, OTHERS, SOME, STAYS, Circle, circle, flipped, session_of

FEW = session_of(3)
FIRST, SECOND, _ = FEW.members


def patterns(members: int) -> Iterator[tuple[int, ...]]:
    """Every way in which members can drop out, each before any step, such that enough stay."""
    threshold = threshold_of(0.5, members)
    for steps in product(range(STAYS + 1), repeat=members):
        if steps.count(STAYS) >= threshold:
            yield steps


@st.composite
def circles(draw: st.DrawFn, most: int) -> Circle:
    """Sessions of 3 to ``most`` with any threshold over half, and any drop-outs that leave it."""
    members = draw(st.integers(3, most))
    threshold = draw(st.integers(members // 2 + 1, members))
    leaving = draw(st.sets(st.integers(0, members - 1), max_size=members - threshold))
    steps = [draw(st.integers(0, STAYS - 1)) if number in leaving else STAYS for number in range(members)]
    return circle(session_of(members, threshold), steps)


class TestSum:
    @pytest.mark.parametrize("members", [3, 4, pytest.param(5, marks=pytest.mark.slow)])
    def test_is_exact_for_every_pattern_of_few(self, members: int) -> None:
        for steps in patterns(members):
            run = circle(session_of(members), steps).play()
            assert np.array_equal(run.unmask(), run.plain()), steps

    def test_is_exact_for_the_most_members(self) -> None:
        run = circle(session_of(20), [0, 1, 2, 2, 2, 3, 3, 4, 4]).play()
        assert np.array_equal(run.unmask(), run.plain())

    @settings(max_examples=10, deadline=None)
    @given(circles(8))
    def test_is_exact_for_any_pattern(self, run: Circle) -> None:
        assert np.array_equal(run.play().unmask(), run.plain())

    @pytest.mark.slow
    @settings(max_examples=15, deadline=None)
    @given(circles(20))
    def test_is_exact_for_any_pattern_of_many(self, run: Circle) -> None:
        assert np.array_equal(run.play().unmask(), run.plain())

    def test_messages_may_come_in_any_order(self) -> None:
        run = circle(steps=[STAYS, 2]).play(1)
        run.adverts.reverse()
        for name in reversed(run.sharers):
            run.sealed += run.parties[name].share(run.adverts)
        for name in reversed(run.survivors):
            run.masked[name] = run.parties[name].mask(run.values[name], run.for_(name)[::-1], MODEL)
        for name in reversed(run.survivors):
            run.confirmations[name] = run.parties[name].confirm(run.survivors[::-1])
        for name in reversed(run.survivors):
            run.revealed[name] = run.parties[name].reveal(run.confirmations)
        assert np.array_equal(run.unmask(), run.plain())

    def test_what_is_given_stays_as_it_was(self) -> None:
        run = circle().play()
        kept = {name: values.copy() for name, values in run.values.items()}
        total = run.total()
        before = total.copy()
        unmask(run.session, run.adverts, run.sharers, total, run.survivors, run.revealed, MODEL)
        assert np.array_equal(total, before)
        assert all(np.array_equal(run.values[name], kept[name]) for name in kept)


def chi_square(values: Words) -> float:
    """Of the bytes against equal frequencies, 255 degrees of freedom."""
    counts = np.bincount(values.view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    return float(((counts - expected) ** 2 / expected).sum())


CHANCE = 430.0  # chi-square of uniform bytes is above it once in 10**10 runs


def agreement(one: Words, other: Words) -> float:
    """The share of equal bits."""
    return 1 - float(np.unpackbits((one ^ other).view(np.uint8)).mean())


def stream(key: bytes, size: int = 2**12) -> Words:
    """The mask of a key."""
    values = np.zeros(size, np.uint32)
    add_masks(values, [key], [])
    return values


def unrelated(one: Words, other: Words) -> bool:
    """Half of the bits are equal: off by seven standard deviations once in 10**11 runs."""
    return abs(agreement(one, other) - 0.5) < 7 * 0.5 / math.sqrt(32 * len(one))


class TestMasks:
    def test_a_masked_vector_looks_uniform(self) -> None:
        small = np.random.default_rng(0).normal(0, 1000, 2**16).astype(np.int32).view(np.uint32)
        run = circle(FEW)
        run.values = dict.fromkeys(FEW.members, small)
        run.play(3)
        assert chi_square(small) > 100 * CHANCE  # the test sees a vector that is not masked
        assert all(chi_square(masked) < CHANCE for masked in run.masked.values())
        assert unrelated(run.masked[FIRST], run.masked[SECOND])

    def test_each_of_the_two_masks_hides_alone(self) -> None:
        """The server opens the pairs' masks of a drop-out, and the own mask of a survivor: the other remains."""
        zeros = np.zeros(2**14, np.uint32)
        run = circle(FEW)
        run.values = dict.fromkeys(FEW.members, zeros)
        run.play(3)
        one, others = run.parties[FIRST], run.adverts[1:]
        pairs = pair_keys(FEW, one._mask_key, run.adverts[0], others, MODEL)
        own = self_key(FEW, FIRST, one._seed)
        without_own, without_pairs = run.masked[FIRST].copy(), run.masked[FIRST].copy()
        add_masks(without_own, [], [own])
        add_masks(without_pairs, pairs.subtracting, pairs.adding)
        assert chi_square(without_own) < CHANCE
        assert chi_square(without_pairs) < CHANCE
        add_masks(without_own, pairs.subtracting, pairs.adding)
        assert not without_own.any()

    @pytest.mark.parametrize("bit", [0, 9, 131, 255])
    def test_self_seeds_that_differ_in_a_bit_give_unrelated_masks(self, bit: int) -> None:
        seed = np.random.default_rng(bit).bytes(32)
        assert unrelated(stream(self_key(FEW, FIRST, seed)), stream(self_key(FEW, FIRST, flipped(seed, bit))))

    @pytest.mark.parametrize("bit", [3, 9, 131, 253])  # of the others X25519 takes no notice
    def test_mask_keys_that_differ_in_a_bit_give_unrelated_masks(self, bit: int) -> None:
        own, other = (circle(FEW).play(1).adverts[number] for number in (0, 1))
        secret = np.random.default_rng(bit).bytes(32)
        privates = [X25519PrivateKey.from_private_bytes(content) for content in (secret, flipped(secret, bit))]
        one, two = (stream(pair_keys(FEW, private, own, [other], MODEL).adding[0]) for private in privates)
        assert unrelated(one, two)

    def test_the_same_secret_gives_another_mask_in_another_session(self) -> None:
        streams = [stream(self_key(session, FIRST, bytes(32))) for session in (SOME, *OTHERS.values())]
        assert all(unrelated(streams[0], other) for other in streams[1:])
        assert agreement(streams[0], streams[0]) == 1  # the measure sees equal masks

    @pytest.mark.parametrize("size", [0, 1, _CHUNK - 1, _CHUNK, 2 * _CHUNK + 3])
    def test_are_those_of_the_plain_way(self, size: int) -> None:
        values = np.arange(size, dtype=np.uint32)
        keys = [bytes([number]) * 32 for number in range(3)]
        whole = [Cipher(AES256(key), CTR(bytes(16))).encryptor().update(bytes(4 * size)) for key in keys]
        one, two, three = (np.frombuffer(content, "<u4").astype(np.int64) for content in whole)
        expected = (values.astype(np.int64) + one - two - three) % 2**32
        add_masks(values, keys[:1], keys[1:])
        assert np.array_equal(values, expected)


class TestSession:
    @pytest.mark.parametrize(
        ("share", "members", "threshold"), [(0.5, 3, 2), (0.5, 4, 3), (0.5, 20, 11), (0.99, 3, 3), (0.7, 10, 8)]
    )
    def test_threshold(self, share: float, members: int, threshold: int) -> None:
        assert threshold_of(share, members) == threshold

    @pytest.mark.parametrize(("members", "threshold"), [(2, 2), (21, 11), (4, 2), (20, 10), (5, 6), (3, 1)])
    def test_refuses_what_is_not_safe(self, members: int, threshold: int) -> None:
        names = tuple(str(number) for number in range(members))
        with pytest.raises(SecureError):
            Session("0" * 64, "run", 1, 1, "train", names, threshold)

    def test_refuses_a_member_twice(self) -> None:
        with pytest.raises(SecureError, match="twice"):
            replace(SOME, members=(FIRST, FIRST, SECOND))

    def test_two_uses_never_have_the_same_name(self) -> None:
        uses = [("a",), ("a", "b"), ("ab",), ("a,b",), ('a","b',), ()]
        names = {session.context(*use) for session in (SOME, *OTHERS.values()) for use in uses}
        assert len(names) == 6 * (1 + len(OTHERS))

    def test_only_the_code_travels(self) -> None:
        error = SecureError("a reason for the log")
        assert isinstance(error, WireError)
        assert error.code == Code.SECURE

    def test_nothing_shows_a_secret(self) -> None:
        run = circle(steps=[2]).play()
        pieces = cut(SOME, FIRST, bytes(range(32)), X25519PrivateKey.generate())[FIRST]
        keys = pair_keys(SOME, X25519PrivateKey.generate(), run.adverts[0], run.adverts[1:], MODEL)
        shown = repr((run.revealed[SECOND], pieces, keys, run.parties[FIRST]))
        secrets = [*run.revealed[SECOND].self_seeds.values(), pieces.self_seed, pieces.mask_key, *keys.adding]
        assert all(repr(secret) not in shown and secret.hex() not in shown for secret in secrets)


class TestPieces:
    @settings(max_examples=20, deadline=None)
    @given(st.integers(3, 8), st.binary(min_size=32, max_size=32), st.randoms(use_true_random=False))
    def test_any_threshold_of_them_gives_the_secret(self, members: int, seed: bytes, random: object) -> None:
        session, key = session_of(members), X25519PrivateKey.generate()
        advert = Advert(FIRST, b"", key.public_key().public_bytes_raw(), b"")
        names = list(session.members)
        random.shuffle(names)  # type: ignore[attr-defined]
        pieces = cut(session, FIRST, seed, key)
        seeds = {name: pieces[name].self_seed for name in names[: session.threshold]}
        keys = {name: pieces[name].mask_key for name in names[: session.threshold]}
        assert rebuild_seed(session, FIRST, seeds) == seed
        assert rebuild_mask_key(session, advert, keys).private_bytes_raw() == key.private_bytes_raw()
        del seeds[names[0]], keys[names[0]]
        with pytest.raises(SecureError, match="expected at least"):
            rebuild_seed(session, FIRST, seeds)
        with pytest.raises(SecureError, match="expected at least"):
            rebuild_mask_key(session, advert, keys)

    @pytest.mark.parametrize("bit", [0, 255, 256, 383])  # of the seed, of its tag
    def test_a_seed_that_was_tampered_with_is_noticed(self, bit: int) -> None:
        pieces = {name: one.self_seed for name, one in cut(FEW, FIRST, bytes(32), X25519PrivateKey.generate()).items()}
        pieces[FIRST] = flipped(pieces[FIRST], bit)
        with pytest.raises(SecureError, match="a piece is wrong"):
            rebuild_seed(FEW, FIRST, pieces)

    def test_another_hospitals_seed_is_noticed(self) -> None:
        pieces = {name: one.self_seed for name, one in cut(FEW, FIRST, bytes(32), X25519PrivateKey.generate()).items()}
        with pytest.raises(SecureError, match="a piece is wrong"):
            rebuild_seed(FEW, SECOND, pieces)


def test_the_benchmark_measures_what_it_says() -> None:
    ratios = mask_ratios(values=1000, hospitals=4, repeats=1)
    assert [ratio.target for ratio in ratios] == [1.0, 0.05, 5.0]
    assert ratios[1].other == pytest.approx(1.85 / 6 * 4 * 3 * 1e-3, abs=1e-4)
    assert all(ratio.ours > 0 for ratio in ratios)


@pytest.mark.parametrize("hospitals", [3, 4])
def test_flowers_own_sum_stands_beside_ours(hospitals: int) -> None:
    """Each of the two checks its own sum."""
    slowest, server = secagg_ratios(values=1000, hospitals=hospitals, repeats=1)
    assert min(slowest.ours, slowest.other, server.ours, server.other) > 0


def test_flowers_masks_have_no_more_than_32_bits() -> None:
    """What the page says beside the seconds: seeds whose parts fold to the same word give the same mask."""
    first, folded = bytes(28) + b"mask", b"mask" + bytes(28)
    assert np.array_equal(pseudo_rand_gen(first, 2**32, [(100,)])[0], pseudo_rand_gen(folded, 2**32, [(100,)])[0])
