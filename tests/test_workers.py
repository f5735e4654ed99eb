"""Do worker processes make the model that one process makes, share the work out, and never leave anybody waiting?"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from bioface_core.checkpoint import open_run
from bioface_core.config import Study
from bioface_core.errors import RoundError
from client.site import Site
from server.app import make_server_app
from server.rounds import Event, RunState
from simulation.workers import OpenSite, WorkersGrid, run_workers, shared_out, workers_grid
from tests.small_federation import SmallLearner, SmallSites, dying_at, in_a_process, names, run_small, small_study

CHECKOUT = Path(__file__).resolve().parent.parent
STUDY = small_study(deadline_s=120.0)
PHOTOS_S = [12, 24, 32]


def run_on_workers(
    path: Path, study: Study, open_site: OpenSite | None = None, on_event: Callable[[Event], None] = lambda event: None
) -> RunState:
    """The whole federation on two workers."""
    ended: list[RunState] = []
    with open_run(path, study) as folder:
        app = make_server_app(study, SmallLearner(), folder, names(study), on_event, ended.append)
        run_workers(app, open_site or SmallSites(study), PHOTOS_S, 2)
    return ended[0]


@contextmanager
def two_workers(sticky: bool = False, open_site: OpenSite | None = None) -> Iterator[WorkersGrid]:
    with workers_grid(open_site or NoSites(), PHOTOS_S, 2, sticky) as grid:
        yield grid


@dataclass(frozen=True)
class NoSites:
    """Hospitals that cannot be opened: they answer with an error, and quickly."""

    def __call__(self, context: Context) -> Site:
        raise OSError("/photos/anna.png")


@dataclass(frozen=True)
class SlowSites:
    """Hospitals of which the first takes too long, or dies."""

    folder: Path
    dies: bool = False

    def __call__(self, context: Context) -> Site:
        index = int(context.node_config["partition-id"])
        (self.folder / f"{index}-{time.monotonic_ns()}").write_text(str(os.getpid()))
        if index == 0 and self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600 if index == 0 else 0)
        raise OSError("no photos here")


def ask(grid: WorkersGrid, *nodes: int, ttl: float = 120.0) -> list[str]:
    return grid.push_messages([Message(RecordDict(), node, "train", ttl=ttl) for node in nodes])


def test_workers_make_the_model_that_one_process_makes(tmp_path: Path) -> None:
    inline, workers = run_small(tmp_path / "inline", STUDY), run_on_workers(tmp_path / "workers", STUDY)
    assert torch.equal(workers.server.vector, inline.server.vector)
    for one, other in zip(workers.history, inline.history, strict=True):
        assert one.counts.to_json() == other.counts.to_json() and one.answered == other.answered
        assert (one.loss, one.bytes_up, one.bytes_down) == (other.loss, other.bytes_up, other.bytes_down)


def test_an_error_in_a_worker_is_an_error_reply() -> None:
    with two_workers() as grid:
        replies = grid.send_and_receive([Message(RecordDict(), node, "train") for node in grid.get_node_ids()])
        assert sorted(reply.metadata.src_node_id for reply in replies) == grid.get_node_ids()
        assert all(reply.has_error() and "anna" not in repr(reply) for reply in replies)
        assert list(grid.pull_messages(["1", "2", "3"])) == [], "an answer is given once"


def test_whoever_is_late_is_not_waited_for(tmp_path: Path) -> None:
    """The others' answers come, those that waited behind the late one too: another worker takes them over."""
    with two_workers(open_site=SlowSites(tmp_path)) as grid:
        late, *others = grid.get_node_ids()
        began = time.monotonic()
        replies = list(grid.pull_messages(ask(grid, late, *others, ttl=6.0)))
        assert sorted(reply.metadata.src_node_id for reply in replies) == others
        assert time.monotonic() - began < 60, "nor is what comes next put behind it"
        assert [reply.metadata.src_node_id for reply in grid.pull_messages(ask(grid, others[0]))] == others[:1]


