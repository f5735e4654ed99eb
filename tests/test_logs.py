"""Is there one line per event, whole, for its owner alone, and none twice?"""

from __future__ import annotations

import json
import logging
import stat
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bioface_core import logs
from bioface_core.logs import say, start_logging

_log = logging.getLogger("bioface.test")


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    """The root logger of the test run is not ours to keep."""
    root = logging.getLogger()
    level = root.level
    yield
    for handler in [one for one in root.handlers if type(one).__module__ == logs.__name__]:
        root.removeHandler(handler)
        handler.close()
    for name in ("flwr", "uvicorn", "uvicorn.error", "uvicorn.access", "httpx", "httpcore"):
        logger = logging.getLogger(name)
        for one in [one for one in logger.filters if type(one).__module__ == logs.__name__]:
            logger.removeFilter(one)
    logging.captureWarnings(False)
    root.setLevel(level)


def lines(folder: Path, component: str = "site") -> list[dict[str, Any]]:
    """The log as a reader gets it."""
    return [json.loads(line) for line in (folder / f"{component}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_an_event_is_a_line_with_its_facts(tmp_path: Path) -> None:
    start_logging("site", tmp_path, quiet=True)
    say(_log, "answered", round=3, phase="train", seconds=0.5, late=False, reason=None)
    (line,) = lines(tmp_path)
    age = datetime.now(UTC) - datetime.fromisoformat(line.pop("time"))
    assert 0 <= age.total_seconds() < 60
    facts = {"round": 3, "phase": "train", "seconds": 0.5, "late": False, "reason": None}
    assert line == {"level": "info", "component": "site", "event": "answered"} | facts


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    start_logging("site", tmp_path / "logs", quiet=True)
    assert stat.S_IMODE((tmp_path / "logs" / "site.jsonl").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "logs").stat().st_mode) == 0o700


def test_a_line_stays_a_line_whatever_is_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start_logging("site", tmp_path)
    say(_log, "refused", why='a\nb\x1b[2J"c" 100 %s', path="/v1/runtime")
    assert lines(tmp_path)[0]["why"] == 'a\nb\x1b[2J"c" 100 %s'
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and "\x1b" not in shown
    assert shown[9:].startswith('refused why="a\\nb\\u001b[2J')
    assert shown.endswith(" path=/v1/runtime\n")


def test_an_exception_is_in_the_file_and_named_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start_logging("site", tmp_path)
    try:
        raise ValueError("no such photo")
    except ValueError:
        say(_log, "failed", logging.ERROR, round=1)
        say(_log, "goes-on")
    failed, goes_on = lines(tmp_path)
    assert (failed["error"], failed["error_text"]) == ("ValueError", "no such photo")
    assert failed["traceback"].startswith("Traceback") and "error" not in goes_on
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 2
    assert shown[0].endswith('ERROR failed round=1 error=ValueError error_text="no such photo"')


def test_quiet_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start_logging("site", tmp_path, quiet=True)
    say(_log, "ready")
    assert capsys.readouterr().err == ""


def test_started_again_it_writes_each_line_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start_logging("first", tmp_path)
    start_logging("site", tmp_path)
    say(_log, "ready")
    assert len(lines(tmp_path)) == 1 and lines(tmp_path, "first") == []
    assert capsys.readouterr().err.count("\n") == 1


def test_a_field_must_not_hide_what_every_line_has() -> None:
    with pytest.raises(AssertionError, match="component"):
        say(_log, "ready", component="other")


def test_warnings_of_python_are_lines_too(tmp_path: Path) -> None:
    start_logging("site", tmp_path, quiet=True)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)  # pytest has its own hook in place: ours goes on top of it
        logging.captureWarnings(True)
        warnings.warn("old option", UserWarning, stacklevel=1)
    (line,) = lines(tmp_path)
    assert line["event"] == "note" and "old option" in str(line["text"])


def test_a_full_file_is_moved_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_SIZE_BYTES", 400)
    start_logging("site", tmp_path, quiet=True)
    for number in range(50):
        say(_log, "answered", round=number)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 1 + logs._OLD_FILES
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 and file.stat().st_size <= 400 for file in files)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
def test_a_full_disk_does_not_stop_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "site.jsonl").symlink_to("/dev/full")
    start_logging("site", tmp_path, quiet=True)
    say(_log, "answered", round=1)
    assert capsys.readouterr().err == ""


PROGRAM = """
import json, logging, sys
from pathlib import Path
from bioface_core.logs import start_logging
early = sys.argv[2] == "early"
if early:
    import flwr.supercore.logger
start_logging("node", Path(sys.argv[1]))
if not early:
    import flwr.supercore.logger
import uvicorn
uvicorn.Config(app=None).configure_logging()
flwr.supercore.logger.log(logging.INFO, "joined %s", "a federation")
flwr.supercore.logger.log(logging.DEBUG, "detail")
logging.getLogger("uvicorn.error").info("listening")
logging.getLogger("uvicorn.access").info("GET /")
logging.getLogger("httpx").info("HTTP Request")
logging.getLogger("httpx").warning("slow")
"""


@pytest.mark.parametrize("order", ["early", "late"])
def test_libraries_speak_once_and_in_our_form(tmp_path: Path, order: str) -> None:
    """In a fresh interpreter: Flower and uvicorn bring handlers of their own, on import and on start."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), order], capture_output=True, text=True, check=True, timeout=60
    )
    found = [(line["event"], line["logger"], line["text"]) for line in lines(tmp_path, "node")]
    said = [("flwr", "joined a federation"), ("uvicorn.error", "listening"), ("httpx", "slow")]
    assert found == [("note", *one) for one in said]
    assert len(done.stderr.splitlines()) == 3 and done.stdout == ""
