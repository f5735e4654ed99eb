"""How does a federation run on Flower's simulation runtime? The same two apps, with Ray actors for the hospitals.

For many virtual hospitals, several GPUs or a Ray cluster. Whatever happens, an error of the ServerApp comes out of
``run_flower``, and Ray is shut down.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from flwr.app import ConfigRecordValues, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore import telemetry
from flwr.supercore.run import Run

from bioface_core.app_path import add_app_to_path
from bioface_core.errors import RoundError
from simulation.processes import processes_for

_log = logging.getLogger("bioface.simulation")

_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_STARTS = 3  # of Ray
_LAST_WORDS_S = 30.0  # for the ServerApp's thread to notice that the runtime is gone

_Settings = dict[str, dict[str, ConfigRecordValues]]


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
    actors = processes_for(workers, hospitals)
    over = threading.Event()
    with _environment(), _quiet_log(over), _killable_actors(over) as kill_actors:
        thread = _ServerThread(server_app, over, kill_actors)
        _simulate(thread, client_app, hospitals, _settings(actors, device))
    thread.raise_error()


def _simulate(thread: _ServerThread, client_app: ClientApp, hospitals: int, settings: _Settings) -> None:
    """Flower's own entry; imported here, for it loads Ray, which reads its environment when it is loaded."""
    from flwr.simulation import run_simulation

    telemetry.FLWR_TELEMETRY_ENABLED = "0"  # the module may have been loaded before the environment was set
    try:
        run_simulation(thread.app, client_app, hospitals, backend_config=settings)
    finally:
        thread.stop()


class _ServerThread:
    """What becomes of the ServerApp, which Flower calls in a thread of its own and whose errors it may lose.

    Args:
        server_app: what to call.
        over: once set, the ServerApp's next use of its grid raises.
        kill_actors: called when it is over, so that nobody waits for a hospital that still works.
    """

    def __init__(self, server_app: ServerApp, over: threading.Event, kill_actors: Callable[[], None]) -> None:
        self.app, self._over = ServerApp(), over
        self._began, self._ended = threading.Event(), threading.Event()
        self._error: BaseException | None = None

        @self.app.main()
        def main(grid: Grid, context: Context) -> None:
            self._began.set()
            try:
                server_app(_StoppableGrid(grid, over), context)
            except BaseException as error:
                self._error = error
            finally:
                kill_actors()
                self._ended.set()

    def stop(self) -> None:
        """Ends the thread if it is still running, and waits for it: nobody writes into the run folder after this."""
        self._over.set()
        if self._began.is_set():
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


def _settings(actors: int, device: str) -> _Settings:
    """Flower's settings for Ray: one processor and a fair share of the GPUs for each actor."""
    gpus = 0 if device == "cpu" else torch.cuda.device_count()
    return {
        "init_args": {"num_cpus": actors, "num_gpus": gpus, "log_to_driver": False, "logging_level": logging.ERROR},
        "client_resources": {"num_cpus": 1, "num_gpus": min(1.0, gpus / actors)},
    }


def start_persistently(start: Callable[[], None], clean_up: Callable[[], object]) -> None:
    """Starts Ray, again where its processes do not find each other in Ray's own 30 s, as on a busy machine.

    Args:
        start: raises whatever Ray raises, which is of no fixed type.
        clean_up: called before it is tried again.

    Raises:
        RoundError: it did not start.
    """
    for left in reversed(range(_STARTS)):
        try:
            return start()
        except Exception as error:
            clean_up()
            if not left:
                raise RoundError(
                    f"Ray did not start ({error}): see its log, or set simulation.engine: inline"
                ) from error
            _log.warning("Ray did not start (%s): it is started again", error)


@contextmanager
def _killable_actors(over: threading.Event) -> Iterator[Callable[[], None]]:
    """Gives a function that sets ``over`` and kills the actors, busy ones too.

    Flower asks its actors to leave when their work is done, and a thread that waits for one outlives even Ray: without
    this, Ctrl-C and a failed round would wait for the slowest hospital. ``RayBackend`` is Flower's own (1.41); it is
    looked up in its module when a simulation starts.
    """
    import ray
    from flwr.server.superlink.fleet.vce.backend import raybackend

    backends: list[raybackend.RayBackend] = []

    def kill_actors() -> None:
        over.set()
        pools = [backend.pool for backend in backends if backend.pool is not None]
        actors: list[Any] = [actor for pool in pools for actor in [*pool.pool, *pool._future_to_actor.values()]]
        for actor in actors:
            ray.kill(actor)
        backends.clear()

    class KillableBackend(raybackend.RayBackend):
        def __init__(self, backend_config: _Settings) -> None:
            super().__init__(backend_config)
            backends.append(self)

        def init_ray(self, backend_config: _Settings) -> None:
            start_persistently(lambda: super(KillableBackend, self).init_ray(backend_config), ray.shutdown)

        def terminate(self) -> None:
            kill_actors()
            super().terminate()

    original, raybackend.RayBackend = raybackend.RayBackend, KillableBackend  # type: ignore[misc]
    try:
        yield kill_actors
    finally:
        raybackend.RayBackend = original  # type: ignore[misc]


@contextmanager
def _environment() -> Iterator[None]:
    """The environment that Ray and its actors inherit; what was there before comes back."""
    ours = _QUIET | {"PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path)}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        os.environ.update({name: value for name, value in before.items() if value is not None})
        for name in [name for name, value in before.items() if value is None]:
            os.environ.pop(name, None)


@contextmanager
def _quiet_log(over: threading.Event) -> Iterator[None]:
    """Flower's log without its advice against ``run_simulation`` and its dismay at actors killed at the end.

    ``run_simulation`` is the one way to run apps that are objects.
    """

    def is_worth_reading(record: logging.LogRecord) -> bool:
        return not over.is_set() and "`run_simulation` function is deprecated" not in record.getMessage()

    logger = logging.getLogger("flwr")
    logger.addFilter(is_worth_reading)
    try:
        yield
    finally:
        logger.removeFilter(is_worth_reading)
