"""Where does a run live? In a folder that belongs to one study and one process, with two files for each round.

``round-0007.safetensors`` holds the shared vector, the server optimiser's moments and the whole model by name;
``round-0007.json`` beside it says how the round went. The JSON is written last: where it is, the round is complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from bioface_core.config import Study, read_study
from bioface_core.errors import ConfigError, RunError
from bioface_core.evaluate import Counts
from bioface_core.files import write_bytes, write_text

_STUDY, _LOCK, JOURNAL = "study.yaml", ".lock", "journal.jsonl"
_MODEL = "model."  # before the names of the whole model's tensors
_DEFINES_NOTHING = {"engine", "workers", "compare"}  # parts of `simulation` that leave the hospitals as they are


@dataclass(frozen=True)
class RoundSummary:
    """How a round went.

    Attributes:
        round: 0 for the model before training.
        seconds: wall time.
        loss: mean training loss, by weight; None in round 0.
        answered: the hospitals whose reply counts.
        refused: who failed to answer either phase, and one word why; may have answered the other.
        bytes_down: arrays sent, over all hospitals and both phases.
        bytes_up: arrays received.
        counts: on held-out patients of the hospitals that answered.
        hospital_bytes: of ``bytes_down`` and ``bytes_up``, each hospital's that was asked; empty in older runs.
    """

    round: int
    seconds: float
    loss: float | None
    answered: tuple[str, ...]
    refused: dict[str, str]
    bytes_down: int
    bytes_up: int
    counts: Counts
    hospital_bytes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As in ``round-0007.json``."""
        return {**{name: getattr(self, name) for name in self.__dataclass_fields__}, "counts": self.counts.to_json()}

    @staticmethod
    def from_json(content: dict[str, Any]) -> RoundSummary:
        """What ``to_json`` wrote.

        Raises:
            KeyError, TypeError, ValueError: something else.
        """
        fields = {**content, "answered": tuple(content["answered"]), "counts": Counts.from_json(content["counts"])}
        moved = {name: (int(down), int(up)) for name, (down, up) in content.get("hospital_bytes", {}).items()}
        return RoundSummary(**fields | {"hospital_bytes": moved})


class RunFolder:
    """A run's folder, open and locked. Make one with ``open_run``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def journal(self) -> Path:
        """``journal.jsonl``."""
        return self.path / JOURNAL

    def last_round(self) -> int:
        """The last complete round, -1 if there is none."""
        complete = {int(path.stem.removeprefix("round-")) for path in self.path.glob("round-[0-9]*.json")}
        return max(complete, default=-1)

    def write_round(self, summary: RoundSummary, content: bytes) -> None:
        """Writes a round's two files.

        Args:
            summary: the JSON.
            content: the tensors, from ``pack``.

        Raises:
            RunError: the disk does not take it; no half file is left.
        """
        try:
            write_bytes(self._file(summary.round, "safetensors"), content)
            write_text(self._file(summary.round, "json"), json.dumps(summary.to_json()))
        except OSError as error:
            hint = "make room and start again: the run goes on from its last round"
            raise RunError(f"{self.path} cannot be written ({error.strerror}): {hint}") from error

    def read_summary(self, round_: int) -> RoundSummary:
        """How a complete round went.

        Raises:
            RunError: no such round, or damaged.
        """
        path = self._file(round_, "json")
        try:
            return RoundSummary.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path} is damaged ({type(error).__name__}): {_go_back(round_)}") from error

    def read_tensors(self, round_: int, sha256: str | None = None) -> dict[str, Tensor]:
        """What ``pack`` was given.

        Args:
            round_: a complete round.
            sha256: what the journal says the file's hash is; None does not check.

        Raises:
            RunError: no such round, or damaged.
        """
        path = self._file(round_, "safetensors")
        try:
            content = path.read_bytes()
            if sha256 is not None and digest(content) != sha256:
                raise RunError(f"{path} is not the file the journal names: {_go_back(round_)}")
            return load(content)
        except (OSError, SafetensorError) as error:
            raise RunError(f"{path} is damaged ({type(error).__name__}): {_go_back(round_)}") from error

    def read_model(self, round_: int) -> dict[str, Tensor]:
        """The whole model after a round, by name, for prediction.

        Raises:
            RunError: no such round, or damaged.
        """
        tensors = self.read_tensors(round_)
        return {name.removeprefix(_MODEL): tensor for name, tensor in tensors.items() if name.startswith(_MODEL)}

    def _file(self, round_: int, kind: str) -> Path:
        return self.path / f"round-{round_:04d}.{kind}"


def pack(state: dict[str, Tensor], model: dict[str, Tensor]) -> bytes:
    """The content of ``round-0007.safetensors``.

    Args:
        state: what the server needs to go on.
        model: the whole model by name.
    """
    tensors = state | {_MODEL + name: tensor for name, tensor in model.items()}
    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def digest(content: bytes) -> str:
    """SHA-256, 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def read_study_of(folder: Path) -> Study:
    """The study of a run.

    Raises:
        RunError: no run there, or its study is damaged.
    """
    if not folder.is_dir():
        raise RunError(f"{folder} is no folder: name a run folder, such as runs/demo")
    path = folder / "study.yaml"
    if not path.is_file():
        raise RunError(f"{folder} is no run folder (no study.yaml): name one that `bioface simulate` made")
    try:
        return read_study(path)
    except ConfigError as error:
        raise RunError(f"{error}; expected the study this run was started with") from error


