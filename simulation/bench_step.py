"""How near is the local step to the limit? Beside a loop by hand, beside the usual loop, and augmentation beside both.

The network is the demo's with random weights, its photos are phantoms; CPU seconds of one thread, taken in turn.

Legend: N photos.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bioface_core import augment, loss
from bioface_core.config import Study, find_study, read_study
from bioface_core.learner import Learner, use
from bioface_core.model import memory_format, random_directions
from bioface_core.optimise import Optimiser
from bioface_core.photos import PhotoSet
from bioface_core.seeding import generator
from bioface_core.speed import TrainingPass, has_bf16
from bioface_core.start import Start
from bioface_core.weights import Base, random_base
from simulation import phantom
from simulation.plain import plain_model, plain_vector, train_plain
from simulation.ratio import Ratio
from simulation.stage1 import public_people

Work = Callable[[], object]
Loader = DataLoader[tuple[Tensor, int]]
_BY_HAND, _USUAL, _AUGMENTED, _AUGMENTED_USUALLY, _FASTER = 1.03, 0.6, 0.2, round(1 / 4.5, 3), 1.0
_BENCH = ("train.epochs=1", "pretrain.identities=20", "pretrain.photos_per_person=2", "speed.device=cpu")
_HOSPITAL = "hospital-1"
_ROUNDING = 1e-6  # between two loops that do the same steps in the same order


def step_ratios(patients: int = 8, pairs: int = 9, compiled: bool = True) -> list[Ratio]:
    """All claims, and what the settings of ``speed`` that are off by default gain.

    Args:
        patients: of each of the ten syndromes, two photos each.
        pairs: how often each two are measured.
        compiled: whether ``speed.compile`` is measured too; it needs a C++ compiler.
    """
    from simulation.usual import usual_loader

    study = read_study(find_study("demo"), _BENCH)
    use(study.speed)
    photos, start = phantom.patients(1, study.syndromes, patients, 2)[0], _start(study)
    apart = study.replace({"loss": {"identification": False}})
    rounds = _rounds(apart, photos, start.base, compiled)
    with tempfile.TemporaryDirectory() as scratch:
        loader = usual_loader(photos, Path(scratch), apart)
        return [
            _beside_a_loop_by_hand(study, photos, start, pairs),
            *_beside_the_usual_loop(apart, start.base, loader, rounds, pairs),
            *_augmentation(apart, photos, start.base, loader, pairs),
            *_beside_the_defaults(rounds, pairs),
        ]


def _start(study: Study) -> Start:
    """A random base, and people of whom it knows nothing yet."""
    prototypes_ID = random_directions(study.pretrain.identities, study.model.embedding, generator("people"))
    return Start(Base(random_base(study.model, study.seed).trunk, prototypes_ID), public_people(study, _ignore))


def _beside_a_loop_by_hand(study: Study, photos: PhotoSet, start: Start, pairs: int) -> Ratio:
    """A round of ours, the whole cross-loss, and the same steps as a loop without machinery."""
    learner, model = Learner(study, start.base, start.identities), plain_model(study, start.base)
    vector, begin = learner.start(), {name: value.clone() for name, value in model.state_dict().items()}

    def ours() -> Tensor:
        return vector + learner.train(vector, photos, 1, _HOSPITAL).delta

    def by_hand() -> Tensor:
        model.load_state_dict(begin)
        train_plain(model, study, photos, start, 1, _HOSPITAL)
        return plain_vector(model)

    assert torch.allclose(ours(), by_hand(), rtol=0, atol=_ROUNDING), "the two did not do the same steps"
    return Ratio.of_pairs("a round / a loop by hand over a resident tensor", _BY_HAND, _in_turn(ours, by_hand, pairs))


def _beside_the_usual_loop(
    study: Study, base: Base, loader: Loader, rounds: dict[str, Work], pairs: int
) -> list[Ratio]:
    """Rounds of ours beside a pass of the usual loop."""
    from simulation.usual import usual_epoch, usual_network

    network = usual_network(Learner(study, base))
    optimiser = torch.optim.AdamW(network.parameters(), lr=study.train.rate, weight_decay=study.train.weight_decay)

    def usually() -> None:
        usual_epoch(network, loader, optimiser, study)

    name = "{} / the usual loop: JPEGs, DataLoader, float32"
    return [Ratio.of_pairs(name.format(one), _USUAL, _in_turn(ours, usually, pairs)) for one, ours in rounds.items()]


def _augmentation(study: Study, photos: PhotoSet, base: Base, loader: Loader, pairs: int) -> list[Ratio]:
    """Our augmentation beside our step, and beside the usual loop's."""
    augmented, stepped = _parts(study, photos, base)

    def augmented_all() -> None:
        for _ in range(len(loader)):
            augmented()

    beside_step = _in_turn(augmented, stepped, pairs)
    beside_usual = _in_turn(augmented_all, lambda: list(loader), pairs)
    return [
        Ratio.of_pairs("augmentation / the rest of the step", _AUGMENTED, beside_step),
        Ratio.of_pairs("augmentation / the DataLoader's decoding and transforms", _AUGMENTED_USUALLY, beside_usual),
    ]


