"""Do the figures add up to what happened, and do they hold nothing that a hospital keeps to itself?"""

from __future__ import annotations

import json
import re
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flwr.app import Context, Error, Message, RecordDict
from prometheus_client import CollectorRegistry, generate_latest

from bioface_core.checkpoint import RoundSummary
from bioface_core.errors import HospitalError, LabError
from bioface_core.evaluate import Counts
from bioface_core.messages import Code, Phase, Request, Ticket
from bioface_core.wire import pack_request
from client.app import refusal
from client.metrics import SiteMetrics
from client.metrics import serve_metrics as serve_site_metrics
from server.journal import Aggregated, Answered, Checkpointed, Dropped, Failed, Journal, LeftOut, Opened, Started
from server.metrics import LabMetrics, RunWatch
from server.metrics import serve_metrics as serve_lab_metrics
from server.rounds import Event, RoundDone
from tests.certificates import make_authority
from tests.small_federation import CLASSES, run_small, small_study
from tests.test_health import free_port

SUMMARY = RoundSummary(1, 4.2, 0.5, ("a", "b"), {"c": "no-answer"}, 3000, 1000, Counts.zeros(CLASSES))
EVENTS: tuple[Event, ...] = (
    Opened("study", "run", -1),
    Started(1, 1, ("a", "b", "c")),
    Answered(1, 1, "train", "a"),
    Answered(1, 1, "train", "b"),
    LeftOut(1, 1, "train", "c", "no-answer"),
    Dropped(1, 1, "train", "late"),
    Aggregated(1, 1, ("a", "b"), 20),
    Answered(1, 1, "evaluate", "a"),
    Checkpointed(1, 1, "0" * 64),
    RoundDone(SUMMARY),
    Started(2, 1, ("a",)),
    Failed(2, 1, "train", "1 of 3 hospitals answered"),
)


def value(metrics: LabMetrics | SiteMetrics, name: str, **labels: str) -> float | None:
    """One figure."""
    return metrics.registry.get_sample_value(name, labels)


def test_the_lab_counts_what_the_rounds_report() -> None:
    metrics = LabMetrics(CollectorRegistry())
    for event in EVENTS:
        metrics.observe(event)
    assert value(metrics, "bioface_lab_rounds_total", outcome="finished") == 1
    assert value(metrics, "bioface_lab_rounds_total", outcome="failed") == 1
    assert value(metrics, "bioface_lab_round_seconds_sum") == 4.2
    assert value(metrics, "bioface_lab_bytes_total", direction="up") == 1000
    assert value(metrics, "bioface_lab_bytes_total", direction="down") == 3000
    assert value(metrics, "bioface_lab_answers_total", phase="train") == 2
    assert value(metrics, "bioface_lab_answers_total", phase="evaluate") == 1
    assert value(metrics, "bioface_lab_left_out_total", phase="train", code="no-answer") == 1
    assert value(metrics, "bioface_lab_dropped_total", reason="late") == 1
    assert value(metrics, "bioface_lab_starts_total") == 1
    assert value(metrics, "bioface_lab_hospitals_connected") == 1
    assert value(metrics, "bioface_lab_round") == 2


def test_a_failed_round_is_there_before_it_happens() -> None:
    """Or an alert on its increase could not see the first one."""
    assert value(LabMetrics(CollectorRegistry()), "bioface_lab_rounds_total", outcome="failed") == 0


def test_a_certificate_says_when_it_ends(tmp_path: Path) -> None:
    metrics, authority = LabMetrics(CollectorRegistry()), make_authority(tmp_path)
    metrics.certificate("authority", authority.path)
    expires = authority.certificate.not_valid_after_utc.timestamp()
    name = "bioface_lab_certificate_expiry_timestamp_seconds"
    assert value(metrics, name, certificate="authority") == expires


def test_watching_a_run_folder_counts_what_the_run_itself_counts(tmp_path: Path) -> None:
    study, folder = small_study(), tmp_path / "run"
    inside, watching = LabMetrics(CollectorRegistry()), LabMetrics(CollectorRegistry())
    watch = RunWatch(folder, watching)

    def both(event: Event) -> None:
        inside.observe(event)
        watch.look()

    run_small(folder, study, both)
    watch.look()
    assert value(watching, "bioface_lab_rounds_total", outcome="finished") == 4
    assert figures(watching) == figures(inside)


