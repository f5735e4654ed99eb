"""Can a hostile message crash, hang or mislead either side? Ten thousand of them, each from a seed that names it.

A message is accepted exactly where ``tests/plain_contract.py`` says so. What a failing test prints is enough to see its
case again: ``case("update", 17)``, or the seed of a liar.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, Context, Error, Message, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.serde import recorddict_to_proto

from bioface_core.checkpoint import RunFolder
from bioface_core.config import Study
from bioface_core.errors import RoundError, WireError
from bioface_core.messages import Code, Contract, Phase, Request, Ticket
from bioface_core.precision import Bits
from bioface_core.report.run_folder import read_run
from bioface_core.wire import pack_reply, pack_request, unpack_reply, unpack_request
from client.app import answer
from client.site import Site
from server.journal import Answered, Dropped, Failed, LeftOut
from server.rounds import Event
from server.strategy import shared, start_state
from tests import mutations
from tests.damage import changed
from tests.liars import LIAR, LIARS_NODE, ROSTER, Liar, Twin, federate, lied, study_of, ticket_in
from tests.little_memory import little_memory
from tests.mutations import Draft
from tests.plain_contract import is_good_reply, is_good_request
from tests.small_federation import SmallLearner, SmallSites, small_study

_HANG_S = 300  # of one test; the slowest takes a few seconds, but the machine may be busy

STUDY = small_study(rounds=1000)
SITES = SmallSites(STUDY)
CONTRACT = SITES.site(0).contract
FEW = {bits: small_study(rounds=1000, update_bits=bits, model_bits=16) for bits in (16, 8)}
few_bits = pytest.mark.parametrize("bits", FEW)


class Hang(BaseException):
    """Not an ``Exception``: whoever turns those into a word must not turn this into one."""


def _hang(number: int, frame: object) -> None:
    raise Hang(f"still at it after {_HANG_S} s")


@pytest.fixture(autouse=True)
def _watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hang is a failure; thousands of refusals are not logged; the disk is not waited for."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    logging.disable(logging.CRITICAL)
    before = signal.signal(signal.SIGALRM, _hang)
    signal.alarm(_HANG_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    logging.disable(logging.NOTSET)
    assert mutations.exploded == [], "a pickle was read"


@dataclass(frozen=True)
class Case:
    """A changed message.

    Attributes:
        name: how to make it again, and what was done.
        message: as it arrives.
        asked: the ticket that it had, or that of the request which it answers.
    """

    name: str
    message: Message
    asked: Ticket


def case(kind: str, number: int, sites: SmallSites = SITES) -> Case | None:
    """A changed message, the same for the same arguments.

    Args:
        kind: ``train`` or ``evaluate``, what the lab asks; ``update`` or ``counts``, what a hospital replies.
        number: any; three of four are changed in what they say, the fourth in its bytes.
        sites: of the hospitals.

    Returns:
        The case; None if Flower cannot read the bytes, so that they never come to us.
    """
    phase = Phase.TRAIN if kind in ("train", "update") else Phase.EVALUATE
    asked = Ticket(sites.study.study_id, "run", 7, number + 1, phase)
    message = question(asked, sites.study)
    if kind in ("update", "counts"):
        request = Request(asked, CONTRACT.schema, SmallLearner().start())
        message = Message(pack_reply(sites.site(1).answer(request)), reply_to=message)
    try:
        message, done = changed(message, Random(f"{kind}-{number}"), CONTRACT.norm_bound, in_bytes=number % 4 == 0)
    except Exception:  # whatever Flower raises
        return None
    return Case(f'case("{kind}", {number}): {done}', message, asked)


def cases(kinds: Iterable[str], numbers: range, sites: SmallSites = SITES) -> Iterator[Case]:
    """Every case that Flower can read."""
    return (it for kind in kinds for number in numbers if (it := case(kind, number, sites)) is not None)


def question(ticket: Ticket, study: Study = STUDY) -> Message:
    """A good request, as it comes to a hospital."""
    model = shared(study.federation, start_state(study.federation, SmallLearner().start()))
    record = pack_request(Request(ticket, CONTRACT.schema, *model))
    metadata = Metadata(1, "question", 1, 1000, "", str(ticket.round), time.time(), 60.0, ticket.phase.value)
    return make_message(metadata, content=record)


def accepted_by_the_server(it: Case, contract: Contract) -> bool:
    """Whether a reply is accepted; fails unless that is right."""
    try:
        unpack_reply(it.message.content, contract, it.asked)
        accepted = True
    except WireError as error:
        assert error.code in list(Code), it.name
        accepted = False
    except Exception as error:
        raise AssertionError(it.name) from error
    assert accepted == is_good_reply(it.message.content, contract, it.asked), it.name
    return accepted


def ask(site: Site, message: Message) -> Message:
    """What a hospital sends back."""
    context = Context(run_id=1, node_id=1000, node_config={}, state=RecordDict(), run_config={})
    return answer(message, context, lambda _: site)


@dataclass
class Attacked:
    """A hospital that is sent hostile requests, beside one that is not."""

    sites: SmallSites = SITES
    probes: int = 0

    def __post_init__(self) -> None:
        self.site, self.untouched = self.sites.site(0), self.sites.site(0)

    def answered(self, it: Case) -> bool:
        """Whether a request is answered; fails unless that is right, and what leaves is an answer or one word."""
        try:
            reply = ask(self.site, it.message)
        except Exception as error:
            raise AssertionError(it.name) from error
        good = it.message.has_content() and is_good_request(it.message.content, self.site.contract)
        good = good and ticket_in(it.message.content).phase == it.message.metadata.message_type
        assert reply.has_content() == good and reply.has_error() != good, it.name
        assert reply.metadata.reply_to_message_id == it.message.metadata.message_id, it.name
        if good:
            assert is_good_reply(reply.content, self.site.contract, ticket_in(it.message.content)), it.name
        else:
            assert reply.error.reason in list(Code), it.name
        return good

    def is_unchanged(self) -> bool:
        """Whether both sites answer a new question with the same bytes."""
        self.probes += 1
        study = self.sites.study
        train = Ticket(study.study_id, "probe", 3, self.probes, Phase.TRAIN)
        asked = [question(it, study) for it in (train, replace(train, phase=Phase.EVALUATE))]
        given = [[as_bytes(ask(site, it).content) for it in asked] for site in (self.site, self.untouched)]
        return given[0] == given[1]


def as_bytes(record: RecordDict) -> bytes:
    return bytes(recorddict_to_proto(record).SerializeToString(deterministic=True))


def check_replies(numbers: range, sites: SmallSites = SITES) -> None:
    """Updates and counts, in the reader."""
    contract, sent = sites.site(0).contract, cases(("update", "counts"), numbers, sites)
    read = [accepted_by_the_server(it, contract) for it in sent if it.message.has_content()]
    assert len(read) > 1.5 * len(numbers), "Flower reads most of them"
    assert 0.05 < sum(read) / len(read) < 0.5, "some are changed within what is allowed, most are not"


def check_requests(numbers: range, sites: SmallSites = SITES) -> None:
    """Requests to train and to evaluate, on the whole way through a hospital."""
    hospital, read = Attacked(sites), list[bool]()
    for number, it in enumerate(cases(("train", "evaluate"), numbers, sites)):
        read.append(hospital.answered(it))
        assert number % 10 or hospital.is_unchanged(), it.name
    assert hospital.is_unchanged() and len(read) > 1.5 * len(numbers)
    assert 0.05 < sum(read) / len(read) < 0.5, "some are changed within what is allowed, most are not"


def check_federation(path: Path, seed: str, rounds: int, **federation: Any) -> None:
    """A federation with one liar ends as if the liar had sent its good replies only, bit for bit."""
    study, events = study_of(rounds, **federation), list[Event]()
    liar = Liar(seed, SmallSites(study, path).site(0).contract)
    state = federate(path / "liar", study, {LIARS_NODE: liar}, events.append)
    twin = federate(path / "twin", study, {LIARS_NODE: Twin(liar.counted)})
    for ours, theirs in zip(state.history, twin.history, strict=True):
        where = [sent for place, sent in liar.sent.items() if place[0] == str(ours.round)]
        assert ours.answered == theirs.answered and ours.refused.keys() == theirs.refused.keys() <= {LIAR}, where
        assert ours.counts.to_json() == theirs.counts.to_json() and ours.loss == theirs.loss, where
        assert set(ours.refused.values()) <= set(Code), where
    assert torch.equal(state.server.vector, twin.server.vector), seed
    left_out = {(str(it.round), it.phase) for it in events if isinstance(it, LeftOut)}
    assert left_out == {place for place, told in liar.counted.items() if told is None}, seed
    assert len(liar.sent) > rounds and 0.1 < len(left_out) / len(liar.sent) < 0.9, "many are refused, and some counted"
    assert len(read_run(path / "liar").rounds) == rounds + 1, "a report can still be made"


def test_the_server_reads_a_reply_or_refuses_it_with_a_word() -> None:
    check_replies(range(500))


def test_a_hospital_answers_a_request_or_refuses_it_with_a_word() -> None:
    check_requests(range(400))


def test_a_liar_changes_nothing_but_its_own_part(tmp_path: Path) -> None:
    check_federation(tmp_path, "a", 60)


@few_bits
def test_replies_of_few_bits_are_read_or_refused(tmp_path: Path, bits: int) -> None:
    check_replies(range(400), SmallSites(FEW[bits], tmp_path))


def test_requests_of_few_bits_are_answered_or_refused(tmp_path: Path) -> None:
    check_requests(range(200), SmallSites(FEW[8], tmp_path))


@few_bits
def test_a_liar_of_few_bits_changes_nothing_but_its_own_part(tmp_path: Path, bits: int) -> None:
    check_federation(tmp_path, "a", 40, update_bits=bits, model_bits=16)


@few_bits
def test_a_message_of_other_bits_is_refused(bits: Bits, tmp_path: Path) -> None:
    """A study says how many, and nobody may choose others."""
    asked = Ticket(STUDY.study_id, "run", 7, 1, Phase.TRAIN)
    reply = SITES.site(1).answer(Request(asked, CONTRACT.schema, SmallLearner().start()))
    with pytest.raises(WireError) as error:
        unpack_reply(pack_reply(reply), replace(CONTRACT, update_bits=bits), asked)
    assert error.value.code == Code.DTYPE
    with pytest.raises(WireError) as error:
        unpack_request(question(asked).content, replace(CONTRACT, model_bits=16))
    assert error.value.code == Code.DTYPE


@pytest.mark.slow
@few_bits
def test_thousands_of_replies_of_few_bits_are_read_or_refused(tmp_path: Path, bits: int) -> None:
    check_replies(range(400, 3000), SmallSites(FEW[bits], tmp_path))


@pytest.mark.slow
def test_the_server_reads_thousands_of_replies() -> None:
    check_replies(range(500, 3500))


@pytest.mark.slow
def test_a_hospital_answers_thousands_of_requests() -> None:
    check_requests(range(400, 3000))


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["b", "c", "d"])
def test_many_liars_change_nothing_but_their_own_part(tmp_path: Path, seed: str) -> None:
    check_federation(tmp_path, seed, 300)


@pytest.mark.parametrize("seed", range(10))
def test_a_round_of_liars_is_a_failed_round(tmp_path: Path, seed: int) -> None:
    """All three send what is not allowed, from the first training on."""
    study, events = study_of(3), list[Event]()
    contract = SmallSites(study).site(0).contract

    def lie(honest: Message) -> list[Message]:
        random, asked = Random(f"{seed}-{honest.metadata.src_node_id}"), ticket_in(honest.content)
        lies = (lied(honest, random, contract.norm_bound)[0] for _ in range(100))
        bad = (it for it in lies if not it.has_content() or not is_good_reply(it.content, contract, asked))
        return [honest] if asked.round == 0 else [next(bad)]

    with pytest.raises(RoundError, match="round 1 failed"):
        federate(tmp_path / "run", study, dict.fromkeys(ROSTER, lie), events.append)
    assert [it.round for it in events if isinstance(it, Failed)] == [1]
    assert not [it for it in events if isinstance(it, Answered) and it.round == 1]
    assert RunFolder(tmp_path / "run").last_round() == 0, "a failed round is never a completed one"


@pytest.mark.parametrize("name", [LIAR, "hospital-1"])
def test_nobody_answers_in_another_s_place(tmp_path: Path, name: str) -> None:
    """A reply to the message that another hospital was sent, under either name, and then no reply of its own."""
    study, events = study_of(2), list[Event]()

    def intrude(honest: Message) -> list[Message]:
        """The inline grid numbers messages in the order of their nodes; the third's is still unanswered."""
        foreign = replace_metadata(honest, reply_to_message_id=str(int(honest.metadata.reply_to_message_id) + 1))
        draft = Draft.of(foreign.content)
        draft.header["hospital"] = name.replace("1", "3")
        foreign.content = draft.build()
        return [foreign, make_message(honest.metadata, error=Error(1, "failed"))]

    state = federate(tmp_path / "run", study, {LIARS_NODE: intrude}, events.append)
    assert all(summary.refused == {LIAR: Code.FAILED} for summary in state.history)
    assert {it.reason for it in events if isinstance(it, Dropped)} == {"foreign"}


