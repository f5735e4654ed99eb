"""What does it cost to average updates? Ours as they arrive, beside Flower's FedAvg, each in a process of its own.

Both begin with the records of a reply as the transport hands them over, and end with the next shared model. Ours are
read with every check on receipt, added to the exact sum, and dropped; then mean and step. Flower's are given to
``FedAvg.aggregate_train`` all at once, which is how it takes them: one array for each tensor of the network.
Making the replies is not timed.

Extra memory is the peak of the process above what it held before the first reply came; the shared model and the
numbers that the replies are made of were there before, on both sides. So a reply of ours counts while it is there, and
all of Flower's count. What Flower needs beside its replies is given as well.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity
from torch import Tensor

from bioface_core.layout import Layout, layout_of
from bioface_core.messages import Contract, Phase, Ticket, Update
from bioface_core.model import Recogniser
from bioface_core.sections import Federation, Model
from bioface_core.wire import pack_reply, unpack_reply
from server.strategy import WeightedSum, start_state, step
from simulation.fresh import forget_peak, in_fresh_process, resident_mb
from simulation.ratio import Ratio

_DEPTHS, _UPDATES, _PAIRS = (18, 50), (3, 10, 30), 3  # 11.5 and 31.2 million values
_CLASSES, _PATIENTS = 10, 30
_TIME, _MEMORY, _GROWTH = 0.3, 0.15, 1.05  # promised
_TICKET = Ticket("0" * 64, "bench", 1, 1, Phase.TRAIN)
_WEIGHT = "num-examples"


@dataclass(frozen=True)
class Cost:
    """Of one aggregation.

    Attributes:
        cpu_s: CPU time of the process.
        wall_s: on the clock.
        extra_mb: most memory above that before the first reply.
        beside_mb: most memory above that with all replies there; the same as ``extra_mb`` where they never are.
    """

    cpu_s: float
    wall_s: float
    extra_mb: float
    beside_mb: float


class Stopwatch:
    """Adds up the seconds of what happens in its blocks."""

    def __init__(self) -> None:
        self.cpu_s = self.wall_s = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Counts the block."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall_s += time.perf_counter() - wall
        self.cpu_s += time.process_time() - cpu


def aggregate_ratios(
    depths: tuple[int, ...] = _DEPTHS, updates: tuple[int, ...] = _UPDATES, pairs: int = _PAIRS, width: float = 1.0
) -> list[Ratio]:
    """Time and memory of both, and how our memory grows with the updates.

    Args:
        depths: of the networks.
        updates: how many are averaged, from few to many.
        pairs: of processes, ours and Flower's in turn; medians count.
        width: of the networks.
    """
    ratios = []
    for depth in depths:
        shapes = shapes_of(depth, width)
        costs = {count: [_pair(shapes, count) for _ in range(pairs)] for count in updates}
        size = f"{Layout(shapes).size / 1e6:.3g} M values"
        ratios += [ratio for count, found in costs.items() for ratio in _ratios(f"{count} updates of {size}", found)]
        few, many = ([ours.extra_mb for ours, _ in costs[count]] for count in (updates[0], updates[-1]))
        name = f"{size}: our extra memory, {updates[-1]} updates / {updates[0]}, MB"
        ratios.append(Ratio.of_pairs(name, _GROWTH, list(zip(many, few, strict=True))))
    return ratios


def shapes_of(depth: int, width: float) -> dict[str, tuple[int, ...]]:
    """The tensors of a network that trains everything, by name."""
    settings = {"depth": depth, "width": width, "norm": "group", "pool": "global", "base": "scratch"}
    return layout_of(Recogniser(Model.model_validate(settings), _CLASSES)).shapes


def _pair(shapes: dict[str, tuple[int, ...]], count: int) -> tuple[Cost, Cost]:
    return in_fresh_process(ours, shapes, count), in_fresh_process(flowers, shapes, count)


def _ratios(name: str, costs: list[tuple[Cost, Cost]]) -> list[Ratio]:
    def ratio(what: str, target: float, pairs: list[tuple[float, float]]) -> Ratio:
        return Ratio.of_pairs(f"{name} / Flower's FedAvg, {what}", target, pairs)

    return [
        ratio("CPU time", _TIME, [(ours.cpu_s, other.cpu_s) for ours, other in costs]),
        ratio("wall time", _TIME, [(ours.wall_s, other.wall_s) for ours, other in costs]),
        ratio("extra memory, MB", _MEMORY, [(ours.extra_mb, other.extra_mb) for ours, other in costs]),
        ratio("extra memory, its replies not counted, MB", 1.0, [(ours.extra_mb, o.beside_mb) for ours, o in costs]),
    ]


def ours(shapes: dict[str, tuple[int, ...]], count: int) -> Cost:
    """So many replies through the checks on receipt into the exact sum, one after the other; mean; step."""
    model, delta, settings = *_numbers(shapes), Federation(strategy="fedavg")
    contract = Contract(_TICKET.study_id, "schema", len(delta), _CLASSES, 1, settings.norm_bound)
    state, watch = start_state(settings, model), Stopwatch()
    before = forget_peak()
    with watch.running():
        total = WeightedSum(len(delta), _CLASSES, shapes["prototypes"][1], count, settings.norm_bound)
    for number in range(count):
        weights_K = torch.full((_CLASSES,), _PATIENTS)
        record = pack_reply(Update(_TICKET, f"h{number}", "schema", delta, _PATIENTS + number, weights_K, 1.0))
        with watch.running():
            update = unpack_reply(record, contract, _TICKET)
            assert isinstance(update, Update)
            total.add(update)
            del update, record
    with watch.running():
        change = total.mean()
        del total
        state = step(settings, state, change)
    extra_mb = resident_mb("VmHWM") - before
    _check(change, delta)
    return Cost(watch.cpu_s, watch.wall_s, extra_mb, extra_mb)


def flowers(shapes: dict[str, tuple[int, ...]], count: int) -> Cost:
    """The same replies as Flower's own records, all at once through its FedAvg."""
    _, delta = _numbers(shapes)
    strategy, watch = FedAvg(weighted_by_key=_WEIGHT), Stopwatch()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # without them Flower makes no message
    before = forget_peak()
    replies = [_flower_reply(shapes, delta, _PATIENTS + number) for number in range(count)]
    gc.collect()
    with_replies = forget_peak()
    with watch.running():
        arrays, _ = strategy.aggregate_train(1, replies)
    peak = resident_mb("VmHWM")
    assert arrays is not None
    _check(torch.cat([torch.from_numpy(array.numpy()).flatten() for array in arrays.values()]), delta)
    return Cost(watch.cpu_s, watch.wall_s, peak - before, peak - with_replies)


def _numbers(shapes: dict[str, tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """A shared model and an update, float32 (n,)."""
    torch.set_num_threads(1)
    model_n, delta_n = torch.randn(2, Layout(shapes).size, generator=torch.Generator().manual_seed(0)).unbind()
    return model_n, delta_n.mul_(1e-3)


def _flower_reply(shapes: dict[str, tuple[int, ...]], delta: Tensor, weight: int) -> Message:
    parts = delta.split([int(np.prod(shape)) for shape in shapes.values()])
    named = zip(shapes.items(), parts, strict=True)
    arrays = ArrayRecord({name: Array(part.view(shape).numpy()) for (name, shape), part in named})
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({_WEIGHT: weight})})
    return Message(content, dst_node_id=1, message_type="train")


def _check(mean: Tensor, delta: Tensor) -> None:
    """A benchmark of a wrong mean says nothing; all updates are the same here."""
    assert torch.allclose(mean, delta, rtol=1e-5, atol=1e-9), "the mean is wrong"
