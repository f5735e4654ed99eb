"""What is a ``Grid`` without a network? Nodes that are numbers, and messages that are answered on this machine."""

from __future__ import annotations

import itertools
import logging
from abc import abstractmethod
from collections.abc import Iterable, Iterator

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

_RUN = _TASK = _SERVER = 1  # Flower wants numbers; on one machine there is one of each
_FIRST_NODE = 1000
_log = logging.getLogger("bioface.simulation")


class LocalGrid(Grid):
    """What the grids of one machine share; how messages are answered is a grid's own.

    Args:
        hospitals: how many nodes there are.
    """

    def __init__(self, hospitals: int) -> None:
        take_identity()
        self._nodes = [_FIRST_NODE + index for index in range(hospitals)]
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
        """All hospitals: on one machine nobody is ever away."""
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Keeps messages until their answers are looked for."""
        return [self._numbered(message) for message in messages]

    @abstractmethod
    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Answers kept messages."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Asks, and waits for the answers; a message's own lifetime is the only limit."""
        return list(self.pull_messages(self.push_messages(messages)))

    @abstractmethod
    def _keep(self, identity: str, message: Message) -> None:
        """Takes a message that waits from now on."""

    def _numbered(self, message: Message) -> str:
        identity = str(next(self._numbers))
        message.metadata.__dict__["_message_id"] = identity  # as Flower's own grids do; there is no setter
        self._keep(identity, message)
        return identity


def take_identity() -> None:
    """Tells Flower whose messages this process makes."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = _TASK, _RUN, _SERVER


def server_context() -> Context:
    """What a ServerApp is called with."""
    return _context(_SERVER, {})


def hospital_contexts(hospitals: int) -> dict[int, Context]:
    """What a ClientApp is called with, by node; ``partition-id`` counts from 0."""
    return {
        _FIRST_NODE + index: _context(_FIRST_NODE + index, {"partition-id": index, "num-partitions": hospitals})
        for index in range(hospitals)
    }


def answer(client_app: ClientApp, message: Message, context: Context) -> Message:
    """What a ClientApp replies; an error reply where it raises, as from a node far away."""
    try:
        return client_app(message, context)
    except Exception:
        _log.exception("a ClientApp raised")
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION), reply_to=message)


def _context(node: int, config: dict[str, bool | float | int | str]) -> Context:
    return Context(run_id=_RUN, node_id=node, node_config=config, state=RecordDict(), run_config={})
