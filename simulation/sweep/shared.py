"""What do many runs of a sweep have in common? Hospitals, stage 1 and the patients they are judged on, made once.

Each lies in a folder named by the hash of all that it follows from. Whoever needs it first makes it, the others wait.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from bioface_core.config import Study
from bioface_core.files import replace_folder
from bioface_core.learner import use
from bioface_core.start import write_start
from simulation import sites
from simulation.hospitals import make_hospitals
from simulation.stage1 import make_start

_ENGINE = {"engine", "workers", "compare"}  # of `simulation`; they change no patient


def shared_hospitals(root: Path, study: Study) -> Path:
    """A folder with the hospitals' stores, as a run folder holds them."""
    follows_from = [study.seed, study.syndromes, study.simulation.model_dump(mode="json", exclude=_ENGINE)]
    return made_once(
        root, "hospitals", follows_from, lambda fresh: sites.lay_hospitals(fresh, study, make_hospitals(study, _ignore))
    )


def shared_start(root: Path, study: Study, base_seed: int) -> Path:
    """A folder with base and public people, as a run folder holds them.

    Args:
        root: of what is shared.
        study: its network, stage 1 and phantoms count; its loss does not, for the people come with every base.
        base_seed: draws the people and the initial weights.
    """
    study = study.replace({"seed": base_seed, "loss": {"mode": "cross-alternate", "identification": True}})
    network = study.model.model_dump(mode="json", exclude={"trainable", "base_sha256"})
    dials = study.simulation.phantoms.model_dump(mode="json")
    follows_from = [base_seed, network, study.pretrain.model_dump(mode="json"), dials]
    return made_once(
        root,
        "start",
        follows_from,
        lambda fresh: write_start(fresh, make_start(study, _ignore, _ignore, use(study.speed))),
    )


def made_once(root: Path, what: str, follows_from: Any, make: Callable[[Path], None]) -> Path:
    """The folder that ``make`` fills, unless it has been filled before, by this process or another.

    Args:
        root: where it lies.
        what: the beginning of its name.
        follows_from: everything that its content is a function of, as JSON can say it.
        make: called with an empty folder.
    """
    content = json.dumps(follows_from, sort_keys=True).encode("utf-8")
    folder = root / f"{what}-{hashlib.sha256(content).hexdigest()[:16]}"
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not folder.exists():
            with replace_folder(folder) as fresh:
                make(fresh)
    return folder


def _ignore(*_: object) -> None:
    pass
