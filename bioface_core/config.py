"""What does a study say? Everything that is public about it, in one YAML file read into frozen models.

The sections are in ``bioface_core/sections.py``. The ``study_id`` is the SHA-256 of the canonical JSON of what defines
the result; ``simulation`` and ``speed`` are not part of it, nor is the place where the base weights lie: they are named
by their hash.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from bioface_core.app_path import app_root
from bioface_core.errors import ConfigError
from bioface_core.sections import (
    Federation,
    Hash,
    Loss,
    Member,
    Model,
    Name,
    Pretrain,
    Privacy,
    Section,
    SecureSum,
    Simulation,
    Speed,
    Train,
)
from bioface_core.validation import explain

_NO_STUDIES = {"hospital", "syndromes"}  # what else lies in configs/


class Study(Section):
    """One study.

    Attributes:
        name: names the run folder: letters, digits, dots, dashes and underscores.
        seed: every random choice of the run derives from it.
        syndromes: the classes, in order: keys of configs/syndromes.yaml, or class names of the stores. Empty: taken
            from the simulation's stores.
        roster: the hospitals of a deployed federation, filled in by ``bioface lab invite``; empty in a
            simulation that masks nothing.
        bundle_sha256: hash of the app bundle that the lab runs, filled in with the roster.
        identities_sha256: hash of the public people of stage 1, filled in with the roster.
    """

    name: Name = "study"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    syndromes: tuple[str, ...] = ()
    roster: tuple[Member, ...] = ()
    bundle_sha256: Hash | None = None
    identities_sha256: Hash | None = None
    model: Model = Model()
    loss: Loss = Loss()
    train: Train = Train()
    pretrain: Pretrain = Pretrain()
    federation: Federation = Federation()
    privacy: Privacy = Privacy()
    secure: SecureSum = SecureSum()
    speed: Speed = Speed()
    simulation: Simulation = Simulation()

    @model_validator(mode="after")
    def _names_differ(self) -> Study:
        hospitals = tuple(member.name for member in self.roster)
        for where, names in (("syndromes", self.syndromes), ("roster", hospitals)):
            repeated = {name for name in names if names.count(name) > 1}
            if repeated:
                raise ValueError(f"{where} names {', '.join(sorted(repeated))} more than once: name each once")
        return self

    @model_validator(mode="after")
    def _masks_need_a_circle(self) -> Study:
        if self.secure.enabled and self.roster and not 3 <= len(self.roster) <= 20:
            raise ValueError(
                f"roster names {len(self.roster)} hospitals, and secure.enabled needs 3 to 20: name more, or fewer, or "
                "set secure.enabled: false"
            )
        return self

    @model_validator(mode="after")
    def _masks_need_room(self) -> Study:
        if not self.secure.enabled or self.federation.update_bits == 32:
            return self
        if self.federation.update_bits == 8:
            raise ValueError(
                "federation.update_bits is 8, and secure.enabled sums integers of that size: of 256 steps 20 hospitals "
                "would have 12 each; set federation.update_bits: 16, or secure.enabled: false"
            )
        if self.privacy.unit == "hospital":
            raise ValueError(
                "federation.update_bits is 16, and under masks such rounding makes updates longer than privacy.clip, "
                "which the noise for whole hospitals covers: set federation.update_bits: 32, or secure.enabled: false"
            )
        return self

    @model_validator(mode="after")
    def _patients_stay_apart(self) -> Study:
        if self.privacy.unit != "patient":
            return self
        if self.loss.mode not in ("ce", "arcface") and self.loss.metric == "triplet":
            raise ValueError(
                "loss.metric is triplet, which compares the patients of a batch: clipping would bound nobody's part; "
                "set loss.metric: pull, or privacy.unit: none"
            )
        if self.model.norm == "batch":
            raise ValueError(
                "model.norm is batch, which mixes the patients of a batch: set frozen, or group with scratch"
            )
        return self

    @model_validator(mode="after")
    def _private_steps_are_exact(self) -> Study:
        if self.privacy.unit == "patient" and self.speed.precision != "float32":
            raise ValueError(
                "speed.precision is bf16, in which clipped gradients exceed privacy.clip by up to 0.4 %: set float32"
            )
        if self.privacy.unit == "patient" and self.speed.compile:
            raise ValueError("speed.compile is true, and private steps look at every layer: set false")
        return self

    @model_validator(mode="after")
    def _hospitals_count_the_same(self) -> Study:
        if self.privacy.unit == "hospital" and self.federation.weighting != "equal":
            raise ValueError(
                "privacy.unit is hospital, whose noise covers updates of equal weight: set federation.weighting: equal"
            )
        return self

    @property
    def update_bound(self) -> float:
        """Largest Euclidean norm of an update."""
        return self.privacy.clip if self.privacy.unit == "hospital" else self.federation.norm_bound

    @property
    def study_id(self) -> str:
        """SHA-256 of the canonical JSON of what defines the result, 64 hexadecimal digits."""
        public = self.model_dump(mode="json", exclude={"simulation": True, "speed": True, "model": {"base"}})
        canonical = json.dumps(public, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()

    def replace(self, changes: dict[str, Any]) -> Study:
        """A copy with ``changes`` (nested like the file), validated again.

        Raises:
            ConfigError: the result is no valid study.
        """
        return parse_study(_merge(self.model_dump(mode="json"), changes))

    def to_yaml(self) -> str:
        """The study as a file that ``read_study`` reads back to an equal study."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def check_federable(study: Study) -> None:
    """Refuses a study that no federation can run.

    Raises:
        ConfigError: fewer than two syndromes, or statistics that would have to travel.
    """
    if len(study.syndromes) < 2:
        raise ConfigError(f"syndromes names {len(study.syndromes)}, expected at least two to tell apart")
    if study.model.norm == "batch":
        raise ConfigError(
            "model.norm is batch, whose statistics would have to travel: set frozen, or group with scratch"
        )


