"""How are all runs of a sweep done? In spawned processes of one thread each; what is done is not done again."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from bioface_core.errors import RunError
from simulation.arms import start_worker
from simulation.processes import processes_for
from simulation.sweep.job import row_file, run_job
from simulation.sweep.plan import ARM, Job, Sweep, jobs_of

Row = dict[str, Any]


def run_sweep(sweep: Sweep, root: Path, workers: int, on_job: Callable[[int, int], None]) -> tuple[Path, list[Row]]:
    """Runs a sweep, or goes on with it.

    Args:
        sweep: what is asked.
        root: the sweep's folder is made in here, named after it.
        workers: processes; 0 takes one for each processor.
        on_job: called with (runs done, runs in all).

    Returns:
        The folder, and one row for each run and arm: axes, ``seed``, ``arm``, and the measures.

    Raises:
        ConfigError: an override, or what comes of it, is wrong; found out before anything is run.
        RunError: the folder holds rows of another sweep.
    """
    jobs, folder = jobs_of(sweep), root / sweep.name
    (folder / "rows").mkdir(parents=True, exist_ok=True)
    missing = [job for job in jobs if not _done(folder, job)]
    on_job(len(jobs) - len(missing), len(jobs))
    _run(folder, missing, workers, lambda done: on_job(len(jobs) - len(missing) + done, len(jobs)))
    return folder, [row for job in jobs for row in _rows(folder, job)]


def _run(folder: Path, jobs: list[Job], workers: int, on_job: Callable[[int], None]) -> None:
    """The runs, in the order in which they were asked for; the first error stops those that have not begun."""
    if not jobs:
        return
    spawn = multiprocessing.get_context("spawn")
    stop = spawn.Event()
    with ProcessPoolExecutor(
        processes_for(workers, len(jobs)), spawn, initializer=start_worker, initargs=(stop,)
    ) as pool:
        futures = [pool.submit(run_job, folder, job) for job in jobs]
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                on_job(done)
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _done(folder: Path, job: Job) -> bool:
    """Whether the row of a job is there.

    Raises:
        RunError: there is one of its name, and it is of another sweep.
    """
    path = row_file(folder, job)
    if not path.exists():
        return False
    if json.loads(path.read_text(encoding="utf-8"))["key"] != job.key:
        raise RunError(f"{path} is of another sweep of this name: name this one otherwise, or choose another --out")
    return True


def _rows(folder: Path, job: Job) -> list[Row]:
    figures: dict[str, Row] = json.loads(row_file(folder, job).read_text(encoding="utf-8"))["arms"]
    return [{**job.levels, "seed": job.seed, ARM: arm, **measures} for arm, measures in figures.items()]
