"""Do the messages of a masked sum arrive as they were sent, and is every other message refused with a word?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

from bioface_core.errors import WireError
from bioface_core.messages import Code, Contract, Phase, Request, Ticket
from bioface_core.secure import Advert, Revealed
from bioface_core.steps import (
    MESSAGE_TYPES,
    Answer,
    AskConfirmation,
    Asked,
    AskKeys,
    AskMasked,
    AskOpening,
    AskShares,
    Confirmation,
    Keys,
    Masked,
    Opening,
    Shares,
    Step,
    message_type,
)
from bioface_core.steps_wire import pack_answer, pack_asked, unpack_answer, unpack_asked
from bioface_core.summand import Vector
from bioface_core.wire import fold, unfold
from client.app import answer
from tests.damage import changed
from tests.lying_lab import LyingLab, message_of
from tests.masked_federation import MaskedSites, masked_study
from tests.small_federation import SmallLearner

CONTRACT = Contract("a" * 64, "b" * 64, size=7, classes=3, rounds=5, norm_bound=10.0)
TICKET = Ticket(CONTRACT.study_id, "run", 2, 1, Phase.TRAIN)
LENGTH = 9
ADVERTS = tuple(Advert(f"hospital-{number}", bytes([number]) * 32, bytes(32), bytes(64)) for number in (1, 2, 3))
SEALED = {"hospital-2": bytes(96), "hospital-3": b"x" * 96}
REVEALED = Revealed({"hospital-1": bytes(48), "hospital-2": b"x" * 48}, {"hospital-3": bytes(32)})

ASKED: dict[Step, Asked] = {
    Step.KEYS: AskKeys(TICKET, CONTRACT.schema),
    Step.SHARES: AskShares(TICKET, CONTRACT.schema, ADVERTS),
    Step.MASK: AskMasked(Request(TICKET, CONTRACT.schema, torch.linspace(-1, 1, 7)), SEALED),
    Step.CONFIRM: AskConfirmation(TICKET, CONTRACT.schema, ("hospital-1", "hospital-3")),
    Step.UNMASK: AskOpening(TICKET, CONTRACT.schema, {"hospital-1": bytes(64), "hospital-2": b"x" * 64}),
}
ANSWERS: dict[Step, Answer] = {
    Step.KEYS: Keys(TICKET, "hospital-1", ADVERTS[0]),
    Step.SHARES: Shares(TICKET, "hospital-1", SEALED),
    Step.MASK: Masked(TICKET, "hospital-1", np.arange(LENGTH, dtype=np.uint32) - np.uint32(5)),
    Step.CONFIRM: Confirmation(TICKET, "hospital-1", bytes(range(64))),
    Step.UNMASK: Opening(TICKET, "hospital-1", REVEALED),
}
STEPS = pytest.mark.parametrize("step", list(Step))


def over_the_wire(record: RecordDict) -> RecordDict:
    """Through the bytes that really travel, folded as the nodes fold them."""
    proto = recorddict_to_proto(fold(record))
    return unfold(recorddict_from_proto(type(proto).FromString(proto.SerializeToString())))


def read_asked(record: RecordDict, step: Step) -> Asked:
    return unpack_asked(record, CONTRACT, step)


def read_answer(record: RecordDict, step: Step) -> Answer:
    return unpack_answer(record, CONTRACT, TICKET, step, Vector(LENGTH, "uint32"))


def refused(read: Callable[[], object]) -> str:
    with pytest.raises(WireError) as error:
        read()
    return error.value.code


def with_header(record: RecordDict, **changes: Any) -> RecordDict:
    header = {name: value for name, value in {**dict(record["header"]), **changes}.items() if value is not None}
    return RecordDict({**record, "header": ConfigRecord(header)})


@STEPS
def test_a_question_arrives_as_it_was_asked(step: Step) -> None:
    read, asked = read_asked(over_the_wire(pack_asked(ASKED[step])), step), ASKED[step]
    if isinstance(asked, AskMasked) and isinstance(read, AskMasked):
        assert torch.equal(read.request.vector, asked.request.vector) and read.sealed == asked.sealed
        assert (read.ticket, read.schema) == (asked.ticket, asked.schema)
    else:
        assert read == asked


@STEPS
def test_an_answer_arrives_as_it_was_given(step: Step) -> None:
    read, answer = read_answer(over_the_wire(pack_answer(ANSWERS[step])), step), ANSWERS[step]
    if isinstance(answer, Masked) and isinstance(read, Masked):
        assert np.array_equal(read.values_m, answer.values_m) and read.values_m.dtype == np.uint32
    else:
        assert read == answer


def test_a_sum_without_drop_outs_arrives_too() -> None:
    opening = Opening(TICKET, "hospital-1", Revealed({"hospital-1": bytes(48)}, {}))
    assert read_answer(over_the_wire(pack_answer(opening)), Step.UNMASK) == opening


@STEPS
def test_no_step_is_read_as_another(step: Step) -> None:
    for other in (other for other in Step if other is not step):
        assert refused(partial(read_asked, pack_asked(ASKED[step]), other)) == Code.MALFORMED
        assert refused(partial(read_answer, pack_answer(ANSWERS[step]), other)) == Code.MALFORMED


@STEPS
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"version": 2}, Code.VERSION),
        ({"study": "c" * 64}, Code.STUDY),
        ({"schema": "c" * 64}, Code.SCHEMA),
        ({"round": 6}, Code.ROUND),
        ({"attempt": 0}, Code.ROUND),
        ({"phase": "query"}, Code.MALFORMED),
        ({"step": "Keys"}, Code.MALFORMED),
        ({"step": None}, Code.MALFORMED),
        ({"more": 1}, Code.MALFORMED),
        ({"run": "../etc"}, Code.MALFORMED),
    ],
)
def test_a_question_that_is_not_agreed_is_refused(step: Step, change: dict[str, Any], code: Code) -> None:
    assert refused(lambda: read_asked(with_header(pack_asked(ASKED[step]), **change), step)) == code


@STEPS
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"study": "c" * 64}, Code.STUDY),
        ({"run": "other"}, Code.STALE),
        ({"attempt": 2}, Code.STALE),
        ({"ask": 2}, Code.STALE),
        ({"phase": "evaluate"}, Code.STALE),
        ({"hospital": "../etc"}, Code.NAME),
        ({"step": "other"}, Code.MALFORMED),
        ({"weight": 3}, Code.MALFORMED),
    ],
)
def test_an_answer_that_is_not_agreed_is_refused(step: Step, change: dict[str, Any], code: Code) -> None:
    assert refused(lambda: read_answer(with_header(pack_answer(ANSWERS[step]), **change), step)) == code


@pytest.mark.parametrize(
    ("step", "change", "code"),
    [
        (Step.SHARES, {"hospitals": ["hospital-1"] * 3}, Code.NAME),
        (Step.SHARES, {"hospitals": ["a", "b", "c d"]}, Code.NAME),
        (Step.SHARES, {"hospitals": [1, 2, 3]}, Code.NAME),
        (Step.SHARES, {"hospitals": ["a", "b"]}, Code.LENGTH),
        (Step.SHARES, {"cipher_keys": [bytes(31)] * 3}, Code.LENGTH),
        (Step.SHARES, {"mask_keys": ["x" * 32] * 3}, Code.LENGTH),
        (Step.SHARES, {"signatures": []}, Code.LENGTH),
        (Step.SHARES, {"hospitals": [f"h{number}" for number in range(21)]}, Code.MALFORMED),
        (Step.MASK, {"sealed": [bytes(95)] * 2}, Code.LENGTH),
        (Step.MASK, {"sealed": bytes(96)}, Code.MALFORMED),
        (Step.CONFIRM, {"hospitals": ["hospital-1", "hospital-1"]}, Code.NAME),
        (Step.UNMASK, {"signatures": [bytes(64)] * 3}, Code.LENGTH),
    ],
)
def test_a_list_in_a_question_that_is_not_agreed_is_refused(step: Step, change: dict[str, Any], code: Code) -> None:
    assert refused(lambda: read_asked(with_header(pack_asked(ASKED[step]), **change), step)) == code


@pytest.mark.parametrize(
    ("step", "change", "code"),
    [
        (Step.KEYS, {"cipher_key": bytes(33)}, Code.LENGTH),
        (Step.KEYS, {"mask_key": "x" * 32}, Code.MALFORMED),
        (Step.SHARES, {"sealed": [bytes(96)]}, Code.LENGTH),
        (Step.CONFIRM, {"signature": bytes(63)}, Code.LENGTH),
        (Step.UNMASK, {"self_seeds": [bytes(47)] * 2}, Code.LENGTH),
        (Step.UNMASK, {"lost_keys": []}, Code.LENGTH),
        (Step.UNMASK, {"lost": ["a", "a"], "lost_keys": [bytes(32)] * 2}, Code.NAME),
    ],
)
def test_a_part_of_an_answer_that_is_not_agreed_is_refused(step: Step, change: dict[str, Any], code: Code) -> None:
    assert refused(lambda: read_answer(with_header(pack_answer(ANSWERS[step]), **change), step)) == code


def test_a_masked_vector_of_another_length_is_refused() -> None:
    record = pack_answer(Masked(TICKET, "hospital-1", np.zeros(LENGTH + 1, np.uint32)))
    assert refused(lambda: read_answer(record, Step.MASK)) == Code.LENGTH
    assert refused(lambda: read_asked(pack_asked(ASKED[Step.KEYS]), Step.MASK)) == Code.MALFORMED


def with_arrays(record: RecordDict) -> RecordDict:
    """A message of which ``changed`` can change the array as well."""
    vector = pack_asked(ASKED[Step.MASK])["arrays"]
    return RecordDict({"header": record["header"], "arrays": record.get("arrays", vector)})


def hostile(record: RecordDict, kind: str, number: int) -> RecordDict | None:
    """A changed message; None where Flower itself cannot read it."""
    random = Random(f"{sorted(record['header'])}-{kind}-{number}")
    message: Message = message_of(record if number % 4 == 0 else with_arrays(record), kind, 2)
    try:
        content = changed(message, random, 10.0, in_bytes=number % 4 == 0)[0].content
    except Exception:  # whatever Flower raises
        return None
    if "arrays" not in record and number % 3:
        content.pop("arrays", None)
    return content


@pytest.fixture
def _quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@STEPS
def test_no_message_breaks_a_reader(step: Step) -> None:
    """It is read, or refused with a word of the list; nothing else can happen."""
    for number in range(150):
        for record, read in ((pack_asked(ASKED[step]), read_asked), (pack_answer(ANSWERS[step]), read_answer)):
            content = hostile(record, message_type(Phase.TRAIN, step), number)
            if content is None:
                continue
            try:
                read(content, step)
            except WireError as error:
                assert error.code in list(Code), (step, number)


@pytest.mark.usefixtures("_quiet")
def test_no_message_breaks_a_hospital(tmp_path: Path) -> None:
    """Whatever comes, one word leaves or an answer, and the next sum is made as if nothing had been."""
    lab = LyingLab(MaskedSites(masked_study(), tmp_path))
    start = Request(lab.ticket, SmallLearner.schema, SmallLearner().start())
    questions: list[Asked] = [
        AskKeys(lab.ticket, SmallLearner.schema),
        AskShares(lab.ticket, SmallLearner.schema, ADVERTS),
        AskMasked(start, SEALED),
        AskConfirmation(lab.ticket, SmallLearner.schema, lab.names),
        AskOpening(lab.ticket, SmallLearner.schema, {"hospital-1": bytes(64)}),
    ]
    site = lab.sites.site(0)
    for number in range(300):
        asked, kind = questions[number % 5], list(MESSAGE_TYPES)[number % 10]
        content = hostile(pack_asked(asked), kind, number)
        if content is not None:
            reply = answer(message_of(content, kind, 1), None, lambda _: site)  # type: ignore[arg-type]
            assert reply.has_content() or reply.error.reason in list(Code), number
    lab.ticket = replace(lab.ticket, attempt=77)
    lab.up_to_masked()


def test_a_step_is_called_as_it_is_in_the_journal() -> None:
    assert message_type(Phase.TRAIN, Step.MASK) == "train"
    assert message_type(Phase.EVALUATE, Step.UNMASK) == "evaluate.unmask"
