"""What does a private step cost? Beside a plain one, and beside Opacus, in CPU seconds of one thread.

A step is a batch's gradient and the optimiser's move. The private ones are as a hospital does them: the network with
frozen norms, channels last, each patient's gradient cut, noise from the operating system. The plain one has the group
norm of a network that is trained from scratch, and trains everything. Opacus' are those of its hooks, of functorch and
of ghost clipping: the same network with group norm and torch's own layers, contiguous, for its gradients are wrong in
channels last; and noise from torch, which is cheaper. Batches are never empty here: on an empty one functorch fails.

Memory is what a fresh process grows by at most in its first step.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bioface_core import loss
from bioface_core.accounting import Plan
from bioface_core.config import find_study, read_study
from bioface_core.model import Recogniser, initialise, memory_format, set_trainable
from bioface_core.optimise import make_optimiser
from bioface_core.photos import FACE_SIZE_PX
from bioface_core.privacy import noisy_gradients
from bioface_core.secret import SecretRandom
from bioface_core.sections import Loss, Model, Privacy, Train
from simulation.fresh import in_fresh_process, resident_mb
from simulation.ratio import Ratio
from simulation.torchs_own import with_torchs_own

Step = Callable[[], None]
_CLASSES, _MARGIN = 10, 0.3
_BATCH = Privacy().batch
_LOSS = Loss(mode="arcface")
_PLAN = Plan(sampling_rate=0.5, noise_multiplier=1.0, steps=1, rounds=1, clip=1.0, delta=1e-5, expected=float(_BATCH))
_PLAIN, _HOOKS, _FUNCTORCH, _GHOST = "plain", "Opacus' hooks", "Opacus' functorch", "Opacus' ghost clipping"
_OPACUS = (_HOOKS, _FUNCTORCH, _GHOST)
# A private step of a part / another: at most
_CLAIMS = (
    ("last-stage", _PLAIN, 0.5),
    ("se+bias", _PLAIN, 1.0),
    ("head", _PLAIN, 0.5),
    *(("all", mode, 0.5) for mode in _OPACUS),
)
_MEMORY, _MEMORY_OF_OPACUS = 2.0, 1.0


def dp_ratios() -> list[Ratio]:
    """SE-IR-18 and the demo's network: CPU time of a step, and memory. Each in a process that has seen no other."""
    demo = read_study(find_study("demo")).model
    cases = (("SE-IR-18", Model(), 1.3, 3), ("demo's net", demo, 1.7, 15))
    return [ratio for case in cases for ratio in in_fresh_process(_ratios, *case)]


def _ratios(name: str, model: Model, target: float, rounds: int) -> list[Ratio]:
    torch.set_num_threads(1)
    claims = [("all", _PLAIN, target), *_CLAIMS]
    seconds = _timed_in_turn({arm: make_step(arm, model) for arm in dict.fromkeys(_arms(claims))}, rounds)
    memory = {arm: in_fresh_process(_growth_mb, arm, model) for arm in ("all", _PLAIN, *_OPACUS)}
    times = [(ours, other, most, list(zip(seconds[ours], seconds[other], strict=True))) for ours, other, most in claims]
    return [
        *(Ratio.of_pairs(f"{name}, {ours} / {other}", most, pairs) for ours, other, most, pairs in times),
        *(
            Ratio.of_pairs(f"{name}, all / {other}, peak memory, MB", most, [(memory["all"], memory[other])])
            for other, most in ((_PLAIN, _MEMORY), *((mode, _MEMORY_OF_OPACUS) for mode in _OPACUS))
        ),
    ]


def _arms(claims: list[tuple[str, str, float]]) -> list[str]:
    return [arm for ours, other, _ in claims for arm in (ours, other)]


