"""Does a message arrive as it was sent, and is every other message refused with the right word?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from hypothesis import given
from hypothesis import strategies as st

from bioface_core.config import parse_study
from bioface_core.errors import WireError
from bioface_core.evaluate import Counts, count
from bioface_core.messages import (
    WEIGHT_BOUND,
    Code,
    Contract,
    Evaluation,
    Phase,
    Reply,
    Request,
    Ticket,
    Update,
)
from bioface_core.seeding import generator
from bioface_core.wire import (
    fold,
    is_clearly_within,
    norm,
    pack_reply,
    pack_request,
    payload_bytes,
    unfold,
    unpack_reply,
    unpack_request,
)

CONTRACT = Contract("a" * 64, "b" * 64, size=7, classes=3, rounds=5, norm_bound=10.0)
TRAIN = Ticket(CONTRACT.study_id, "run", 2, 1, Phase.TRAIN)
EVALUATE = replace(TRAIN, phase=Phase.EVALUATE)
VECTOR = torch.linspace(-1, 1, 7)
REQUEST = pack_request(Request(TRAIN, CONTRACT.schema, VECTOR))

Change = Callable[[dict[str, Any]], object]


def update() -> Update:
    return Update(TRAIN, "hospital-1", CONTRACT.schema, VECTOR, 30, torch.tensor([30, 0, 30]), 1.0)


def evaluation() -> Evaluation:
    return Evaluation(EVALUATE, "hospital-1", count(torch.eye(3), torch.tensor([0, 2, 2])))


def over_the_wire(record: RecordDict) -> RecordDict:
    """Through the bytes that really travel."""
    proto = recorddict_to_proto(record)
    return recorddict_from_proto(type(proto).FromString(proto.SerializeToString()))


def refused(read: Callable[[], object]) -> str:
    with pytest.raises(WireError) as error:
        read()
    return error.value.code


def with_header(record: RecordDict, **changes: Any) -> RecordDict:
    """The record with fields of its header changed; None removes one."""
    header = {**dict(record["header"]), **changes}
    kept = {name: value for name, value in header.items() if value is not None}
    return RecordDict({"header": ConfigRecord(kept), "arrays": record["arrays"]})


def with_array(record: RecordDict, **changes: Any) -> RecordDict:
    """The record with parts of its array changed."""
    array = record.array_records["arrays"]["flat"]
    parts = {"dtype": array.dtype, "shape": array.shape, "stype": array.stype, "data": array.data} | changes
    return RecordDict({"header": record["header"], "arrays": ArrayRecord({"flat": Array(**parts)})})


def floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def test_a_request_arrives_as_it_was_sent() -> None:
    sent = Request(TRAIN, CONTRACT.schema, VECTOR)
    record = over_the_wire(pack_request(sent))
    read = unpack_request(record, CONTRACT)
    assert (read.ticket, read.schema) == (sent.ticket, sent.schema)
    assert torch.equal(read.vector, VECTOR) and read.vector.dtype == torch.float32
    assert payload_bytes(record) == 4 * 7


@given(st.lists(st.floats(-1, 1, width=32), min_size=7, max_size=7), st.integers(0, WEIGHT_BOUND))
def test_an_update_arrives_as_it_was_sent(values: list[float], weight: int) -> None:
    sent = replace(update(), delta=torch.tensor(values), weight=weight, class_weights_K=torch.tensor([weight, 0, 0]))
    read = unpack_reply(over_the_wire(pack_reply(sent)), CONTRACT, TRAIN)
    assert isinstance(read, Update)
    assert torch.equal(read.delta, sent.delta) and torch.equal(read.class_weights_K, sent.class_weights_K)
    assert (read.weight, read.loss, read.hospital) == (sent.weight, sent.loss, sent.hospital)


def test_an_evaluation_arrives_as_it_was_sent() -> None:
    read = unpack_reply(over_the_wire(pack_reply(evaluation())), CONTRACT, EVALUATE)
    assert isinstance(read, Evaluation) and read.counts.to_json() == evaluation().counts.to_json()


def test_what_is_read_may_be_written_to() -> None:
    """And changes nobody else's copy: hospitals of one process are sent the same records."""
    record = pack_request(Request(TRAIN, CONTRACT.schema, VECTOR))
    unpack_request(record, CONTRACT).vector.zero_()
    assert torch.equal(unpack_request(record, CONTRACT).vector, VECTOR)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"version": 2}, Code.VERSION),
        ({"study": "c" * 64}, Code.STUDY),
        ({"schema": "c" * 64}, Code.SCHEMA),
        ({"round": 0}, Code.ROUND),
        ({"round": 6}, Code.ROUND),
        ({"attempt": 0}, Code.ROUND),
        ({"phase": "query"}, Code.MALFORMED),
        ({"rate": 0.1}, Code.MALFORMED),
        ({"run": None}, Code.MALFORMED),
        ({"round": 2.0}, Code.MALFORMED),
        ({"round": True}, Code.MALFORMED),
    ],
)
def test_a_request_that_is_not_agreed_is_refused(change: dict[str, Any], code: Code) -> None:
    record = with_header(pack_request(Request(TRAIN, CONTRACT.schema, VECTOR)), **change)
    assert refused(lambda: unpack_request(record, CONTRACT)) == code


