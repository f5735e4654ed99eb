"""How much does a command cost? The CPU seconds of it and of everything it starts, and its wall seconds.

Ray's and NVIDIA FLARE's processes are not all waited for by whoever started them, so the times that the kernel adds up
for parents miss some: every process below the command is read from /proc while it lives. What a process does after it
is last looked at, a tenth of a second at most, is missed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_SET_CHILD_SUBREAPER = 36  # of prctl(2)
_LOOK_S = 0.1
_TICKS = os.sysconf("SC_CLK_TCK")

_Process = tuple[int, str]  # number, and when it started: numbers are used again


@dataclass(frozen=True)
class Cost:
    """What a command cost, in seconds."""

    cpu: float
    wall: float


def run_measured(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Cost:
    """Runs a command to its end, and ends whatever it leaves behind.

    Args:
        command: arguments.
        environment: all of it.
        log: what it prints goes here.

    Raises:
        RuntimeError: it failed; the end of what it printed is in the message.
    """
    others = _descendants().keys()
    seen: dict[_Process, float] = {}
    began = time.monotonic()
    with _adopting_orphans(), log.open("wb") as out:
        process = subprocess.Popen(command, env=dict(environment), stdout=out, stderr=subprocess.STDOUT)
        while process.poll() is None:
            time.sleep(_LOOK_S)
            seen |= _descendants()
        wall = time.monotonic() - began
        _end(_descendants().keys() - others)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{log.read_text(errors='replace')[-3000:]}")
    return Cost(sum(cpu for process, cpu in seen.items() if process not in others), wall)


@contextmanager
def _adopting_orphans() -> Iterator[None]:
    """Processes whose parent has ended become our children meanwhile, not those of process 1."""
    libc = ctypes.CDLL(None)
    libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def cpu_seconds(root: int) -> dict[_Process, float]:
    """CPU seconds of ``root`` and of every process below it, by number and start."""
    found: dict[_Process, float] = {}
    waiting = [root]
    while waiting:
        folder = Path(f"/proc/{waiting.pop()}")
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            children = [task.read_text().split() for task in folder.glob("task/*/children")]
        except OSError:
            continue  # it has just ended
        found[int(folder.name), fields[19]] = (int(fields[11]) + int(fields[12])) / _TICKS
        waiting += [int(number) for numbers in children for number in numbers]
    return found


def _descendants() -> dict[_Process, float]:
    """The processes below this one."""
    return {process: cpu for process, cpu in cpu_seconds(os.getpid()).items() if process[0] != os.getpid()}


def _end(processes: Iterable[_Process]) -> None:
    """Kills and reaps what the command left running."""
    numbers = [number for number, _ in processes]
    for number in numbers:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    for number in numbers:
        with suppress(ChildProcessError):
            os.waitpid(number, 0)
