"""What goes into the audit log? Each question as it was asked, and what became of it, before anything leaves.

The lab's words are taken over only where they are of the type and length that was agreed. Of what leaves there is the
SHA-256, the size, the bound on its length, whether it was masked and what it cost in privacy: no value of it, and
nothing about a patient.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from bioface_core.config import Study
from bioface_core.errors import WireError
from bioface_core.logs import say
from bioface_core.messages import Code, Phase, Ticket
from bioface_core.wire import array_records
from client.app import refusal
from client.audit import AuditLog
from client.ledger import Ledger

_log = logging.getLogger("bioface.audit")

_LONGEST_WORD = 64
_ASKED: dict[str, type] = {"study": str, "run": str, "round": int, "attempt": int, "ask": int, "step": str}
Answer = Callable[[Message, Context], Message]


class Clerk:
    """Writes the audit log of a site.

    Args:
        log: where to.
        ledger: knows what an answer has cost.
        study: the hospital's own copy.
    """

    def __init__(self, log: AuditLog, ledger: Ledger, study: Study) -> None:
        self._log, self._ledger, self._study = log, ledger, study

    def audited(self, answer: Answer) -> Answer:
        """``answer``, of which nothing leaves that is not in the log; a full disk lets out one word.

        Args:
            answer: raises nothing.
        """

        def recording(message: Message, context: Context) -> Message:
            reply = answer(message, context)
            try:
                self._record(message, reply)
            except WireError as error:
                say(_log, "failed", logging.ERROR, why=str(error))
                return refusal(message, Code.FAILED)
            return reply

        return recording

    def refused(self, code: Code) -> None:
        """Takes note of a refusal that came before the question was looked at; the word leaves either way."""
        try:
            self._log.record(what="refused", code=code.value)
        except WireError as error:
            say(_log, "failed", logging.ERROR, why=str(error))

    def _record(self, message: Message, reply: Message) -> None:
        asked = _asked(message)
        if reply.has_error():
            return self._log.record(what="refused", asked=asked, code=reply.error.reason)
        sha256, size, has_vector = _fingerprint(reply.content)
        left: dict[str, Any] = {"sha256": sha256, "bytes": size}
        if not has_vector:  # keys, shares and signatures of a masked sum
            return self._log.record(what="answered", asked=asked, left=left)
        left |= {"masked": self._study.secure.enabled}
        if message.metadata.message_type != Phase.TRAIN:
            return self._log.record(what="answered", asked=asked, left=left)
        charged = self._ledger.charged(_ticket(asked))
        left |= {
            "norm_bound": self._study.update_bound,
            "epsilon": self._ledger.cost([charge for _, charge in charged]),
        }
        self._log.record(tuple(number for number, _ in charged), what="answered", asked=asked, left=left)


def _asked(message: Message) -> dict[str, Any]:
    """What the lab asked for, in words of the agreed types alone."""
    asked: dict[str, Any] = {"type": message.metadata.message_type[:_LONGEST_WORD]}
    header = message.content.get("header") if message.has_content() else None
    if isinstance(header, ConfigRecord):
        found = {name: header.get(name) for name in _ASKED}
        asked |= {name: value for name, value in found.items() if _is_short(value, _ASKED[name])}
    return asked


def _is_short(value: Any, kind: type) -> bool:
    return type(value) is kind and len(str(value)) <= _LONGEST_WORD


def _ticket(asked: dict[str, Any]) -> Ticket:
    """Of a question that was answered, and so was well-formed."""
    return Ticket(asked["study"], asked["run"], asked["round"], asked["attempt"], Phase.TRAIN, asked["ask"])


def _fingerprint(content: RecordDict) -> tuple[str, int, bool]:
    """SHA-256 and size of all that leaves, and whether a vector is in it."""
    digest, size = hashlib.sha256(), 0
    for part in _parts(content):
        digest.update(part)
        size += len(part)
    return digest.hexdigest(), size, bool(array_records(content))


def _parts(content: RecordDict) -> Iterator[bytes]:
    """All that leaves, in order: each record's scalars as JSON, then its arrays as they are."""
    for name in sorted(content):
        record = content[name]
        if isinstance(record, ArrayRecord):
            for key in sorted(record):
                yield json.dumps([name, key, record[key].dtype, list(record[key].shape)]).encode("ascii")
                yield record[key].data
        else:
            yield json.dumps([name, dict(record)], sort_keys=True, default=bytes.hex).encode("ascii")
