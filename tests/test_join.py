"""Does a hospital's supervisor keep both processes alive, and say so when it cannot?"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

from bioface_core.errors import HospitalError
from client import join

NOTED = "import os, sys, time; open({path!r}, 'a').write(str(os.getpid()) + '\\n')\n"
STAYS = NOTED + "time.sleep(60)"
MISTAKEN = "import sys; print('bioface: store is not a store: prepare it', file=sys.stderr); sys.exit(2)"


@pytest.fixture
def hospital(tmp_path: Path) -> Any:
    for name in ("state", "logs"):
        (tmp_path / name).mkdir()
    settings = SimpleNamespace(name="hospital-1")
    return SimpleNamespace(
        folder=tmp_path, state=tmp_path / "state", logs=tmp_path / "logs", settings=settings, approved=lambda: None
    )


def commands(monkeypatch: pytest.MonkeyPatch, **programs: str) -> None:
    monkeypatch.setattr(join, "command", lambda name, folder: [sys.executable, "-c", programs[name]])


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def pids(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def test_a_mistake_of_the_user_ends_it_with_the_reason(hospital: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    commands(monkeypatch, site=MISTAKEN, node=STAYS.format(path=str(hospital.folder / "node")))
    with pytest.raises(HospitalError, match="the site process cannot work: store is not a store: prepare it"):
        join.join(hospital)


def test_a_hospital_joins_once(hospital: Any) -> None:
    with FileLock(hospital.state / ".join.lock"), pytest.raises(HospitalError, match="has joined already"):
        join.join(hospital)


def test_a_site_that_dies_takes_the_node_along_and_a_node_dies_alone(
    hospital: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, node = hospital.folder / "site", hospital.folder / "node"
    commands(monkeypatch, site=STAYS.format(path=str(site)), node=STAYS.format(path=str(node)))

    def play() -> None:
        until(lambda: len(pids(site)) == len(pids(node)) == 1)
        os.kill(pids(node)[-1], signal.SIGKILL)
        until(lambda: len(pids(node)) == 2)
        assert len(pids(site)) == 1
        os.kill(pids(site)[-1], signal.SIGKILL)
        until(lambda: len(pids(site)) == 2 and len(pids(node)) == 3)
        os.kill(os.getpid(), signal.SIGTERM)

    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            play()
        except BaseException as failure:
            failures.append(failure)
            os.kill(os.getpid(), signal.SIGTERM)

    player = threading.Thread(target=guarded)
    player.start()
    join.join(hospital)
    player.join()
    assert failures == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in [*pids(site), *pids(node)]), "nobody is left"
