"""Which settings does a study have? One frozen section per subject; unknown keys are refused.

Whatever stands here may be logged and sent. Nothing derived from patients, not even their number, is a field.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


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
        trainable: what trains and travels: ``all`` that is not frozen, the ``last-stage`` and head, the ``head``, or
            ``se+bias``: squeeze and excitation, biases, PReLU slopes and prototypes.
    """

    depth: Literal[10, 18, 34, 50] = 18
    width: Annotated[float, Field(gt=0, le=2)] = 1.0
    embedding: Annotated[int, Field(ge=8, le=2048)] = 512
    stem: Literal["face", "strided"] = "face"
    pool: Literal["flat", "global"] = "flat"
    squeeze_excite: bool = True
    norm: Literal["frozen", "group", "batch"] = "frozen"
    base: str = "pretrain"
    base_sha256: Hash | None = None
    trainable: Literal["all", "last-stage", "se+bias", "head"] = "all"

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
        healthy: what public people do to the prototypes of all syndromes: ``repel`` them, so that a healthy face is
            near none, or nothing (``ignore``).
        healthy_weight: lambda_out, of that beside telling people apart.
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
    healthy: Literal["repel", "ignore"] = "repel"
    healthy_weight: NotNegative = 1.0
    identification_weight: NotNegative = 0.5
    identification_every: Count = 1

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
        views: 0 changes a photo afresh at every step; above 0, each photo has so many changed views, drawn once for
            the whole study, and a step shows one of them: what a frozen trunk makes of it can then be kept
            (``speed.cache_trunk``).
    """

    epochs: Count = 2
    batch: Annotated[int, Field(ge=2)] = 32
    rate: Positive = 2e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: NotNegative = 0.05
    proximal: NotNegative = 0.0
    optimiser: Literal["adamw", "sgd"] = "adamw"
    clip: NotNegative = 5.0
    views: Annotated[int, Field(ge=0, le=1000)] = 0
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
        update_bits: of each value of an update on its way up: 32 (float32), 16 (float16 under one scale; with masks,
            integers modulo 2**16) or 8 (int8 under a scale for every 256 values, rounded at random; not with masks).
            What rounding leaves behind stays at the hospital and goes into its next update.
        model_bits: of each value of the shared model on its way down: 32, or 16 (float16 under one scale). The server
            keeps 32; the model of a round is the one that the hospitals get.
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
    update_bits: Literal[32, 16, 8] = 32
    model_bits: Literal[32, 16] = 32


class Privacy(Section):
    """Differential privacy: whose presence the shared model may not betray, and how much of it it may.

    Attributes:
        unit: ``none``; ``patient``: every hospital clips and noises each step of its training (DP-SGD), so that what
            leaves is (epsilon, delta)-private for each of its patients; ``hospital``: the server clips and noises the
            sum of the updates, for simulations with many hospitals.
        epsilon: spent by the whole study; the noise is chosen so that all its rounds together stay below.
        delta: the share of luck that epsilon allows for; far below one over the number of patients.
        clip: longest gradient of a patient, or longest update of a hospital, Euclidean.
        batch: patients in a step, on average: each is drawn on its own (Poisson sampling).
        steps: of each hospital in each round.
    """

    unit: Literal["none", "patient", "hospital"] = "none"
    epsilon: Positive = 8.0
    delta: Share = 1e-5
    clip: Positive = 1.0
    batch: Count = 32
    steps: Count = 10


class SecureSum(Section):
    """Secure aggregation: the server learns the sum of the hospitals' updates and counts, and no hospital's own.

    Attributes:
        enabled: whether every reply is masked.
        threshold: more than this share of the hospitals must survive a round, and so many together can open a mask.
        largest_weight: patients at which a hospital's weight is cut off; the fixed point is laid out for it.
        largest_value: of an update, where ``federation.update_bits`` is 16: so few bits are laid out for it in place of
            ``federation.norm_bound``. What is beyond it is cut off, and goes into the next update.
    """

    enabled: bool = False
    threshold: Annotated[float, Field(ge=0.5, lt=1)] = 0.5
    largest_weight: Annotated[int, Field(ge=1, le=2**20)] = 1000
    largest_value: Positive = 0.125


class Member(Section):
    """A hospital of a federation that is deployed, by what is public about it.

    Attributes:
        name: letters, digits, dots, dashes and underscores; seeds the hospital's randomness.
        identity_key: its Ed25519 public key, 64 hexadecimal digits.
    """

    name: Name
    identity_key: Hash


class Speed(Section):
    """What may change seconds and nothing else, up to rounding.

    Attributes:
        threads: CPU threads of each training process; 0 takes one for each core of this machine. Sums are split among
            threads and rounded accordingly; with 1, which does most per core, a run that is resumed on a machine with
            more cores ends with the same bits.
        channels_last: memory layout of convolutions; never used with ``norm: group``, which is slower in it.
        precision: of the network's steps in training: ``float32``, or ``bf16``, bfloat16 where multiplications are
            (autocast), refused on a device that has none. Losses, norms, optimiser, evaluation and prediction are
            float32 always. Not with ``privacy.unit: patient``: clipped gradients would exceed the clip by up to 0.4 %.
        compile: whether the network's steps in training are compiled (``torch.compile``): seconds to minutes at the
            start, and a C++ compiler. Not with ``privacy.unit: patient``, which looks at every layer.
        device: ``auto`` takes a GPU where there is one.
        cache_trunk: whether what the frozen front of the trunk makes of a photo is kept on the device, where
            ``model.trainable`` is ``head`` or ``last-stage``: of held-out photos, and with ``train.views`` of all.
        device_memory_mb: what photos and what is kept of them may take on the device together. ``null`` is half of what
            is free on a GPU, and 2,048 on a CPU, where photos need no copy. Photos beyond it stay in the host's
            memory and are copied step by step.
    """

    threads: Annotated[int, Field(ge=0)] = 1
    channels_last: bool = True
    precision: Literal["float32", "bf16"] = "float32"
    compile: bool = False
    device: str = "auto"
    cache_trunk: bool = True
    device_memory_mb: Annotated[int, Field(ge=0)] | None = None


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
        engine: ``inline`` in this process, one hospital after another; ``workers`` in several processes on this
            machine; ``flower`` on Flower's Ray runtime.
        hospitals: how many.
        stores: real photos instead of phantoms: one store to be partitioned, or one per hospital.
        patients_per_syndrome: phantom patients of each syndrome, over all hospitals.
        photos_per_patient: photos of each phantom.
        heldout: share of patients who are never trained on.
        workers: processes of the engines ``workers`` and ``flower``, and as many that train the arms the federation is
            compared with; 0 takes one per processor.
        compare: whether each hospital alone and all pooled are trained too.
    """

    engine: Literal["inline", "workers", "flower"] = "inline"
    hospitals: Annotated[int, Field(ge=2)] = 5
    stores: tuple[str, ...] = ()
    patients_per_syndrome: Count = 60
    photos_per_patient: Count = 2
    heldout: Share = 0.33
    partition: Partition = Partition()
    phantoms: PhantomDials = PhantomDials()
    workers: Annotated[int, Field(ge=0)] = 0
    compare: bool = True
