"""How do processes stay alive, and end together? One supervisor starts them, starts them again, and takes them down.

A child holds the read end of a pipe whose write end is its supervisor's: when the supervisor is gone, even by kill -9,
the pipe closes and the child ends. Nothing outlives the command that an administrator started.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bioface_core.logs import say

_log = logging.getLogger("bioface.supervise")

_GRACE_S = 10.0  # from a polite request to end to kill -9
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 30.0  # before a child that ended is started again
_SETTLED_S = 20.0  # a child that lived so long is started again without a pause


def command(*arguments: str) -> list[str]:
    """The command line of a process of ours: this interpreter and installation, nothing from the folder we are in."""
    return [sys.executable, "-P", "-m", "bioface_core", "process", *arguments]


def import_path() -> str:
    """The folder that ``bioface_core`` is imported from, for ``PYTHONPATH``: a child imports the same code."""
    return str(Path(__file__).resolve().parent.parent)


def end_with_supervisor() -> None:
    """Called once in a child: ends this process, as by SIGTERM, when its supervisor is gone."""
    threading.Thread(target=_wait_for_end, daemon=True).start()


def _wait_for_end() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os._exit(1)


@dataclass
class Child:
    """A process that is wanted.

    Args:
        name: for the log.
        arguments: its command line.
        environment: all of it.
        log: where what it prints goes, beside its own log.

    Attributes:
        ended_with: status of the last end that nobody asked for.
    """

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    log: Path | None = None
    ended_with: int | None = field(default=None, init=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _started: float = field(default=0.0, init=False)
    _pause_s: float = field(default=0.0, init=False)
    _not_before: float = field(default=0.0, init=False)

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def status(self) -> int | None:
        """How the last process ended; None if none ever did, or while one lives."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Starts the process, whatever became of the last one."""
        output = subprocess.DEVNULL if self.log is None else self.log.open("ab")
        try:
            self._process = subprocess.Popen(
                self.arguments, env=dict(self.environment), stdin=subprocess.PIPE, stdout=output, stderr=output
            )
        finally:
            if not isinstance(output, int):
                output.close()
        self._started = time.monotonic()
        say(_log, "started", process=self.name, pid=self._process.pid)

    def keep(self) -> bool:
        """Starts the process if it does not live, sooner or later: the faster it ends, the longer the pause.

        Returns:
            Whether a process that lived before has ended and was started again.
        """
        if self.running:
            return False
        ended = self._note_end()
        if time.monotonic() < self._not_before:
            return False
        again = self._pause_s > 0 or ended
        self.start()
        return again

    def ask_to_end(self) -> None:
        """SIGTERM, if it lives."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def end(self, until: float) -> None:
        """Waits for the end, and brings it about.

        Args:
            until: ``time.monotonic()`` after which it is killed.
        """
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        say(_log, "stopped", process=self.name, status=self._process.returncode)
        self._process = None
        self._pause_s = 0.0

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self.end(time.monotonic())

    def stop(self) -> None:
        """Ends the process, politely at first."""
        self.ask_to_end()
        self.end(time.monotonic() + _GRACE_S)

    def forget(self) -> None:
        """Takes note of an end: ``status`` is None again."""
        assert not self.running, "it has not ended"
        self._note_end()

    def _note_end(self) -> bool:
        """Notes an end that nobody asked for, once, and how long to wait; whether there was one."""
        if self._process is None:
            return False
        lived, self.ended_with = time.monotonic() - self._started, self._process.returncode
        say(_log, "ended", logging.WARNING, process=self.name, status=self._process.returncode, lived_s=round(lived, 1))
        longer = min(2 * self._pause_s, _LONGEST_PAUSE_S) or _FIRST_PAUSE_S
        self._pause_s = _FIRST_PAUSE_S if lived > _SETTLED_S else longer
        self._not_before = time.monotonic() + self._pause_s
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None
        return True


def last_line(path: Path) -> str:
    """The last line of a file that says something; empty if none does."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def stop_all(children: Sequence[Child]) -> None:
    """Ends several processes at the same time."""
    for child in children:
        child.ask_to_end()
    until = time.monotonic() + _GRACE_S
    for child in children:
        child.end(until)


def until_stopped(look: Callable[[], None], pause_s: float) -> None:
    """Calls ``look`` again and again until SIGTERM or SIGINT; an error of ``look`` ends it, too.

    Args:
        look: does what is to be done now.
        pause_s: between two looks.
    """
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        while not stop.wait(pause_s):
            look()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
