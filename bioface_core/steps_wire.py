"""How do the messages of a masked sum travel? Like the others: a header, and one flat array where there is a vector.

Reading is as strict (see ``bioface_core/wire.py``): fields and types, ticket, names and the lengths of keys, signatures
and pieces are checked before any of them is used. Whether they are genuine is for ``bioface_core/secure`` to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from bioface_core.messages import Code, Contract, Request, Ticket, demand
from bioface_core.secure import Advert, Revealed
from bioface_core.secure.session import MOST_MEMBERS
from bioface_core.steps import (
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
)
from bioface_core.summand import Vector
from bioface_core.wire import (
    NAME,
    TICKET_FIELDS,
    as_it_travels,
    pack_ticket,
    read_array,
    read_header,
    read_ticket,
    read_vector,
    records_of,
)

# Bytes of each field that holds some, whether one or a list of them.
_LENGTHS = {
    "cipher_key": 32,
    "mask_key": 32,
    "signature": 64,
    "cipher_keys": 32,
    "mask_keys": 32,
    "signatures": 64,
    "sealed": 96,
    "self_seeds": 48,
    "lost_keys": 32,
}
_NAMES = {"hospitals", "lost"}
_ASKED_FIELDS: dict[Step, dict[str, type]] = {
    Step.KEYS: {},
    Step.SHARES: {"hospitals": list, "cipher_keys": list, "mask_keys": list, "signatures": list},
    Step.MASK: {"hospitals": list, "sealed": list},
    Step.CONFIRM: {"hospitals": list},
    Step.UNMASK: {"hospitals": list, "signatures": list},
}
_ANSWER_FIELDS: dict[Step, dict[str, type]] = {
    Step.KEYS: {"cipher_key": bytes, "mask_key": bytes, "signature": bytes},
    Step.SHARES: {"hospitals": list, "sealed": list},
    Step.MASK: {},
    Step.CONFIRM: {"signature": bytes},
    Step.UNMASK: {"hospitals": list, "self_seeds": list, "lost": list, "lost_keys": list},
}


def pack_asked(asked: Asked, vector: ArrayRecord | None = None) -> RecordDict:
    """The records of a question.

    Args:
        asked: the question.
        vector: the array of a question with the same shared vector, so that it is encoded once for all.
    """
    header = pack_ticket(asked.ticket) | {"schema": asked.schema}
    match asked:
        case AskKeys():
            return _header_alone(header, Step.KEYS)
        case AskShares():
            return _header_alone(header | _adverts(asked.adverts), Step.SHARES)
        case AskMasked():
            header |= {"step": Step.MASK.value} | _columns("sealed", asked.sealed)
            if vector is not None:
                return RecordDict({"header": ConfigRecord(header), "arrays": vector})
            return records_of(header, as_it_travels(asked.request.vector, asked.request.coded))
        case AskConfirmation():
            return _header_alone(header | {"hospitals": list(asked.survivors)}, Step.CONFIRM)
        case AskOpening():
            return _header_alone(header | _columns("signatures", asked.confirmations), Step.UNMASK)


def unpack_asked(record: RecordDict, contract: Contract, step: Step) -> Asked:
    """Reads a question at a hospital.

    Raises:
        WireError: it is not exactly what ``contract`` and ``step`` say.
    """
    fields = TICKET_FIELDS | {"schema": str, "step": str} | _ASKED_FIELDS[step]
    header = _read(record, fields, step)
    ticket, schema = read_ticket(header), header["schema"]
    demand(NAME.fullmatch(ticket.run_id) is not None, Code.MALFORMED, "run")
    contract.check(ticket, schema)
    match step:
        case Step.KEYS:
            return AskKeys(ticket, schema)
        case Step.SHARES:
            columns = (header[name] for name in ("hospitals", "cipher_keys", "mask_keys", "signatures"))
            return AskShares(ticket, schema, tuple(Advert(*row) for row in zip(*columns, strict=True)))
        case Step.MASK:
            request = Request(ticket, schema, *read_vector(record, contract.size, contract.model_bits))
            return AskMasked(request, _by_name(header, "sealed"))
        case Step.CONFIRM:
            return AskConfirmation(ticket, schema, tuple(header["hospitals"]))
        case Step.UNMASK:
            return AskOpening(ticket, schema, _by_name(header, "signatures"))


def pack_answer(answer: Answer) -> RecordDict:
    """The records of an answer."""
    header = pack_ticket(answer.ticket) | {"hospital": answer.hospital}
    match answer:
        case Keys(advert=advert):
            keys = {"cipher_key": advert.cipher_key, "mask_key": advert.mask_key, "signature": advert.signature}
            return _header_alone(header | keys, Step.KEYS)
        case Shares():
            return _header_alone(header | _columns("sealed", answer.sealed), Step.SHARES)
        case Masked():
            return records_of(header | {"step": Step.MASK.value}, answer.values_m)
        case Confirmation():
            return _header_alone(header | {"signature": answer.signature}, Step.CONFIRM)
        case Opening(revealed=revealed):
            lost = _columns("lost_keys", revealed.mask_keys, names="lost")
            return _header_alone(header | _columns("self_seeds", revealed.self_seeds) | lost, Step.UNMASK)


def unpack_answer(record: RecordDict, contract: Contract, asked: Ticket, step: Step, masked: Vector) -> Answer:
    """Reads an answer at the server.

    Args:
        record: what came.
        contract: of this study.
        asked: the ticket of the question it should answer.
        step: of that question.
        masked: what a masked vector is in this phase.

    Raises:
        WireError: it is not exactly what was agreed, or it answers another question.
    """
    header = _read(record, TICKET_FIELDS | {"hospital": str, "step": str} | _ANSWER_FIELDS[step], step)
    ticket, hospital = read_ticket(header), header["hospital"]
    demand(ticket.study_id == contract.study_id, Code.STUDY, ticket.study_id[:12])
    demand(ticket == asked, Code.STALE, f"round {ticket.round}, attempt {ticket.attempt}, {ticket.phase}")
    demand(NAME.fullmatch(hospital) is not None, Code.NAME)
    match step:
        case Step.KEYS:
            advert = Advert(hospital, header["cipher_key"], header["mask_key"], header["signature"])
            return Keys(ticket, hospital, advert)
        case Step.SHARES:
            return Shares(ticket, hospital, _by_name(header, "sealed"))
        case Step.MASK:
            return Masked(ticket, hospital, read_array(record, masked.dtype, masked.length))
        case Step.CONFIRM:
            return Confirmation(ticket, hospital, header["signature"])
        case Step.UNMASK:
            revealed = Revealed(_by_name(header, "self_seeds"), _by_name(header, "lost_keys", names="lost"))
            return Opening(ticket, hospital, revealed)


def _header_alone(header: dict[str, Any], step: Step) -> RecordDict:
    return RecordDict({"header": ConfigRecord(header | {"step": step.value})})


def _read(record: RecordDict, fields: dict[str, type], step: Step) -> dict[str, Any]:
    """The header of a message of this step, its names and bytes checked."""
    header = read_header(record, fields, has_array=step is Step.MASK)
    demand(header["step"] == step.value, Code.MALFORMED, "step")
    lists = {name: header[name] for name, kind in fields.items() if kind is list}
    demand(all(len(column) <= MOST_MEMBERS for column in lists.values()), Code.MALFORMED, "hospitals")
    for name, column in lists.items():
        if name in _NAMES:
            demand(all(type(it) is str and NAME.fullmatch(it) for it in column), Code.NAME)
            demand(len(set(column)) == len(column), Code.NAME, "named twice")
        else:
            demand(all(type(it) is bytes and len(it) == _LENGTHS[name] for it in column), Code.LENGTH, name)
            names = lists["lost" if name == "lost_keys" else "hospitals"]
            demand(len(column) == len(names), Code.LENGTH, name)
    for name in (name for name, kind in fields.items() if kind is bytes):
        demand(len(header[name]) == _LENGTHS[name], Code.LENGTH, name)
    return header


def _adverts(adverts: tuple[Advert, ...]) -> dict[str, Any]:
    return {
        "hospitals": [advert.hospital for advert in adverts],
        "cipher_keys": [advert.cipher_key for advert in adverts],
        "mask_keys": [advert.mask_key for advert in adverts],
        "signatures": [advert.signature for advert in adverts],
    }


def _columns(column: str, by_name: Mapping[str, bytes], names: str = "hospitals") -> dict[str, Any]:
    """Two fields: who, and what of each."""
    return {names: list(by_name), column: list(by_name.values())}


def _by_name(header: dict[str, Any], column: str, names: str = "hospitals") -> dict[str, bytes]:
    """What ``_columns`` took apart."""
    return dict(zip(header[names], header[column], strict=True))