@contextmanager
def open_run(path: Path, study: Study) -> Iterator[RunFolder]:
    """Opens the folder of a run, new or begun before, and keeps every other process out until the block ends.

    Args:
        path: such as ``runs/demo``.
        study: what is to be run; written into a new folder, compared with a begun one.

    Raises:
        RunError: not a run's folder, another study's, in use, or not writable.
    """
    lock = _lock(path)
    try:
        _claim(path, study)
        yield RunFolder(path)
    finally:
        lock.release()


def _lock(path: Path) -> BaseFileLock:
    """Takes the folder, made if it is new; the operating system gives it back when this process is gone."""
    lock = FileLock(path / _LOCK, timeout=0)
    try:
        _refuse_foreign(path)
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise RunError(f"{path} is in use by another run: wait for its end, or choose another folder") from None
    except OSError as error:
        raise _unwritable(path, error) from error
    return lock


def _refuse_foreign(path: Path) -> None:
    """Refuses what is there and is no run, before anything is written into it."""
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file, expected a folder: choose another one")
    begun = path.exists() and (path / _STUDY).exists()
    if path.exists() and not begun and any(not entry.name.startswith(".") for entry in path.iterdir()):
        raise RunError(f"{path} is no run's folder (no {_STUDY}) and is not empty: choose another one")


def _claim(path: Path, study: Study) -> None:
    """Writes the study into a new folder, or compares it with the one that is there."""
    file = path / _STUDY
    try:
        if not file.exists():
            write_text(file, study.to_yaml())
        begun = read_study(file)
    except OSError as error:
        raise _unwritable(path, error) from error
    except ConfigError as error:
        raise RunError(f"{file} is damaged: {error}") from error
    if begun.study_id != study.study_id:
        ids = f"{begun.study_id[:12]}, not {study.study_id[:12]}"
        raise RunError(f"{path} belongs to study {ids}: choose another folder, or the study it was begun with")
    changed = _changes(begun, study)
    if changed:
        raise RunError(f"{path} was begun with another {changed[0]}: choose another folder, or set it back")


def _changes(begun: Study, study: Study) -> list[str]:
    """The settings outside the study's id that would make other hospitals, or start from another base."""
    before, now = begun.simulation.model_dump(), study.simulation.model_dump()
    changed = [f"simulation.{name}" for name in before if name not in _DEFINES_NOTHING and before[name] != now[name]]
    same_base = begun.model.base_sha256 is not None or begun.model.base == study.model.base
    return changed if same_base else ["model.base", *changed]


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(f"{path} cannot be written ({error.strerror}): choose another folder")


def _go_back(round_: int) -> str:
    return f"restore it, or delete round-{round_:04d}.* to go on from the round before"
