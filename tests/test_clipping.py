"""Is the fast sum of clipped gradients the slow one? One patient at a time with autograd is what it must equal."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from bioface_core import loss
from bioface_core.clipping import Clipped, LossOf, clipped_sum
from bioface_core.clipping.gradients import Convolved, Gradients, Listed, Products, kernel_gradient
from bioface_core.clipping.layers import gradients_of
from bioface_core.errors import ConfigError
from bioface_core.model import Recogniser, initialise, set_trainable, to_float
from bioface_core.photos import FACE_SIZE_PX
from bioface_core.sections import Loss, Model

Arguments = tuple[nn.Module, Mapping[str, nn.Parameter], Tensor, Tensor, LossOf, float]
CLASSES, PATIENTS = 5, 4
PARTS = ["all", "last-stage", "se+bias", "head"]
LAYOUTS = ["NCHW", "NHWC view", "channels last"]
CASES = [("frozen", part, layout) for part in PARTS for layout in LAYOUTS] + [
    *(("group", part, "NCHW") for part in PARTS),
    *(("group", "all", layout) for layout in LAYOUTS[1:]),
]


def one_by_one(
    network: nn.Module,
    heads: Mapping[str, nn.Parameter],
    inputs: Tensor,
    labels_N: Tensor,
    loss_of: LossOf,
    bound: float,
) -> Clipped:
    """The obvious way: a gradient of each patient's loss, its norm in float64, a cut, a sum."""
    named = {name: value for name, value in network.named_parameters() if value.requires_grad} | dict(heads)
    sums = {name: torch.zeros_like(value) for name, value in named.items()}
    norms, losses = [], []
    for one in range(len(labels_N)):
        value = loss_of(network(inputs[one : one + 1]), labels_N[one : one + 1], heads)
        gradients = torch.autograd.grad(value, list(named.values()))
        norm = torch.stack([gradient.double().norm() for gradient in gradients]).norm()
        for name, gradient in zip(named, gradients, strict=True):
            sums[name].add_(gradient, alpha=min(1.0, bound / float(norm)))
        norms.append(norm.float())
        losses.append(value.detach())
    return Clipped(sums, torch.stack(norms), torch.stack(losses))


def norm_of(sums: Mapping[str, Tensor]) -> float:
    return float(torch.stack([value.double().norm() for value in sums.values()]).norm())


def assert_equal(fast: Clipped, slow: Clipped, tolerance: float = 1e-5) -> None:
    assert list(fast.sums) == list(slow.sums)
    for name, expected in slow.sums.items():
        assert fast.sums[name].shape == expected.shape and fast.sums[name].dtype == torch.float32
        assert float((fast.sums[name] - expected).norm()) <= tolerance * float(expected.norm()) + 1e-12, name
    torch.testing.assert_close(fast.norms_N, slow.norms_N, rtol=tolerance, atol=0)
    torch.testing.assert_close(fast.losses_N, slow.losses_N, rtol=tolerance, atol=1e-6)


def private_model(norm: str, part: str, channels_last: bool = False) -> Recogniser:
    """Everything a study may train: SE, PReLU, norms with constants or of groups, prototypes."""
    # Torch 2.15 crashes on groups of a single channel in channels last: hence the wider one.
    width = 0.5 if norm == "group" else 0.25
    settings = {"depth": 10, "width": width, "embedding": 128, "stem": "strided", "pool": "flat", "norm": norm}
    model = Recogniser(Model.model_validate(settings), CLASSES)
    randomness = torch.Generator().manual_seed(0)
    initialise(model.trunk, randomness)
    model.prototypes.data.normal_(generator=randomness)
    set_trainable(model, part)
    return model.to(memory_format=torch.channels_last) if channels_last else model


def cross_loss(outputs_1D: Tensor, label_1: Tensor, heads: Mapping[str, Tensor]) -> Tensor:
    """ArcFace with a class that is masked out, and the pull."""
    present_K = torch.arange(CLASSES) != CLASSES - 1
    return loss.syndrome_loss(
        outputs_1D, label_1, heads["prototypes"], present_K, Loss(mode="joint", absent="mask"), 0.3
    )


