"""What can a message say that is wrong? Real ones with something changed, as by a program that speaks the protocol.

All randomness is the ``Random`` that is passed in, so that a seed is enough to see a case again. What bytes can be that
are wrong is in ``tests/damage.py``.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

Record = ArrayRecord | ConfigRecord | MetricRecord

# What a pickle in a message would do, were it ever read.
exploded: list[str] = []


class _Bomb:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return exploded.append, ("a pickle of a message was read",)


_PICKLE = pickle.dumps(_Bomb())

_INTEGERS = (
    -1,
    0,
    1,
    2,
    3,
    7,
    2**20,
    2**20 + 1,
    2**31,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
    -(2**63),
    10**30,
    10**5000,
)
_FLOATS = (math.nan, math.inf, -math.inf, 1.7e308, -1.7e308, 1e300, 1e12, 5e-324, -0.0, 0.5)
_TEXTS = (
    *("", " ", "0", "train", "evaluate", "query", "Train", "x" * 10_000, "a" * 64, "../../etc/passwd", "/dev/zero"),
    *("hospital-1", "hospital-3", "hospital-2\n", " hospital-2", "hospital-\u0662", "h\u00f4pital", "\u202e2-latipsoh"),
    *("hospital-2\0", "node-1000", "<script>", "'; DROP TABLE answered; --", "\x1b[2J", "stranger"),
)
_SCALARS = (*_INTEGERS, *_FLOATS, *_TEXTS, True, False, b"", b"\xff" * 100, _PICKLE)
_LISTS: tuple[list[Any], ...] = (
    *([], [0], [0] * 3, [10] * 3, [-1] * 3, [2**20 + 1] * 3, [2**63] * 3, [10**30] * 3, [0] * 100_000),
    *([True] * 3, [1.0] * 3, [math.nan] * 3, ["1"] * 3, [b"1"] * 3),
)
_DTYPES = (
    "",
    "float16",
    "float64",
    "int32",
    "int64",
    "uint8",
    "object",
    ">f4",
    "<f4",
    "bfloat16",
    "O",
    "float32" * 999,
)
_STYPES = ("", "numpy.ndarray", "pickle", "torch", "bioface.raw\n", "BIOFACE.RAW")


@dataclass
class Draft:
    """A message's records in a form in which everything can be changed.

    Attributes:
        header: the header's fields.
        array: the arguments of ``Array``.
        names: what the two records and the array are called.
        more_arrays: beside the one.
        records: beside the two, or in their place.
        without: records that are left away.
    """

    header: dict[str, Any]
    array: dict[str, Any]
    names: dict[str, str] = field(default_factory=lambda: {"header": "header", "arrays": "arrays", "flat": "flat"})
    more_arrays: dict[str, Array] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    without: set[str] = field(default_factory=set)

    @staticmethod
    def of(record: RecordDict) -> Draft:
        array = record.array_records["arrays"]["flat"]
        parts = {"dtype": array.dtype, "shape": array.shape, "stype": array.stype, "data": array.data}
        return Draft(dict(record.config_records["header"]), parts)

    def build(self) -> RecordDict:
        arrays = ArrayRecord({self.names["flat"]: Array(**self.array)} | self.more_arrays)
        records: dict[str, Record] = {self.names["header"]: ConfigRecord(self.header), self.names["arrays"]: arrays}
        return RecordDict({name: it for name, it in (records | self.records).items() if name not in self.without})

    @property
    def values(self) -> np.ndarray[Any, Any]:
        """A writable copy of the array's values."""
        return np.frombuffer(self.array["data"], self._numpy).copy()

    @values.setter
    def values(self, values: np.ndarray[Any, Any]) -> None:
        self.array["data"] = values.astype(self._numpy).tobytes()

    @property
    def _numpy(self) -> str:
        return {"int64": "<i8", "uint8": "u1"}.get(self.array["dtype"], "<f4")


Mutation = Callable[[Draft, Random], None]


def mutated(record: RecordDict, random: Random, bound: float) -> tuple[RecordDict, str]:
    """A message with one thing changed, or up to three.

    Args:
        record: a real one.
        random: all there is of it.
        bound: of the norm of an update.

    Returns:
        The changed message, and in words what was done.
    """
    draft, done = Draft.of(record), []
    for mutation in random.choices([*MUTATIONS, _norm_at(bound)], k=random.choice([1, 1, 1, 2, 3])):
        try:
            with np.errstate(all="ignore"):  # numbers that overflow are what is wanted
                mutation(draft, random)
        except (KeyError, TypeError, ValueError, IndexError):
            continue  # an earlier mutation took away what this one would change
        done.append(mutation.__name__)
    return draft.build(), ", ".join(done)


