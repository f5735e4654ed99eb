"""What lies in a run folder? The raw files of a run, read and checked; only ``study.yaml`` must be there.

Legend: K syndromes, N photos, D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, InstanceOf, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bioface_core.checkpoint import read_study_of
from bioface_core.config import Study
from bioface_core.errors import RunError
from bioface_core.evaluate import Counts
from bioface_core.groups import GROUPS, Group
from bioface_core.report.attacks import ATTACKS, Attacks

_Content = TypeVar("_Content")
_Tally = Annotated[InstanceOf[Counts], BeforeValidator(Counts.from_json)]
_NotNegative = Annotated[int, Field(ge=0)]


class _Raw(BaseModel):
    """A record of a raw file; keys the report does not need are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class RoundRecord(_Raw):
    """``round-0007.json``: one finished round; round 0 is the model before training, without a loss."""

    round: _NotNegative
    seconds: float
    loss: float | None
    answered: tuple[str, ...]
    refused: dict[str, str]
    bytes_down: _NotNegative
    bytes_up: _NotNegative
    counts: _Tally
    hospital_bytes: dict[str, tuple[_NotNegative, _NotNegative]] = {}


class ArmRecord(_Raw):
    """One entry of ``arms.json``: a way of training, counted on everyone's held-out patients and on its own."""

    name: str
    kind: Literal["alone", "federated", "pooled"]
    hospital: str | None
    patients: _NotNegative
    photos: _NotNegative
    seconds: float
    counts: _Tally
    own_counts: _Tally | None = None


class HospitalRecord(_Raw):
    """One entry of ``hospitals.json``: patients by syndrome; simulations only."""

    name: str
    train_patients_K: tuple[_NotNegative, ...]
    heldout_patients_K: tuple[_NotNegative, ...]


@dataclass(frozen=True)
class Embeddings:
    """``embeddings.safetensors``: held-out photos under the federated model; simulations only.

    Attributes:
        embeddings_ND: float32, unit length.
        labels_N: int64 index of the syndrome.
        hospitals_N: int64 index of the hospital.
    """

    embeddings_ND: Tensor
    labels_N: Tensor
    hospitals_N: Tensor


@dataclass(frozen=True)
class RunFiles:
    """A run as far as it has come: what is not there yet, or never will be, is empty.

    Attributes:
        study: what was to be run.
        rounds: finished rounds in order, from round 0.
        arms: as far as they were trained.
        hospitals: in the order the embeddings count them.
        embeddings: None before the end, and in a deployment.
        software: name to version, where the run wrote them down (``software.json``).
        attacks: what `bioface attack` found; None where nobody tried.
        groups: held-out patients by age, sex and ancestry (``groups.json``); simulations only.
    """

    study: Study
    rounds: tuple[RoundRecord, ...]
    arms: tuple[ArmRecord, ...]
    hospitals: tuple[HospitalRecord, ...]
    embeddings: Embeddings | None
    software: dict[str, str]
    attacks: Attacks | None
    groups: tuple[Group, ...]


def read_run(folder: Path) -> RunFiles:
    """Reads the raw files of a run.

    Args:
        folder: such as ``runs/demo``; the run may be going on, interrupted or finished.

    Raises:
        RunError: no run there, a damaged file, or files of different studies.
    """
    study = read_study_of(folder)
    rounds = [_read_json(path, RoundRecord) for path in sorted(folder.glob("round-*.json"))]
    run = RunFiles(
        study,
        tuple(sorted(rounds, key=lambda record: record.round)),
        _read_optional(folder / "arms.json", tuple[ArmRecord, ...], ()),
        _read_optional(folder / "hospitals.json", tuple[HospitalRecord, ...], ()),
        _read_embeddings(folder / "embeddings.safetensors"),
        _read_optional(folder / "software.json", dict[str, str], {}),
        _read_json(folder / ATTACKS, Attacks) if (folder / ATTACKS).exists() else None,
        _read_optional(folder / GROUPS, tuple[Group, ...], ()),
    )
    _check_rounds(run, folder)
    _check_classes(run, folder)
    _check_embeddings(run, folder)
    return run


def _read_optional(path: Path, kind: type[_Content], otherwise: _Content) -> _Content:
    """The content of a file that need not be there."""
    return _read_json(path, kind) if path.exists() else otherwise


def _read_json(path: Path, kind: type[_Content]) -> _Content:
    """The content of a JSON file, validated as ``kind``."""
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except OSError as error:
        raise RunError(f"{path} cannot be read ({type(error).__name__}): check the folder's rights") from error
    except ValidationError as error:
        raise RunError(f"{path} is damaged ({_first_problem(error)}): restore it, or run the study again") from error


def _first_problem(error: ValidationError) -> str:
    """Where it is wrong and what is: ``counts: confusion has a negative count``."""
    problem: Any = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def _read_embeddings(path: Path) -> Embeddings | None:
    if not path.exists():
        return None
    try:
        columns = load_file(path)
        return Embeddings(columns["embeddings_ND"].float(), columns["labels_N"].long(), columns["hospitals_N"].long())
    except (OSError, SafetensorError, KeyError) as error:
        raise RunError(f"{path} is damaged ({type(error).__name__}): restore it, or delete it") from error


def _check_rounds(run: RunFiles, folder: Path) -> None:
    """Rounds must follow each other from 0."""
    numbers = [record.round for record in run.rounds]
    if numbers != list(range(len(numbers))):
        gap = next(number for number, found in enumerate([*numbers, -1]) if number != found)
        raise RunError(f"{folder} lacks round {gap}, and later rounds are there: restore round-{gap:04d}.json")


def _check_classes(run: RunFiles, folder: Path) -> None:
    """Every table must speak of the study's syndromes."""
    expected = len(run.study.syndromes)
    sizes = [("a round", record.counts.classes) for record in run.rounds]
    sizes += [(f"arm {record.name}", record.counts.classes) for record in run.arms]
    sizes += [(f"arm {record.name}", record.own_counts.classes) for record in run.arms if record.own_counts]
    sizes += [(f"hospital {record.name}", len(record.train_patients_K)) for record in run.hospitals]
    sizes += [(f"hospital {record.name}", len(record.heldout_patients_K)) for record in run.hospitals]
    for source, found in sizes:
        if found != expected:
            raise RunError(f"{folder}: {source} counts {found} syndromes, study.yaml names {expected}: not one study's")


def _check_embeddings(run: RunFiles, folder: Path) -> None:
    """The columns must be of one length and point to syndromes of the study."""
    if run.embeddings is None:
        return
    columns = (run.embeddings.embeddings_ND, run.embeddings.labels_N, run.embeddings.hospitals_N)
    lengths = {len(column) for column in columns}
    _, labels_N, hospitals_N = columns
    inside = bool(((labels_N >= 0) & (labels_N < len(run.study.syndromes))).all() and (hospitals_N >= 0).all())
    if [column.ndim for column in columns] != [2, 1, 1] or len(lengths) != 1 or not inside:
        raise RunError(f"{folder / 'embeddings.safetensors'} does not fit the study: restore it, or delete it")
