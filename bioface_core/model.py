"""What is the shared network? An SE-ResNet of the improved-residual kind: 112 x 112 face in, unit embedding out.

Module names and shapes are those of the IR-SE-50 layout that face recognition has shared since 2018 (``input_layer``,
``body.N.res_layer``, ``output_layer``), so with depth 50, width 1 and the flat pool its state *is* that layout.

Legend: N photos, C channels, H W pixels, D embedding, K classes.

Source: He et al. 2016 (identity mappings), Hu et al. 2018 (squeeze and excitation), Deng et al. 2019 (ArcFace, the
improved-residual unit and the 7 x 7 fully connected embedding).
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bioface_core.photos import FACE_SIZE_PX
from bioface_core.prelu import PReLU, beside
from bioface_core.sections import Model

CHANNELS = (64, 128, 256, 512)
UNITS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3)}
_REDUCTION, _LEAST_SQUEEZED, _NORM_GROUPS = 16, 4, 16
_EPSILON = 1e-5  # torch's own, in batch normalisation


class FrozenNorm(nn.Module):
    """Batch normalisation whose statistics and affine are constants: it mixes nobody, never trains, never travels.

    Args:
        channels: C; works on (N, C) and (N, C, H, W).
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, maps: Tensor) -> Tensor:
        """The normalised maps, of the same shape."""
        constants = (self.running_mean, self.running_var, self.weight, self.bias)
        if torch.is_grad_enabled() and maps.requires_grad and not torch.compiler.is_compiling():
            normed: Tensor = _Constant.apply(maps, *constants)
            return normed
        return F.batch_norm(maps, *constants, training=False)


class _Constant(torch.autograd.Function):
    """Normalisation by constants. Torch's way back sums over all positions as if the constants were to learn."""

    generate_vmap_rule = True

    @staticmethod
    def forward(maps: Tensor, mean_C: Tensor, variance_C: Tensor, weight_C: Tensor, bias_C: Tensor) -> Tensor:
        return F.batch_norm(maps, mean_C, variance_C, weight_C, bias_C, training=False)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        _, _, variance_C, weight_C, _ = inputs
        ctx.save_for_backward(weight_C * torch.rsqrt(variance_C + _EPSILON))

    @staticmethod
    def backward(ctx: Any, returned: Tensor) -> tuple[Tensor, None, None, None, None]:
        [factor_C] = ctx.saved_tensors
        return returned * beside(factor_C, returned), None, None, None, None