def summed(outputs_1D: Tensor, label_1: Tensor, heads: Mapping[str, Tensor]) -> Tensor:
    """A loss without a head; the label weighs it, so that patients differ."""
    return (outputs_1D.square().sum() + outputs_1D.sum()) * (1 + label_1.sum())


def faces(layout: str = "NCHW", patients: int = PATIENTS) -> tuple[Tensor, Tensor]:
    randomness = torch.Generator().manual_seed(1)
    size = (patients, FACE_SIZE_PX, FACE_SIZE_PX, 3)
    photos_NHWC = torch.randint(0, 256, size, dtype=torch.uint8, generator=randomness)
    photos_NCHW = to_float(photos_NHWC.permute(0, 3, 1, 2))
    if layout != "NHWC view":
        photos_NCHW = photos_NCHW.contiguous(
            memory_format=torch.channels_last if layout == "channels last" else torch.contiguous_format
        )
    return photos_NCHW, torch.arange(patients) % (CLASSES - 1)


def both(model: Recogniser, inputs: Tensor, labels_N: Tensor, bound: float) -> tuple[Clipped, Clipped]:
    arguments: Arguments = (model.trunk, {"prototypes": model.prototypes}, inputs, labels_N, cross_loss, bound)
    return clipped_sum(*arguments), one_by_one(*arguments)


@pytest.mark.parametrize(("norm", "part", "layout"), CASES)
def test_equals_one_by_one(norm: str, part: str, layout: str) -> None:
    model = private_model(norm, part, channels_last=layout == "channels last" and norm == "frozen")
    inputs, labels_N = faces(layout)
    bound = float(both(model, inputs, labels_N, 1.0)[1].norms_N.median())  # half of them are cut, half are not
    fast, slow = both(model, inputs, labels_N, bound)
    assert_equal(fast, slow)
    assert 0 < int((fast.norms_N > bound).sum()) < PATIENTS
    assert float(fast.sums["prototypes"][-1].abs().max()) == 0, "a syndrome that is masked out learns nothing"


@pytest.mark.parametrize("part", PARTS)
def test_a_batch_of_nobody_and_of_one(part: str) -> None:
    model = private_model("frozen", part)
    inputs, labels_N = faces()
    nobody = clipped_sum(model.trunk, {"prototypes": model.prototypes}, inputs[:0], labels_N[:0], cross_loss, 1.0)
    assert nobody.norms_N.shape == nobody.losses_N.shape == (0,)
    assert norm_of(nobody.sums) == 0
    one, slow = both(model, inputs[:1], labels_N[:1], 0.1)
    assert_equal(one, slow)
    assert list(nobody.sums) == list(one.sums)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "autocast"])
@pytest.mark.parametrize("part", ["all", "se+bias"])
def test_nobody_pulls_further_than_the_bound(precision: str, part: str) -> None:
    bound, model = 0.25, private_model("frozen", part)
    inputs, labels_N = faces()
    if precision == "bfloat16":
        model, inputs = model.bfloat16(), inputs.bfloat16()

    def sums_of(chosen: list[int]) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
            heads = {"prototypes": model.prototypes}
            return clipped_sum(model.trunk, heads, inputs[chosen], labels_N[chosen], cross_loss, bound).sums

    together = sums_of(list(range(PATIENTS)))
    for one in range(PATIENTS):
        assert norm_of(sums_of([one])) == pytest.approx(bound, rel=1e-3)
        if precision == "float32":  # in bfloat16 the others' activations round otherwise in a batch of another size
            without = sums_of([other for other in range(PATIENTS) if other != one])
            assert norm_of({name: together[name] - without[name] for name in together}) <= bound * (1 + 1e-3)


def test_how_many_at_once_changes_nothing() -> None:
    model = private_model("frozen", "all")
    inputs, labels_N = faces()
    results = [
        clipped_sum(model.trunk, {"prototypes": model.prototypes}, inputs, labels_N, cross_loss, 1.0, at_once)
        for at_once in (None, 1, 3)
    ]
    for other in results[1:]:
        assert_equal(other, results[0])


