"""What does our machinery cost? Each claim measured beside its alternative, in turn, in one run on this machine.

``ratio`` is ours over the other's, smaller is better; ``target`` is what was promised. Figures are medians over pairs.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from rich.table import Table
from torch import Tensor

from bioface_core.checkpoint import open_run
from bioface_core.config import Study, find_study, read_study
from bioface_core.errors import ConfigError
from bioface_core.learner import use
from bioface_core.start import write_start
from simulation import phantom, sites
from simulation.hospitals import make_hospitals
from simulation.plain import run_plain
from simulation.progress import Progress
from simulation.ratio import Ratio
from simulation.run import federate
from simulation.stage1 import make_start

Result = TypeVar("Result")
_Trained = tuple[Tensor, tuple[float, float]]
_PAIRS = 3
_BENCH = ("federation.rounds=3", "federation.strategy=fedavg", "pretrain.identities=100", "pretrain.epochs=1")
_PHOTOS_PER_SECOND = 150  # what phantoms promise, one core, 112 px


def run_benchmark(name: str) -> dict[str, Any]:
    """Runs a benchmark.

    Args:
        name: ``simulate`` (the inline engine beside a plain loop), ``phantoms`` (photos per second), ``deploy`` (a
            deployed federation beside stock Flower's), ``secure`` (masked sums beside plain ones), ``dp`` (a private
            step beside a plain one and Opacus'), ``predict`` (answers beside facenet-pytorch's loop) or ``step`` (a
            local step beside a loop by hand and the usual loop).

    Returns:
        ``benchmark``, ``threads`` and ``ratios``, a list of ``Ratio`` as dictionaries.

    Raises:
        ConfigError: no such benchmark.
    """
    benchmarks: dict[str, Callable[[], list[Ratio]]] = {
        "simulate": _simulate,
        "phantoms": _phantoms,
        "deploy": _deploy,
        "secure": _secure,
        "dp": _dp,
        "predict": _predict,
        "step": _step,
    }
    if name not in benchmarks:
        raise ConfigError(f"{name} is no benchmark; known: {', '.join(benchmarks)}")
    ratios = benchmarks[name]()
    return {"benchmark": name, "threads": torch.get_num_threads(), "ratios": [asdict(ratio) for ratio in ratios]}


def table(result: dict[str, Any]) -> Table:
    """A benchmark's ratios for the terminal."""
    grid = Table(title=f"{result['benchmark']}, {result['threads']} thread(s): smaller is better", title_justify="left")
    for heading in ("", "ratio", "at most", "ours", "other"):
        grid.add_column(heading, justify="left" if not heading else "right")
    for ratio in result["ratios"]:
        grid.add_row(*(str(ratio[key]) for key in ("name", "ratio", "target", "ours", "other")))
    return grid


def _simulate() -> list[Ratio]:
    """The federated arm of the demo, three rounds of it, through our engine and as a plain loop."""
    study = read_study(find_study("demo"), _BENCH)
    with tempfile.TemporaryDirectory() as scratch:
        laid = _lay_out(Path(scratch) / "laid", study)
        _check_same_steps(Path(scratch) / "one-round", laid, study.replace({"federation": {"rounds": 1}}))
        pairs = [_seconds_of_both(Path(scratch) / f"run-{number}", laid, study) for number in range(_PAIRS)]
    wall = _ratio("inline engine / plain loop, whole run", 1.15, [(ours[0], other[0]) for ours, other in pairs])
    cpu = _ratio("inline engine / plain loop, CPU time", 1.15, [(ours[1], other[1]) for ours, other in pairs])
    return [wall, cpu]


def _lay_out(folder: Path, study: Study) -> Path:
    """Hospitals and base that every run of the benchmark shares."""
    folder.mkdir()
    device = use(study.speed)
    sites.lay_hospitals(folder, study, make_hospitals(study, _ignore))
    write_start(folder, make_start(study, _ignore, _ignore, device))
    return folder


def _check_same_steps(folder: Path, laid: Path, study: Study) -> None:
    """One round: in later ones Adam makes of the average's last digit a difference that can be seen."""
    (ours, _), (other, _) = _both(folder, laid, study)
    assert torch.allclose(ours, other, rtol=0, atol=1e-6), "the two did not do the same steps"


def _seconds_of_both(folder: Path, laid: Path, study: Study) -> tuple[tuple[float, float], tuple[float, float]]:
    (_, ours), (_, other) = _both(folder, laid, study)
    return ours, other


def _both(folder: Path, laid: Path, study: Study) -> tuple[_Trained, _Trained]:
    """What ours and the plain loop end with, and their (wall, CPU) seconds; both read the same files."""
    with open_run(folder, study) as run, Progress(quiet=True) as progress:
        for entry in laid.iterdir():
            (folder / entry.name).symlink_to(entry)
        state, ours = _timed(lambda: federate(run, study, progress))
        return (state.server.vector, ours), _timed(lambda: run_plain(folder, study))


def _deploy() -> list[Ratio]:
    """Loads Flower's servers, which the others do not need."""
    from simulation.deploy.compare import deploy_ratios

    with Progress() as progress:
        return deploy_ratios(progress.say)


def _secure() -> list[Ratio]:
    """Loads the cryptography, which the others do not need."""
    from simulation.bench_secure import secure_ratios

    return secure_ratios()


def _dp() -> list[Ratio]:
    """Loads Opacus, which the others do not need."""
    from simulation.bench_dp import dp_ratios

    return dp_ratios()


def _predict() -> list[Ratio]:
    """Loads the rival, which the others do not need."""
    from simulation.bench_predict import predict_ratios

    return predict_ratios()


def _step() -> list[Ratio]:
    """Loads torchvision, which the others do not need."""
    from simulation.bench_step import step_ratios

    return step_ratios()


def _phantoms() -> list[Ratio]:
    """Aligned phantoms of ten syndromes beside the promised rate."""
    torch.set_num_threads(1)
    syndromes = read_study(find_study("demo")).syndromes
    phantom.patients(1, syndromes, 2, 1)
    timings = [_timed(partial(phantom.patients, seed, syndromes, 10, 2))[1] for seed in range(_PAIRS)]
    return [_ratio("phantom photo / promised time", 1.0, [(cpu / 200, 1 / _PHOTOS_PER_SECOND) for _, cpu in timings])]


def _ratio(name: str, target: float, pairs: list[tuple[float, float]]) -> Ratio:
    ratio = median(ours / other for ours, other in pairs)
    ours, other = (median(column) for column in zip(*pairs, strict=True))
    return Ratio(name, round(ratio, 4), target, round(ours, 5), round(other, 5))


def _timed(work: Callable[[], Result]) -> tuple[Result, tuple[float, float]]:
    """A result with its wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, (time.perf_counter() - wall, time.process_time() - cpu)


def _ignore(*_: object) -> None:
    pass
