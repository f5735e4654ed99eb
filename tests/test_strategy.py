"""Is the average exact whatever the order, and is each server optimiser its paper's?"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from fractions import Fraction
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bioface_core.messages import WEIGHT_BOUND, Phase, Ticket, Update
from bioface_core.sections import Federation
from bioface_core.seeding import generator
from server.strategy import ServerState, WeightedSum, start_state, step

Strategy = Literal["fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi"]
CLASSES, EMBEDDING, SIZE, BOUND = 3, 4, 17, 100.0
TICKET = Ticket("study", "run", 1, 1, Phase.TRAIN)
STRATEGIES: tuple[Strategy, ...] = ("fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi")


def update(delta: Tensor, weight: int, present: tuple[int, ...] = (1, 1, 1)) -> Update:
    class_weights_K = weight * torch.tensor(present)
    return Update(TICKET, "hospital", "schema", delta, weight, class_weights_K, 0.0)


def random_updates(hospitals: int, seed: int, size: int = SIZE) -> list[Update]:
    """Updates of all sizes, weights and classes."""
    dice, randomness = random.Random(seed), generator("updates", seed)
    return [
        update(
            torch.randn(size, generator=randomness) * 10.0 ** dice.randint(-6, 0),
            dice.choice([0, 10, 30, 970]),
            (dice.randint(0, 1), dice.randint(0, 1), dice.randint(0, 1)),
        )
        for _ in range(hospitals)
    ]


def summed(updates: list[Update], size: int = SIZE) -> WeightedSum:
    total = WeightedSum(size, CLASSES, EMBEDDING, len(updates), BOUND)
    for one in updates:
        total.add(one)
    return total


def plain_mean(updates: list[Update]) -> list[float]:
    """The weighted mean, value by value, in Python floats."""
    network = SIZE - CLASSES * EMBEDDING
    mean = []
    for position in range(SIZE):
        row = (position - network) // EMBEDDING
        weights = [one.weight if position < network else int(one.class_weights_K[row]) for one in updates]
        values = [float(one.delta[position]) for one in updates]
        total = math.fsum(weight * value for weight, value in zip(weights, values, strict=True))
        mean.append(total / sum(weights) if sum(weights) else 0.0)
    return mean


@given(st.integers(1, 9), st.integers(0, 999))
def test_the_mean_is_the_plain_mean(hospitals: int, seed: int) -> None:
    updates = [*random_updates(hospitals, seed), update(torch.ones(SIZE), 10, (1, 0, 0))]
    total = summed(updates)
    rounding = len(updates) * 2.0 ** -(total.scale_bits + 1) / 10  # of every hospital's product, over the least weight
    for found, expected in zip(total.mean().tolist(), plain_mean(updates), strict=True):
        assert abs(found - expected) <= rounding + 2**-23 * abs(expected)


@given(st.integers(2, 9), st.integers(0, 999), st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_no_bit(hospitals: int, seed: int, dice: random.Random) -> None:
    updates = [*random_updates(hospitals, seed), update(torch.ones(SIZE), 10)]
    shuffled = dice.sample(updates, len(updates))
    assert torch.equal(summed(updates).mean(), summed(shuffled).mean())


def exact_mean(updates: list[Update], scale_bits: int) -> list[float]:
    """Every product rounded to an integer by itself, halves to even, and all added up in Python's integers."""
    network, mean = SIZE - CLASSES * EMBEDDING, []
    for position in range(SIZE):
        row = (position - network) // EMBEDDING
        weights = [one.weight if position < network else int(one.class_weights_K[row]) for one in updates]
        values = [Fraction(float(one.delta[position])) for one in updates]
        total = sum(round(weight * value * 2**scale_bits) for weight, value in zip(weights, values, strict=True))
        mean.append(float(torch.tensor(float(total) / (max(1, sum(weights)) * 2.0**scale_bits), dtype=torch.float32)))
    return mean


@given(st.integers(1, 5), st.integers(0, 999), st.sampled_from([1, 30, 511, 2**13, WEIGHT_BOUND]))
def test_every_bit_is_that_of_integers_rounded_one_by_one(hospitals: int, seed: int, weight: int) -> None:
    """Halves, which go to the even integer, and weights on both sides of what is rounded by adding."""
    steps = torch.randint(-(2**20), 2**20, (hospitals, SIZE), generator=generator("halves", seed))
    exponents = torch.randint(-35, 6, (hospitals, SIZE), generator=generator("exponents", seed))
    updates = [update(delta, weight, (1, 0, 1)) for delta in torch.ldexp(steps.float() / 2**20, exponents)]
    total = summed(updates)
    assert total.mean().tolist() == exact_mean(updates, total.scale_bits)


@pytest.mark.parametrize("hospitals", [1, 3, 20, 1000])
@pytest.mark.parametrize("bound", [1e-3, 100.0, 1e9])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_largest_updates_do_not_overflow(hospitals: int, bound: float, sign: float) -> None:
    """Every hospital with the largest weight sends the whole norm in one value."""
    total = WeightedSum(SIZE, CLASSES, EMBEDDING, hospitals, bound)
    delta = torch.zeros(SIZE)
    delta[[0, -1]] = sign * bound
    for _ in range(hospitals):
        total.add(update(delta, WEIGHT_BOUND))
    assert total.mean()[0].item() == total.mean()[-1].item() == pytest.approx(sign * bound)


