"""How does a study run on this machine? Lay out the hospitals, make the base, federate, compare, put it on record.

Every step leaves files, and a step whose files are there is not done again: a killed run goes on where it stopped.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flwr.serverapp import ServerApp

from bioface_core import __version__
from bioface_core.checkpoint import RunFolder, open_run
from bioface_core.config import Study, check_federable
from bioface_core.evaluate import macro_top
from bioface_core.files import write_text
from bioface_core.learner import use
from bioface_core.start import has_start, write_start
from bioface_core.weights import read_base
from client.app import make_client_app
from server.app import make_server_app
from server.central import CentralPlan
from server.journal import Journal
from server.rounds import Event, RoundDone, RunState
from simulation import arms, sites
from simulation.hospitals import hospital_names, make_hospitals, resolve_syndromes
from simulation.identities import lay_identities, with_roster
from simulation.inline import run_inline
from simulation.processes import processes_for
from simulation.progress import Progress
from simulation.record import record
from simulation.stage1 import make_start
from simulation.workers import run_workers


def simulate(study: Study, runs: Path, progress: Progress) -> Path:
    """Runs a study, or goes on with it.

    Args:
        study: with its ``simulation``.
        runs: the run's folder is made in here, named after the study.
        progress: is told what goes on.

    Returns:
        The run folder, complete.

    Raises:
        ConfigError, PhotoError, WeightsError, RunError: something the user can mend.
        RoundError: a round found too few hospitals.
    """
    study = settled(study)
    with open_run(runs / study.name, study) as folder:
        began = time.monotonic()
        lay_out(folder.path, study, progress)
        comparing = study.simulation.compare
        with arms.comparison(folder.path, study, progress.bar("comparison")) if comparing else nullcontext():
            final = federate(folder, study, progress)
        record(folder.path, study, final)
        progress.say(f"{study.name}: {time.monotonic() - began:.0f} s")
        return folder.path


def federate(folder: RunFolder, study: Study, progress: Progress) -> RunState:
    """The federated arm, on the engine the study names.

    Args:
        folder: open, with hospitals and base laid out.
        study: with its syndromes resolved.
        progress: is told of every round.

    Returns:
        The state after the last round.
    """
    names, ends = hospital_names(study), list[RunState]()
    model = sites.open_learner(folder.path)
    plan = CentralPlan.of(study) if study.privacy.unit == "hospital" else None
    if plan is not None:
        progress.say(plan.cost(model.size, len(names)))
    server_app = make_server_app(study, model, folder, names, _rounds_bar(study, progress), ends.append)
    run_engine(study, server_app, folder.path)
    if plan is not None:
        sums = _sums_taken(folder)
        progress.say(f"{sums} noisy sums have spent epsilon {plan.epsilon_after(sums):.3g} at delta {plan.delta:g}")
    return ends[0]


def _sums_taken(folder: RunFolder) -> int:
    with closing(Journal(folder.journal)) as journal:
        return journal.aggregations()


def settled(study: Study) -> Study:
    """The study with its classes and, where the base is a file, the base's hash; refuses what cannot be simulated."""
    study = with_roster(resolve_syndromes(study))
    check_federable(study)
    if study.model.base in ("pretrain", "scratch"):
        return study
    return study.replace({"model": {"base_sha256": read_base(Path(study.model.base), study.model).sha256}})


def run_engine(study: Study, server_app: ServerApp, folder: Path) -> None:
    """Runs the server's app and the hospitals on the engine the study names; Ray is loaded only where it is wanted."""
    settings, open_site = study.simulation, sites.SiteOpener(folder)
    hospitals = len(hospital_names(study))
    if settings.engine == "inline":
        return run_inline(server_app, make_client_app(open_site), hospitals)
    if settings.engine == "workers":
        photos_S, workers = sites.photos_of_hospitals(folder, study), processes_for(settings.workers, hospitals)
        return run_workers(server_app, open_site, photos_S, workers, sticky=study.secure.enabled)
    from simulation.flower import run_flower

    # A masked sum is five messages to a hospital, whose keys are in the memory of one process.
    workers = 1 if study.secure.enabled else settings.workers
    return run_flower(server_app, make_client_app(open_site), hospitals, workers, study.speed.device)


def lay_out(folder: Path, study: Study, progress: Progress) -> None:
    """Hospitals and base, unless an earlier call left them."""
    write_text(folder / "software.json", json.dumps(_software()))
    if not sites.has_hospitals(folder, study):
        sites.lay_hospitals(folder, study, make_hospitals(study, progress.bar("patients")))
    if study.secure.enabled:
        lay_identities(folder, study)
    if not has_start(folder):
        device, epochs = use(study.speed), progress.bar("identification")
        total = study.pretrain.epochs

        def on_epoch(epoch: Any) -> None:
            epochs(epoch.number, total, f"{epoch.accuracy:.0%} told apart")

        write_start(folder, make_start(study, progress.bar("people"), on_epoch, device))


def _rounds_bar(study: Study, progress: Progress) -> Callable[[Event], None]:
    """Shows each finished round."""
    bar, total = progress.bar("rounds"), study.federation.rounds

    def on_event(event: Event) -> None:
        if isinstance(event, RoundDone):
            rate = macro_top(event.summary.counts, 1)
            bar(event.summary.round, total, f"macro Top-1 {rate.value:.1%}")

    return on_event


def _software() -> dict[str, str]:
    """Versions, for the record."""
    packages = {name: version(name) for name in ("torch", "flwr", "numpy")}
    return {"bioface": __version__, **packages, "python": platform.python_version(), "machine": platform.machine()}
