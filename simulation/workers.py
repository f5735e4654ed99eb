"""How does a federation use all processors of a machine? Worker processes of one thread answer the hospitals' messages.

Each worker keeps one network and the photos of its hospitals. A message's content goes to a worker once, however many
of its hospitals get it. Whoever has nothing left to do takes over what another has not begun. Who answers, and when,
changes no bit of the model: a hospital's work depends on the message alone, and the server's sum on no order.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Any, NoReturn

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import ServerApp

from bioface_core.errors import RoundError
from client.app import make_client_app
from client.site import Site
from simulation.local_grid import LocalGrid, answer, hospital_contexts, server_context, take_identity
from simulation.processes import end_with_parent

_AHEAD = 2  # messages in a worker's hands: one it works on, and one so that it need not wait for the server
_LAST_WORDS_S = 5.0  # for a process that has closed its connection to be gone
# Loaded once, in a process from which the workers are forked, which has no threads and no GPU; dynamo is what torch's
# first optimiser loads, and takes as long as all the rest.
_LOADED_ONCE = ["torch._dynamo", "flwr.clientapp", "bioface_core.learner", "client.app", "simulation.sites"]

OpenSite = Callable[[Context], Site]


def run_workers(
    server_app: ServerApp, open_site: OpenSite, photos_S: Sequence[int], workers: int, sticky: bool = False
) -> None:
    """Runs a federation to its end.

    Args:
        server_app: called in this thread; its errors come out as they are.
        open_site: called in the workers; picklable.
        photos_S: of each hospital; contexts get ``partition-id`` 0 to S - 1.
        workers: processes, 1 or more.
        sticky: whether a hospital stays with one worker, as it must if it remembers something from message to message.

    Raises:
        RoundError: a worker ended, or as the ServerApp.
    """
    with workers_grid(open_site, photos_S, workers, sticky) as grid:
        server_app(grid, server_context())


@contextmanager
def workers_grid(
    open_site: OpenSite, photos_S: Sequence[int], workers: int, sticky: bool = False
) -> Iterator[WorkersGrid]:
    """Workers, and the grid to reach them; they are killed at the end of the block, whatever they are doing."""
    crew: list[_Worker] = []
    try:
        crew += (_start(open_site, len(photos_S), number) for number in range(1, workers + 1))
        yield WorkersGrid(crew, photos_S, sticky)
    finally:
        for worker in crew:
            worker.process.kill()
            worker.process.join()
            worker.connection.close()


@dataclass
class _Worker:
    """A worker process, as the server's process sees it.

    Attributes:
        number: from 1.
        process: itself.
        connection: to it.
        waiting: messages to its hospitals that nobody has begun, by identity.
        in_hand: messages that it has and has not answered.
        content: the last it was sent.
    """

    number: int
    process: BaseProcess
    connection: Connection
    waiting: dict[str, Message] = field(default_factory=dict)
    in_hand: set[str] = field(default_factory=set)
    content: RecordDict | None = None

    def hand(self, message: Message) -> None:
        """Sends it a message, with the content only if the last message had another."""
        content = None if message.content is self.content else message.content
        self.connection.send((message.metadata, content))
        self.content = message.content
        self.in_hand.add(message.metadata.message_id)


class WorkersGrid(LocalGrid):
    """A ``Grid`` whose nodes are answered for by worker processes.

    Args:
        workers: started.
        photos_S: of each hospital: how much work it is.
        sticky: see ``run_workers``.
    """

    def __init__(self, workers: Sequence[_Worker], photos_S: Sequence[int], sticky: bool) -> None:
        super().__init__(len(photos_S))
        self._workers, self._sticky = workers, sticky
        self._photos = dict(zip(self.get_node_ids(), photos_S, strict=True))
        self._home = {
            node: workers[index] for node, index in zip(self._photos, shared_out(photos_S, len(workers)), strict=True)
        }
        self._asked: dict[str, float] = {}
        self._answers: dict[str, Message] = {}

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Answers as they come, until there is one for each message that has not outlived itself.

        Raises:
            RoundError: a worker ended.
        """
        wanted = [identity for identity in message_ids if identity in self._asked]
        self._hand_out()
        while wanted:
            for identity in [identity for identity in wanted if identity in self._answers]:
                wanted.remove(identity)
                del self._asked[identity]
                yield self._answers.pop(identity)
            for identity in [identity for identity in wanted if self._asked[identity] <= time.time()]:
                wanted.remove(identity)
                self._forget(identity)
            if wanted:
                self._receive(min(self._asked[identity] for identity in wanted) - time.time())

    def _keep(self, identity: str, message: Message) -> None:
        self._asked[identity] = message.metadata.created_at + message.metadata.ttl
        self._home[message.metadata.dst_node_id].waiting[identity] = message

    def _forget(self, identity: str) -> None:
        """Wants no answer any more; a worker that is at it finishes for nothing."""
        del self._asked[identity]
        for worker in self._workers:
            worker.waiting.pop(identity, None)

    def _receive(self, patience_s: float) -> None:
        """Takes what the workers have ready, or waits for the first of it; and gives them more to do."""
        ready = wait([worker.connection for worker in self._workers], max(0.0, patience_s))
        for worker in self._workers:
            if worker.connection in ready:
                self._take_answer(worker)
        self._hand_out()

    def _take_answer(self, worker: _Worker) -> None:
        try:
            reply: Message = worker.connection.recv()
        except (EOFError, OSError):
            _mourn(worker)
        identity = reply.metadata.reply_to_message_id
        worker.in_hand.remove(identity)
        if identity in self._asked:
            self._answers[identity] = reply

    def _hand_out(self) -> None:
        """Gives every worker something to do, as long as there is something; the largest of it first.

        Nothing is put behind a message that has outlived itself: nobody knows how long its worker will be at it.
        """
        for worker in self._workers:
            while worker.waiting and len(worker.in_hand) < _AHEAD and worker.in_hand <= self._asked.keys():
                self._hand(worker, worker)
        for worker in self._workers:
            busiest = max(self._workers, key=lambda other: sum(map(self._size, other.waiting.values())))
            if busiest.waiting and not worker.in_hand and not self._sticky:
                self._hand(worker, busiest)

    def _hand(self, worker: _Worker, owner: _Worker) -> None:
        """Gives a worker the largest of what waits for ``owner``."""
        largest = max(owner.waiting, key=lambda identity: self._size(owner.waiting[identity]))
        try:
            worker.hand(owner.waiting.pop(largest))
        except OSError:
            _mourn(worker)

    def _size(self, message: Message) -> int:
        return self._photos[message.metadata.dst_node_id]


