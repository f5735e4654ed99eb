"""How does a message travel? As two records: a header of scalars, and one flat array of raw little-endian bytes.

No pickle, no ``np.save``. Reading is strict: fields and types, ticket, layout, length, finite values and bounds are
checked, in that order, and before a byte of the array is copied. A vector of 16 or 8 bits a value is an array of bytes:
its values, then their scales (bioface_core/precision.py). The study says which; a message of another kind is refused.

Legend: n values of the vector, K syndromes.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from bioface_core.errors import WireError
from bioface_core.evaluate import Counts, cells_of
from bioface_core.messages import (
    COUNT_BOUND,
    Code,
    Contract,
    Evaluation,
    Phase,
    Reply,
    Request,
    Ticket,
    Update,
    demand,
)
from bioface_core.precision import Bits, Coded, coded_from, vector_bytes

VERSION = 1

_SERIALISATION = "bioface.raw"
_NUMPY: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "int64": np.dtype("<i8"),
    "uint32": np.dtype("<u4"),
    "uint16": np.dtype("<u2"),
    "uint8": np.dtype("u1"),
}
_FOLDED, _FOLDED_BYTES = "flat.", 2**20
_CHUNK = 2**18  # values at a time: float64 copies stay in the processor's cache
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_INT64 = range(-(2**63), 2**63)  # databases and tensors hold no more, though Flower's records do
_LOSS_BOUND = 1e12  # a hospital's loss above it is no loss, and many of them could add up to infinity

TICKET_FIELDS = {"version": int, "study": str, "run": str, "round": int, "attempt": int, "phase": str, "ask": int}
_REQUEST_FIELDS = TICKET_FIELDS | {"schema": str}
_EVALUATION_FIELDS = TICKET_FIELDS | {"hospital": str}
_UPDATE_FIELDS = _EVALUATION_FIELDS | {"schema": str, "weight": int, "class_weights": list, "loss": float}


def pack_request(request: Request) -> RecordDict:
    """The records of a request."""
    header = pack_ticket(request.ticket) | {"schema": request.schema}
    return records_of(header, as_it_travels(request.vector, request.coded))


def unpack_request(record: RecordDict, contract: Contract) -> Request:
    """Reads a request at a hospital.

    Raises:
        WireError: it is not exactly what ``contract`` says.
    """
    header = read_header(record, _REQUEST_FIELDS)
    ticket = read_ticket(header)
    demand(NAME.fullmatch(ticket.run_id) is not None, Code.MALFORMED, "run")
    contract.check(ticket, header["schema"])
    return Request(ticket, header["schema"], *read_vector(record, contract.size, contract.model_bits))


def pack_reply(reply: Reply) -> RecordDict:
    """The records of a reply."""
    header = pack_ticket(reply.ticket) | {"hospital": reply.hospital}
    if isinstance(reply, Evaluation):
        return records_of(header, reply.counts.cells.numpy())
    header |= {"schema": reply.schema, "weight": reply.weight, "loss": reply.loss}
    header |= {"class_weights": reply.class_weights_K.tolist()}
    return records_of(header, as_it_travels(reply.delta, reply.coded))


def unpack_reply(record: RecordDict, contract: Contract, asked: Ticket) -> Reply:
    """Reads a reply at the server.

    Args:
        record: what came.
        contract: of this study.
        asked: the ticket of the request it should answer.

    Raises:
        WireError: it is not exactly what ``contract`` says, or it answers another question.
    """
    trained = asked.phase is Phase.TRAIN
    header = read_header(record, _UPDATE_FIELDS if trained else _EVALUATION_FIELDS)
    ticket = read_ticket(header)
    demand(ticket.study_id == contract.study_id, Code.STUDY, ticket.study_id[:12])
    demand(ticket == asked, Code.STALE, f"round {ticket.round}, attempt {ticket.attempt}, {ticket.phase}")
    demand(NAME.fullmatch(header["hospital"]) is not None, Code.NAME)
    if trained:
        return _read_update(record, header, ticket, contract)
    return Evaluation(ticket, header["hospital"], _read_counts(record, contract.classes))


def payload_bytes(record: RecordDict) -> int:
    """How many bytes of arrays a message carries; a header of a few hundred comes on top."""
    return sum(len(array.data) for arrays in array_records(record) for array in arrays.values())


def array_records(record: RecordDict) -> list[ArrayRecord]:
    """The arrays of a message. Flower's property of this name ties the message into a cycle of references.

    So it would stay in memory, as large as the model, until Python happened to look for cycles.
    """
    return [part for part in record.values() if isinstance(part, ArrayRecord)]


def fold(record: RecordDict) -> RecordDict:
    """A message as it travels over a network: a small array within the header.

    Flower sends every record, array and chunk on its own, and a network's cost is that of requests: so there are three
    in place of six. A large array stays as it is, for it travels in chunks. Anything else than a message stays, too.
    """
    header, arrays = record.get("header"), record.get("arrays")
    if not isinstance(header, ConfigRecord) or not isinstance(arrays, ArrayRecord) or arrays.keys() != {"flat"}:
        return record
    array = arrays["flat"]
    if len(array.data) > _FOLDED_BYTES:
        return record
    shape = [int(length) for length in array.shape]
    folded: dict[str, Any] = {"dtype": array.dtype, "shape": shape, "stype": array.stype, "data": array.data}
    return RecordDict({"header": ConfigRecord(dict(header) | {_FOLDED + name: folded[name] for name in folded})})


def unfold(record: RecordDict) -> RecordDict:
    """What was folded; anything else is given back for the strict readers to refuse."""
    header = record.get("header")
    if record.keys() != {"header"} or not isinstance(header, ConfigRecord):
        return record
    parts: dict[str, Any] = {name: header.get(_FOLDED + name) for name in ("dtype", "shape", "stype", "data")}
    kinds = {"dtype": str, "shape": list, "stype": str, "data": bytes}
    if any(type(parts[name]) is not kind for name, kind in kinds.items()):
        return record
    if any(type(length) is not int for length in parts["shape"]):
        return record
    kept = {name: value for name, value in header.items() if name not in {_FOLDED + kind for kind in kinds}}
    array = Array(parts["dtype"], tuple(parts["shape"]), parts["stype"], parts["data"])
    return RecordDict({"header": ConfigRecord(kept), "arrays": ArrayRecord({"flat": array})})


def norm(vector: Tensor) -> float:
    """Euclidean norm, summed in float64.

    Args:
        vector: float32 (n,).

    Returns:
        NaN or infinity exactly where a value is not finite.
    """
    squares = [float(part.double().square_().sum()) for part in vector.split(_CHUNK)]
    return math.sqrt(sum(squares))


def is_clearly_within(vector: Tensor, bound: float) -> bool:
    """Whether all is finite and the norm below the bound, at a third of the norm's cost; False where it is close.

    Summed in float32, a chunk of m squares at a time: rounding takes less than m * 2**-24 = 2**-6 off a sum, and
    underflow less than n * 2**-126. Half of the bound's square is kept to spare for the one, the other is added.
    """
    squares = sum(float(torch.dot(part, part)) for part in vector.split(_CHUNK))
    return squares + len(vector) * 2.0**-126 < bound**2 / 2


def _read_update(record: RecordDict, header: dict[str, Any], ticket: Ticket, contract: Contract) -> Update:
    """The rest of an update, whose ticket is known to be right."""
    weight, class_weights, loss = header["weight"], header["class_weights"], header["loss"]
    demand(header["schema"] == contract.schema, Code.SCHEMA, header["schema"][:12])
    demand(0 <= weight <= contract.largest_weight, Code.WEIGHT, str(weight))
    demand(len(class_weights) == contract.classes, Code.WEIGHT, f"{len(class_weights)} classes")
    demand(all(type(value) is int and 0 <= value <= weight for value in class_weights), Code.WEIGHT, "of a class")
    demand(abs(loss) <= _LOSS_BOUND, Code.NOT_FINITE, "loss")
    delta, coded = _read_values(record, contract.size, contract.update_bits)
    if not is_clearly_within(delta, contract.norm_bound):
        length = norm(delta)
        demand(math.isfinite(length), Code.NOT_FINITE, "delta")
        demand(length <= contract.norm_bound, Code.NORM, f"{length:.3g}")
    class_weights_K = torch.tensor(class_weights, dtype=torch.int64)
    return Update(ticket, header["hospital"], header["schema"], delta, weight, class_weights_K, loss, coded)


def _read_counts(record: RecordDict, classes: int) -> Counts:
    """Tables that are possible counts of the same patients."""
    cells = torch.from_numpy(read_array(record, "int64", cells_of(classes)))
    demand(bool(((cells >= 0) & (cells < COUNT_BOUND)).all()), Code.COUNTS, "out of range")
    try:
        return Counts.from_cells(cells, classes)
    except ValueError as error:
        raise WireError(Code.COUNTS, str(error)) from error


def records_of(header: dict[str, Any], flat: npt.NDArray[Any]) -> RecordDict:
    """The two records of a message."""
    dtype = flat.dtype.name
    array = Array(dtype, flat.shape, _SERIALISATION, flat.astype(_NUMPY[dtype], copy=False).tobytes())
    return RecordDict({"header": ConfigRecord(header), "arrays": ArrayRecord({"flat": array})})


def read_header(record: RecordDict, fields: dict[str, type], has_array: bool = True) -> dict[str, Any]:
    """The header of a message.

    Args:
        record: what came.
        fields: of the header, with their types.
        has_array: whether the message has one beside the header.

    Raises:
        WireError: other records, or other fields.
    """
    header = record.get("header")
    records = {"header", "arrays"} if has_array else {"header"}
    demand(record.keys() == records and isinstance(header, ConfigRecord), Code.MALFORMED, "records")
    found: dict[str, Any] = dict(header or {})
    demand(found.keys() == fields.keys(), Code.MALFORMED, "fields")
    demand(all(type(found[name]) is kind for name, kind in fields.items()), Code.MALFORMED, "types")
    demand(all(found[name] in _INT64 for name, kind in fields.items() if kind is int), Code.MALFORMED, "range")
    demand(found["version"] == VERSION, Code.VERSION, str(found["version"]))
    return found


def read_array(record: RecordDict, dtype: str, length: int) -> npt.NDArray[Any]:
    """A writable copy of the one flat array, checked before a byte of it is copied.

    Raises:
        WireError: other arrays, or another type or length.
    """
    return _view_array(record, dtype, length).copy()


def _view_array(record: RecordDict, dtype: str, length: int) -> npt.NDArray[Any]:
    """The one flat array where it lies in the message, to be read only."""
    arrays, expected = record["arrays"], _NUMPY[dtype]
    if not isinstance(arrays, ArrayRecord) or arrays.keys() != {"flat"}:
        raise WireError(Code.MALFORMED, "arrays")
    array = arrays["flat"]
    demand(array.stype == _SERIALISATION, Code.MALFORMED, "serialisation")
    demand(array.dtype == dtype, Code.DTYPE, array.dtype[:16])
    demand(tuple(array.shape) == (length,), Code.LENGTH, f"{len(array.shape)} axes")
    demand(len(array.data) == length * expected.itemsize, Code.LENGTH, f"{len(array.data)} bytes")
    return np.frombuffer(array.data, expected).astype(expected.newbyteorder("="), copy=False)


def as_it_travels(vector: Tensor, coded: Coded | None) -> npt.NDArray[Any]:
    """The array of a vector, which is float32 unless it was coded."""
    return vector.detach().numpy() if coded is None else coded.content()


def read_vector(record: RecordDict, size: int, bits: Bits) -> tuple[Tensor, Coded | None]:
    """A vector, float32 (n,), and as it travelled where it was coded.

    Raises:
        WireError: another array, a value that is not finite, or one that no sender makes.
    """
    vector, coded = _read_values(record, size, bits)
    demand(math.isfinite(norm(vector)), Code.NOT_FINITE)
    return vector.clone(), coded


def _read_values(record: RecordDict, size: int, bits: Bits) -> tuple[Tensor, Coded | None]:
    """A vector, finite or not; of float32 values a view of the message, which nobody may write to."""
    if bits == 32:
        return from_dlpack(_view_array(record, "float32", size)), None
    coded = coded_from(read_array(record, "uint8", vector_bytes(size, bits)), size, bits)
    demand(not bool((coded.scales_b < 0).any()), Code.MALFORMED, "a scale below 0")
    demand(bits == 16 or bool((coded.values_n > -128).all()), Code.MALFORMED, "-128, which has no opposite")
    return coded.vector, coded


def pack_ticket(ticket: Ticket) -> dict[str, Any]:
    """A ticket as fields of a header."""
    return {
        "version": VERSION,
        "study": ticket.study_id,
        "run": ticket.run_id,
        "round": ticket.round,
        "attempt": ticket.attempt,
        "phase": ticket.phase.value,
        "ask": ticket.ask,
    }


def read_ticket(header: dict[str, Any]) -> Ticket:
    """The ticket in a header.

    Raises:
        WireError: no such phase.
    """
    demand(header["phase"] in list(Phase), Code.MALFORMED, "phase")
    return Ticket(
        header["study"], header["run"], header["round"], header["attempt"], Phase(header["phase"]), header["ask"]
    )
