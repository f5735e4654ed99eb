"""What does our machinery cost? Each claim measured beside its alternative, in turn, in one run on this machine.

``ratio`` is ours over the other's, smaller is better; ``target`` is what was promised. Figures are medians over pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from typing import Any

import torch
from rich.table import Table

from bioface_core.errors import ConfigError
from simulation.ratio import Ratio

# Where each is measured: a function without arguments that returns a list of ratios. Loaded when it is asked for, since
# rivals and their libraries take seconds to import.
BENCHMARKS = {
    "simulate": "simulation.bench_simulate:simulate_ratios",
    "phantoms": "simulation.bench_phantoms:phantoms_ratios",
    "deploy": "simulation.deploy.compare:deploy_ratios",
    "secure": "simulation.bench_secure:secure_ratios",
    "dp": "simulation.bench_dp:dp_ratios",
    "predict": "simulation.bench_predict:predict_ratios",
    "aggregate": "simulation.bench_aggregate:aggregate_ratios",
    "intake": "simulation.bench_intake:intake_ratios",
    "bytes": "simulation.bench_bytes:bytes_ratios",
    "step": "simulation.bench_step:step_ratios",
    "cache": "simulation.bench_cache:cache_ratios",
    "gpu": "simulation.bench_gpu:gpu_ratios",
}


def run_benchmark(name: str) -> dict[str, Any]:
    """Runs a benchmark.

    Args:
        name: one of these:
            ``simulate``: the inline engine beside a plain loop.
            ``phantoms``: photos per second.
            ``deploy``: a deployed federation beside stock Flower's.
            ``secure``: masked sums beside plain ones and Flower's SecAgg+.
            ``dp``: a private step beside a plain one and Opacus' three modes.
            ``predict``: answers beside facenet-pytorch's loop.
            ``aggregate``: averaging updates beside Flower's FedAvg.
            ``intake``: photos into a store beside facenet-pytorch's loop.
            ``bytes``: messages of few bits beside float32.
            ``step``: a local step beside a loop by hand and the usual loop.
            ``cache``: a round that keeps what the frozen front made beside one that computes it.
            ``gpu``: our step on a GPU beside a bare one.

    Returns:
        ``benchmark``, ``threads`` and ``ratios``, a list of ``Ratio`` as dictionaries.

    Raises:
        ConfigError: no such benchmark, or it wants a GPU and there is none.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"{name} is no benchmark; known: {', '.join(BENCHMARKS)}")
    ratios = _measure(BENCHMARKS[name])()
    return {"benchmark": name, "threads": torch.get_num_threads(), "ratios": [asdict(ratio) for ratio in ratios]}


def table(result: dict[str, Any]) -> Table:
    """A benchmark's ratios for the terminal."""
    grid = Table(title=f"{result['benchmark']}, {result['threads']} thread(s): smaller is better", title_justify="left")
    for heading in ("", "ratio", "at most", "ours", "other"):
        grid.add_column(heading, justify="left" if not heading else "right")
    for ratio in result["ratios"]:
        grid.add_row(*(str(ratio[key]) for key in ("name", "ratio", "target", "ours", "other")))
    return grid


def _measure(place: str) -> Callable[[], list[Ratio]]:
    """The function at ``module:function``."""
    module, _, function = place.partition(":")
    found: Callable[[], list[Ratio]] = getattr(import_module(module), function)
    return found
