"""Is the secret randomness what it claims to be? Right in distribution, fresh every time, and never repeated."""

from __future__ import annotations

import copy
import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from scipy import stats

from bioface_core.secret import SecretRandom

KEY = bytes(range(32))
UNLIKELY = 1e-6  # a sound generator fails a test of these once in a million runs; with a fixed key, never


def test_normal_deviates_are_normal() -> None:
    deviates = SecretRandom(KEY).normal(100_001).numpy()
    assert len(deviates) == 100_001
    assert stats.kstest(deviates, "norm").pvalue > UNLIKELY
    assert abs(deviates.mean()) < 5 / len(deviates) ** 0.5
    assert abs(deviates.var() - 1) < 5 * (2 / len(deviates)) ** 0.5
    assert 0 < abs(deviates).max() < 9


def test_uniform_numbers_are_uniform_and_below_one() -> None:
    numbers = SecretRandom(KEY).uniform(100_000)
    assert stats.kstest(numbers, "uniform").pvalue > UNLIKELY
    assert numbers.min() >= 0 and numbers.max() < 1


def test_integers_are_below_their_limits() -> None:
    limits_N = torch.tensor([1, 2, 3] * 10_000)
    drawn_N = SecretRandom(KEY).below(limits_N)
    assert bool(((drawn_N >= 0) & (drawn_N < limits_N)).all())
    counts = np.bincount(drawn_N[limits_N == 3].numpy())
    assert stats.chisquare(counts).pvalue > UNLIKELY


def test_no_two_streams_and_no_two_draws_are_the_same() -> None:
    first, second = SecretRandom(), SecretRandom()
    draws = [first.normal(4), first.normal(4), second.normal(4)]
    assert len({tuple(draw.tolist()) for draw in draws}) == 3
    assert torch.equal(SecretRandom(KEY).normal(9), SecretRandom(KEY).normal(9)), "a test may fix the key"


def test_a_stream_cannot_be_copied() -> None:
    for copying in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="repeat its numbers"):
            copying(SecretRandom())


def test_a_forked_process_cannot_go_on_with_its_parent_s_stream() -> None:
    secret, fork = SecretRandom(), multiprocessing.get_context("fork")

    def child() -> None:
        try:
            secret.bytes(1)
        except RuntimeError:
            raise SystemExit(7) from None

    process = fork.Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == 7