def _drop_field(draft: Draft, random: Random) -> None:
    del draft.header[random.choice(list(draft.header))]


def _rename_field(draft: Draft, random: Random) -> None:
    name = random.choice(list(draft.header))
    draft.header[random.choice([name.upper(), name + " ", "x" * 10_000, ""])] = draft.header.pop(name)


def _add_field(draft: Draft, random: Random) -> None:
    draft.header[random.choice(["rate", "photos", "__class__", "schema", "weight", "hospital"])] = random.choice(
        _SCALARS
    )


def _any_value(draft: Draft, random: Random) -> None:
    draft.header[random.choice(list(draft.header))] = random.choice([*_SCALARS, *_LISTS])


def _same_type(draft: Draft, random: Random) -> None:
    """Another value of the right type, which only the value's own check can refuse."""
    name = random.choice(list(draft.header))
    values: dict[type, Sequence[Any]] = {int: _INTEGERS, float: _FLOATS, str: _TEXTS, list: _LISTS}
    draft.header[name] = random.choice(values[type(draft.header[name])])


def _neighbour(draft: Draft, random: Random) -> None:
    """The number next to the right one: another round, attempt, ask, version or weight."""
    name = random.choice([name for name, value in draft.header.items() if type(value) is int])
    draft.header[name] += random.choice([-1, 1])


def _one_character(draft: Draft, random: Random) -> None:
    """One character of a text: of the study, the run, the phase, the layout or the name."""
    name = random.choice([name for name, value in draft.header.items() if type(value) is str and value])
    text = draft.header[name]
    at = random.randrange(len(text))
    draft.header[name] = text[:at] + random.choice(["", "0", "f", "é", "\0"]) + text[at + 1 :]


def _other_name(draft: Draft, random: Random) -> None:
    """A name that could be right, but is another hospital's or nobody's."""
    name = draft.header["hospital"]
    draft.header["hospital"] = random.choice(["hospital-1", "hospital-3", "stranger", name.upper()])


def _weight(draft: Draft, random: Random) -> None:
    draft.header["weight"] += random.choice([-1, 1, 2**20, 2**31, -(2**31), 2**63])


def _class_weights(draft: Draft, random: Random) -> None:
    weights = [*draft.header["class_weights"]]
    changes: list[Callable[[], object]] = [
        lambda: weights.append(0),
        lambda: weights.pop(),
        lambda: weights.__setitem__(0, draft.header["weight"] + 1),
        lambda: weights.__setitem__(-1, -1),
        lambda: weights.__setitem__(0, 2**63),
        lambda: weights.reverse(),
    ]
    random.choice(changes)()
    draft.header["class_weights"] = weights


def _dtype(draft: Draft, random: Random) -> None:
    draft.array["dtype"] = random.choice(_DTYPES)


def _stype(draft: Draft, random: Random) -> None:
    draft.array["stype"] = random.choice(_STYPES)


def _shape(draft: Draft, random: Random) -> None:
    (n,) = draft.array["shape"]
    shapes = [(n + 1,), (n - 1,), (0,), (), (2**40,), (2**40, 2**40), (-1,), (-n,), (n, 1), (1, n), (1,) * 10_000]
    draft.array["shape"] = random.choice([*shapes, (10**5000,), (True,)])


def _length(draft: Draft, random: Random) -> None:
    data = draft.array["data"]
    draft.array["data"] = random.choice([b"", data[:-1], data + b"\0", data * 2, data[4:], b"\0" * 2**20, _PICKLE])


def _other_length(draft: Draft, random: Random) -> None:
    """Longer or shorter, and its shape says so."""
    values = draft.values
    draft.values = random.choice([values[:-1], np.append(values, 0), values[:0], np.append(values, values)])
    draft.array["shape"] = (len(draft.values),)


def _other_type(draft: Draft, random: Random) -> None:
    """The right number of values as numbers of another size, whether or not it says so."""
    numpy_type = random.choice(["<f2", "<f8", "<i4", "<i8", ">f4", ">i8"])
    draft.array["data"] = draft.values.astype(numpy_type).tobytes()
    draft.array["dtype"] = random.choice([draft.array["dtype"], str(np.dtype(numpy_type))])


