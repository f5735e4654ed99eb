"""What is federating worth? The same training, for as many passes, by each hospital alone and on all photos pooled.

Each arm runs in a process of its own and leaves one file, so that an interrupted comparison goes on where it stopped.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from torch import Tensor

from bioface_core.config import Study
from bioface_core.evaluate import Counts
from bioface_core.files import write_text
from bioface_core.learner import Learner
from bioface_core.photos import PhotoSet, concatenate
from simulation.hospitals import hospital_names
from simulation.processes import end_with_parent, processes_for
from simulation.sites import open_learner, open_store

POOLED = "pooled"
_FOLDER = "arms"
_stop: Event | None = None


@contextmanager
def comparison(folder: Path, study: Study, on_arm: Callable[[int, int], None]) -> Iterator[None]:
    """Trains the arms beside the block and waits for them at its end; an error in the block stops them.

    Args:
        folder: the run folder, with base and stores laid out.
        study: ``simulation.workers`` processes are used.
        on_arm: called with (arms done, arms in all), from another thread.
    """
    names = arm_names(study)
    missing = [name for name in names if not _file(folder, name).exists()]
    spawn = multiprocessing.get_context("spawn")
    stop = spawn.Event()
    workers = processes_for(study.simulation.workers, len(names), study.speed.threads)
    with ProcessPoolExecutor(workers, spawn, initializer=start_worker, initargs=(stop,)) as pool:
        futures = [pool.submit(run_arm, folder, name) for name in missing]
        try:
            yield
            on_arm(len(names) - len(missing), len(names))
            for done, future in enumerate(as_completed(futures), start=len(names) - len(missing) + 1):
                future.result()
                on_arm(done, len(names))
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def arm_names(study: Study) -> list[str]:
    """``pooled`` (the longest, so first) and every hospital."""
    return [POOLED, *hospital_names(study)]


def arm_results(folder: Path, study: Study) -> list[dict[str, Any]]:
    """What each finished arm wrote, hospitals first."""
    finished = [_file(folder, name) for name in [*hospital_names(study), POOLED]]
    return [json.loads(path.read_text(encoding="utf-8")) for path in finished if path.exists()]


def run_arm(folder: Path, name: str) -> None:
    """Trains one arm and writes its result.

    Args:
        folder: the run folder.
        name: ``pooled``, or a hospital.
    """
    learner = open_learner(folder)
    names = hospital_names(learner.study)
    stores = [open_store(folder, index) for index in range(len(names))]
    own = names.index(name) if name in names else None
    photos = concatenate([store.train() for store in stores]) if own is None else stores[own].train()
    began = time.monotonic()
    vector = train_alone(learner, photos, name)
    if vector is None:
        return
    seconds = time.monotonic() - began
    counts = [learner.evaluate(vector, store.heldout()) for store in stores]
    result = {
        "name": name if own is None else f"{name} alone",
        "kind": "pooled" if own is None else "alone",
        "hospital": None if own is None else name,
        "patients": photos.patients(),
        "photos": len(photos),
        "seconds": round(seconds, 2),
        "counts": sum(counts, Counts.zeros(learner.classes)).to_json(),
        "own_counts": None if own is None else counts[own].to_json(),
    }
    _file(folder, name).parent.mkdir(exist_ok=True)
    write_text(_file(folder, name), json.dumps(result))


def train_alone(learner: Learner, photos: PhotoSet, stream: str) -> Tensor | None:
    """As many rounds of local training as the federation has, by one site; None if told to stop."""
    vector = learner.start()
    for round_ in range(1, learner.study.federation.rounds + 1):
        if _stop is not None and _stop.is_set():
            return None
        vector = vector + learner.train(vector, photos, round_, stream).delta
    return vector


def start_worker(stop: Event) -> None:
    """Remembers the stop sign, and ends this process with the one that started it."""
    global _stop
    _stop = stop
    end_with_parent()


def _file(folder: Path, name: str) -> Path:
    return folder / _FOLDER / f"{name}.json"