def replace_metadata(message: Message, **changes: Any) -> Message:
    """The message with other metadata."""
    kept = {name.removeprefix("_"): value for name, value in vars(message.metadata).items() if name != "_delivered_at"}
    return make_message(Metadata(**(kept | changes)), content=message.content)


@pytest.mark.parametrize("kind", ["evaluate", "query", "train.other", "evaluate.train"])
def test_a_message_of_another_type_is_refused(kind: str) -> None:
    asked = question(Ticket(STUDY.study_id, "run", 7, 1, Phase.TRAIN))
    assert ask(SITES.site(0), replace_metadata(asked, message_type=kind)).error.reason == Code.MALFORMED


@pytest.mark.parametrize("ttl", [0.0, -1.0, 1e308, math.inf, math.nan])
def test_a_message_of_any_lifetime_is_answered(ttl: float) -> None:
    asked = question(Ticket(STUDY.study_id, "run", 7, 1, Phase.TRAIN))
    assert ask(SITES.site(0), replace_metadata(asked, ttl=ttl)).has_content()


def test_a_message_without_content_is_refused() -> None:
    asked = question(Ticket(STUDY.study_id, "run", 7, 1, Phase.TRAIN))
    assert ask(SITES.site(0), make_message(asked.metadata, error=Error(1, "/etc/passwd"))).error.reason in list(Code)


@pytest.mark.parametrize("values", [2**30, 2**40, 2**62])
@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_what_a_message_claims_to_hold_is_not_allocated(values: int, dtype: str) -> None:
    asked = Ticket(STUDY.study_id, "run", 7, 1, Phase.TRAIN if dtype == "float32" else Phase.EVALUATE)
    reply = ask(SITES.site(1), question(asked)).content
    claim = ArrayRecord({"flat": Array(dtype, (values,), "bioface.raw", b"\0" * 64)})
    with little_memory():
        for record in (question(asked).content, reply):
            record["arrays"] = claim
        for read in (lambda: unpack_reply(reply, CONTRACT, asked), lambda: unpack_request(record, CONTRACT)):
            with pytest.raises(WireError):
                read()
