"""What does the inline engine cost? The federated arm of the demo through it, beside a plain loop of the same steps."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor

from bioface_core.checkpoint import open_run
from bioface_core.config import Study, find_study, read_study
from simulation.plain import run_plain
from simulation.progress import Progress
from simulation.ratio import Ratio, timed
from simulation.run import federate, lay_out

_Trained = tuple[Tensor, tuple[float, float]]
_PAIRS = 3
_BENCH = ("federation.rounds=3", "federation.strategy=fedavg", "pretrain.identities=100", "pretrain.epochs=1")


def simulate_ratios() -> list[Ratio]:
    """The federated arm of the demo, three rounds of it, through our engine and as a plain loop."""
    study = read_study(find_study("demo"), _BENCH)
    with tempfile.TemporaryDirectory() as scratch:
        laid = lay_bench(Path(scratch) / "laid", study)
        _check_same_steps(Path(scratch) / "one-round", laid, study.replace({"federation": {"rounds": 1}}))
        pairs = [_seconds_of_both(Path(scratch) / f"run-{number}", laid, study) for number in range(_PAIRS)]
    wall = Ratio.of_pairs("inline engine / plain loop, whole run", 1.15, [(ours[0], other[0]) for ours, other in pairs])
    cpu = Ratio.of_pairs("inline engine / plain loop, CPU time", 1.15, [(ours[1], other[1]) for ours, other in pairs])
    return [wall, cpu]


def lay_bench(folder: Path, study: Study) -> Path:
    """A new folder with the hospitals and the base that every run of a benchmark shares."""
    folder.mkdir()
    with Progress(quiet=True) as progress:
        lay_out(folder, study, progress)
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
        state, ours = timed(lambda: federate(run, study, progress))
        return (state.server.vector, ours), timed(lambda: run_plain(folder, study))
