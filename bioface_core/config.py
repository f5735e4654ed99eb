"""What does a study say? Everything that is public about it, in one YAML file read into frozen models.

Whatever stands here may be logged and sent. Nothing derived from patients, not even their number, is a field. The
``study_id`` is the SHA-256 of the canonical JSON of what defines the result; ``simulation`` and ``speed`` are
not part of it, nor is the place where the base weights lie: they are named by their hash.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bioface_core.app_path import app_root
from bioface_core.errors import ConfigError
from bioface_core.validation import explain

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of a study: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Model(Section):
    """The shared network, and where it starts from.

    Attributes:
        depth: 10, 18, 34 or 50 layers; 50 is the public IR-SE-50 layout.
        width: factor on the channels 64, 128, 256, 512.
        embedding: length D of the unit embedding.
        stem: ``face`` keeps 112 x 112 in the first stage (IR-SE), ``strided`` halves it at once (about 4 times faster).
        pool: ``flat`` keeps the 7 x 7 positions apart (IR-SE), ``global`` averages them.
        squeeze_excite: channel attention in every unit.
        norm: ``frozen`` statistics and affine are constants; ``group`` trains and mixes nobody; ``batch`` is for
            training in one place only.
        base: ``pretrain`` (run stage 1 first), ``scratch``, or a file of weights (ours, or the IR-SE-50 layout).
        base_sha256: hash of the base, filled in when it is known.
        trainable: what trains and travels: ``all`` that is not frozen, the ``last-stage`` and head, or the ``head``.
    """

    depth: Literal[10, 18, 34, 50] = 18
    width: Annotated[float, Field(gt=0, le=2)] = 1.0
    embedding: Annotated[int, Field(ge=8, le=2048)] = 512
    stem: Literal["face", "strided"] = "face"
    pool: Literal["flat", "global"] = "flat"
    squeeze_excite: bool = True
    norm: Literal["frozen", "group", "batch"] = "frozen"
    base: str = "pretrain"
    base_sha256: str | None = None
    trainable: Literal["all", "last-stage", "head"] = "all"

    @model_validator(mode="after")
    def _frozen_needs_a_base(self) -> Model:
        if self.norm == "frozen" and self.base == "scratch":
            raise ValueError("norm: frozen keeps the statistics of a base, and base is scratch: set norm: group")
        return self


class Loss(Section):
    """The cross-loss (our reconstruction) and its ablations.

    Attributes:
        mode: ``ce`` linear softmax; ``arcface`` angular margin; ``joint`` adds the pull to one's own prototype;
            ``cross-sum`` adds identification to every step; ``cross-alternate`` alternates the two.
        scale: ArcFace's s.
        margin: ArcFace's m, radians.
        margin_ramp: share of the rounds over which the margin grows from 0.
        metric: ``pull`` to one's own prototype, or batch-hard ``triplet``.
        metric_weight: lambda_met.
        triplet_margin: distance in cosine.
        absent: what the prototypes of syndromes a hospital has no patient of do in its loss: ``repel`` its patients
            and stay where they are, or take no part (``mask``). Either way they are left out of its update.
        identification: whether the identification stream of the cross modes runs.
        identification_weight: lambda_id (``cross-sum``).
        identification_every: one identification step after so many syndrome steps (``cross-alternate``).
    """

    mode: Literal["ce", "arcface", "joint", "cross-sum", "cross-alternate"] = "cross-alternate"
    scale: Positive = 16.0
    margin: Annotated[float, Field(ge=0, lt=1.5)] = 0.3
    margin_ramp: Annotated[float, Field(ge=0, le=1)] = 0.5
    metric: Literal["pull", "triplet"] = "pull"
    metric_weight: NotNegative = 0.5
    triplet_margin: Positive = 0.2
    absent: Literal["repel", "mask"] = "repel"
    identification: bool = True
    identification_weight: NotNegative = 0.5
    identification_every: Count = 2

    @property
    def identifies(self) -> bool:
        """Whether steps on identities are part of this loss."""
        return self.identification and self.mode in ("cross-sum", "cross-alternate")


class Augment(Section):
    """How far a photo may be changed at random; 0 switches one off.

    Faces are aligned to five points, so that geometry carries what tells faces apart: turns, sizes and shifts are small
    on purpose. Measured on phantoms, stage 1 learns three times as fast with these as with 10 degrees and 10 %.

    Attributes:
        rotate_deg: largest turn, degrees.
        scale: largest relative change of size.
        shift: largest shift, as a share of the width.
        light: largest relative change of brightness and contrast.
        colour: largest relative change of saturation and of each channel.
        erase: largest side of a grey square, as a share of the width.
        mirror: whether half the photos are mirrored.
    """

    rotate_deg: NotNegative = 3.0
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.03
    shift: Annotated[float, Field(ge=0, lt=1)] = 0.01
    light: Annotated[float, Field(ge=0, lt=1)] = 0.2
    colour: Annotated[float, Field(ge=0, lt=1)] = 0.2
    erase: Annotated[float, Field(ge=0, lt=1)] = 0.1
    mirror: bool = True


class Train(Section):
    """The local optimiser of a hospital, and of every arm it is compared with.

    Attributes:
        epochs: passes over the local photos in each round.
        batch: photos in a step.
        rate: learning rate at the start of the run.
        schedule: ``cosine`` falls to a twentieth over the rounds, ``constant`` does not.
        weight_decay: decoupled; not applied to norms, biases and prototypes.
        proximal: FedProx's mu; 0 is FedAvg's local problem.
        optimiser: ``adamw`` or ``sgd`` with momentum 0.9.
        clip: largest norm of a step's gradient, 0 for none.
    """

    epochs: Count = 2
    batch: Annotated[int, Field(ge=2)] = 32
    rate: Positive = 2e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: NotNegative = 0.05
    proximal: NotNegative = 0.0
    optimiser: Literal["adamw", "sgd"] = "adamw"
    clip: NotNegative = 5.0
    augment: Augment = Augment()


class Pretrain(Section):
    """Stage 1, identification.

    Attributes:
        people: ``phantoms``, or a store of people made by ``bioface prepare``.
        identities: how many phantoms.
        photos_per_person: photos of each phantom.
        epochs: passes over all photos.
        batch: photos in a step.
        rate: peak learning rate (one cycle).
        weight_decay: decoupled.
        scale: ArcFace's s.
        margin: ArcFace's m, radians, ramped from 0 over the first half; 0 learns fastest in few epochs.
    """

    people: str = "phantoms"
    identities: Annotated[int, Field(ge=2)] = 500
    photos_per_person: Annotated[int, Field(ge=2)] = 8
    epochs: Count = 6
    batch: Annotated[int, Field(ge=2)] = 64
    rate: Positive = 5e-3
    weight_decay: NotNegative = 0.05
    scale: Positive = 16.0
    margin: Annotated[float, Field(ge=0, lt=1.5)] = 0.0
    augment: Augment = Augment(erase=0.0)


class Federation(Section):
    """How the hospitals' updates become one model.

    Attributes:
        rounds: how many.
        strategy: the server's optimiser of the pseudo-gradient (Reddi et al. 2021).
        server_rate: its learning rate; 1 with ``fedavg`` is plain averaging.
        server_momentum: beta 1 (``fedavgm``, ``fedadam``, ``fedyogi``).
        server_beta2: beta 2 (``fedadam``, ``fedyogi``).
        server_tau: adaptivity (``fedadagrad``, ``fedadam``, ``fedyogi``).
        weighting: ``patients`` weighs a hospital by its training patients in steps of ``weight_step``; or ``equal``.
        weight_step: patients are rounded up to a multiple of this before they leave as a weight.
        quorum: least share of the hospitals that must answer a round.
        deadline_s: seconds after which a round goes on without the missing, given the quorum.
        norm_bound: largest accepted Euclidean norm of an update.
    """

    rounds: Count = 10
    strategy: Literal["fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad"] = "fedavg"
    server_rate: Positive = 1.0
    server_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    server_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    server_tau: Positive = 1e-3
    weighting: Literal["patients", "equal"] = "patients"
    weight_step: Count = 10
    quorum: Annotated[float, Field(gt=0, le=1)] = 0.6
    deadline_s: Positive = 600.0
    norm_bound: Positive = 100.0


class Speed(Section):
    """What may change seconds and nothing else, up to rounding.

    Attributes:
        threads: CPU threads of each training process; one is fastest per core and the same everywhere.
        channels_last: memory layout of convolutions.
        device: ``auto`` takes a GPU where there is one.
    """

    threads: Count = 1
    channels_last: bool = True
    device: str = "auto"


class PhantomDials(Section):
    """How phantom patients look.

    Attributes:
        severity: size of a syndrome's features, 1 as described, 0 none.
        nuisance: pose, light, expression and camera, 1 as in a ward, 0 a studio.
        spread: how much healthy faces differ, 1 as in a population.
    """

    severity: NotNegative = 0.6
    nuisance: NotNegative = 0.7
    spread: NotNegative = 0.6


class Partition(Section):
    """How patients are spread over hospitals, always whole patients.

    Attributes:
        kind: ``iid``, ``dirichlet``, ``lacking`` (each hospital has never seen some syndromes) or ``realistic``.
        alpha: concentration of ``dirichlet``; small is skewed.
        lacking: how many syndromes each hospital lacks (``lacking``).
        site_shift: 0 one camera for all; 1 each hospital its own camera, light and age mix.
    """

    kind: Literal["iid", "dirichlet", "lacking", "realistic"] = "dirichlet"
    alpha: Positive = 0.5
    lacking: Annotated[int, Field(ge=0)] = 1
    site_shift: Annotated[float, Field(ge=0, le=1)] = 0.0


class Simulation(Section):
    """Which hospitals a simulation invents; a real hospital never reads this.

    Attributes:
        engine: ``inline`` in this process, ``flower`` on Flower's Ray runtime.
        hospitals: how many.
        stores: real photos instead of phantoms: one store to be partitioned, or one per hospital.
        patients_per_syndrome: phantom patients of each syndrome, over all hospitals.
        photos_per_patient: photos of each phantom.
        heldout: share of patients who are never trained on.
        workers: processes that train the arms the federation is compared with; 0 chooses for this machine.
        compare: whether each hospital alone and all pooled are trained too.
    """

    engine: Literal["inline", "flower"] = "inline"
    hospitals: Annotated[int, Field(ge=2)] = 5
    stores: tuple[str, ...] = ()
    patients_per_syndrome: Annotated[int, Field(ge=2)] = 60
    photos_per_patient: Count = 2
    heldout: Share = 0.33
    partition: Partition = Partition()
    phantoms: PhantomDials = PhantomDials()
    workers: Annotated[int, Field(ge=0)] = 0
    compare: bool = True


class Study(Section):
    """One study.

    Attributes:
        name: names the run folder: letters, digits, dots, dashes and underscores.
        seed: every random choice of the run derives from it.
        syndromes: the classes, in order: keys of configs/syndromes.yaml, or class names of the stores. Empty: taken
            from the simulation's stores.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "study"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    syndromes: tuple[str, ...] = ()
    model: Model = Model()
    loss: Loss = Loss()
    train: Train = Train()
    pretrain: Pretrain = Pretrain()
    federation: Federation = Federation()
    speed: Speed = Speed()
    simulation: Simulation = Simulation()

    @model_validator(mode="after")
    def _syndromes_differ(self) -> Study:
        repeated = {name for name in self.syndromes if self.syndromes.count(name) > 1}
        if repeated:
            raise ValueError(f"syndromes names {', '.join(sorted(repeated))} more than once: name each once")
        return self

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
    known = sorted(found.stem for found in shipped.glob("*.yaml") if found.stem != "syndromes")
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