def _timed_in_turn(steps: Mapping[str, Step], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each step, all in turn, after one that does not count."""
    seconds: dict[str, list[float]] = {arm: [] for arm in steps}
    for _ in range(1 + rounds):
        for arm, step in steps.items():
            start = time.process_time()
            step()
            seconds[arm].append(time.process_time() - start)
    return {arm: taken[1:] for arm, taken in seconds.items()}


def make_step(arm: str, model: Model) -> Step:
    """A step to be timed, with its network, batch and optimiser.

    Args:
        arm: ``plain``, one of Opacus' modes, or what trains privately (``all``, ``last-stage``, ``se+bias``, ``head``).
        model: depth, width and so on; the norm is the arm's.
    """
    if arm not in (_PLAIN, *_OPACUS):
        return _private(*_network(model, "frozen", arm))
    network, photos_NCHW, labels_N = _network(model, "group")
    if arm == _PLAIN:
        return _plain(network, photos_NCHW, labels_N)
    rival = with_torchs_own(network)
    if arm == _GHOST:
        return _ghost(rival, photos_NCHW, labels_N)
    return _opacus(rival, photos_NCHW, labels_N, functorch=arm == _FUNCTORCH)


def _network(model: Model, norm: str, part: str = "all") -> tuple[Recogniser, Tensor, Tensor]:
    """The network, a batch, and its labels; all random, and the same for every arm."""
    settings = Model.model_validate({**model.model_dump(), "norm": norm, "base": "pretrained"})
    randomness = torch.Generator().manual_seed(0)
    network = Recogniser(settings, _CLASSES)
    initialise(network.trunk, randomness)
    network.prototypes.data.normal_(generator=randomness)
    set_trainable(network, part)
    layout = memory_format(settings)
    photos_NCHW = torch.rand(_BATCH, 3, FACE_SIZE_PX, FACE_SIZE_PX, generator=randomness).mul_(2).sub_(1)
    network = network.to(memory_format=layout)
    return network, photos_NCHW.contiguous(memory_format=layout), torch.arange(_BATCH) % _CLASSES


def _plain(network: Recogniser, photos_NCHW: Tensor, labels_N: Tensor) -> Step:
    optimiser = make_optimiser(network.named_parameters(), Train(), 1e-3)

    def step() -> None:
        optimiser.zero_grad()
        _loss(network(photos_NCHW), labels_N, {"prototypes": network.prototypes}).backward()
        optimiser.step()

    return step


def _private(network: Recogniser, photos_NCHW: Tensor, labels_N: Tensor) -> Step:
    optimiser, secret = make_optimiser(network.named_parameters(), Train(), 1e-3), SecretRandom()
    heads = {"prototypes": network.prototypes}
    named = dict(network.trunk.named_parameters()) | heads

    def step() -> None:
        optimiser.zero_grad()
        for name, gradient in noisy_gradients(
            network.trunk, heads, photos_NCHW, labels_N, _loss, _PLAN, secret
        ).items():
            named[name].grad = gradient
        optimiser.step()

    return step


def _loss(outputs_ND: Tensor, labels_N: Tensor, heads: Mapping[str, Tensor]) -> Tensor:
    every_K = torch.ones(_CLASSES, dtype=torch.bool)
    return loss.syndrome_loss(outputs_ND, labels_N, heads["prototypes"], every_K, _LOSS, _MARGIN)


class _Cosines(nn.Module):
    """A head with a weight of its own: what Opacus can follow. The margin is in the loss."""

    def __init__(self, prototypes_KD: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(prototypes_KD.detach().clone())

    def forward(self, embeddings_ND: Tensor) -> Tensor:
        return F.linear(embeddings_ND, F.normalize(self.weight))


def _opacus(network: Recogniser, photos_NCHW: Tensor, labels_N: Tensor, functorch: bool) -> Step:
    """Opacus with every patient's gradient stored, of hooks or of functorch; it takes a loss that is a mean."""
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    _quieten()
    whole = nn.Sequential(network.trunk, _Cosines(network.prototypes))
    hooked = GradSampleModule(whole, force_functorch=functorch)
    inner = make_optimiser(whole.named_parameters(), Train(), 1e-3)
    optimiser = DPOptimizer(inner, noise_multiplier=1.0, max_grad_norm=_PLAN.clip, expected_batch_size=_BATCH)

    def step() -> None:
        loss.arcface(hooked(photos_NCHW), labels_N, _LOSS.scale, _MARGIN).backward()
        optimiser.step()
        optimiser.zero_grad()  # drops every patient's gradient: two modes' would not fit into memory side by side

    return step


def _ghost(network: Recogniser, photos_NCHW: Tensor, labels_N: Tensor) -> Step:
    """Opacus without any patient's gradient: one backward pass for the norms, a second for the sum."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from opacus.optimizers import DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping

    _quieten()
    whole = nn.Sequential(network.trunk, _Cosines(network.prototypes))
    hooked = GradSampleModuleFastGradientClipping(whole, max_grad_norm=_PLAN.clip)
    inner = make_optimiser(whole.named_parameters(), Train(), 1e-3)
    optimiser = DPOptimizerFastGradientClipping(
        inner, noise_multiplier=1.0, max_grad_norm=_PLAN.clip, expected_batch_size=_BATCH
    )

    def step() -> None:
        losses_N = torch.vmap(_arcface_of_one)(hooked(photos_NCHW), labels_N)
        DPTensorFastGradientClipping(hooked, optimiser, losses_N).backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def _arcface_of_one(cosines_K: Tensor, label: Tensor) -> Tensor:
    return loss.arcface(cosines_K[None], label[None], _LOSS.scale, _MARGIN)


def _quieten() -> None:
    warnings.filterwarnings("ignore", message="Full backward hook is firing")  # its way to begin at the first layer


def _growth_mb(arm: str, model: Model) -> float:
    """By how much this process grows at most in one step."""
    torch.set_num_threads(1)
    step = make_step(arm, model)
    before = resident_mb("VmRSS")
    step()
    return resident_mb("VmHWM") - before