def test_a_request_with_numbers_that_are_none_is_refused() -> None:
    record = pack_request(Request(TRAIN, CONTRACT.schema, VECTOR.clone().fill_(math.nan)))
    assert refused(lambda: unpack_request(record, CONTRACT)) == Code.NOT_FINITE


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"study": "c" * 64}, Code.STUDY),
        ({"run": "other"}, Code.STALE),
        ({"round": 1}, Code.STALE),
        ({"attempt": 2}, Code.STALE),
        ({"phase": "evaluate"}, Code.STALE),
        ({"schema": "c" * 64}, Code.SCHEMA),
        ({"hospital": ""}, Code.NAME),
        ({"hospital": "../etc"}, Code.NAME),
        ({"weight": -1}, Code.WEIGHT),
        ({"weight": WEIGHT_BOUND + 1}, Code.WEIGHT),
        ({"weight": 30.0}, Code.MALFORMED),
        ({"class_weights": [30, 0]}, Code.WEIGHT),
        ({"class_weights": [30, 0, -1]}, Code.WEIGHT),
        ({"class_weights": [30, 0, 31]}, Code.WEIGHT),
        ({"class_weights": [1.0, 0.0, 1.0]}, Code.WEIGHT),
        ({"class_weights": []}, Code.WEIGHT),
        ({"loss": math.nan}, Code.NOT_FINITE),
        ({"loss": 1}, Code.MALFORMED),
        ({"loss": None}, Code.MALFORMED),
    ],
)
def test_an_update_whose_header_is_wrong_is_refused(change: dict[str, Any], code: Code) -> None:
    record = over_the_wire(with_header(pack_reply(update()), **change))
    assert refused(lambda: unpack_reply(record, CONTRACT, TRAIN)) == code


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"data": floats(1, 2, 3, 4, 5, 6)}, Code.LENGTH),
        ({"shape": (6,), "data": floats(1, 2, 3, 4, 5, 6)}, Code.LENGTH),
        ({"shape": (7, 1)}, Code.LENGTH),
        ({"data": b""}, Code.LENGTH),
        ({"dtype": "float64"}, Code.DTYPE),
        ({"dtype": "object"}, Code.DTYPE),
        ({"stype": "numpy.ndarray"}, Code.MALFORMED),
        ({"data": floats(0, 0, math.nan, 0, 0, 0, 0)}, Code.NOT_FINITE),
        ({"data": floats(0, 0, -math.inf, 0, 0, 0, 0)}, Code.NOT_FINITE),
        ({"data": floats(3e38, 3e38, 0, 0, 0, 0, 0)}, Code.NORM),
        ({"data": floats(8, 8, 0, 0, 0, 0, 0)}, Code.NORM),
    ],
)
def test_an_update_whose_array_is_wrong_is_refused(change: dict[str, Any], code: Code) -> None:
    record = with_array(pack_reply(update()), **change)
    assert refused(lambda: unpack_reply(record, CONTRACT, TRAIN)) == code


@pytest.mark.parametrize(
    "record",
    [
        RecordDict(),
        RecordDict({"header": ConfigRecord()}),
        RecordDict({"header": ArrayRecord(), "arrays": ArrayRecord()}),
        RecordDict({"header": pack_reply(update())["header"], "arrays": ConfigRecord()}),
        RecordDict({"header": pack_reply(update())["header"], "arrays": ArrayRecord()}),
        RecordDict({**pack_reply(update()), "more": ConfigRecord()}),
    ],
)
def test_other_records_are_refused(record: RecordDict) -> None:
    assert refused(lambda: unpack_reply(record, CONTRACT, TRAIN)) == Code.MALFORMED


@pytest.mark.parametrize(
    ("confusion", "ranks"),
    [
        ([[1, 0, 0], [0, 0, 0], [0, 0, -1]], [[1, 0, 0], [0, 0, 0], [-1, 0, 0]]),
        ([[1, 0, 0], [0, 0, 0], [0, 0, 2**40]], [[1, 0, 0], [0, 0, 0], [2**40, 0, 0]]),
        ([[1, 0, 0], [0, 0, 0], [0, 0, 1]], [[1, 0, 0], [0, 0, 0], [0, 0, 0]]),
    ],
)
def test_counts_of_nobody_real_are_refused(confusion: list[list[int]], ranks: list[list[int]]) -> None:
    reply = Evaluation(EVALUATE, "hospital-1", Counts(torch.tensor(confusion), torch.tensor(ranks)))
    assert refused(lambda: unpack_reply(pack_reply(reply), CONTRACT, EVALUATE)) == Code.COUNTS


def test_counts_of_another_number_of_classes_are_refused() -> None:
    reply = Evaluation(EVALUATE, "hospital-1", Counts.zeros(4))
    assert refused(lambda: unpack_reply(pack_reply(reply), CONTRACT, EVALUATE)) == Code.LENGTH