def _parts(study: Study, photos: PhotoSet, base: Base) -> tuple[Work, Work]:
    """A step's two parts: drawing, fetching and changing its photos; and forward, backward and the optimiser."""
    batch_B, randomness = torch.arange(study.train.batch), generator("bench")
    model, layout = plain_model(study, base).train(), memory_format(study.model)
    forward, optimiser = TrainingPass(model.trunk, study.speed, batch_B.device), Optimiser(model, study.train, 0.0)
    every_K, labels_B = torch.ones(len(study.syndromes), dtype=torch.bool), photos.labels_N[batch_B]

    def augmented() -> Tensor:
        draws = augment.draw(len(batch_B), study.train.augment, randomness)
        return augment.apply(photos.take(batch_B).photos_NCHW, draws).contiguous(memory_format=layout)

    changed_NCHW = augmented()

    def stepped() -> None:
        embeddings_BD = forward(changed_NCHW)
        optimiser.step(loss.syndrome_loss(embeddings_BD, labels_B, model.prototypes, every_K, study.loss, 0.0))

    return augmented, stepped


def _beside_the_defaults(rounds: dict[str, Work], pairs: int) -> list[Ratio]:
    """A round with a setting beside one without."""
    plainly, *others = rounds
    return [
        Ratio.of_pairs(f"{name} / by default", _FASTER, _in_turn(rounds[name], rounds[plainly], pairs))
        for name in others
    ]


def _rounds(study: Study, photos: PhotoSet, base: Base, compiled: bool) -> dict[str, Work]:
    """A round by default first, and with what of ``speed`` is off by default and this machine has."""
    settings: dict[str, dict[str, object]] = {"a round": {}}
    bf16 = has_bf16(torch.device("cpu"))
    if bf16:
        settings["a round, bf16"] = {"precision": "bf16"}
    if compiled:
        settings["a round, compiled"] = {"compile": True}
    if bf16 and compiled:
        settings["a round, bf16, compiled"] = {"precision": "bf16", "compile": True}
    return {name: _round(study.replace({"speed": speed}), photos, base) for name, speed in settings.items()}


def _round(study: Study, photos: PhotoSet, base: Base) -> Work:
    learner = Learner(study, base)
    vector = learner.start()
    return lambda: learner.train(vector, photos, 1, _HOSPITAL)


def _in_turn(ours: Work, other: Work, pairs: int) -> list[tuple[float, float]]:
    """CPU seconds of (ours, other), again and again, after one of each that does not count."""
    return [(_seconds(ours), _seconds(other)) for _ in range(1 + pairs)][1:]


def _seconds(work: Work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _ignore(*_: object) -> None:
    pass
