"""Do the engines make the same model, hand on every error, and leave nothing behind?"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from bioface_core.checkpoint import open_run
from bioface_core.config import Study
from bioface_core.errors import RoundError
from bioface_core.learner import Learner, use
from bioface_core.photos import FACE_SIZE_PX, PhotoSet
from bioface_core.seeding import generator
from bioface_core.weights import random_base
from client.app import make_client_app
from client.site import Site
from server.app import make_server_app
from server.rounds import RunState
from simulation.inline import InlineGrid, run_inline
from tests.small_federation import SmallLearner, names, run_small, small_study

CHECKOUT = Path(__file__).resolve().parent.parent
PATIENT = small_study(deadline_s=120.0)  # Ray takes its time to start


def ask(grid: InlineGrid, *nodes: int) -> list[str]:
    return grid.push_messages([Message(RecordDict(), node, "train") for node in nodes])


def echo(calls: list[int]) -> ClientApp:
    """A ClientApp that notes who was called."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        calls.append(int(context.node_config["partition-id"]))
        return Message(message.content, reply_to=message)

    return app


def test_inline_asks_each_hospital_when_its_answer_is_looked_for() -> None:
    calls: list[int] = []
    grid = InlineGrid(echo(calls), 3)
    first, second, third = grid.get_node_ids()
    ids = ask(grid, first, third)
    assert calls == [], "nobody works before that"
    replies = grid.pull_messages(ids)
    assert next(replies).metadata.src_node_id == first and calls == [0], "and nobody ahead of time"
    assert [reply.metadata.reply_to_message_id for reply in replies] == ids[1:] and calls == [0, 2]
    assert list(grid.pull_messages(ids)) == [], "an answer is given once"


def test_inline_turns_an_error_into_an_error_reply() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        raise RuntimeError("/photos/anna.png")

    grid = InlineGrid(app, 1)
    (reply,) = grid.send_and_receive([Message(RecordDict(), grid.get_node_ids()[0], "train")])
    assert reply.has_error() and "anna" not in repr(reply)


def test_inline_lets_control_c_through() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        raise KeyboardInterrupt

    grid = InlineGrid(app, 1)
    with pytest.raises(KeyboardInterrupt):
        grid.send_and_receive([Message(RecordDict(), grid.get_node_ids()[0], "train")])


def test_inline_raises_the_server_app_s_error() -> None:
    with pytest.raises(ZeroDivisionError):
        run_inline(failing_server(), echo([]), 1)


def failing_server() -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Any, context: Context) -> None:
        raise ZeroDivisionError("the server's own")

    return app


def test_the_round_loop_costs_little(tmp_path: Path) -> None:
    """Beyond the hospitals' compute, per round, disk included; 10 times what is measured on an idle machine."""
    study = small_study(rounds=10)
    began = time.process_time()
    run_small(tmp_path / "run", study)
    assert (time.process_time() - began) / 11 < 0.2


# Flower's runtime. Slow: Ray takes seconds to start, on a busy machine many.


def run_on_flower(path: Path, study: Study, client_app: ClientApp, server_model: Any) -> RunState:
    from simulation.flower import run_flower

    ended: list[RunState] = []
    try:
        with open_run(path, study) as folder:
            app = make_server_app(study, server_model, folder, names(study), on_end=ended.append)
            run_flower(app, client_app, study.simulation.hospitals, device="cpu")
    finally:
        gc.collect()  # while the warnings about Ray are off
    return ended[0]


@dataclass(frozen=True)
class RealSites:
    """Sites that train a real network on noise; picklable, with one network per process."""

    study: Study

    def __call__(self, context: Context) -> Site:
        return real_site(self.study, int(context.node_config["partition-id"]))


@lru_cache
def real_learner(study: Study) -> Learner:
    use(study.speed)
    return Learner(study, random_base(study.model, study.seed))


@lru_cache
def real_site(study: Study, index: int) -> Site:
    train, heldout = (noise_photos(generator(kind, index)) for kind in ("train", "held out"))
    return Site(names(study)[index], study, real_learner(study), train, heldout)