def test_leaves_no_trace() -> None:
    model = private_model("frozen", "last-stage")
    inputs, labels_N = faces()
    opened = {name for name, value in model.named_parameters() if value.requires_grad}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    both(model, inputs, labels_N, 1.0)
    assert {name for name, value in model.named_parameters() if value.requires_grad} == opened
    assert all(value.grad is None for value in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_nothing_goes_back_beyond_the_first_open_layer() -> None:
    model = private_model("frozen", "last-stage")
    backward: dict[str, bool] = {}
    for name, module in model.trunk.body.named_children():
        module.register_forward_hook(lambda _, __, maps, name=name: backward.update({name: maps.requires_grad}))
    inputs, labels_N = faces()
    clipped_sum(model.trunk, {"prototypes": model.prototypes}, inputs, labels_N, cross_loss, 1.0)
    assert backward == {"0": False, "1": False, "2": False, "3": True}


def test_a_linear_network_without_heads() -> None:
    network = nn.Sequential(nn.Linear(300, 1, bias=False))
    arguments: Arguments = (network, {}, torch.randn(3, 300), torch.arange(3), summed, 2.0)
    assert_equal(clipped_sum(*arguments), one_by_one(*arguments))


CONVOLUTIONS = [
    ((3, 4, 3), {}, Listed),
    ((3, 4, 3), {"stride": 2, "padding": 1}, Listed),
    ((4, 6, 3), {"groups": 2, "dilation": 2, "padding": (2, 1)}, Listed),
    ((4, 6, (1, 3)), {"stride": (2, 1)}, Listed),
    ((32, 48, 7), {"stride": 2}, Convolved),
    ((24, 48, 5), {"stride": 3, "padding": 1, "dilation": 2}, Convolved),
    ((24, 48, 9), {"groups": 2}, Listed),
]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("shape", "geometry", "form"), CONVOLUTIONS)
def test_every_geometry_of_a_convolution(
    shape: tuple[int, int, int], geometry: dict[str, int], form: type[Gradients], memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(*shape, **geometry)  # type: ignore[arg-type]
    entering = torch.randn(3, shape[0], 11, 9).contiguous(memory_format=memory_format)
    found = gradients_of(convolution, entering, torch.randn_like(convolution(entering)))
    assert isinstance(found["weight"], form)
    arguments: Arguments = (convolution, {}, entering, torch.arange(3), summed, 5.0)
    assert_equal(clipped_sum(*arguments), one_by_one(*arguments))


def test_a_convolution_of_one_position_is_a_linear_layer() -> None:
    convolution, entering = nn.Conv2d(5, 7, 1), torch.randn(3, 5, 1, 1)
    assert isinstance(gradients_of(convolution, entering, torch.randn(3, 7, 1, 1))["weight"], Products)
    arguments: Arguments = (convolution, {}, entering, torch.arange(3), summed, 5.0)
    assert_equal(clipped_sum(*arguments), one_by_one(*arguments))


@pytest.mark.parametrize("slopes", [1, 6])
def test_small_layers(slopes: int) -> None:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 6, 3),
        nn.GroupNorm(2, 6),
        nn.PReLU(slopes),
        nn.Flatten(),
        nn.Linear(54, 6),
        nn.PReLU(slopes),
    ]
    arguments: Arguments = (nn.Sequential(*layers), {}, torch.randn(3, 3, 5, 5), torch.arange(3), summed, 5.0)
    assert_equal(clipped_sum(*arguments), one_by_one(*arguments))


