"""What does a sweep ask? Axes with named levels, each a list of overrides of a study; every combination and seed.

name: partitions
study: research
seeds: 10
arms: [alone, federated, pooled]
vary:
patients:
alike everywhere: [simulation.partition.kind=iid]
skewed: [simulation.partition.kind=dirichlet, simulation.partition.alpha=0.3]
against: {arm: pooled}
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from bioface_core.app_path import app_root
from bioface_core.config import Study, check_federable, find_study, load_yaml, parse_override, read_study
from bioface_core.errors import ConfigError
from bioface_core.sections import Count, Name, Section
from bioface_core.validation import explain

ARM = "arm"
Arm = Literal["alone", "federated", "pooled", "identification"]
Arms = Annotated[tuple[Arm, ...], Field(min_length=1)]
Levels = dict[str, tuple[str, ...]]
_ARMS, _ARM_LIST = "arms=", TypeAdapter[tuple[Arm, ...]](Arms)


class Judging(Section):
    """On whom every model is judged: phantoms who are at no hospital, one photo of each.

    Attributes:
        patients: of each syndrome of the study.
        unseen: of each syndrome that no model has learned; the first ``enrolled`` of them are its gallery.
        enrolled: patients of an unseen syndrome in the gallery.
    """

    patients: Count = 40
    unseen: Annotated[int, Field(ge=2)] = 20
    enrolled: Count = 5

    @model_validator(mode="after")
    def _somebody_is_asked_about(self) -> Judging:
        if self.enrolled >= self.unseen:
            raise ValueError(f"enrolled is {self.enrolled}, expected fewer than unseen, {self.unseen}")
        return self


class Sweep(Section):
    """A study times a grid of overrides times seeds.

    Attributes:
        name: names the folder of results.
        study: a study file, or the name of one that is shipped.
        settings: overrides that hold for every run.
        seeds: how many.
        first_seed: settings are chosen on other seeds than those that are told.
        bases: how many times stage 1 is run for each network; seed s starts from number s modulo this. Null: each
            seed has its own.
        arms: who is trained: each hospital ``alone`` (their mean), ``federated``, ``pooled``; or nobody:
            ``identification`` recognises syndromes by their mean embeddings under the base.
        judging: on whom.
        vary: axis -> level -> overrides; one of ``arms=[...]`` trains these in place of the sweep's.
        against: axis (or ``arm``) -> the level that the others are compared with, seed by seed.
    """

    name: Name
    study: str = "research"
    settings: tuple[str, ...] = ()
    seeds: Count = 10
    first_seed: Annotated[int, Field(ge=0)] = 0
    bases: Count | None = None
    arms: Arms = ("federated",)
    judging: Judging = Judging()
    vary: dict[str, Levels] = {}
    against: dict[str, str] = {}

    @model_validator(mode="after")
    def _references_exist(self) -> Sweep:
        levels = {axis: list(by_level) for axis, by_level in self.vary.items()} | {ARM: list(self.arms)}
        if ARM in self.vary:
            raise ValueError("vary: arm is taken, for it names who was trained: call the axis something else")
        for axis, level in self.against.items():
            if level not in levels.get(axis, []):
                known = f"{axis} has {', '.join(levels[axis])}" if axis in levels else f"axes: {', '.join(levels)}"
                raise ValueError(f"against: {axis}: {level} is not in this sweep; {known}")
        return self


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        levels: axis -> level.
        seed: of the study.
        study: what is run, classes named.
        base_seed: which stage 1 it starts from, where it starts from one.
        arms: who is trained.
        judging: on whom they are judged.
    """

    levels: dict[str, str]
    seed: int
    study: Study
    base_seed: int
    arms: tuple[Arm, ...]
    judging: Judging

    @property
    def name(self) -> str:
        """Names its files: the levels and the seed."""
        return "--".join([*(_slug(level) for level in self.levels.values()), f"seed-{self.seed}"])

    @property
    def key(self) -> str:
        """Everything that its figures follow from, as text: a row with another key is of another sweep."""
        content = self.study.model_dump_json(exclude={"speed": True, "simulation": {"engine", "workers", "compare"}})
        return f"{content} base {self.base_seed} arms {','.join(self.arms)} judging {self.judging.model_dump_json()}"


