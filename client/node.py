"""What does a hospital's site process do? It opens the site from the hospital's folder and answers until it is stopped.

Photos, network and kit are read once and stay: the network on the device, and the photos beside it as far as they fit.
"""

from __future__ import annotations

import logging
import signal
import threading
from functools import partial

from prometheus_client import CollectorRegistry

from bioface_core.config import Study
from bioface_core.errors import HospitalError
from bioface_core.identity import read_identity
from bioface_core.learner import Learner, use
from bioface_core.logs import say
from bioface_core.messages import Code
from bioface_core.start import read_start
from bioface_core.store import as_studied, read_store
from client.app import answer
from client.audited import Clerk
from client.books import open_books
from client.executor import TaskLoop
from client.gate import Gate
from client.health import HealthServer
from client.hospital import Hospital
from client.ledger import Ledger
from client.masking import Masking
from client.memory import Memory
from client.metrics import SiteMetrics, serve_metrics
from client.people import patient_marks
from client.residuals import Residuals
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
        books, kit = open_books(hospital), hospital.approved()
        site, clerk = open_site(hospital, books.ledger), Clerk(books.log, books.ledger, kit.study)

        def refused(code: Code) -> None:
            metrics.refused(code)
            clerk.refused(code)

        loop = TaskLoop(
            hospital.settings.ports.runtime,
            hospital.secret,
            kit.bundle_sha256,
            metrics.measured(clerk.audited(partial(answer, open_site=lambda context: site))),
            refused,
        )
        say(_log, "ready", study=kit.study.study_id[:12])
        health.serving(True)
        loop.run(stop)
    finally:
        health.stop()


def open_site(hospital: Hospital, ledger: Ledger) -> Site:
    """The site of the approved study, on the hospital's device; what it spends is charged to the ledger."""
    kit, settings = hospital.approved(), hospital.settings
    study = kit.study
    device = use(study.speed.model_copy(update={"device": settings.device}))
    start = read_start(kit.start, study)
    learner = Learner(study, start.base, start.identities, device)
    prepared = read_store(settings.store)
    ledger.recognise(patient_marks(prepared.photos, hospital.rounding_key), settings.policy.trust_newcomers)
    store = as_studied(prepared, study.syndromes)
    charge = partial(ledger.charge, patients=patient_marks(store.train(), hospital.rounding_key))
    gate = Gate(settings.policy, study.study_id, hospital.rounding_key)
    photos, memory = (store.train(), store.heldout()), Memory(hospital.memory)
    masking, residuals = _masking(hospital, study, memory), Residuals(hospital.residuals)
    return Site(settings.name, study, learner, *photos, gate, memory, charge, masking, residuals)


def _masking(hospital: Hospital, study: Study, memory: Memory) -> Masking | None:
    """The hospital's side of the masked sums, where the study has them."""
    if not study.secure.enabled:
        return None
    identity, settings = read_identity(hospital.identity_key, HospitalError), hospital.settings
    return Masking(study, settings.name, identity, memory, settings.policy.fewest_survivors)
