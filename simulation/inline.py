"""How does a federation run in one process? Each hospital's ClientApp is called in turn when its answer is looked for.

Nothing waits, and nothing is copied but arrays; a hospital's answer is handed on before the next one works.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from flwr.app import Message
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from simulation.local_grid import LocalGrid, answer, hospital_contexts, server_context


def run_inline(server_app: ServerApp, client_app: ClientApp, hospitals: int) -> None:
    """Runs a federation to its end.

    Args:
        server_app: called in this thread; its errors come out as they are.
        client_app: called in this thread.
        hospitals: contexts get ``partition-id`` 0 to ``hospitals - 1``.
    """
    server_app(InlineGrid(client_app, hospitals), server_context())


class InlineGrid(LocalGrid):
    """A ``Grid`` whose nodes are called.

    Args:
        client_app: answers for every node.
        hospitals: how many nodes there are.
    """

    def __init__(self, client_app: ClientApp, hospitals: int) -> None:
        super().__init__(hospitals)
        self._app, self._contexts = client_app, hospital_contexts(hospitals)
        self._waiting: dict[str, Message] = {}

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Answers kept messages, each when the caller comes to it."""
        for identity in message_ids:
            if identity in self._waiting:
                yield self._answer(self._waiting.pop(identity))

    def _keep(self, identity: str, message: Message) -> None:
        self._waiting[identity] = message

    def _answer(self, message: Message) -> Message:
        return answer(self._app, message, self._contexts[message.metadata.dst_node_id])
