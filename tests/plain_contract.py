"""What is a good message? The contract written out again, value by value, in plain Python.

The oracle of ``tests/test_fuzz.py``: slow, obvious, and it shares no line with ``bioface_core/wire.py``.
"""

from __future__ import annotations

import math
import string
import struct
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from bioface_core.messages import Contract, Phase, Ticket

_TICKET = {"version": int, "study": str, "run": str, "round": int, "attempt": int, "phase": str, "ask": int}
_LETTERS = string.ascii_letters + string.digits


def is_good_request(record: RecordDict, contract: Contract) -> bool:
    """Whether a hospital must answer it."""
    header = _fields(record, {"schema": str})
    if header is None:
        return False
    vector = _vector(record, contract.size, contract.model_bits)
    first = {"train": 1, "evaluate": 0}.get(header["phase"])
    return (
        first is not None
        and (header["version"], header["study"], header["schema"]) == (1, contract.study_id, contract.schema)
        and first <= header["round"] <= contract.rounds
        and 1 <= header["attempt"] < 2**63
        and 1 <= header["ask"] < 2**63
        and _is_name(header["run"])
        and vector is not None
    )


def is_good_reply(record: RecordDict, contract: Contract, asked: Ticket) -> bool:
    """Whether the server must count it, if its name is the sender's."""
    train = asked.phase is Phase.TRAIN
    more = {"schema": str, "weight": int, "class_weights": list, "loss": float} if train else {}
    header = _fields(record, {"hospital": str} | more)
    if header is None or not _is_name(header["hospital"]):
        return False
    ticket = {"study": asked.study_id, "run": asked.run_id, "round": asked.round, "attempt": asked.attempt}
    ticket |= {"phase": asked.phase.value, "ask": asked.ask, "version": 1}
    if any(header[name] != value for name, value in ticket.items()):
        return False
    return _is_good_update(record, header, contract) if train else _are_good_counts(record, contract.classes)


def _is_good_update(record: RecordDict, header: dict[str, Any], contract: Contract) -> bool:
    weight, class_weights, loss = header["weight"], header["class_weights"], header["loss"]
    delta = _vector(record, contract.size, contract.update_bits)
    return (
        header["schema"] == contract.schema
        and 0 <= weight <= 2**20
        and len(class_weights) == contract.classes
        and all(type(it) is int and 0 <= it <= weight for it in class_weights)
        and abs(loss) <= 1e12  # false for NaN
        and delta is not None
        and math.hypot(*delta) <= contract.norm_bound
    )


def _vector(record: RecordDict, n: int, bits: int) -> list[float] | None:
    """The numbers of a vector; None where they are not as agreed."""
    if bits == 32:
        whole = [*_values(record, "f")] if _is_array(record, "float32", n) else [math.nan]
        return whole if all(math.isfinite(value) for value in whole) else None
    blocks = 1 if bits == 16 else (n + 255) // 256
    if not _is_array(record, "uint8", n * bits // 8 + 4 * blocks):
        return None
    data = record.array_records["arrays"]["flat"].data
    numbers = struct.unpack(f"<{n}{'e' if bits == 16 else 'b'}", data[: n * bits // 8])
    scales = struct.unpack(f"<{blocks}f", data[n * bits // 8 :])
    if not all(0 <= scale < math.inf for scale in scales) or (bits == 8 and -128 in numbers):
        return None
    try:
        products = [number * scales[0 if bits == 16 else at // 256] for at, number in enumerate(numbers)]
        vector = [struct.unpack("<f", struct.pack("<f", product))[0] for product in products]
    except OverflowError:  # more than a float32 holds
        return None
    return vector if all(math.isfinite(value) for value in vector) else None


def _are_good_counts(record: RecordDict, k: int) -> bool:
    if not _is_array(record, "int64", 2 * k * k + 21 * 40 + 160):
        return False
    cells = _values(record, "q")
    rows = [cells[start : start + k] for start in range(0, 2 * k * k, k)]
    confusion, ranks = rows[:k], rows[k:]
    sure = cells[2 * k * k :]
    tables = [sure[start : start + 40] for start in range(0, 840, 40)] + [sure[840:]]
    return (
        all(0 <= cell < 2**31 for cell in cells)
        and [sum(row) for row in confusion] == [sum(row) for row in ranks]
        and [row[at] for at, row in enumerate(confusion)] == [row[0] for row in ranks]
        and len({(sum(table[::2]), sum(table[1::2])) for table in tables}) == 1
    )


def _fields(record: RecordDict, more: dict[str, type]) -> dict[str, Any] | None:
    """The header's fields, if they have the right names and types."""
    if sorted(record) != ["arrays", "header"] or not isinstance(record["header"], ConfigRecord):
        return None
    header = dict(record["header"])
    return header if {name: type(value) for name, value in header.items()} == _TICKET | more else None


def _is_array(record: RecordDict, dtype: str, length: int) -> bool:
    arrays = record["arrays"]
    if not isinstance(arrays, ArrayRecord) or list(arrays) != ["flat"]:
        return False
    array, size = arrays["flat"], {"float32": 4, "int64": 8, "uint8": 1}[dtype]
    said = (array.dtype, array.shape, array.stype, len(array.data))
    return said == (dtype, (length,), "bioface.raw", size * length)


def _values(record: RecordDict, kind: str) -> tuple[Any, ...]:
    data = record.array_records["arrays"]["flat"].data
    return struct.unpack(f"<{len(data) // struct.calcsize(kind)}{kind}", data)


def _is_name(text: str) -> bool:
    return 1 <= len(text) <= 64 and text[0] in _LETTERS and all(it in _LETTERS + "._-" for it in text)
