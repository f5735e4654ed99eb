"""What does the lab do under stock Flower? It gives FedAvg a state_dict and starts it.

Source: ``server_app.py`` of Flower's ``quickstart-pytorch``; what is added takes the time and changes nothing.
"""

from __future__ import annotations

import json
import re
import time
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

_BLOCKS, _STAGES = 20, 4

app = ServerApp()


class TimedFedAvg(FedAvg):
    """Flower's FedAvg, which notes when the replies of a round are in.

    Args:
        hospitals: all of them take part in every round.
    """

    def __init__(self, hospitals: int) -> None:
        # Without federated evaluation, which would cost another message, and another process, per hospital and round.
        super().__init__(fraction_evaluate=0.0, min_train_nodes=hospitals, min_available_nodes=hospitals)
        self.received: list[float] = []
        self.work: list[list[tuple[object, object]]] = []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """FedAvg's own."""
        self.received.append(time.time())
        replies = list(replies)
        metrics = [reply.content.metric_records["metrics"] for reply in replies if reply.has_content()]
        self.work.append([(one["began"], one["ended"]) for one in metrics])
        return super().aggregate_train(server_round, replies)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """The whole run; at the end the timings are written to the file that the run's configuration names."""
    config = context.run_config
    strategy, ended = TimedFedAvg(int(config["hospitals"])), []
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(state_of(int(config["payload-bytes"]))),
        num_rounds=int(config["num-server-rounds"]),
        evaluate_fn=lambda round_, arrays: ended.append(time.time()),  # called at the start and after each round
    )
    timings = {"received": strategy.received, "work": strategy.work, "ended": ended, "peak_bytes": peak_bytes()}
    Path(str(config["timings"])).write_text(json.dumps(timings), encoding="ascii")


def state_of(payload_bytes: int) -> OrderedDict[str, Tensor]:
    """Zeros, float32, ``payload_bytes`` in all, in sixty tensors: few are large, as in a ResNet.

    Each block has a convolution and the scale and shift of its norm; each stage has twice the channels of the last.
    """
    channels = [2 ** (block * _STAGES // _BLOCKS) for block in range(_BLOCKS)]
    shares = {
        f"block{block}.{name}": share
        for block, width in enumerate(channels)
        for name, share in (("norm.weight", width), ("norm.bias", width), ("conv.weight", 9 * 64 * width**2))
    }
    values, whole = payload_bytes // 4, sum(shares.values())
    sizes = {name: max(1, values * share // whole) for name, share in shares.items()}
    sizes[f"block{_BLOCKS - 1}.conv.weight"] += values - sum(sizes.values())
    return OrderedDict((name, torch.zeros(size)) for name, size in sizes.items())


def peak_bytes() -> int:
    """The most memory this process ever held; ``getrusage`` would count that of the process that started it, too."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None, "no VmHWM: this is not Linux"
    return int(found.group(1)) * 1024
