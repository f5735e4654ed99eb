"""What can a hospital's monitor ask its site process? Counters and gauges for Prometheus, on loopback alone.

Labels hold a word of a fixed list and nothing else: neither a syndrome, nor a path, nor a patient is in any figure.
What a lab writes into a message does not become a label either.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from flwr.app import Context, Message
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from bioface_core.errors import HospitalError
from bioface_core.logs import say
from bioface_core.messages import Code, Phase
from bioface_core.wire import payload_bytes

_log = logging.getLogger("bioface.metrics")

LOOPBACK = "127.0.0.1"
_OTHER = "other"

Answer = Callable[[Message, Context], Message]


class SiteMetrics:
    """What the lab has asked this process, and what became of it.

    Args:
        registry: where the figures are collected.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._requests = Counter("bioface_site_requests", "What the lab asked for.", ["phase"], registry=registry)
        self._refusals = Counter("bioface_site_refusals", "Requests refused, by reason.", ["code"], registry=registry)
        self._seconds = Counter("bioface_site_computing_seconds", "Spent on answers.", ["phase"], registry=registry)
        self._bytes = Counter("bioface_site_bytes", "Arrays in and out.", ["direction"], registry=registry)
        self._contact = Gauge("bioface_site_last_request_timestamp_seconds", "Unix time.", registry=registry)
        for phase in Phase:
            self._requests.labels(phase.value)

    def measured(self, answer: Answer) -> Answer:
        """``answer``, with every call counted.

        Args:
            answer: raises nothing.
        """

        def measuring(message: Message, context: Context) -> Message:
            phase = _word(message.metadata.message_type, Phase)
            self._requests.labels(phase).inc()
            self._contact.set_to_current_time()
            self._bytes.labels("in").inc(_bytes(message))
            began = time.monotonic()
            reply = answer(message, context)
            self._seconds.labels(phase).inc(time.monotonic() - began)
            self._note_reply(reply)
            return reply

        return measuring

    def refused(self, code: Code) -> None:
        """Takes note of a refusal that came before the question was looked at, such as another bundle's."""
        self._refusals.labels(code.value).inc()

    def _note_reply(self, reply: Message) -> None:
        if reply.has_error():
            self._refusals.labels(_word(reply.error.reason or "", Code)).inc()
        else:
            self._bytes.labels("out").inc(_bytes(reply))


def serve_metrics(port: int, registry: CollectorRegistry) -> None:
    """Answers ``GET /metrics`` on loopback, from a thread, as long as the process lives.

    Raises:
        HospitalError: the port is taken.
    """
    try:
        start_http_server(port, addr=LOOPBACK, registry=registry)
    except OSError as error:
        hint = "choose another ports.metrics in hospital.yaml"
        raise HospitalError(f"port {port} for metrics cannot be used ({error.strerror}): {hint}") from error
    say(_log, "metrics", port=port)


def _bytes(message: Message) -> int:
    return payload_bytes(message.content) if message.has_content() else 0


def _word(found: str, words: type[Phase] | type[Code]) -> str:
    """A label's value: one of the list, whatever was found."""
    return found if found in {word.value for word in words} else _OTHER
