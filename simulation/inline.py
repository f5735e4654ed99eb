"""How does a federation run in one process? Each hospital's ClientApp is called in turn when its answer is looked for.

Nothing waits, and nothing is copied but arrays; a hospital's answer is handed on before the next one works.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

_RUN = _TASK = _SERVER = 1  # Flower wants numbers; in one process there is one of each
_FIRST_NODE = 1000
_log = logging.getLogger("bioface.simulation")


def run_inline(server_app: ServerApp, client_app: ClientApp, hospitals: int) -> None:
    """Runs a federation to its end.

    Args:
        server_app: called in this thread; its errors come out as they are.
        client_app: called in this thread.
        hospitals: contexts get ``partition-id`` 0 to ``hospitals - 1``.
    """
    server_app(InlineGrid(client_app, hospitals), inline_context())


def inline_context() -> Context:
    """What a ServerApp is called with."""
    return _context(_SERVER, {})


class InlineGrid(Grid):
    """A ``Grid`` without a network.

    Args:
        client_app: answers for every node.
        hospitals: how many nodes there are.
    """

    def __init__(self, client_app: ClientApp, hospitals: int) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = _TASK, _RUN, _SERVER
        self._app = client_app
        self._contexts = {
            _FIRST_NODE + index: _context(_FIRST_NODE + index, {"partition-id": index, "num-partitions": hospitals})
            for index in range(hospitals)
        }
        self._waiting: dict[str, Message] = {}
        self._numbers = itertools.count(1)

    def set_run(self, run: Run) -> None:
        """There is one run only."""

    @property
    def run(self) -> Run:
        """The one run, about which nothing is known but its number."""
        return Run.create_empty(_RUN)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Flower's older way to make a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """All hospitals: in one process nobody is ever away."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Keeps messages until their answers are looked for."""
        return [self._keep(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Answers kept messages, each when the caller comes to it."""
        for identity in message_ids:
            if identity in self._waiting:
                yield self._answer(self._waiting.pop(identity))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Answers messages at once; there is nothing to time out."""
        return list(self.pull_messages(self.push_messages(messages)))

    def _keep(self, message: Message) -> str:
        identity = str(next(self._numbers))
        message.metadata.__dict__["_message_id"] = identity  # as Flower's own grids do; there is no setter
        self._waiting[identity] = message
        return identity

    def _answer(self, message: Message) -> Message:
        """What the ClientApp replies; an error reply where it raises, as from a node far away."""
        try:
            return self._app(message, self._contexts[message.metadata.dst_node_id])
        except Exception:
            _log.exception("a ClientApp raised")
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION), reply_to=message)


def _context(node: int, config: dict[str, bool | float | int | str]) -> Context:
    return Context(run_id=_RUN, node_id=node, node_config=config, state=RecordDict(), run_config={})
