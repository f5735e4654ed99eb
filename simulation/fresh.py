"""How is something measured that no earlier work may touch? In a process of its own, whose memory can be read.

Linux only: the figures are the kernel's.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")
_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def in_fresh_process(
    work: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs
) -> Result:
    """What ``work`` returns in a new interpreter, which has imported and computed nothing else."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(work, *arguments, **named).result()


def resident_mb(field: Literal["VmRSS", "VmHWM"]) -> float:
    """Memory of this process, now (VmRSS) or at most so far (VmHWM)."""
    [line] = [line for line in _STATUS.read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) * 1024 / 1e6


def forget_peak() -> float:
    """From here on VmHWM counts anew; the memory of this process now, in MB."""
    _FORGET.write_text("5")
    return resident_mb("VmRSS")
