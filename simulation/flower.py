"""How does a federation run on Flower's simulation runtime? The same two apps, with Ray actors for the hospitals.

For many virtual hospitals, several GPUs or a Ray cluster. Whatever happens, an error of the ServerApp comes out of
``run_flower``, and Ray is shut down.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from flwr.app import ConfigRecordValues, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore import telemetry
from flwr.supercore.run import Run

from bioface_core.app_path import add_app_to_path
from bioface_core.errors import RoundError

_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_LAST_WORDS_S = 30.0  # for the ServerApp's thread to notice that the runtime is gone

_Backend = dict[str, dict[str, ConfigRecordValues]]


def run_flower(
    server_app: ServerApp, client_app: ClientApp, hospitals: int, workers: int = 0, device: str = "auto"
) -> None:
    """Runs a federation to its end.

    Args:
        server_app: called in a thread; its errors come out as they are.
        client_app: called in Ray actors, which find our packages where this process found them.
        hospitals: contexts get ``partition-id`` 0 to ``hospitals - 1``.
        workers: actors at once; 0 takes one per processor. Never more than hospitals.
        device: ``cpu`` keeps the actors off the GPUs; anything else shares these among them.

    Raises:
        RoundError: Flower's runtime ended before the ServerApp did.
    """
    add_app_to_path()
    thread = _ServerThread(server_app)
    actors = min(workers or os.cpu_count() or 1, hospitals)
    with _environment(), _without_deprecation():
        try:
            _simulate(thread.app, client_app, hospitals, _backend(actors, device))
        finally:
            thread.stop()
    thread.raise_error()


def _simulate(server_app: ServerApp, client_app: ClientApp, hospitals: int, backend: _Backend) -> None:
    """Flower's own entry; imported here, for it loads Ray, which reads its settings when it is loaded."""
    from flwr.simulation import run_simulation

    telemetry.FLWR_TELEMETRY_ENABLED = "0"  # the module may have been loaded before the environment was set
    run_simulation(server_app, client_app, hospitals, backend_config=backend)


class _ServerThread:
    """What becomes of the ServerApp, which Flower calls in a thread of its own and whose errors it may lose."""

    def __init__(self, server_app: ServerApp) -> None:
        self.app = ServerApp()
        self._stop, self._ended = threading.Event(), threading.Event()
        self._began = False
        self._error: BaseException | None = None

        @self.app.main()
        def main(grid: Grid, context: Context) -> None:
            self._began = True
            try:
                server_app(_StoppableGrid(grid, self._stop), context)
            except BaseException as error:
                self._error = error
            finally:
                self._ended.set()

    def stop(self) -> None:
        """Ends the thread if it is still running, and waits for it: nobody writes into the run folder after this."""
        self._stop.set()
        if self._began:
            self._ended.wait(_LAST_WORDS_S)

    def raise_error(self) -> None:
        """Raises what the ServerApp raised."""
        if self._error is not None:
            raise self._error
        if not self._ended.is_set():
            raise RoundError("Flower's runtime ended before the run did: see its messages above")


class _StoppableGrid(Grid):
    """Flower's grid, until somebody says stop."""

    def __init__(self, grid: Grid, stop: threading.Event) -> None:
        self._grid, self._stop = grid, stop

    def set_run(self, run: Run) -> None:
        """As Flower's."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """As Flower's."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """As Flower's."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """As Flower's."""
        self._check()
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As Flower's."""
        self._check()
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As Flower's."""
        self._check()
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """As Flower's."""
        self._check()
        return self._grid.send_and_receive(messages, timeout=timeout)

    def _check(self) -> None:
        if self._stop.is_set():
            raise RoundError("the run was stopped")


def _backend(actors: int, device: str) -> _Backend:
    """Flower's settings for Ray: one processor and a fair share of the GPUs for each actor."""
    gpus = 0 if device == "cpu" else torch.cuda.device_count()
    return {
        "init_args": {"num_cpus": actors, "num_gpus": gpus, "log_to_driver": False, "logging_level": logging.ERROR},
        "client_resources": {"num_cpus": 1, "num_gpus": min(1.0, gpus / actors)},
    }


@contextmanager
def _environment() -> Iterator[None]:
    """The environment that Ray and its actors inherit; what was there before comes back."""
    before = dict(os.environ)
    os.environ.update(_QUIET, PYTHONPATH=os.pathsep.join(os.path.abspath(entry) for entry in sys.path))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _without_deprecation() -> Iterator[None]:
    """Flower without its advice against ``run_simulation``, which is the one way to run apps that are objects."""

    def is_other(record: logging.LogRecord) -> bool:
        return "`run_simulation` function is deprecated" not in record.getMessage()

    logger = logging.getLogger("flwr")
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)
