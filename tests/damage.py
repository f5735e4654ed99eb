"""What can be wrong with a message's bytes? Flower makes them, as protobuf or as hashed objects; then they are changed.

An object's new hash is put wherever its old one was, so that nothing is wrong but what was changed. All randomness is
the ``Random`` that is passed in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from random import Random
from typing import cast

from flwr.app import Message
from flwr.app.message import make_message
from flwr.common.serde import message_from_proto, message_to_proto, recorddict_from_proto, recorddict_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from tests.mutations import mutated


def changed(message: Message, random: Random, bound: float, *, in_bytes: bool) -> tuple[Message, str]:
    """``mutated`` or ``damaged``, whichever is asked for; a message that was mutated is changed in place."""
    if in_bytes:
        return damaged(message, random)
    message.content, done = mutated(message.content, random, bound)
    return message, done


def damaged(message: Message, random: Random) -> tuple[Message, str]:
    """A message whose bytes were changed on the way.

    Args:
        message: a real one, with records.
        random: all there is of it.

    Returns:
        What Flower reads of the bytes, and in words what was done.

    Raises:
        Exception: of whatever kind, for Flower cannot read it.
    """
    way = random.choice([_as_records, _as_message, _as_objects])
    return way(message, random), way.__name__


def _as_records(message: Message, random: Random) -> Message:
    wire = recorddict_to_proto(message.content).SerializeToString()
    content = recorddict_from_proto(ProtoRecordDict.FromString(spoilt(wire, random)))
    return make_message(message.metadata, content=content)


def _as_message(message: Message, random: Random) -> Message:
    return message_from_proto(ProtoMessage.FromString(spoilt(message_to_proto(message).SerializeToString(), random)))


def _as_objects(message: Message, random: Random) -> Message:
    return inflated(damaged_objects(message, random))


def damaged_objects(message: Message, random: Random) -> dict[str, bytes]:
    """A message as a tree of objects, each named by its hash. One is spoilt; what names it names it by its new hash.

    Returns:
        The objects by name, the message itself last.
    """
    contents = objects_of(message)
    name = random.choice(list(contents))
    return replaced(contents, name, spoilt(contents[name].partition(b"\0")[2], random))


def bomb(message: Message, times: int) -> dict[str, bytes]:
    """A message of a few bytes whose array repeats its one chunk, so that it needs as much memory as one likes."""
    contents = objects_of(message)
    (name,) = (name for name, it in contents.items() if it.startswith(b"Array "))
    body = json.loads(contents[name].partition(b"\0")[2])
    return replaced(contents, name, json.dumps(body | {"arraychunk_ids": [0] * times}).encode())


def objects_of(message: Message) -> dict[str, bytes]:
    """How Flower uploads a message: objects by name, each after those that it names."""
    return {name: it.deflate() for name, it in get_all_nested_objects(message).items()}


def inflated(contents: dict[str, bytes]) -> Message:
    """The message of which these are all the objects, the message itself last."""
    root = list(contents)[-1]
    return cast(Message, inflate_object_from_contents(root, contents))


def replaced(contents: dict[str, bytes], name: str, body: bytes) -> dict[str, bytes]:
    """The objects with another body for one, its length made right, and every name that follows from it."""
    renamed: dict[str, str] = {}
    result: dict[str, bytes] = {}
    for old, content in contents.items():
        if old == name:
            kind, children, _ = content.partition(b"\0")[0].split(b" ")
            content = b"%s %s %d\0%s" % (kind, children, len(body), body)
        for before, after in renamed.items():
            content = content.replace(before.encode(), after.encode())
        renamed[old] = hashlib.sha256(content).hexdigest()
        result[renamed[old]] = content
    return result


def spoilt(wire: bytes, random: Random) -> bytes:
    """Bytes with one kind of damage."""
    at, other = random.randrange(len(wire)), random.randrange(len(wire))
    length = random.choice([1, 1, 2, 8, 64])
    damages: list[Callable[[], bytes]] = [
        lambda: _flipped(wire, random, 1),
        lambda: _flipped(wire, random, 1),
        lambda: _flipped(wire, random, 8),
        lambda: wire[:at] + random.randbytes(length) + wire[at:],
        lambda: wire[:at] + wire[at + length :],
        lambda: wire[:at],
        lambda: wire[:at] + wire[other:],
        lambda: wire[:at] + b"\xff" * length + wire[at + length :],
        lambda: wire + wire[other:],
    ]
    return random.choice(damages)()


def _flipped(wire: bytes, random: Random, bits: int) -> bytes:
    changed = bytearray(wire)
    for _ in range(bits):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)
