"""What survives an interruption? The findings of finished batches, in a work folder beside the output.

A batch is named by the hash of its files' contents and of the version of the measurements. It is examined as a whole or
not at all, so that a resumed run does the very same arithmetic as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from bioface_core.errors import PhotoError
from bioface_core.files import beside, remove_folder, write_bytes
from bioface_core.quality import Findings, Gate, Reason

MEASUREMENTS = 1  # raise it when the same photo would be measured differently
_LOCK = "lock"


@dataclass(frozen=True)
class Examined:
    """What was found on the files of a batch.

    Attributes:
        findings: a row for every file, zero where it could not be read.
        failures: for every file, why it could not be read (reason, detail), or None.
        digests: for every file, the hash of its content; empty where it could not be read.
    """

    findings: Findings
    failures: tuple[tuple[Reason, str] | None, ...]
    digests: tuple[str, ...]


def work_folder(out: Path) -> Path:
    """The work folder of an output."""
    whole = out.absolute()  # `.` has no name
    return whole.with_name(f"{whole.name}.work")


@contextmanager
def working_on(out: Path) -> Iterator[Path]:
    """The work folder of ``out``, for one process alone; it stays when the block fails and goes when it succeeds.

    Raises:
        PhotoError: another process is at work there, or the folder cannot be written.
    """
    folder = work_folder(out)
    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        shutil.rmtree(beside(folder, "old"), ignore_errors=True)  # what a killed process was about to delete
    except Timeout as error:
        raise PhotoError(f"{out} is being prepared by another process: wait for it, or choose another --out") from error
    except OSError as error:
        raise PhotoError(f"{folder} cannot be written ({error.strerror}): choose another --out") from error
    try:
        yield folder
        remove_folder(folder)
    except OSError as error:
        raise PhotoError(f"{out} cannot be written ({error.strerror}): mend that and go on, nothing is lost") from error
    finally:
        lock.release()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content, empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def batch_file(folder: Path, digests: Sequence[str], gate: Gate, device: str) -> Path:
    """Where the findings of a batch are kept; another device computes other last bits."""
    chosen = [MEASUREMENTS, device, gate.probability, gate.rival_probability, *digests]
    return folder / f"{hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:32]}.safetensors"


def save_batch(path: Path, examined: Examined) -> None:
    """Keeps a batch; whole or not at all."""
    notes = {"failures": json.dumps(examined.failures), "digests": json.dumps(examined.digests)}
    write_bytes(path, save(examined.findings.columns(), notes))


def load_batch(path: Path) -> Examined | None:
    """A batch that was kept, None if there is none or a crash of the machine has damaged it."""
    try:
        with safe_open(path, framework="pt") as file:
            notes = file.metadata()
            findings = Findings(**{name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        failures = tuple(kept and (Reason(kept[0]), kept[1]) for kept in json.loads(notes["failures"]))
        return Examined(findings, failures, tuple(json.loads(notes["digests"])))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
