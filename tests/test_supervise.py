"""Are processes kept alive, and does none outlive its supervisor?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bioface_core.supervise import Child, import_path, stop_all

ENVIRONMENT = dict(os.environ) | {"PYTHONPATH": import_path()}
WAITS = "import time; time.sleep(60)"
OBEYS = "from bioface_core.supervise import end_with_supervisor; end_with_supervisor(); import time; time.sleep(60)"


@contextmanager
def child(program: str) -> Iterator[Child]:
    one = Child("test", [sys.executable, "-c", program], ENVIRONMENT)
    try:
        yield one
    finally:
        one.kill()


def until(holds: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.02)
    return False


def test_a_process_that_was_killed_is_started_again() -> None:
    with child(WAITS) as one:
        assert one.keep() is False, "the first start is no restart"
        first = one._process
        assert first is not None
        first.send_signal(signal.SIGKILL)
        assert until(lambda: not one.running)
        assert until(one.keep), "it was to come back"
        assert one.running and one._process is not first


def test_a_process_that_keeps_dying_is_started_more_and_more_slowly() -> None:
    with child("") as one:
        starts: list[float] = []
        end = time.monotonic() + 3.0
        while time.monotonic() < end:
            before = one._process
            one.keep()
            if one._process is not None and one._process is not before:
                starts.append(time.monotonic())
            time.sleep(0.01)
        gaps = [later - earlier for earlier, later in zip(starts, starts[1:], strict=False)]
        assert 2 <= len(starts) <= 8
        assert gaps == sorted(gaps)


def test_a_process_that_does_not_listen_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bioface_core.supervise._GRACE_S", 0.5)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    with child(deaf) as one:
        one.start()
        time.sleep(0.5)
        began = time.monotonic()
        stop_all([one])
        assert not one.running
        assert time.monotonic() - began < 5.0


def test_status_tells_how_it_ended() -> None:
    with child("raise SystemExit(3)") as one:
        one.start()
        assert until(lambda: not one.running)
        assert one.status == 3
        one.forget()
        assert one.status is None


def test_a_child_ends_when_its_supervisor_is_killed(tmp_path: Path) -> None:
    """Kill -9 leaves nobody to say goodbye: the pipe does."""
    noted = tmp_path / "pid"
    supervisor = (
        "import sys, time; from pathlib import Path; from bioface_core.supervise import Child\n"
        f"one = Child('test', [sys.executable, '-c', {OBEYS!r}], {ENVIRONMENT!r}); one.start()\n"
        f"Path({str(noted)!r}).write_text(str(one._process.pid)); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", supervisor], env=ENVIRONMENT)
    try:
        assert until(lambda: noted.exists() and noted.read_text() != "")
        pid = int(noted.read_text())
        time.sleep(0.5)
    finally:
        process.kill()
        process.wait()
    assert until(lambda: not alive(pid)), "the child lives on"


def alive(pid: int) -> bool:
    with suppress(ProcessLookupError, FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
