"""What can a monitor ask the lab? Counters and gauges of the rounds for Prometheus, on loopback alone.

Everything here is known from the journal: nothing is counted that a hospital did not send. No label holds more than a
word of a fixed list; which hospital it was stands in the journal and in the log.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from bioface_core.errors import LabError
from bioface_core.logs import say
from server.journal import (
    Aggregated,
    Answered,
    Checkpointed,
    Dropped,
    Entry,
    Failed,
    LeftOut,
    Opened,
    Started,
    Survived,
)

if TYPE_CHECKING:
    from server.rounds import Event  # brings torch, which whoever watches the rounds does not need

_log = logging.getLogger("bioface.metrics")

LOOPBACK = "127.0.0.1"
_SECONDS = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_ENTRIES: dict[str, type[Entry]] = {
    kind.__name__.lower(): kind
    for kind in (Opened, Started, Answered, LeftOut, Dropped, Survived, Aggregated, Checkpointed, Failed)
}


class LabMetrics:
    """What has happened in the rounds that this process saw.

    Args:
        registry: where the figures are collected.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._rounds = Counter("bioface_lab_rounds", "Rounds that ended.", ["outcome"], registry=registry)
        self._seconds = Histogram(
            "bioface_lab_round_seconds", "Of finished rounds.", buckets=_SECONDS, registry=registry
        )
        self._bytes = Counter("bioface_lab_bytes", "Arrays of finished rounds.", ["direction"], registry=registry)
        self._answers = Counter("bioface_lab_answers", "Replies that count.", ["phase"], registry=registry)
        self._left_out = Counter("bioface_lab_left_out", "Hospitals left out.", ["phase", "code"], registry=registry)
        self._dropped = Counter("bioface_lab_dropped", "Late and duplicate replies.", ["reason"], registry=registry)
        self._starts = Counter("bioface_lab_starts", "How often a run was begun or resumed.", registry=registry)
        self._hospitals = Gauge("bioface_lab_hospitals_connected", "When the round began.", registry=registry)
        self._round = Gauge("bioface_lab_round", "The round that was begun last.", registry=registry)
        self._expiry = Gauge(
            "bioface_lab_certificate_expiry_timestamp_seconds", "Unix time.", ["certificate"], registry=registry
        )
        for outcome in ("finished", "failed"):
            self._rounds.labels(outcome)

    def observe(self, event: Event) -> None:
        """Takes note of an event of the round loop."""
        if isinstance(event, Opened):
            self._starts.inc()
        elif isinstance(event, Started):
            self._round.set(event.round)
            self._hospitals.set(len(event.hospitals))
        elif isinstance(event, Answered):
            self._answers.labels(event.phase).inc()
        elif isinstance(event, LeftOut):
            self._left_out.labels(event.phase, event.code).inc()
        elif isinstance(event, Dropped):
            self._dropped.labels(event.reason).inc()
        elif isinstance(event, Failed):
            self._rounds.labels("failed").inc()
        elif not isinstance(event, Survived | Aggregated | Checkpointed):
            self.finished(event.summary.seconds, event.summary.bytes_up, event.summary.bytes_down)

    def finished(self, seconds: float, bytes_up: int, bytes_down: int) -> None:
        """Takes note of a round that is on the disk."""
        self._rounds.labels("finished").inc()
        self._seconds.observe(seconds)
        self._bytes.labels("up").inc(bytes_up)
        self._bytes.labels("down").inc(bytes_down)

    def certificate(self, name: str, path: Path) -> None:
        """Takes note of when a certificate expires.

        Args:
            name: ``server`` or ``authority``.
            path: PEM.
        """
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        self._expiry.labels(name).set(certificate.not_valid_after_utc.timestamp())


class RunWatch:
    """Reads what a run's own process writes, so that whoever outlives that process can count it.

    What the run folder held before is not counted: a counter begins at 0 with the process that has it.

    Args:
        folder: of the run; may not be there yet.
        metrics: what to tell.
    """

    def __init__(self, folder: Path, metrics: LabMetrics) -> None:
        self._folder, self._metrics = folder, metrics
        self._journal = folder / "journal.jsonl"
        self._read = self._journal.stat().st_size if self._journal.exists() else 0
        self._announced: set[int] = set()  # rounds in the journal whose file is about to be written

    def look(self) -> None:
        """Takes in what is new; costs a ``stat`` if nothing is."""
        if self._journal.exists() and self._journal.stat().st_size > self._read:
            for event in self._new():
                self._metrics.observe(event)
                if isinstance(event, Checkpointed):
                    self._announced.add(event.round)
        for number in [number for number in self._announced if self._summary(number).exists()]:
            summary = json.loads(self._summary(number).read_text(encoding="utf-8"))
            self._metrics.finished(summary["seconds"], summary["bytes_up"], summary["bytes_down"])
            self._announced.remove(number)

    def _new(self) -> list[Entry]:
        """Whole lines only: the last may be on its way."""
        with self._journal.open("rb") as file:
            file.seek(self._read)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        return [_entry(line) for line in whole.splitlines()]

    def _summary(self, number: int) -> Path:
        return self._folder / f"round-{number:04d}.json"


def serve_metrics(port: int, registry: CollectorRegistry) -> None:
    """Answers ``GET /metrics`` on loopback, from a thread, as long as the process lives.

    Raises:
        LabError: the port is taken.
    """
    try:
        start_http_server(port, addr=LOOPBACK, registry=registry)
    except OSError as error:
        hint = "choose another metrics_port in lab.yaml"
        raise LabError(f"port {port} for metrics cannot be used ({error.strerror}): {hint}") from error
    say(_log, "metrics", port=port)


def _entry(line: bytes) -> Entry:
    """A line of the journal as the event it stands for."""
    fields = json.loads(line)
    kind = _ENTRIES[fields.pop("event")]
    del fields["time"]
    return kind(**fields)
