"""What does a hospital's site process do? It opens the site from the hospital's folder and answers until it is stopped.

Photos, network and kit are read once and stay: the photos on the device, the network beside them.
"""

from __future__ import annotations

import logging
import signal
import threading
from functools import partial

from prometheus_client import CollectorRegistry

from bioface_core.learner import Learner, use
from bioface_core.logs import say
from bioface_core.start import read_start
from bioface_core.store import as_studied, read_store
from client.app import answer
from client.executor import TaskLoop
from client.gate import Gate
from client.health import HealthServer
from client.hospital import Hospital
from client.memory import Memory
from client.metrics import SiteMetrics, serve_metrics
from client.site import Site

_log = logging.getLogger("bioface.site")


def run_site(hospital: Hospital) -> None:
    """Answers the lab's questions until SIGTERM or SIGINT.

    Raises:
        HospitalError, PhotoError, WeightsError: kit, store or keys cannot be used.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    health, registry = HealthServer(hospital.settings.ports.health), CollectorRegistry()
    metrics = SiteMetrics(registry)
    try:
        serve_metrics(hospital.settings.ports.metrics, registry)
        site = open_site(hospital)
        kit = hospital.approved()
        loop = TaskLoop(
            hospital.settings.ports.runtime,
            hospital.secret,
            kit.bundle_sha256,
            metrics.measured(partial(answer, open_site=lambda context: site)),
            metrics.refused,
        )
        say(_log, "ready", study=kit.study.study_id[:12])
        health.serving(True)
        loop.run(stop)
    finally:
        health.stop()


def open_site(hospital: Hospital) -> Site:
    """The site of the approved study, on the hospital's device."""
    kit, settings = hospital.approved(), hospital.settings
    study = kit.study
    device = use(study.speed.model_copy(update={"device": settings.device}))
    start = read_start(kit.start, study)
    learner = Learner(study, start.base, start.identities, device)
    store = as_studied(read_store(settings.store), study.syndromes)
    gate = Gate(settings.policy, study.study_id, hospital.rounding_key)
    photos = (store.train().to(device), store.heldout().to(device))
    return Site(settings.name, study, learner, *photos, gate, Memory(hospital.memory))
