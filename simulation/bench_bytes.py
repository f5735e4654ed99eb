"""How many bytes does a round take at a hospital, and what does it cost to make them fewer? Beside float32.

Sizes are those of real messages, of two networks: the demo's, and IR-SE-50 of which everything trains. A round brings
the shared model twice, to train and to evaluate, and takes an update and the counts away. Ratios of time are CPU
seconds of one thread for an update on its whole way, rounded, packed, read and checked, beside one of float32; and of
rounding and reading alone beside a plain copy of the float32 values.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bioface_core.config import Study, find_study, read_study
from bioface_core.evaluate import Counts
from bioface_core.messages import Contract, Evaluation, Phase, Reply, Request, Ticket, Update
from bioface_core.precision import Bits, Coded, as_float16, as_int8
from bioface_core.secret import SecretRandom
from bioface_core.secure import Words
from bioface_core.steps import Masked
from bioface_core.steps_wire import pack_answer
from bioface_core.summand import Summand
from bioface_core.wire import pack_reply, pack_request, payload_bytes, unpack_reply
from client.review import Traffic, vector_length
from simulation.identities import with_roster
from simulation.ratio import Ratio

_TIMED_VALUES, _PAIRS = 8_000_000, 5
_HALF, _QUARTER = 0.51, 0.27  # promised, of float32's bytes
_WHOLE_WAY, _COPY = 5.0, 20.0  # promised, of float32's time and of a copy's


@dataclass(frozen=True)
class Shape:
    """What the size of a study's messages depends on."""

    size: int
    classes: int
    embedding: int
    schema: str = "0" * 64

    @staticmethod
    def of(study: Study) -> Shape:
        """That of a study's network."""
        return Shape(vector_length(study), len(study.syndromes), study.model.embedding)


def bytes_ratios(timed_values: int = _TIMED_VALUES, pairs: int = _PAIRS) -> list[Ratio]:
    """Bytes by setting, then time.

    Args:
        timed_values: of the vector whose way is timed.
        pairs: of what is timed in turn; medians count.
    """
    torch.set_num_threads(1)
    demo = read_study(find_study("demo"))
    network = {"depth": 50, "width": 1.0, "embedding": 512, "stem": "face", "pool": "flat", "trainable": "all"}
    studies = {"demo": demo, "IR-SE-50": demo.replace({"model": network})}
    sizes = [ratio for name, study in studies.items() for ratio in _sizes(name, study)]
    return [*sizes, *_times(timed_values, pairs)]


def _sizes(name: str, study: Study) -> list[Ratio]:
    """Megabytes of one network's messages in few bits beside float32."""
    masked, few = with_roster(study.replace({"secure": {"enabled": True}})), {"federation": {"update_bits": 16}}
    whole, label = _update_bytes(study, 32), f"{name}, {vector_length(study) / 1e6:.3g} M values, MB"
    small = study.replace({"federation": {"update_bits": 8, "model_bits": 16}})
    down = [_model_bytes(study, bits) for bits in (16, 32)]
    rounds = [_round_bytes(one) for one in (small, study)]
    return [
        Ratio.of(f"{label}: update, 16 bits / 32, bytes", _HALF, _update_bytes(study, 16), whole),
        Ratio.of(f"{label}: update, 8 bits / 32, bytes", _QUARTER, _update_bytes(study, 8), whole),
        Ratio.of(
            f"{label}: masked, 16 bits / 32, bytes", _HALF, _masked_bytes(masked.replace(few)), _masked_bytes(masked)
        ),
        Ratio.of(f"{label}: model, 16 bits / 32, bytes", _HALF, *down),
        Ratio.of(f"{label}: whole round, 8 up and 16 down / 32, bytes", _HALF, *rounds),
    ]


def _update_bytes(study: Study, bits: Bits) -> int:
    """Of a real update of zeros."""
    return payload_bytes(pack_reply(_update(Shape.of(study), torch.zeros(vector_length(study)), bits)))


def _masked_bytes(study: Study) -> int:
    """Of a real masked update of zeros, without its masks, which add none."""
    shape, summand = Shape.of(study), Summand.of(study, Shape.of(study))
    integers: Words = summand.encode(_update(shape, torch.zeros(shape.size), 32), SecretRandom())
    return payload_bytes(pack_answer(Masked(_TICKET, "hospital-1", integers)))


def _model_bytes(study: Study, bits: Bits) -> int:
    """Of a real request."""
    vector = torch.zeros(vector_length(study))
    return payload_bytes(pack_request(Request(_TICKET, "0" * 64, vector, as_float16(vector) if bits == 16 else None)))


def _round_bytes(study: Study) -> int:
    """Of all that goes over a hospital's line in a round, as a hospital is told before it begins."""
    federation, shape = study.federation, Shape.of(study)
    counts = pack_reply(Evaluation(replace(_TICKET, phase=Phase.EVALUATE), "hospital-1", Counts.zeros(shape.classes)))
    down, up = 2 * _model_bytes(study, federation.model_bits), _update_bytes(study, federation.update_bits)
    traffic = Traffic.of(study, shape.size)
    whole = down + up + payload_bytes(counts)
    assert whole == traffic.down_per_round + traffic.up_per_round, "a hospital is told something else"
    return whole


def _times(values: int, pairs: int) -> list[Ratio]:
    """CPU seconds, each pair of them measured in turn."""
    generator = torch.Generator().manual_seed(1)
    vector, shape = torch.randn(values, generator=generator) * 1e-3, Shape(values, 10, 256)
    label, ratios = f"{values / 1e6:g} M values, CPU s", []
    for bits in (16, 8):
        way = [
            (_seconds(_whole_way, shape, vector, bits), _seconds(_whole_way, shape, vector, 32)) for _ in range(pairs)
        ]
        ratios.append(Ratio.of_pairs(f"{label}: update, {bits} bits / 32, whole way", _WHOLE_WAY, way))
        bare = [(_seconds(_rounded, vector, bits), _seconds(vector.clone)) for _ in range(pairs)]
        ratios.append(Ratio.of_pairs(f"{label}: rounded to {bits} bits and read / copied", _COPY, bare))
    return ratios


def _whole_way(shape: Shape, vector: Tensor, bits: Bits) -> Reply:
    """An update is rounded, packed, read and checked."""
    bound = 1e6
    contract = Contract(_TICKET.study_id, shape.schema, shape.size, shape.classes, 1, bound, update_bits=bits)
    return unpack_reply(pack_reply(_update(shape, vector, bits)), contract, _TICKET)


def _rounded(vector: Tensor, bits: Bits) -> Tensor:
    """What the receiver reads."""
    coded = _coded(vector, bits)
    return vector if coded is None else coded.vector


def _update(shape: Shape, vector: Tensor, bits: Bits) -> Update:
    weights_K, coded = torch.full((shape.classes,), 10), _coded(vector, bits)
    return Update(_TICKET, "hospital-1", shape.schema, vector, 10, weights_K, 1.0, coded)


def _coded(vector: Tensor, bits: Bits) -> Coded | None:
    if bits == 32:
        return None
    return as_float16(vector) if bits == 16 else as_int8(vector, SecretRandom())


def _seconds(work: Callable[..., object], *arguments: object) -> float:
    start = time.process_time()
    work(*arguments)
    return time.process_time() - start


_TICKET = Ticket("0" * 64, "bench", 1, 1, Phase.TRAIN)
