"""Is the yardstick what it says? Stock Flower runs, its costs add up, and nothing of it is left."""

from __future__ import annotations

import importlib.util
import os
import time
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest
from cryptography import x509

from simulation import stock
from simulation.stock.credentials import make_certificates
from simulation.stock.deployment import deployed
from simulation.stock.timings import timings_of

APP = Path(stock.__file__).parent / "stock-app" / "stock_app"


def server_app() -> ModuleType:
    """The app's module, which lies on no import path."""
    spec = importlib.util.spec_from_file_location("stock_server_app", APP / "server_app.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def processes_of(folder: Path) -> list[str]:
    """Processes of this machine whose environment names ``folder``: what Flower's commands start inherits it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            if os.fsencode(folder) in (process / "environ").read_bytes():
                found.append(process.name)
    return found


def nothing_is_left(folder: Path, patience_s: float = 20.0) -> bool:
    """Whether its processes end; one that was told to may take a moment on a busy machine."""
    until = time.monotonic() + patience_s
    while processes_of(folder) and time.monotonic() < until:
        time.sleep(0.1)
    return processes_of(folder) == []


@pytest.mark.parametrize("payload_bytes", [4096, 40_000_000])
def test_the_model_has_the_size_that_was_asked_for(payload_bytes: int) -> None:
    sizes = [tensor.numel() for tensor in server_app().state_of(payload_bytes).values()]
    assert len(sizes) == 60
    assert 4 * sum(sizes) == payload_bytes
    assert min(sizes) >= 1


def test_the_costs_add_up() -> None:
    """Two hospitals, three rounds; the slower one worked for two seconds."""
    notes = {
        "ended": [0.0, 100.0, 110.0, 130.0],
        "received": [99.0, 108.0, 127.0],
        "work": [[[90.0, 91.0], [90.0, 92.0]], [[103.0, 104.0], [103.0, 105.0]], [[121.0, 123.0], [120.0, 121.0]]],
        "peak_bytes": 5,
    }
    found = timings_of(notes, 2, 200.0)
    assert found == stock.StockTimings((10.0, 20.0), (8.0, 18.0), (7.0, 3.0, 4.0), 5, 200.0)


def test_a_missing_answer_is_no_measurement() -> None:
    notes = {"ended": [0.0, 1.0], "received": [1.0], "work": [[[0.1, 0.2]]], "peak_bytes": 5}
    with pytest.raises(RuntimeError, match="expected 2 each"):
        timings_of(notes, 2, 3.0)


def test_the_servers_certificate_is_the_authoritys(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    server, authority = ((tmp_path / f"{name}.crt").read_bytes() for name in ("server", "ca"))
    x509.load_pem_x509_certificate(server).verify_directly_issued_by(x509.load_pem_x509_certificate(authority))


@pytest.mark.slow
def test_stock_flower_runs_and_leaves_nothing(tmp_path: Path) -> None:
    found = stock.run_stock(tmp_path / "stock", payload_bytes=4096, hospitals=2, rounds=2, seconds_of_work=0.5)
    assert len(found.rounds_s) == len(found.overhead_s) == 1
    assert 0.0 < found.overhead_s[0] <= found.rounds_s[0] - 0.5
    assert len(found.update_s) == 2 and min(found.update_s) > 0.0
    assert found.peak_bytes > 2**20
    assert nothing_is_left(tmp_path)


@pytest.mark.slow
def test_a_failure_leaves_nothing_either(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), deployed(tmp_path / "stock", 1):
        assert len(processes_of(tmp_path)) >= 2  # the SuperLink and a node: so the look finds them
        raise KeyboardInterrupt
    assert nothing_is_left(tmp_path)
