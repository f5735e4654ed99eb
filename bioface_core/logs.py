"""What did our processes do, and when? One line of JSON per event in a file, and a short line for whoever watches.

What we log goes through ``say``: an event by name, and its facts as fields. What libraries log comes out in the same
form, under the event ``note``, once; the handlers that they bring along are passed by. A log stays in the folder of
whoever runs the process: a hospital's log is the hospital's own, and may hold what a message to the lab must not.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import traceback
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TextIO

Fact = str | int | float | bool | None

_RESERVED = frozenset({"time", "level", "component", "event"})
_SIZE_BYTES, _OLD_FILES = 10 * 2**20, 5  # a study of a hundred rounds takes about 1 MB
_LIBRARIES = {
    "flwr": logging.INFO,
    "uvicorn": logging.INFO,
    "uvicorn.error": logging.INFO,
    "uvicorn.access": logging.WARNING,
    "httpx": logging.WARNING,  # below: a line for every request
    "httpcore": logging.WARNING,
}


def start_logging(component: str, folder: Path | None = None, quiet: bool = False) -> None:
    """Sends everything this process logs to one place; called again, to another.

    Args:
        component: what the process is, such as ``site``; names the file.
        folder: where ``component.jsonl`` is written, readable by its owner alone; made if it is not there.
        quiet: nothing is printed to stderr.

    Raises:
        OSError: the file cannot be opened.
    """
    handlers: list[logging.Handler] = [] if quiet else [_on_stderr()]
    if folder is not None:
        handlers.append(_in_file(folder / f"{component}.jsonl", component))
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, _LogFile | _Stderr)]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    _take_over_libraries()


def say(logger: logging.Logger, event: str, level: int = logging.INFO, /, **fields: Fact) -> None:
    """Logs an event.

    Args:
        logger: the module's.
        event: one word, or words with hyphens; always the same for the same event, so that it can be searched for.
        level: of ``logging``; from ``ERROR`` on, inside an ``except``, the exception and its traceback go with it.
        fields: the facts, none of them named like a key that every line has.
    """
    assert not _RESERVED & fields.keys(), f"every line has {sorted(_RESERVED & fields.keys())} already"
    logger.log(level, event, exc_info=level >= logging.ERROR and sys.exc_info()[0] is not None, extra={"facts": fields})


class _Line(logging.Formatter):
    """A record as a line of JSON, or as a short one for people."""

    def __init__(self, component: str = "") -> None:
        super().__init__()
        self._component = component

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the record holds."""
        event, facts = _event(record)
        always = {"time": _time(record), "level": record.levelname.lower(), "component": self._component}
        return json.dumps(always | {"event": event} | facts | _exception(record), default=str)


class _ShortLine(logging.Formatter):
    """A record as a short line for people; a traceback is in the file."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, without anything that could move a terminal's cursor."""
        event, facts = _event(record)
        error = {key: value for key, value in _exception(record).items() if key != "traceback"}
        level = [] if record.levelno <= logging.INFO else [record.levelname]
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        return " ".join([time, *level, event, *(f"{key}={_shown(value)}" for key, value in (facts | error).items())])


class _LogFile(RotatingFileHandler):
    """The file, for its owner alone. A disk that takes no more lines does not stop the work."""

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return open(descriptor, "a", encoding="utf-8")  # noqa: SIM115 - the handler closes it

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the parent's name
        """Does nothing: where should it be told?"""

    def close(self) -> None:
        """Lets go of the file; lines that the disk did not take are lost."""
        with contextlib.suppress(OSError):
            super().close()


class _Stderr(logging.StreamHandler[TextIO]):
    """What a person sees."""


class _Forward(logging.Filter):
    """On a library's logger: hands its records to the root, and to no handler that the library brings along.

    A filter and not a change of handlers, for it holds wherever the library is imported: before or after.
    """

    def __init__(self, least: int) -> None:
        super().__init__()
        self._least = least

    def filter(self, record: logging.LogRecord) -> bool:
        """Never lets a record pass."""
        if record.levelno >= self._least:
            logging.getLogger().handle(record)
        return False


def _take_over_libraries() -> None:
    for name, least in _LIBRARIES.items():
        logger = logging.getLogger(name)
        if not any(isinstance(one, _Forward) for one in logger.filters):
            logger.addFilter(_Forward(least))


def _in_file(path: Path, component: str) -> logging.Handler:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handler = _LogFile(path, maxBytes=_SIZE_BYTES, backupCount=_OLD_FILES, encoding="utf-8")
    handler.setFormatter(_Line(component))
    return handler


def _on_stderr() -> logging.Handler:
    handler = _Stderr(sys.stderr)
    handler.setFormatter(_ShortLine())
    return handler


def _event(record: logging.LogRecord) -> tuple[str, dict[str, Fact]]:
    """What happened, and the facts; a library has only a text."""
    facts = getattr(record, "facts", None)
    if facts is not None:
        return str(record.msg), facts
    return "note", {"logger": record.name, "text": record.getMessage().strip()}


def _exception(record: logging.LogRecord) -> dict[str, Fact]:
    if not record.exc_info or record.exc_info[1] is None:
        return {}
    error = record.exc_info[1]
    whole = "".join(traceback.format_exception(error))
    return {"error": type(error).__name__, "error_text": str(error), "traceback": whole}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _shown(value: Fact) -> str:
    """Bare where that is clear; otherwise quoted, with every control character as an escape."""
    text = str(value)
    return text if text.isprintable() and text and not set(text) & set(' "=') else json.dumps(text)