def jobs_of(sweep: Sweep) -> list[Job]:
    """Every run, seed after seed, so that an interrupted sweep has whole seeds.

    Raises:
        ConfigError: an override is none, two levels are called alike, or a study cannot be federated.
    """
    seeds = range(sweep.first_seed, sweep.first_seed + sweep.seeds)
    jobs = [_job(sweep, levels, overrides, seed) for seed in seeds for levels, overrides in _cells(sweep)]
    names = [job.name for job in jobs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{sweep.name}: two levels are both called {twice}: letters and digits must tell them apart")
    return jobs


def find_sweep(name: str) -> Path:
    """The file that ``name`` means: a path, or the name of a sweep that is shipped with the software.

    Raises:
        ConfigError: neither.
    """
    path, shipped = Path(name), app_root() / "configs" / "sweeps"
    if path.suffix or path.exists() or "/" in name:
        return path
    if (shipped / f"{name}.yaml").is_file():
        return shipped / f"{name}.yaml"
    known = ", ".join(sorted(found.stem for found in shipped.glob("*.yaml")))
    raise ConfigError(f"{name} is no sweep file and no shipped sweep; shipped: {known}")


def read_sweep(path: Path, overrides: tuple[str, ...] = (), seeds: int | None = None) -> Sweep:
    """Reads a sweep file.

    Args:
        path: the YAML file.
        overrides: of the study of every run, after those of the file.
        seeds: in place of the file's.

    Raises:
        ConfigError: no such file, no YAML, an unknown key (with the nearest name) or a wrong value.
    """
    content = load_yaml(path)
    content |= {} if seeds is None else {"seeds": seeds}
    try:
        sweep = Sweep.model_validate(content)
        return sweep.model_copy(update={"settings": (*sweep.settings, *overrides)})
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, Sweep)}") from error


def _cells(sweep: Sweep) -> Iterator[tuple[dict[str, str], tuple[str, ...]]]:
    """Levels and overrides of each combination."""
    for chosen in itertools.product(*(by_level.items() for by_level in sweep.vary.values())):
        levels = dict(zip(sweep.vary, (level for level, _ in chosen), strict=True))
        yield levels, tuple(override for _, overrides in chosen for override in overrides)


def _job(sweep: Sweep, levels: dict[str, str], overrides: tuple[str, ...], seed: int) -> Job:
    arms = _arms(sweep, overrides)
    own = [override for override in overrides if not override.startswith(_ARMS)]
    fixed = (f"seed={seed}", "simulation.workers=1", "simulation.compare=false")
    study = read_study(find_study(sweep.study), (*sweep.settings, *own, *fixed))
    check_federable(study)
    if study.simulation.stores or not study.syndromes:
        raise ConfigError(f"{sweep.name}: a sweep judges by phantoms: name syndromes, and no simulation.stores")
    base_seed = seed if sweep.bases is None else seed % sweep.bases
    job = Job(levels, seed, study, base_seed, arms, sweep.judging)
    return replace(job, study=study.replace({"name": _short(job.name)}))


def _arms(sweep: Sweep, overrides: tuple[str, ...]) -> tuple[Arm, ...]:
    """Who is trained: the last that any override says, or the sweep's own."""
    said = [parse_override(override)["arms"] for override in overrides if override.startswith(_ARMS)]
    return sweep.arms if not said else _ARM_LIST.validate_python(said[-1])


def _slug(level: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", level).strip("-") or "none"


def _short(name: str) -> str:
    """A study's name has at most 64 characters; the folder is named in full."""
    return name[-64:].lstrip("-.")