def _pickled(draft: Draft, random: Random) -> None:
    """What ``np.load`` or an unpickler would run."""
    draft.array |= {"data": _PICKLE, "stype": random.choice(_STYPES), "dtype": "object"}


def _no_numbers(draft: Draft, random: Random) -> None:
    """NaN, infinity or a denormal somewhere; for counts, what these bits mean there."""
    patterns = {
        4: [0x7FC00000, 0x7F800000, 0xFF800000, 0x7F800001, 0x00000001, 0x80000001],
        8: [2**63, 2**63 - 1, 2**62],
        1: [0x80, 0x7F, 0xFF, 0x7C, 0xFC],  # of few bits: -128, and the upper half of infinities
    }
    size = np.dtype(draft._numpy).itemsize
    whole = np.frombuffer(draft.array["data"], f"<u{size}").copy()
    for _ in range(random.choice([1, 1, len(whole)])):
        whole[random.randrange(len(whole))] = random.choice(patterns[size])
    draft.array["data"] = whole.tobytes()


def _last_scale(draft: Draft, random: Random) -> None:
    """What the last four bytes say, which are a scale where the vector has few bits."""
    scale = random.choice([math.nan, math.inf, -math.inf, -1e-3, -0.0, 0.0, 5e-324, 1e-45, 1e-3, 1.0, 1e30, 3.4e38])
    draft.array["data"] = draft.array["data"][:-4] + np.float32(scale).tobytes()


def _scaled(draft: Draft, random: Random) -> None:
    draft.values = draft.values.astype(np.float64) * random.choice([-1.0, 0.0, 0.5, 1e3, 1e15, 1e30, 1e38])


def _cell(draft: Draft, random: Random) -> None:
    """One value changed a little: for counts, a patient too many, too few, or in another place."""
    values = draft.values
    values[random.randrange(len(values))] += random.choice([-1, 1, 2**31, 2**40])
    draft.values = values


def _swapped(draft: Draft, random: Random) -> None:
    values = draft.values
    random.shuffle(cast(Any, values))
    draft.values = values


def _drop_record(draft: Draft, random: Random) -> None:
    draft.without.add(random.choice(["header", "arrays"]))


def _rename_record(draft: Draft, random: Random) -> None:
    draft.names[random.choice(["header", "arrays", "flat"])] = random.choice(
        ["", "Header", "flat", "arrays", "x" * 10_000]
    )


def _other_record(draft: Draft, random: Random) -> None:
    """One record too many, or one of another kind in place of the right one."""
    kinds: list[Record] = [MetricRecord({"loss": 1.0}), MetricRecord(), ConfigRecord(), ConfigRecord({"rate": 0.1})]
    kinds += [ArrayRecord(), ArrayRecord({"flat": Array(**draft.array)}), ConfigRecord(draft.header)]
    draft.records[random.choice(["header", "arrays", "metrics", "", "flat"])] = random.choice(kinds)


def _more_arrays(draft: Draft, random: Random) -> None:
    array = Array(**draft.array)
    count = random.choice([1, 300])
    draft.more_arrays = {random.choice(["", "layer", "flat2"]) + str(number): array for number in range(count)}


def _no_array(draft: Draft, random: Random) -> None:
    draft.records["arrays"] = ArrayRecord()


def _norm_at(bound: float) -> Mutation:
    def norm_at_bound(draft: Draft, random: Random) -> None:
        """Exactly as long as is allowed, or one step of float32 longer or shorter."""
        values = np.zeros(len(draft.values), "<f4")
        towards = random.choice([0.0, bound, math.inf])
        values[random.randrange(len(values))] = np.nextafter(np.float32(bound), np.float32(towards))
        draft.values = values

    return norm_at_bound


MUTATIONS: tuple[Mutation, ...] = (
    *(_drop_field, _rename_field, _add_field, _any_value, _same_type, _same_type, _neighbour, _one_character),
    *(
        _other_name,
        _weight,
        _class_weights,
        _dtype,
        _stype,
        _shape,
        _length,
        _other_length,
        _other_type,
        _pickled,
        _no_numbers,
        _last_scale,
        _scaled,
    ),
    *(_cell, _swapped, _drop_record, _rename_record, _other_record, _more_arrays, _no_array),
)
