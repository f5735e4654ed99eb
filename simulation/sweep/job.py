"""What is one run of a sweep? Hospitals and base are linked in, arms trained and judged; the row is kept, not the run.

A run that was killed goes on from its last round; what is kept of a finished one is a JSON file of a few lines.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bioface_core.checkpoint import RunFolder, open_run
from bioface_core.config import Study
from bioface_core.files import write_text
from bioface_core.learner import Learner
from bioface_core.photos import PhotoSet, concatenate
from simulation import arms, sites
from simulation.hospitals import hospital_names
from simulation.progress import Progress
from simulation.run import federate, lay_out, settled
from simulation.sweep.judge import Judge, Measures, class_means, shared_judge
from simulation.sweep.plan import Arm, Job
from simulation.sweep.shared import shared_hospitals, shared_start


@dataclass(frozen=True)
class Scene:
    """A run, laid out.

    Attributes:
        run: its folder, open.
        study: settled.
        learner: its network.
        train: training photos of each hospital.
        judge: of its models.
    """

    run: RunFolder
    study: Study
    learner: Learner
    train: list[PhotoSet]
    judge: Judge


def run_job(folder: Path, job: Job) -> None:
    """Runs a job and writes its row.

    Args:
        folder: of the sweep.
        job: one of its runs.

    Raises:
        ConfigError, WeightsError: what is to be run cannot be.
        RoundError: a round found too few hospitals.
    """
    shared, runs = folder.parent / "shared", folder / "runs"
    start = None if job.study.model.base == "scratch" else shared_start(shared, job.study, job.base_seed)
    study = settled(_based(job.study, start))
    runs.mkdir(exist_ok=True)
    with open_run(runs / job.name, study) as run, Progress(quiet=True) as progress:
        _link(run.path, shared_hospitals(shared, study))
        if start is not None:
            _link(run.path, start)
        lay_out(run.path, study, progress)
        learner = sites.open_learner(run.path)
        train = [sites.open_store(run.path, index).train() for index in range(len(hospital_names(study)))]
        scene = Scene(run, study, learner, train, shared_judge(shared, study, job.judging))
        figures = {arm: _figures(arm, scene) for arm in job.arms}
    write_text(row_file(folder, job), json.dumps({"key": job.key, "arms": figures}))
    shutil.rmtree(run.path)


def row_file(folder: Path, job: Job) -> Path:
    """Where the row of a job lies."""
    return folder / "rows" / f"{job.name}.json"


def _based(study: Study, start: Path | None) -> Study:
    """The study with its base as a file, for the base may be of another seed."""
    return study if start is None else study.replace({"model": {"base": str(start / "base.safetensors")}})


def _link(run: Path, made: Path) -> None:
    """Lays everything that is in a shared folder into a run's."""
    for entry in made.iterdir():
        if not (run / entry.name).exists():
            (run / entry.name).symlink_to(entry.resolve())


def _figures(arm: Arm, scene: Scene) -> dict[str, Any]:
    """The measures of an arm, its seconds, and the bytes of a round where rounds were held."""
    began = time.process_time()
    measures, more = _ARMS[arm](scene)
    return asdict(measures) | more | {"cpu_seconds": round(time.process_time() - began, 1)}


def _federated(scene: Scene) -> tuple[Measures, dict[str, Any]]:
    with Progress(quiet=True) as progress:
        final = federate(scene.run, scene.study, progress)
    last = scene.run.read_summary(scene.study.federation.rounds)
    bytes_ = (last.bytes_up + last.bytes_down) / len(scene.train)
    return scene.judge.measure(scene.learner, final.server.vector), {"bytes_per_round_and_hospital": round(bytes_)}


def _alone(scene: Scene) -> tuple[Measures, dict[str, Any]]:
    names = hospital_names(scene.study)
    vectors = [_trained(scene, photos, name) for name, photos in zip(names, scene.train, strict=True) if len(photos)]
    return Measures.mean([scene.judge.measure(scene.learner, vector) for vector in vectors]), {}


def _pooled(scene: Scene) -> tuple[Measures, dict[str, Any]]:
    return scene.judge.measure(scene.learner, _trained(scene, concatenate(scene.train), arms.POOLED)), {}


def _identification(scene: Scene) -> tuple[Measures, dict[str, Any]]:
    """No training on patients: each syndrome is the mean of all hospitals' embeddings under the base."""
    learner, photos = scene.learner, concatenate(scene.train)
    means_KD = class_means(learner.embed(learner.start(), photos), photos.labels_N, learner.classes)
    return scene.judge.measure(learner, learner.start(), means_KD), {}


def _trained(scene: Scene, photos: PhotoSet, stream: str) -> Tensor:
    vector = arms.train_alone(scene.learner, photos, stream)
    if vector is None:
        raise KeyboardInterrupt
    return vector


_ARMS: dict[Arm, Callable[[Scene], tuple[Measures, dict[str, Any]]]] = {
    "alone": _alone,
    "federated": _federated,
    "pooled": _pooled,
    "identification": _identification,
}
