"""What do all tests share? One thread, no word to the outside world, random input that is the same every time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Read when the libraries are imported, and inherited by the processes that tests start. Two threads on a busy machine
# of two cores make the same kernels many times slower.
os.environ.update(
    OMP_NUM_THREADS="1",
    FLWR_TELEMETRY_ENABLED="0",
    FLWR_DISABLE_UPDATE_CHECK="1",
    RAY_USAGE_STATS_ENABLED="0",
)

# The same examples on every run: a red test is a change's doing, not the dice's. No deadline: CI is a busy machine.
settings.register_profile("house", derandomize=True, deadline=None, max_examples=50, database=None)
settings.load_profile("house")


@pytest.fixture
def london() -> Path:
    """A folder of real photos that may lie beside the checkout and is not part of it; the test is skipped without."""
    folder = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "london"
    if not folder.is_dir():
        pytest.skip("the London photos are not beside this checkout")
    return folder