def figures(metrics: LabMetrics) -> str:
    """All of them, without the time at which a counter was made."""
    return re.sub(r"(?m)^.*_created.*\n", "", generate_latest(metrics.registry).decode())


def test_watching_begins_with_what_happens_next(tmp_path: Path) -> None:
    """A counter begins with its process; half a line is not read yet."""
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(Opened("study", "run", -1))
    metrics = LabMetrics(CollectorRegistry())
    watch = RunWatch(tmp_path, metrics)
    journal.append(Opened("study", "run", 0))
    whole = json.dumps({"event": "failed", "time": "", "round": 1, "attempt": 1, "phase": "train", "reason": "few"})
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write(whole[:20])
        file.flush()
        watch.look()
        assert value(metrics, "bioface_lab_rounds_total", outcome="failed") == 0
        file.write(whole[20:] + "\n")
    watch.look()
    watch.look()
    journal.close()
    assert value(metrics, "bioface_lab_starts_total") == 1
    assert value(metrics, "bioface_lab_rounds_total", outcome="failed") == 1


CONTEXT = Context(1, 1, {}, RecordDict(), {})


def question(kind: str = "train", values: int = 100) -> Message:
    """A message as a lab sends it, holding so many float32 values."""
    record = pack_request(Request(Ticket("0" * 64, "run", 1, 1, Phase.TRAIN), "schema", torch.zeros(values)))
    return Message(record, dst_node_id=1, message_type=kind)


def reply(message: Message, context: Context) -> Message:
    return Message(question(values=20).content, reply_to=message)


def test_the_site_counts_what_it_is_asked_and_answers() -> None:
    metrics = SiteMetrics(CollectorRegistry())
    metrics.measured(reply)(question(), CONTEXT)
    metrics.measured(lambda message, context: refusal(message, Code.POLICY))(question(), CONTEXT)
    metrics.refused(Code.BUNDLE)
    assert value(metrics, "bioface_site_requests_total", phase="train") == 2
    assert value(metrics, "bioface_site_requests_total", phase="evaluate") == 0
    assert value(metrics, "bioface_site_refusals_total", code="policy") == 1
    assert value(metrics, "bioface_site_refusals_total", code="other-bundle") == 1
    assert value(metrics, "bioface_site_bytes_total", direction="in") == 2 * 4 * 100
    assert value(metrics, "bioface_site_bytes_total", direction="out") == 4 * 20
    assert (value(metrics, "bioface_site_computing_seconds_total", phase="train") or 0) > 0
    assert (value(metrics, "bioface_site_last_request_timestamp_seconds") or 0) > 1e9


def test_the_answer_itself_is_handed_on() -> None:
    message = question()
    given = SiteMetrics(CollectorRegistry()).measured(reply)(message, CONTEXT)
    assert given.metadata.reply_to_message_id == message.metadata.message_id


def test_no_message_makes_a_label() -> None:
    """Neither the lab's words nor an exception's text become part of a figure's name."""
    metrics = SiteMetrics(CollectorRegistry())

    def leak(message: Message, context: Context) -> Message:
        return Message(Error(1, "photos/patient-17.jpg"), reply_to=message)

    metrics.measured(leak)(question("query.patient_17"), CONTEXT)
    text = generate_latest(metrics.registry).decode()
    assert "patient" not in text
    words = {word.value for word in (*Phase, *Code)} | {"other", "in", "out"}
    assert set(re.findall(r'="([^"]*)"', text)) <= words
    assert value(metrics, "bioface_site_requests_total", phase="other") == 1


@pytest.mark.parametrize(
    ("serve", "make", "name", "error", "setting"),
    [
        (serve_lab_metrics, LabMetrics, "bioface_lab_round", LabError, "metrics_port"),
        (serve_site_metrics, SiteMetrics, "bioface_site_requests_total", HospitalError, "ports.metrics"),
    ],
)
def test_it_answers_on_loopback_and_has_its_port_alone(
    serve: Callable[[int, CollectorRegistry], None],
    make: Callable[[CollectorRegistry], LabMetrics | SiteMetrics],
    name: str,
    error: type[Exception],
    setting: str,
) -> None:
    registry, port = CollectorRegistry(), free_port()
    make(registry)
    serve(port, registry)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        assert name in response.read().decode()
    with pytest.raises(error, match=f"port {port} for metrics .* {setting}"):
        serve(port, registry)
    own = socket.gethostbyname(socket.gethostname())
    if not own.startswith("127."):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((own, port), timeout=2).close()