def test_the_norm_of_a_large_gradient_is_not_too_small() -> None:
    """Torch adds up the squares of a large float32 tensor with an error of 1e-3, as much as we promise in all."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(256, 512, 3, padding=1, bias=False))
    inputs, labels_N = torch.randn(1, 256, 12, 12), torch.zeros(1, dtype=torch.int64)
    for bound in (1e9, 1.0):
        result = clipped_sum(network, {}, inputs, labels_N, summed, bound)
        assert norm_of(result.sums) == pytest.approx(min(bound, float(result.norms_N)), rel=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("patients", [1, 4])
def test_gradients_that_cancel_but_for_their_rounding_are_clipped(scale: float, patients: int) -> None:
    """What a hostile lab would do with the weights it sends: equal activations, and returns that add up to nothing."""
    randomness = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(128, 128, 3, padding=1, bias=False)
    entering_1CHW = (scale * (1 + torch.rand(128, generator=randomness))).view(1, 128, 1, 1).expand(1, 128, 7, 7)
    half = torch.randn(128, 12, generator=randomness)
    cancelling = torch.cat([half, torch.zeros(128, 1), -half[:, torch.randperm(12, generator=randomness)]], 1)
    returned_1CHW = torch.zeros(1, 128, 7, 7)
    returned_1CHW[:, :, 1:6, 1:6] = cancelling.view(1, 128, 5, 5)
    gradients = Convolved.of(
        layer, entering_1CHW.expand(patients, -1, -1, -1), returned_1CHW.expand(patients, -1, -1, -1)
    )
    total = torch.zeros_like(layer.weight)
    gradients.add_to(total, (1.0 / gradients.norms()).clamp(max=1.0))
    assert float(total.double().norm()) <= patients * 1.001


def test_ordinary_gradients_are_cut_no_shorter_for_it() -> None:
    randomness = torch.Generator().manual_seed(1)
    layer = nn.Conv2d(32, 48, 3, padding=1, bias=False)
    entering, returned = (torch.randn(50, size, 7, 7, generator=randomness) for size in (32, 48))
    gradients = Convolved.of(layer, entering, returned)
    exact = torch.stack(
        [
            kernel_gradient(layer, a[None].double(), g[None].double()).norm()
            for a, g in zip(entering, returned, strict=True)
        ]
    )
    over = gradients.norms() / exact
    assert float(over.min()) >= 1 - 1e-6 and float(over.max()) < 1.005


def test_who_brings_something_that_is_no_number_is_left_out() -> None:
    model = private_model("frozen", "all")
    inputs, labels_N = faces()
    damaged = inputs.clone()
    damaged[1, 0, 5, 5] = torch.nan
    others = [0, 2, 3]
    heads = {"prototypes": model.prototypes}
    found = clipped_sum(model.trunk, heads, damaged, labels_N, cross_loss, 1.0)
    expected = clipped_sum(model.trunk, heads, inputs[others], labels_N[others], cross_loss, 1.0)
    assert_equal(Clipped(found.sums, found.norms_N[others], found.losses_N[others]), expected)
    assert not bool(found.norms_N[1].isfinite())
    alone = clipped_sum(model.trunk, heads, damaged[1:2], labels_N[1:2], cross_loss, 1.0)
    assert norm_of(alone.sums) == 0


class Twice(nn.Module):
    """Runs its layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, inputs_N4: Tensor) -> Tensor:
        return self.layer(self.layer(inputs_N4))  # type: ignore[no-any-return]


class Folded(nn.Module):
    """Two rows for each patient."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, inputs_N4: Tensor) -> Tensor:
        return self.layer(inputs_N4.view(-1, 2)).view(-1, 4)  # type: ignore[no-any-return]


def tied() -> nn.Module:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(first, second)


@pytest.mark.parametrize(
    ("network", "size", "message"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), (4,), "1 is BatchNorm in training.*set model.norm: frozen"),
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), (4,), "1 is LayerNorm, expected Conv2d.*none of its param"),
        (nn.Sequential(nn.Conv2d(1, 1, 3, padding="same")), (1, 4, 4), "0 pads by 'same': state the padding in pixels"),
        (nn.Sequential(nn.Conv2d(1, 1, 3, padding_mode="reflect")), (1, 4, 4), "pads by 'reflect'"),
        (nn.Sequential(nn.Linear(4, 4)), (3, 4), r"0 gets values of shape \(2, 3, 4\), expected 2 axes"),
        (tied(), (4,), "1.weight and 0.weight are one parameter"),
        (Twice(), (4,), "layer runs twice in one pass"),
        (Folded(), (4,), r"layer gets values of shape \(4, 2\), expected 2 axes, the first for the 2 patients"),
    ],
)
def test_what_it_cannot_do_is_refused(network: nn.Module, size: tuple[int, ...], message: str) -> None:
    inputs, labels_N = torch.randn(2, *size), torch.arange(2)
    with pytest.raises(ConfigError, match=message):
        clipped_sum(network, {}, inputs, labels_N, summed, 1.0)


def test_what_does_not_train_may_be_of_any_kind() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.BatchNorm1d(4).eval(), nn.Linear(4, 2))
    network[1].requires_grad_(False)
    network[2].requires_grad_(False)
    arguments: Arguments = (network, {}, torch.randn(3, 4), torch.arange(3), summed, 1.0)
    assert_equal(clipped_sum(*arguments), one_by_one(*arguments))