def test_small_updates_are_not_rounded_away() -> None:
    """The scale leaves more bits than a float32 has, for values seen in training."""
    delta = torch.full((SIZE,), 1.2345678e-4)
    assert torch.equal(summed([update(delta, 10), update(delta, 970)]).mean(), delta)


def test_several_chunks_are_summed_like_one() -> None:
    size = 2**18 + 2**17 + 5
    updates = random_updates(3, seed=1, size=size) + [update(torch.ones(size), 10)]
    weights = torch.tensor([float(one.weight) for one in updates], dtype=torch.float64)
    deltas = torch.stack([one.delta.double() for one in updates])
    network = slice(0, size - CLASSES * EMBEDDING)
    expected = (weights @ deltas / weights.sum())[network]
    assert torch.allclose(summed(updates, size).mean()[network].double(), expected, rtol=1e-6, atol=1e-10)


def test_a_row_that_nobody_has_stays() -> None:
    mean = summed([update(torch.ones(SIZE), 10, (1, 0, 1)), update(torch.ones(SIZE), 20, (0, 0, 1))]).mean()
    assert mean[:5].tolist() == [1.0] * 5
    assert mean[5:].view(CLASSES, EMBEDDING).tolist() == [[1.0] * 4, [0.0] * 4, [1.0] * 4]


def test_a_row_is_averaged_over_those_who_have_it() -> None:
    mean = summed([update(torch.full((SIZE,), 2.0), 10, (1, 1, 0)), update(torch.full((SIZE,), 5.0), 20)]).mean()
    assert mean[0].item() == 4.0
    assert mean[5:].view(CLASSES, EMBEDDING)[:, 0].tolist() == [4.0, 4.0, 5.0]


def test_hospitals_without_patients_change_nothing() -> None:
    alone, beside = [update(torch.ones(SIZE), 10)], [update(torch.full((SIZE,), 9.0), 0)]
    assert torch.equal(summed(alone).mean(), summed(alone + beside).mean())


def test_the_memory_does_not_grow_with_the_hospitals() -> None:
    few, many = summed(random_updates(2, 0)), summed(random_updates(50, 0))
    assert [value.shape for value in vars(few).values() if isinstance(value, Tensor)] == [
        value.shape for value in vars(many).values() if isinstance(value, Tensor)
    ]


def plain_steps(settings: Federation, vector: list[float], changes: list[list[float]]) -> list[float]:
    """The five rules value by value, in Python floats, as the papers write them."""
    rate, beta1, beta2 = settings.server_rate, settings.server_momentum, settings.server_beta2
    tau = settings.server_tau
    end = []
    for position, value in enumerate(vector):
        x, m, v = value, 0.0, tau**2
        for change in changes:
            d = change[position]
            if settings.strategy == "fedavg":
                x += rate * d
            elif settings.strategy == "fedavgm":
                m = beta1 * m + d
                x += rate * m
            elif settings.strategy == "fedadagrad":
                v += d * d
                x += rate * d / (math.sqrt(v) + tau)
            else:
                m = beta1 * m + (1 - beta1) * d
                sign = (v > d * d) - (v < d * d)
                yogi = v - (1 - beta2) * d * d * sign
                v = yogi if settings.strategy == "fedyogi" else beta2 * v + (1 - beta2) * d * d
                x += rate * m / (math.sqrt(v) + tau)
        end.append(x)
    return end


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_rule_is_its_paper_s(strategy: Strategy) -> None:
    settings = Federation(strategy=strategy, server_rate=0.3, server_momentum=0.7, server_beta2=0.9, server_tau=0.01)
    randomness = generator("steps")
    vector, changes = torch.randn(11, generator=randomness), torch.randn(6, 11, generator=randomness)
    state = start_state(settings, vector)
    for change in changes:
        state = step(settings, state, change)
    expected = torch.tensor(plain_steps(settings, vector.tolist(), changes.tolist()))
    assert torch.allclose(state.vector, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("strategy", "make"),
    [
        ("fedavg", lambda x: torch.optim.SGD([x], lr=0.3)),
        ("fedavgm", lambda x: torch.optim.SGD([x], lr=0.3, momentum=0.9)),
        ("fedadagrad", lambda x: torch.optim.Adagrad([x], lr=0.3, initial_accumulator_value=1e-4, eps=1e-2)),
    ],
)
def test_where_torch_has_the_rule_it_is_torch_s(
    strategy: Strategy, make: Callable[[Tensor], torch.optim.Optimizer]
) -> None:
    settings = Federation(strategy=strategy, server_rate=0.3, server_tau=1e-2)
    randomness = generator("torch")
    x = torch.randn(11, generator=randomness)
    state, optimiser = start_state(settings, x.clone()), make(x)
    for change in torch.randn(5, 11, generator=randomness):
        state = step(settings, state, change)
        x.grad = -change
        optimiser.step()
    assert torch.allclose(state.vector, x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_step_leaves_the_old_state_alone(strategy: Strategy) -> None:
    settings = Federation(strategy=strategy)
    before = start_state(settings, torch.ones(5))
    copy = ServerState(before.vector.clone(), {name: moment.clone() for name, moment in before.moments.items()})
    step(settings, step(settings, before, torch.ones(5)), torch.ones(5))
    assert torch.equal(before.vector, copy.vector)
    assert all(torch.equal(before.moments[name], moment) for name, moment in copy.moments.items())
