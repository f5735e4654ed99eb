"""How many processes work on this machine, and when do they end? One per core, and with whoever started them."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.connection import wait

from bioface_core.speed import cores


def processes_for(wanted: int, most: int, threads: int = 1) -> int:
    """How many processes to start.

    Args:
        wanted: 0 takes as many as keep every core busy that this process may run on.
        most: there is no work for more.
        threads: of each process (``speed.threads``); 0 takes every core.
    """
    return min(wanted or max(1, cores() // (threads or cores())), most)


def end_with_parent() -> None:
    """Called once in a process of ``multiprocessing``: ends it when its parent is gone, even by kill -9."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
