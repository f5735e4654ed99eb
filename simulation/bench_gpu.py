"""What does a GPU do with its time? Our training step beside the bare step on a tensor that is there already.

*Bare* is forward, backward and optimiser on photos that were changed and laid out before, and asks for nothing. *Ours*
is ``Learner.train``: photos gathered and changed at random, losses, the update. *Spilled* is ours with no room for
photos on the device, so that each batch is copied while the step before computes. Wall seconds, since a GPU has no
other clock; each is measured after one that does not count, and when the device has finished.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bioface_core import augment, loss
from bioface_core.accounting import Plan
from bioface_core.config import Study
from bioface_core.errors import ConfigError
from bioface_core.learner import Learner
from bioface_core.model import Recogniser, memory_format, set_trainable
from bioface_core.optimise import Optimiser
from bioface_core.photos import FACE_SIZE_PX, PhotoSet
from bioface_core.sections import Model
from bioface_core.seeding import generator
from bioface_core.speed import TrainingPass
from bioface_core.weights import random_base
from simulation.ratio import Ratio

_CLASSES, _HOSPITALS = 10, 5
_MB = 10**6


@dataclass(frozen=True)
class Load:
    """What is measured.

    Attributes:
        model: the network.
        batch: photos in a step.
        steps: of a round.
        repeats: rounds of each kind; the fastest counts.
    """

    model: Model = Model(depth=50)
    batch: int = 256
    steps: int = 8
    repeats: int = 3


def gpu_ratios() -> list[Ratio]:
    """IR-SE-50 at 112 pixels in batches of 256, on the first GPU.

    Raises:
        ConfigError: there is none.
    """
    if not torch.cuda.is_available():
        raise ConfigError("bench gpu found no GPU that torch can use, expected CUDA: run it on a machine with one")
    return measure(Load(), torch.device("cuda"))


def measure(load: Load, device: torch.device) -> list[Ratio]:
    """Every figure, on any device."""
    photos = random_photos(load.batch * load.steps, "patients")
    per_photo = 1 / len(photos)
    learner = _learner(load, device)
    bare, bare_mb = _fastest(_bare(load, device), load.repeats, device)
    ours, ours_mb = _fastest(_round(learner, photos), load.repeats, device)
    spilled, _ = _fastest(_round(_learner(load, device, room_mb=0), photos), load.repeats, device)
    data, _ = _fastest(_data_alone(load, photos, device), load.repeats, device)
    private, private_mb = _fastest(_private_round(load, photos, device), load.repeats, device)
    five, five_mb = _fastest(_five_rounds(learner, load), load.repeats, device)
    ratios = [
        Ratio.of("a photo, ours / bare, s", 1.1, ours * per_photo, bare * per_photo),
        Ratio.of("a photo, spilled / resident, s", 1.05, spilled * per_photo, ours * per_photo),
        Ratio.of("share of a step spent on data, s", 0.1, data / load.steps, ours / load.steps),
        Ratio.of("a private photo / ours, s", 2.0, private * per_photo, ours * per_photo),
        Ratio.of(f"a photo of {_HOSPITALS} hospitals on one device / of one, s", 1.05, five / _HOSPITALS, ours),
    ]
    if device.type != "cuda":
        return ratios  # nobody counts the memory of a processor
    return [
        *ratios,
        Ratio.of("peak memory, ours / bare, MB", 1.2, ours_mb, bare_mb),
        Ratio.of("peak memory, private / ours, MB", 2.0, private_mb, ours_mb),
        Ratio.of(f"peak memory, {_HOSPITALS} hospitals / one, MB", 1.2, five_mb, ours_mb),
    ]


def random_photos(count: int, what: str) -> PhotoSet:
    """Photos of noise: what they show changes no second."""
    shape = (count, 3, FACE_SIZE_PX, FACE_SIZE_PX)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator("bench", what))
    return PhotoSet(pixels, torch.arange(count) % _CLASSES, torch.arange(count))


def _study(load: Load, room_mb: int | None = None, unit: str = "none") -> Study:
    precision = "bf16" if unit == "none" else "float32"  # clipping needs float32 (bioface_core/clipping)
    return Study().replace(
        {
            "syndromes": [f"syndrome-{number}" for number in range(_CLASSES)],
            "model": load.model.model_dump(),
            "loss": {"mode": "joint", "identification": False},
            "train": {"batch": load.batch, "epochs": 1},
            "privacy": {"unit": unit},
            "speed": {"device_memory_mb": room_mb, "precision": precision},
        }
    )


def _learner(load: Load, device: torch.device, room_mb: int | None = None, unit: str = "none") -> Learner:
    study = _study(load, room_mb, unit)
    return Learner(study, random_base(study.model, 0), device=device)


def _round(learner: Learner, photos: PhotoSet) -> Callable[[], object]:
    vector = learner.start()
    return lambda: learner.train(vector, photos, 1, "hospital-1")


def _five_rounds(learner: Learner, load: Load) -> Callable[[], object]:
    """Hospitals in turn on one network, each with photos of its own."""
    sets = [random_photos(load.batch * load.steps, f"hospital-{number}") for number in range(_HOSPITALS)]
    rounds = [_round(learner, photos) for photos in sets]
    return lambda: [round_() for round_ in rounds]


def _private_round(load: Load, photos: PhotoSet, device: torch.device) -> Callable[[], object]:
    """As many patients as there are in a plain round, on average."""
    learner, expected = _learner(load, device, unit="patient"), float(load.batch)
    plan = Plan(
        1 / load.steps, noise_multiplier=1.0, steps=load.steps, rounds=1, clip=1.0, delta=1e-5, expected=expected
    )
    vector = learner.start()
    return lambda: learner.train(vector, photos, 1, "hospital-1", plan)


def _bare(load: Load, device: torch.device) -> Callable[[], object]:
    """The same steps of the same network on one batch that is there already, in the same precision."""
    study = _study(load)
    model, labels_N = Recogniser(study.model, _CLASSES), (torch.arange(load.batch) % _CLASSES).to(device)
    model.trunk.load_state_dict(random_base(study.model, 0).trunk, strict=False)
    model.prototypes.data.normal_(generator=generator("prototypes"))
    set_trainable(model, study.model.trainable)
    layout = memory_format(study.model, study.speed.channels_last)
    model = model.to(device, memory_format=layout)  # type: ignore[call-overload]
    views_NCHW = _changed(random_photos(load.batch, "bare").photos_NCHW.to(device), study)
    views_NCHW = views_NCHW.contiguous(memory_format=layout)
    forward = TrainingPass(model.trunk, study.speed, device)

    def steps() -> None:
        optimiser = Optimiser(model, study.train, 0.0)
        for _ in range(load.steps):
            optimiser.step(_loss(forward(views_NCHW), labels_N, model.prototypes, study))

    return steps


def _loss(embeddings_ND: Tensor, labels_N: Tensor, prototypes_KD: Tensor, study: Study) -> Tensor:
    every_K = torch.ones(_CLASSES, dtype=torch.bool, device=labels_N.device)
    return loss.syndrome_loss(embeddings_ND, labels_N, prototypes_KD, every_K, study.loss, 0.0)


def _data_alone(load: Load, photos: PhotoSet, device: torch.device) -> Callable[[], object]:
    """A round's gathering, drawing and changing of photos that are on the device, and nothing else."""
    resident, study = photos.to(device), _study(load)
    positions = torch.arange(len(photos)).split(load.batch)
    return lambda: [_changed(resident.photos_NCHW[one.to(device)], study) for one in positions]


def _changed(photos_NCHW: Tensor, study: Study) -> Tensor:
    draws = augment.draw(len(photos_NCHW), study.train.augment, generator("bench", "views"))
    return augment.apply(photos_NCHW, draws.to(photos_NCHW.device))


def _fastest(work: Callable[[], object], repeats: int, device: torch.device) -> tuple[float, float]:
    """Wall seconds of the fastest of some calls after a first, and megabytes on the device at most."""
    work()
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        if gpu:
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds), (torch.cuda.max_memory_allocated(device) / _MB if gpu else 0.0)