class SqueezeExcite(nn.Module):
    """Weighs each channel by what all positions say together."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(_LEAST_SQUEEZED, channels // _REDUCTION)
        self.fc1 = nn.Conv2d(channels, squeezed, 1, bias=False)
        self.fc2 = nn.Conv2d(squeezed, channels, 1, bias=False)

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        """The weighted maps, of the same shape."""
        squeezed_NC11 = maps_NCHW.mean((2, 3), keepdim=True)
        return maps_NCHW * torch.sigmoid(self.fc2(F.relu(self.fc1(squeezed_NC11))))


class Unit(nn.Module):
    """norm - conv - PReLU - conv - norm - SE, beside a shortcut."""

    def __init__(self, entering: int, leaving: int, stride: int, config: Model) -> None:
        super().__init__()
        self.shortcut_layer = _shortcut(entering, leaving, stride, config)
        residual = [
            make_norm(config, entering),
            nn.Conv2d(entering, leaving, 3, 1, 1, bias=False),
            PReLU(leaving),
            nn.Conv2d(leaving, leaving, 3, stride, 1, bias=False),
            make_norm(config, leaving),
        ]
        self.res_layer = nn.Sequential(*residual, *([SqueezeExcite(leaving)] if config.squeeze_excite else []))

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        """Maps of ``leaving`` channels, ``stride`` times smaller."""
        residual: Tensor = self.res_layer(maps_NCHW) + self.shortcut_layer(maps_NCHW)
        return residual


class SEResNet(nn.Module):
    """The trunk.

    Args:
        config: depth, width, stem, pool, norm; the weights are random (``initialise``) until some are loaded.
    """

    def __init__(self, config: Model) -> None:
        super().__init__()
        widths = [max(8, int(channels * config.width)) for channels in CHANNELS]
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, 1 if config.stem == "face" else 2, 1, bias=False),
            make_norm(config, widths[0]),
            PReLU(widths[0]),
        )
        self.body = nn.Sequential(*_units(widths, config))
        self.output_layer = _output(widths[-1], config)

    def forward(self, photos_NCHW: Tensor) -> Tensor:
        """Embeds faces.

        Args:
            photos_NCHW: uint8 0..255, or float -1..1, 3 x 112 x 112, RGB.

        Returns:
            float unit embeddings (N, D).
        """
        return F.normalize(run(self.layers(), to_float(photos_NCHW)))

    def layers(self) -> list[nn.Module]:
        """Everything a photo passes, in order; a unit of the body is one layer."""
        return [*self.input_layer, *self.body, *self.output_layer]


class Rest(nn.Module):
    """A trunk from one of its layers on; its parameters have the names that they have in a ``Recogniser``.

    Args:
        trunk: whose layers these are.
        first: how many of them are left out; none makes it the trunk.
    """

    def __init__(self, trunk: SEResNet, first: int = 0) -> None:
        super().__init__()
        self.trunk, self.first = trunk, first

    def forward(self, maps: Tensor) -> Tensor:
        """Unit embeddings (N, D) of what the layers before the first have made of photos, or of photos."""
        return F.normalize(run(self.trunk.layers()[self.first :], to_float(maps)))


class Recogniser(nn.Module):
    """Trunk and prototypes: everything that a study trains.

    Args:
        config: of the trunk.
        classes: K.
    """

    def __init__(self, config: Model, classes: int) -> None:
        super().__init__()
        self.trunk = SEResNet(config)
        self.prototypes = nn.Parameter(torch.zeros(classes, config.embedding))

    def forward(self, photos_NCHW: Tensor) -> Tensor:
        """Unit embeddings (N, D) of faces."""
        embeddings_ND: Tensor = self.trunk(photos_NCHW)
        return embeddings_ND


def memory_format(model: Model, channels_last: bool = True) -> torch.memory_format:
    """How a network and its batches lie in memory: channels last where that is wanted and of use.

    Group norm is slower in it, and torch 2.15 crashes on it (CPU, backward) where a group is a single channel.
    """
    return torch.channels_last if channels_last and model.norm != "group" else torch.contiguous_format


def to_float(photos_NCHW: Tensor) -> Tensor:
    """uint8 0..255 to float32 -1..1; floats pass."""
    return photos_NCHW.float().div_(127.5).sub_(1.0) if photos_NCHW.dtype == torch.uint8 else photos_NCHW


def run(layers: list[nn.Module], maps: Tensor) -> Tensor:
    """One layer after the other."""
    for layer in layers:
        maps = layer(maps)
    return maps


def frozen_front(trunk: SEResNet) -> int:
    """How many layers come before the first that trains, where they reach into the body; else 0.

    What these make of a photo is the same in every round, so it need be computed but once. A norm that counts
    statistics never is: it mixes the photos of a batch. Where the layers end before the body, keeping their maps takes
    more memory than it saves time.
    """
    before = itertools.takewhile(_stands_still, trunk.layers())
    count = sum(1 for _ in before)
    return count if count > len(trunk.input_layer) else 0


def _stands_still(layer: nn.Module) -> bool:
    mixes = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in layer.modules())
    return not mixes and not any(parameter.requires_grad for parameter in layer.parameters())


def initialise(trunk: nn.Module, generator: torch.Generator) -> None:
    """Draws every weight of convolutions and linear layers (He et al. 2015); the same generator, the same network."""
    with torch.no_grad():
        for module in trunk.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0.0, math.sqrt(2.0 / fan_in), generator=generator)
                if module.bias is not None:
                    module.bias.zero_()


def random_directions(count: int, dimensions: int, generator: torch.Generator) -> Tensor:
    """``count`` unit vectors (count, D), uniform on the sphere: prototypes that know no patient."""
    return F.normalize(torch.randn(count, dimensions, generator=generator))


def set_trainable(model: Recogniser, part: str) -> None:
    """Marks what trains.

    Args:
        model: whose ``requires_grad`` is set.
        part: ``all``, ``last-stage`` (last stage, embedding layer and prototypes), ``head`` (the latter two), or
            ``se+bias`` (squeeze and excitation, biases, PReLU slopes and prototypes).
    """
    if part == "se+bias":
        return _open_only(model, _small_tensors(model.trunk))
    first = {"all": -1, "last-stage": _last_stage(model.trunk), "head": len(model.trunk.body)}[part]
    for name, parameter in model.trunk.named_parameters():
        parameter.requires_grad_(_depth_of(name, model.trunk) >= first)


def _open_only(model: Recogniser, names: set[str]) -> None:
    for name, parameter in model.trunk.named_parameters():
        parameter.requires_grad_(name in names)


def _small_tensors(trunk: SEResNet) -> set[str]:
    """Names of what is small and touches every layer: squeeze and excitation, biases, PReLU slopes."""
    small = {
        f"{path}.{name}"
        for path, module in trunk.named_modules()
        if isinstance(module, SqueezeExcite | PReLU)
        for name, _ in module.named_parameters()
    }
    return small | {name for name, _ in trunk.named_parameters() if name.endswith(".bias")}


def make_norm(config: Model, channels: int) -> nn.Module:
    """The normalisation that ``config.norm`` names."""
    if config.norm == "frozen":
        return FrozenNorm(channels)
    if config.norm == "group":
        return nn.GroupNorm(math.gcd(_NORM_GROUPS, channels), channels)
    return nn.BatchNorm2d(channels)


def _last_stage(trunk: SEResNet) -> int:
    """Index of the first unit of the last stage."""
    return len(trunk.body) - {sum(units): units[-1] for units in UNITS.values()}[len(trunk.body)]


def _depth_of(name: str, trunk: SEResNet) -> int:
    """How deep a tensor sits: -1 before the body, its unit's index, or the number of units behind the body."""
    part, index, *_ = name.split(".")
    return {"input_layer": -1, "output_layer": len(trunk.body)}.get(part, int(index))