def find_study(name: str) -> Path:
    """The file that ``name`` means: a path, or the name of a study that is shipped with the software.

    Raises:
        ConfigError: neither.
    """
    path, shipped = Path(name), app_root() / "configs"
    if path.suffix or path.exists() or "/" in name:
        return path
    if (shipped / f"{name}.yaml").is_file():
        return shipped / f"{name}.yaml"
    known = sorted(found.stem for found in shipped.glob("*.yaml") if found.stem not in _NO_STUDIES)
    raise ConfigError(f"{name} is no study file and no shipped study; shipped: {', '.join(known)}")


def read_study(path: Path, overrides: tuple[str, ...] = ()) -> Study:
    """Reads a study file and applies ``key=value`` overrides.

    Args:
        path: the YAML file.
        overrides: for instance ``("train.rate=1e-4", "simulation.hospitals=3")``; values are YAML.

    Raises:
        ConfigError: no such file, no YAML, an unknown key (with the nearest name) or a wrong value.
    """
    content = load_yaml(path)
    for override in overrides:
        content = _merge(content, parse_override(override))
    return parse_study(content, str(path))


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: no such file, or it holds something else.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist: name a study file, such as configs/demo.yaml") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({type(error).__name__}): expected a YAML file") from error
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f", line {place.line + 1}" if place else ""
        raise ConfigError(f"{path}{line}: not YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds {type(content).__name__}, expected `key: value` lines")
    return content


def parse_study(content: dict[str, Any], source: str = "study") -> Study:
    """A study from nested dictionaries.

    Raises:
        ConfigError: one line that names the key, what was found and what is expected.
    """
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{source}: {explain(error, Study)}") from error


def parse_override(override: str) -> dict[str, Any]:
    """``train.rate=1e-4`` as nested dictionaries.

    Raises:
        ConfigError: no ``=``, an empty key, or a value that is no YAML.
    """
    key, equals, value = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"-s {override}: expected key=value, such as train.rate=1e-4")
    try:
        nested: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"-s {override}: {value!r} is not YAML: quote it") from error
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return dict(nested)


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it, dictionary by dictionary."""
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return merged
