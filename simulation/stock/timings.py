"""What does a round cost under stock Flower? The app's own timestamps, read after a run of it.

All clocks are the same machine's. The first round is left out: it holds the start of everything. Federated evaluation
is off, which spares stock Flower a second message, and a second process, per hospital and round. The replies are in
when FedAvg gets them, which is when it can use them: up to 3 s later than the last arrives, since Flower looks for
replies so often.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulation.stock.deployment import deployed

_START_S, _ROUND_S = 120.0, 120.0  # far more than was ever seen; beyond it the run is given up


@dataclass(frozen=True)
class StockTimings:
    """One run.

    Attributes:
        rounds_s: whole rounds after the first, from the end of the last one to their own.
        overhead_s: the same without the longest work of a hospital.
        update_s: from the end of the last hospital's work to when the strategy has every reply; all rounds.
        peak_bytes: the most memory that the ServerApp's process held.
        whole_s: certificates, start, run and end.
    """

    rounds_s: tuple[float, ...]
    overhead_s: tuple[float, ...]
    update_s: tuple[float, ...]
    peak_bytes: int
    whole_s: float


def run_stock(
    folder: Path, payload_bytes: int, hospitals: int, rounds: int, seconds_of_work: float = 0.0
) -> StockTimings:
    """Deploys stock Flower on loopback, runs an app, and takes everything down.

    Args:
        folder: not there yet, or empty; logs are left in it.
        payload_bytes: of the model, float32, in sixty tensors.
        hospitals: nodes, each with a process of its own.
        rounds: of training; one is enough for the memory, and measures no round.
        seconds_of_work: that each hospital waits in each round.

    Raises:
        RuntimeError: the SuperLink did not start, the run failed, or a hospital did not answer; logs are in ``folder``.
        subprocess.SubprocessError: a command of Flower's failed or took far too long.
    """
    began, path = time.monotonic(), folder / "timings.json"
    config = {
        "num-server-rounds": rounds,
        "hospitals": hospitals,
        "payload-bytes": payload_bytes,
        "seconds-of-work": float(seconds_of_work),
        "timings": path,
    }
    with deployed(folder, hospitals) as deployment:
        deployment.run(config, _START_S + rounds * (_ROUND_S + seconds_of_work))
    if not path.exists():  # `flwr run` ends with 0 for a failed run, too
        raise RuntimeError(f"the run of stock Flower failed; see superlink.log in {folder}")
    return timings_of(json.loads(path.read_text(encoding="ascii")), hospitals, time.monotonic() - began)


def timings_of(notes: dict[str, Any], hospitals: int, whole_s: float) -> StockTimings:
    """From what the ServerApp noted.

    Raises:
        RuntimeError: a hospital did not answer in some round.
    """
    if any(len(round_) != hospitals for round_ in notes["work"]):
        raise RuntimeError(f"answers per round: {[len(round_) for round_ in notes['work']]}, expected {hospitals} each")
    rounds = [end - start for start, end in zip(notes["ended"], notes["ended"][1:], strict=False)]
    longest = [max(end - start for start, end in round_) for round_ in notes["work"]]
    last = [max(end for _, end in round_) for round_ in notes["work"]]
    return StockTimings(
        rounds_s=tuple(rounds[1:]),
        overhead_s=tuple(whole - work for whole, work in zip(rounds[1:], longest[1:], strict=True)),
        update_s=tuple(received - end for received, end in zip(notes["received"], last, strict=True)),
        peak_bytes=notes["peak_bytes"],
        whole_s=whole_s,
    )