def _shortcut(entering: int, leaving: int, stride: int, config: Model) -> nn.Module:
    if entering == leaving:
        return nn.MaxPool2d(1, stride)
    return nn.Sequential(nn.Conv2d(entering, leaving, 1, stride, bias=False), make_norm(config, leaving))


def _units(widths: list[int], config: Model) -> list[Unit]:
    """The body: each stage halves the maps in its first unit."""
    units, entering = [], widths[0]
    for leaving, count in zip(widths, UNITS[config.depth], strict=True):
        for position in range(count):
            units.append(Unit(entering, leaving, 2 if position == 0 else 1, config))
            entering = leaving
    return units


def _output(channels: int, config: Model) -> nn.Sequential:
    """Maps to embedding; the positions in the sequence are the public layout's."""
    side = FACE_SIZE_PX // (16 if config.stem == "face" else 32)
    side += 0 if config.stem == "face" else 1  # 112 -> 56 -> 28 -> 14 -> 7 -> 4: odd sides round up
    flat = config.pool == "flat"
    return nn.Sequential(
        make_norm(config, channels),
        nn.Dropout(0.0),
        nn.Flatten() if flat else _GlobalPool(),
        nn.Linear(channels * (side * side if flat else 1), config.embedding),
        _vector_norm(config),
    )


def _vector_norm(config: Model) -> nn.Module:
    """The normalisation of the embedding before it is brought to unit length."""
    return nn.BatchNorm1d(config.embedding) if config.norm == "batch" else make_norm(config, config.embedding)


class _GlobalPool(nn.Module):
    """The mean of all positions, (N, C, H, W) -> (N, C)."""

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        return maps_NCHW.mean((2, 3))
