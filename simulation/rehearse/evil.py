"""What does a hospital send that is broken, or means ill? Updates of every kind that the lab must not count.

The process takes the place of a hospital's site process, behind that hospital's own SuperNode and keys.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from bioface_core.files import write_text
from bioface_core.messages import Code, Update
from bioface_core.wire import pack_reply, unpack_reply, unpack_request
from client.app import answer
from client.books import open_ledger
from client.executor import TaskLoop
from client.hospital import Hospital
from client.node import open_site
from client.site import Site

_KIND = "evil"  # the file in the hospital's state folder that says what to send

Spoil = Callable[[Update, float], RecordDict]


def _not_a_number(update: Update, bound: float) -> RecordDict:
    delta = update.delta.clone()
    delta[0] = torch.nan
    return pack_reply(replace(update, delta=delta, coded=None))


def _wrong_length(update: Update, bound: float) -> RecordDict:
    return pack_reply(replace(update, delta=update.delta[:-1], coded=None))


def _huge(update: Update, bound: float) -> RecordDict:
    return pack_reply(replace(update, delta=torch.full_like(update.delta, bound), coded=None))


def _negative_weight(update: Update, bound: float) -> RecordDict:
    return pack_reply(replace(update, weight=-update.weight))


def _garbage(update: Update, bound: float) -> RecordDict:
    return RecordDict({"header": ConfigRecord({"garbage": b"\x00" * 1000})})


# What is sent, and the word that the lab's journal must have for it.
KINDS: dict[str, tuple[Spoil, Code]] = {
    "sends NaN": (_not_a_number, Code.NOT_FINITE),
    "sends the wrong length": (_wrong_length, Code.LENGTH),
    "sends a huge norm": (_huge, Code.NORM),
    "sends a negative weight": (_negative_weight, Code.WEIGHT),
    "sends garbage": (_garbage, Code.MALFORMED),
}


def tell(hospital: Hospital, kind: str) -> None:
    """Says what the hospital's evil site sends from now on."""
    write_text(hospital.state / _KIND, kind)


def run_evil_site(hospital: Hospital) -> None:
    """Answers until SIGTERM: evaluations as they are, updates spoilt."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    site = open_site(hospital, open_ledger(hospital, copy=False))
    spoilt = partial(_answer, site=site, kind=hospital.state / _KIND)
    bundle = hospital.approved().bundle_sha256
    TaskLoop(hospital.settings.ports.runtime, hospital.secret, bundle, spoilt).run(stop)


def _answer(message: Message, context: Context, site: Site, kind: Path) -> Message:
    reply = answer(message, context, lambda _: site)
    if reply.has_error() or message.metadata.message_type != "train":
        return reply
    ticket = unpack_request(message.content, site.contract).ticket
    update = unpack_reply(reply.content, site.contract, ticket)
    assert isinstance(update, Update)
    spoil, _ = KINDS[kind.read_text(encoding="utf-8")]
    return Message(spoil(update, site.contract.norm_bound), reply_to=message)
