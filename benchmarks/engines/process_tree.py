"""How much does a command cost? The CPU seconds of it and of everything it starts, and its wall seconds.

Ray's and NVIDIA FLARE's processes are not all waited for by whoever started them, so the times that the kernel adds up
for parents miss some: every process below the command is read from /proc while it lives. What a process does after it
is last looked at, a tenth of a second at most, is missed.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SET_CHILD_SUBREAPER = 36  # prctl: orphans below us become our children, not those of process 1
_LOOK_S = 0.1
_TICKS = os.sysconf("SC_CLK_TCK")


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
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    seen: dict[tuple[int, str], float] = {}
    began = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=dict(environment), stdout=out, stderr=subprocess.STDOUT)
        while process.poll() is None:
            time.sleep(_LOOK_S)
            seen |= _descendants(os.getpid())
    wall = time.monotonic() - began
    _end_orphans()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{log.read_text(errors='replace')[-3000:]}")
    return Cost(sum(seen.values()), wall)


def _descendants(root: int) -> dict[tuple[int, str], float]:
    """CPU seconds of every process below ``root``, by number and start."""
    parents: dict[int, int] = {}
    seconds: dict[int, tuple[str, float]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        number = int(path.parent.name)
        parents[number] = int(fields[1])
        seconds[number] = fields[19], (int(fields[11]) + int(fields[12])) / _TICKS
    return {(number, start): cpu for number, (start, cpu) in seconds.items() if _is_below(number, root, parents)}


def _is_below(number: int, root: int, parents: Mapping[int, int]) -> bool:
    while number in parents and number != root:
        number = parents[number]
        if number == root:
            return True
    return False


def _end_orphans() -> None:
    """Kills and reaps what the command left running."""
    for number, _ in _descendants(os.getpid()):
        os.kill(number, 9)
    while True:
        try:
            if os.waitpid(-1, 0)[0] == 0:
                return
        except ChildProcessError:
            return