def test_a_hospital_that_remembers_stays_with_its_worker(tmp_path: Path) -> None:
    """The late one's neighbour would be taken over otherwise."""
    (tmp_path / "seen").mkdir()
    with two_workers(sticky=True, open_site=SlowSites(tmp_path / "seen")) as grid:
        for _ in range(3):
            assert len(list(grid.pull_messages(ask(grid, *grid.get_node_ids()[1:])))) == 2
    processes = {file.name[0]: file.read_text() for file in (tmp_path / "seen").iterdir()}
    assert all(file.read_text() == processes[file.name[0]] for file in (tmp_path / "seen").iterdir())


def test_a_killed_worker_ends_the_run_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "seen").mkdir()
    began = time.monotonic()
    with pytest.raises(RoundError, match="worker process . was killed by signal 9: start again to go on"):
        run_on_workers(tmp_path / "run", STUDY, SlowSites(tmp_path / "seen", dies=True))
    assert time.monotonic() - began < 60 and not multiprocessing.active_children()


def test_a_worker_killed_between_two_questions_is_noticed() -> None:
    with two_workers() as grid:
        assert len(list(grid.pull_messages(ask(grid, *grid.get_node_ids())))) == 3
        for process in multiprocessing.active_children():
            process.kill()
            process.join()
        with pytest.raises(RoundError, match="killed by signal 9"):
            list(grid.pull_messages(ask(grid, *grid.get_node_ids())))


def test_an_error_of_the_server_leaves_no_worker() -> None:
    with pytest.raises(ZeroDivisionError), two_workers():
        raise ZeroDivisionError
    assert not multiprocessing.active_children()


def kill_at(path: Path, study: Study, event_number: int) -> None:
    """Runs on workers until an event of this number, then dies as of kill -9."""
    run_on_workers(path, study, on_event=dying_at(event_number))


@pytest.mark.slow
@pytest.mark.parametrize("event_number", [4, 16])
def test_a_killed_run_goes_on_on_either_engine(tmp_path: Path, event_number: int) -> None:
    whole = run_small(tmp_path / "whole", STUDY)
    for go_on in (run_small, run_on_workers):
        path = tmp_path / go_on.__name__
        assert in_a_process(kill_at, path, STUDY, event_number) == -signal.SIGKILL
        assert torch.equal(go_on(path, STUDY).server.vector, whole.server.vector)


ENDLESS = """
import sys
from pathlib import Path
sys.path.insert(0, {checkout!r})
from tests.test_workers import *

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started deaf to it
    run_on_workers(Path(sys.argv[1]) / "run", STUDY, SlowSites(Path(sys.argv[1]) / "seen"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_run(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C goes to the whole process group, kill -9 to the run alone; the hospital sleeps for ten minutes."""
    (tmp_path / "seen").mkdir()
    (tmp_path / "endless.py").write_text(ENDLESS.format(checkout=str(CHECKOUT)))
    command = [sys.executable, str(tmp_path / "endless.py"), str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_until(lambda: any((tmp_path / "seen").glob("0-*")))
        worker = int(next((tmp_path / "seen").glob("0-*")).read_text())
        (os.killpg if number is signal.SIGINT else os.kill)(process.pid, number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode != 0
    assert number is signal.SIGKILL or errors.count("KeyboardInterrupt") == 1, "the workers say nothing"
    wait_until(lambda: not Path(f"/proc/{worker}").exists())


def wait_until(happened: Callable[[], bool], patience_s: float = 60.0) -> None:
    until = time.monotonic() + patience_s
    while not happened():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.1)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=7), st.integers(1, 3))
def test_work_is_shared_out_evenly(sizes_S: list[int], workers: int) -> None:
    """No more than 4/3 of the best of all ways to share it out."""

    def longest(owner_S: tuple[int, ...]) -> int:
        shares = zip(owner_S, sizes_S, strict=True)
        loads = [0] * workers
        for owner, size in shares:
            loads[owner] += size
        return max(loads)

    best = min(longest(owner_S) for owner_S in product(range(workers), repeat=len(sizes_S)))
    assert longest(tuple(shared_out(sizes_S, workers))) <= best * 4 / 3