def shared_out(sizes_S: Sequence[int], workers: int) -> list[int]:
    """Which worker, from 0, each piece of work belongs to: the largest first, each to whoever has least so far.

    Source: Graham 1969 (longest processing time first; at most 4/3 of the best possible).
    """
    loads, owner_S = [0] * workers, [0] * len(sizes_S)
    for piece in sorted(range(len(sizes_S)), key=lambda piece: -sizes_S[piece]):
        owner_S[piece] = loads.index(min(loads))
        loads[owner_S[piece]] += sizes_S[piece]
    return owner_S


def _mourn(worker: _Worker) -> NoReturn:
    """Ends the run: without the hospitals of a worker the round would make another model than on another engine."""
    worker.process.join(_LAST_WORDS_S)
    status = worker.process.exitcode
    how = f"was killed by signal {-status}" if status is not None and status < 0 else f"ended with status {status}"
    raise RoundError(
        f"worker process {worker.number} {how}: start again to go on from the last round, with fewer "
        "simulation.workers if memory ran out"
    )


def _start(open_site: OpenSite, hospitals: int, number: int) -> _Worker:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(_LOADED_ONCE)
    ours, theirs = processes.Pipe()
    process = processes.Process(target=_work, args=(theirs, open_site, hospitals), name=f"worker-{number}", daemon=True)
    process.start()
    theirs.close()
    return _Worker(number, process, ours)


def _work(connection: Connection, open_site: OpenSite, hospitals: int) -> None:
    """A worker's life: message, answer, message. Ctrl-C is its parent's affair, which ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    take_identity()
    client_app, contexts = make_client_app(open_site), hospital_contexts(hospitals)
    asked: SimpleQueue[tuple[Any, RecordDict | None]] = SimpleQueue()
    threading.Thread(target=_read, args=(connection, asked), daemon=True).start()
    content: RecordDict | None = None
    while True:
        metadata, new = asked.get()
        content = content if new is None else new
        message = Message(content=content, metadata=metadata)  # type: ignore[call-overload]
        connection.send(answer(client_app, message, contexts[metadata.dst_node_id]))


def _read(connection: Connection, asked: SimpleQueue[tuple[Any, RecordDict | None]]) -> None:
    """Takes messages while a worker works: the server never waits to be heard."""
    while True:
        asked.put(connection.recv())
