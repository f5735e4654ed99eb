"""Can a hospital's upload stop the lab? It is objects that name one another, and Flower reads them as they claim to be.

The grid that fetches them makes of every upload a message or an error of one word, in bounded memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any, cast

from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.app.message import make_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ObjectTree, PullObjectRequest, PullObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.supercore.run import Run

from bioface_core.messages import Code, Phase, Ticket
from server.grid import LinkGrid
from tests.damage import bomb, damaged_objects
from tests.little_memory import little_memory
from tests.test_fuzz import SITES, STUDY, ask, question


def test_whatever_a_hospital_uploads_is_read_or_refused_with_a_word() -> None:
    """By the grid that fetches objects from the SuperLink, and believes what that has checked, not what they say."""
    for number in range(300):
        asked = Ticket(STUDY.study_id, "run", 7, number + 1, Phase.TRAIN)
        reply = ask(SITES.site(1), question(asked))
        (read,) = fetched(damaged_objects(reply, Random(f"upload-{number}")), reply)
        assert read.metadata.reply_to_message_id == "question", number
        assert read.has_content() or read.error.reason in list(Code), number


def test_a_small_upload_cannot_fill_the_memory() -> None:
    """One chunk of a MiB, named 8,192 times."""
    reply = question(Ticket(STUDY.study_id, "run", 7, 1, Phase.TRAIN))
    reply.content["arrays"] = ArrayRecord({"flat": Array("float32", (2**31,), "bioface.raw", b"\0" * 2**20)})
    with little_memory():
        (read,) = fetched(bomb(reply, times=2**13), reply)
    assert read.error.reason == Code.MALFORMED


def fetched(contents: dict[str, bytes], reply: Message) -> list[Message]:
    """What the lab's grid makes of uploaded objects, which the SuperLink has under the real reply's metadata."""
    proto = message_to_proto(make_message(reply.metadata, content=RecordDict()))
    proto.metadata.message_id = list(contents)[-1]
    tree = ObjectTree(object_id=list(contents)[-1], children=[ObjectTree(object_id=it) for it in list(contents)[:-1]])
    grid = LinkGrid.__new__(LinkGrid)
    grid.node = Node(node_id=1)
    grid.set_run(Run.create_empty(1))
    response = PullAppMessagesResponse(messages_list=[proto], message_object_trees=[tree])
    grid._client = cast(Any, Uploaded(contents, response))
    return list(grid.pull_messages(["question"]))


@dataclass
class Uploaded:
    """A SuperLink that holds one reply; its methods are called what Flower's client calls them."""

    contents: dict[str, bytes]
    found: PullAppMessagesResponse

    def PullMessages(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:  # noqa: N802
        return self.found

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:  # noqa: N802
        content = self.contents[request.object_id]
        return PullObjectResponse(object_found=True, object_available=True, object_content=content)

    def ConfirmMessageReceived(self, request: Any) -> None:  # noqa: N802
        """Nothing to do."""