@pytest.mark.parametrize("reply", [update(), evaluation()])
def test_one_phase_s_reply_does_not_answer_the_other(reply: Reply) -> None:
    other = EVALUATE if isinstance(reply, Update) else TRAIN
    assert refused(lambda: unpack_reply(pack_reply(reply), CONTRACT, other)) == Code.MALFORMED


SCALARS = st.one_of(
    st.integers(-(2**62), 2**62), st.floats(), st.text(max_size=9), st.binary(max_size=9), st.booleans()
)
VALUES = st.one_of(SCALARS, st.lists(st.integers(-9, 99), max_size=5), st.lists(st.text(max_size=3), max_size=3))


@given(st.sampled_from([update(), evaluation()]), st.sampled_from(sorted(dict(pack_reply(update())["header"]))), VALUES)
def test_no_header_breaks_the_reader(reply: Reply, field: str, value: Any) -> None:
    """It reads a message or refuses it with a word of the list; nothing else can happen."""
    record = with_header(pack_reply(reply), **{field: value})
    try:
        unpack_reply(record, CONTRACT, reply.ticket)
    except WireError as error:
        assert error.code in list(Code)


@given(st.binary(max_size=64), st.text(max_size=9), st.lists(st.integers(-1, 9), max_size=3), st.text(max_size=9))
def test_no_array_breaks_the_reader(data: bytes, dtype: str, shape: list[int], stype: str) -> None:
    record = with_array(pack_reply(update()), data=data, dtype=dtype, shape=tuple(shape), stype=stype)
    assert refused(lambda: unpack_reply(record, CONTRACT, TRAIN)) in list(Code)


@given(st.lists(st.floats(-1e3, 1e3, width=32), max_size=20))
def test_the_norm_is_the_norm(values: list[float]) -> None:
    assert norm(torch.tensor(values)) == pytest.approx(math.sqrt(sum(value**2 for value in values)), rel=1e-12)


def test_a_norm_over_several_chunks() -> None:
    assert norm(torch.ones(2**20)) == 2**10


@pytest.mark.parametrize("record", [pack_reply(update()), pack_reply(evaluation()), REQUEST])
def test_what_is_folded_unfolds_to_the_same(record: RecordDict) -> None:
    folded = fold(record)
    assert folded.keys() == {"header"}, "one record in place of two, and no array"
    assert unfold(folded) == record
    assert unfold(record) == record and fold(folded) == folded


def test_a_large_array_stays_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    record = pack_reply(update())
    monkeypatch.setattr("bioface_core.wire._FOLDED_BYTES", payload_bytes(record) - 1)
    assert fold(record) is record


@pytest.mark.parametrize("name", ["flat.dtype", "flat.shape", "flat.stype", "flat.data"])
@pytest.mark.parametrize("value", [None, 1, 1.5, "x", b"x", [1], ["x"]])
def test_what_cannot_be_unfolded_is_refused(name: str, value: Any) -> None:
    header = dict(fold(pack_reply(update()))["header"]) | {name: value}
    changed = {key: kept for key, kept in header.items() if kept is not None}
    with pytest.raises(WireError):
        unpack_reply(unfold(RecordDict({"header": ConfigRecord(changed)})), CONTRACT, TRAIN)


def test_where_all_hospitals_count_the_same_nobody_counts_more() -> None:
    equal = replace(CONTRACT, largest_weight=1)
    one = replace(update(), weight=1, class_weights_K=torch.tensor([1, 0, 1]))
    assert unpack_reply(pack_reply(one), equal, one.ticket)
    for weight in (2, 10):
        with pytest.raises(WireError, match="wrong-weight"):
            unpack_reply(pack_reply(replace(one, weight=weight)), equal, one.ticket)
    study = parse_study({"name": "s", "syndromes": ["down", "rts"], "federation": {"weighting": "equal"}})
    assert Contract.of(study, CONTRACT).largest_weight == 1


@given(st.integers(0, 999), st.floats(-30, 15), st.sampled_from([0.5, 0.7, 0.72, 0.99, 1.0, 1.01, 2.0]))
def test_what_is_clearly_within_is_within(seed: int, exponent: float, part: float) -> None:
    bound = 10.0**exponent
    vector = torch.randn(1000, generator=generator("within", seed))
    vector = (vector * (part * bound / norm(vector))).float()
    clearly = is_clearly_within(vector, bound)
    assert not clearly or norm(vector) <= bound
    assert clearly or part > 0.7 or bound < 1e-15


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
def test_nothing_that_is_not_finite_is_clearly_within(value: float) -> None:
    vector = torch.zeros(2**18 + 7)
    vector[-1] = value
    assert not is_clearly_within(vector, 1e9)


def test_an_update_is_read_where_it_lies() -> None:
    """A second copy of a large model would be all that a server of thirty hospitals has to spare."""
    record = pack_reply(update())
    read = unpack_reply(record, CONTRACT, update().ticket)
    data = np.frombuffer(record.array_records["arrays"]["flat"].data, np.float32)
    assert isinstance(read, Update) and read.delta.data_ptr() == data.ctypes.data
