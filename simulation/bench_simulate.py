"""What does the inline engine cost? The federated arm of the demo through it, beside a plain loop of the same steps."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from bioface_core.checkpoint import open_run
from bioface_core.config import Study, find_study, read_study
from bioface_core.learner import use
from bioface_core.start import write_start
from simulation import sites
from simulation.hospitals import make_hospitals
from simulation.plain import run_plain
from simulation.progress import Progress
from simulation.ratio import Ratio, timed
from simulation.run import federate
from simulation.stage1 import make_start

_PAIRS = 3
_BENCH = ("federation.rounds=3", "federation.strategy=fedavg", "pretrain.identities=100", "pretrain.epochs=1")


def simulate_ratios() -> list[Ratio]:
    """The federated arm of the demo, three rounds of it, through our engine and as a plain loop."""
    study = read_study(find_study("demo"), _BENCH)
    with tempfile.TemporaryDirectory() as scratch:
        laid = _lay_out(Path(scratch) / "laid", study)
        pairs = [_pair(Path(scratch) / f"run-{number}", laid, study) for number in range(_PAIRS)]
    wall = Ratio.of_pairs("inline engine / plain loop, whole run", 1.15, [(ours[0], other[0]) for ours, other in pairs])
    cpu = Ratio.of_pairs("inline engine / plain loop, CPU time", 1.15, [(ours[1], other[1]) for ours, other in pairs])
    return [wall, cpu]


def _lay_out(folder: Path, study: Study) -> Path:
    """Hospitals and base that every run of the benchmark shares."""
    folder.mkdir()
    device = use(study.speed)
    sites.lay_hospitals(folder, study, make_hospitals(study, _ignore))
    write_start(folder, make_start(study, _ignore, _ignore, device))
    return folder


def _pair(folder: Path, laid: Path, study: Study) -> tuple[tuple[float, float], tuple[float, float]]:
    """(wall, CPU) seconds of ours and of the plain loop; both read the same files and end with the same model."""
    with open_run(folder, study) as run, Progress(quiet=True) as progress:
        for entry in laid.iterdir():
            (folder / entry.name).symlink_to(entry)
        state, ours = timed(lambda: federate(run, study, progress))
        vector, other = timed(lambda: run_plain(folder, study))
    assert torch.allclose(state.server.vector, vector, atol=1e-3), "the two did not do the same steps"
    return ours, other


def _ignore(*_: object) -> None:
    pass