def noise_photos(randomness: torch.Generator) -> PhotoSet:
    size = (12, 3, FACE_SIZE_PX, FACE_SIZE_PX)
    pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=randomness)
    return PhotoSet(pixels, torch.arange(12) % 3, torch.arange(12) // 2 * 3 + torch.arange(12) % 3)


@pytest.mark.slow
def test_flower_trains_a_real_network_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started far from the checkout, as from an installed wheel."""
    monkeypatch.chdir(tmp_path)
    path = os.environ.get("PYTHONPATH")
    model = {"depth": 10, "width": 0.125, "embedding": 16, "stem": "strided", "pool": "global", "norm": "group"}
    changes = {"model": model | {"base": "scratch"}, "loss": {"identification": False}, "speed": {"device": "cpu"}}
    study = PATIENT.replace(changes | {"federation": {"rounds": 2}})
    inline: list[RunState] = []
    with open_run(tmp_path / "inline", study) as folder:
        app = make_server_app(study, real_learner(study), folder, names(study), on_end=inline.append)
        run_inline(app, make_client_app(RealSites(study)), 3)
    state = run_on_flower(tmp_path / "flower", study, make_client_app(RealSites(study)), real_learner(study))
    assert torch.equal(state.server.vector, inline[0].server.vector)
    assert not torch.equal(state.server.vector, real_learner(study).start())
    assert os.environ.get("PYTHONPATH") == path and os.environ.get("RAY_ENABLE_UV_RUN_RUNTIME_ENV") is None


class NoSites:
    """Hospitals that cannot be opened."""

    def __call__(self, context: Context) -> Site:
        raise OSError("no photos here")


@pytest.mark.slow
def test_flower_raises_the_server_app_s_error(tmp_path: Path) -> None:
    with pytest.raises(RoundError, match="0 of 3 hospitals answered, expected at least 2 .*failed"):
        run_on_flower(tmp_path / "run", PATIENT, make_client_app(NoSites()), SmallLearner())


@pytest.mark.slow
def test_flower_waits_for_nobody_when_a_round_has_failed(tmp_path: Path) -> None:
    """The hospitals sleep for ten minutes; the deadline is over in four seconds."""
    study = PATIENT.replace({"federation": {"deadline_s": 4.0}})
    with pytest.raises(RoundError, match="0 of 3 hospitals answered"):
        run_on_flower(tmp_path / "run", study, make_client_app(SleepySites()), SmallLearner())


def test_a_ray_that_does_not_start_is_started_again() -> None:
    from simulation.flower import start_persistently

    tries, cleaned = iter([Exception("timed out"), Exception("timed out"), None]), []

    def start() -> None:
        error = next(tries)
        if error is not None:
            raise error

    start_persistently(start, lambda: cleaned.append("clean"))
    assert len(cleaned) == 2
    with pytest.raises(RoundError, match="Ray did not start .never.: see its log"):
        start_persistently(lambda: (_ for _ in ()).throw(Exception("never")), lambda: None)


class SleepySites:
    """Hospitals that take too long."""

    def __call__(self, context: Context) -> Site:
        time.sleep(600)
        raise AssertionError("nobody waits so long")


ENDLESS = """
import sys
from pathlib import Path
sys.path.insert(0, {checkout!r})
from tests.test_engines import *

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started deaf to it
    run_on_flower(Path(sys.argv[1]), PATIENT, make_client_app(SleepySites()), SmallLearner())
"""


@pytest.mark.slow
def test_control_c_ends_flower_and_ray(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(ENDLESS.format(checkout=str(CHECKOUT)))
    command = [sys.executable, str(tmp_path / "endless.py"), str(tmp_path / "run")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_until(lambda: any(name.startswith("ray::ClientApp") for name in ray_processes(process.pid)))
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=180)
    finally:
        process.kill()
    assert process.returncode != 0 and "KeyboardInterrupt" in errors
    assert "ActorDiedError" not in errors, "that they were killed is no news"
    wait_until(lambda: not ray_processes(process.pid))


def wait_until(happened: Any, patience_s: float = 180.0) -> None:
    until = time.monotonic() + patience_s
    while not happened():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.2)


def ray_processes(session: int) -> list[str]:
    """Processes that the session's leader left or has: all of its session but itself."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, rest = stat.read_text().rsplit(")", 1)
        except OSError:
            continue
        if rest.split()[3] == str(session) and stat.parent.name != str(session) and rest.split()[0] != "Z":
            found.append(name.partition("(")[2])
    return found
