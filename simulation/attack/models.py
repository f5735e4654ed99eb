"""Which models does the attack need beside the run's own? Its twin with or without privacy, and reference models.

All are trained by the run's own code on the run's own patients, and kept in ``RUN/attacks``: a killed attack goes on
where it stopped.

Legend: n values of the vector, P patients, M reference models.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from bioface_core.checkpoint import RunFolder, open_run
from bioface_core.config import Study, find_study, read_study
from bioface_core.evaluate import macro_top
from bioface_core.files import write_bytes
from bioface_core.learner import Learner
from bioface_core.photos import PhotoSet
from simulation.attack.membership import halves
from simulation.progress import Progress
from simulation.run import federate

_ALONE: dict[str, Any] = {"secure": {"enabled": False}, "simulation": {"engine": "inline", "compare": False}}
_SHARED = ("hospitals", "identities", "base.safetensors")


def plain_study(study: Study) -> Study:
    """The study without privacy, masks and comparison."""
    return study.replace({"privacy": {"unit": "none"}, **_ALONE})


def private_study(study: Study) -> Study:
    """The study with patient-level privacy: its own, or that of the private study we ship.

    The loss may not compare patients then: a triplet becomes a pull.
    """
    own = study if study.privacy.unit == "patient" else read_study(find_study("private"))
    privacy = own.privacy.model_dump()
    return study.replace({"privacy": privacy, "loss": {"metric": "pull"}, **_ALONE})


def final_of(folder: Path, study: Study) -> tuple[Tensor, float]:
    """The vector after a run's last round, and its macro Top-1."""
    run = RunFolder(folder)
    last = study.federation.rounds
    return run.read_tensors(last)["vector"], macro_top(run.read_summary(last).counts, 1).value


def train_twin(folder: Path, twin: Study, name: str, progress: Progress) -> Path:
    """Federates the run's patients under another study, or goes on with it.

    Args:
        folder: the run's.
        twin: differs from the run's study in nothing that makes hospitals or base.
        name: of the twin's folder in ``RUN/attacks``.
        progress: is told of every round.
    """
    path = folder / "attacks" / name
    with open_run(path, twin) as run:
        for shared in _SHARED:
            if (folder / shared).exists() and not (path / shared).exists():
                (path / shared).symlink_to((folder / shared).resolve())
        federate(run, twin, progress)
    return path


def reference_models(
    folder: Path, learner: Learner, photos: PhotoSet, references: int, on_model: Callable[[int, int], None]
) -> tuple[list[Tensor], Tensor]:
    """Models of as many passes as the run had, each trained in one place on a random half of the patients.

    Args:
        folder: the run's.
        learner: of the study without privacy.
        photos: of patients 0 to P - 1, trained on or held out.
        references: M.
        on_model: called with (models done, models in all).

    Returns:
        The vectors, and whom each was trained on, bool (M, P).
    """
    trained_MP = halves(photos.patients(), references, learner.study.seed)
    vectors = []
    for number, trained_P in enumerate(trained_MP):
        on_model(number, references)
        path = folder / "attacks" / f"reference-{number}.safetensors"
        if not path.exists():
            vector = _train(learner, photos.take(trained_P[photos.patients_N]), f"reference-{number}")
            write_bytes(path, save({"vector": vector}))
        vectors.append(load_file(path)["vector"])
    on_model(references, references)
    return vectors, trained_MP


def _train(learner: Learner, photos: PhotoSet, stream: str) -> Tensor:
    vector = learner.start()
    for round_ in range(1, learner.study.federation.rounds + 1):
        vector = vector + learner.train(vector, photos, round_, stream).delta
    return vector
