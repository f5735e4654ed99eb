"""Is our PReLU torch's, bit for bit, forwards and backwards?"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bioface_core.prelu import PReLU
from bioface_core.seeding import generator

SHAPES = [(3, 8), (3, 8, 5), (4, 8, 9, 7)]


def maps(*shape: int, key: str = "maps") -> Tensor:
    """Of both signs, with zeros among them."""
    values = torch.randn(*shape, generator=generator(key))
    return torch.where(values.abs() < 0.1, 0.0, values)


def through(layer: nn.PReLU, maps_NCX: Tensor, returned_NCX: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Output, gradient of the input, gradient of the slopes; the slopes are float32, as autocast leaves them."""
    entering_NCX = maps_NCX.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=maps_NCX.dtype == torch.bfloat16):
        leaving_NCX = layer(entering_NCX)
    leading_NCX, slopes_C = torch.autograd.grad(leaving_NCX, (entering_NCX, layer.weight), returned_NCX)
    return leaving_NCX.detach(), leading_NCX, slopes_C


def pair(slopes: int) -> tuple[PReLU, nn.PReLU]:
    ours, theirs = PReLU(slopes), nn.PReLU(slopes)
    with torch.no_grad():
        ours.weight.copy_(maps(slopes, key="slopes"))
        theirs.weight.copy_(ours.weight)
    return ours, theirs


@pytest.mark.parametrize("slopes", [1, 8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32_is_torchs_bit_for_bit(shape: tuple[int, ...], slopes: int) -> None:
    ours, theirs = (through(layer, maps(*shape), maps(*shape, key="returned")) for layer in pair(slopes))
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    torch.testing.assert_close(ours[2], theirs[2], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_layout_and_precision(layout: torch.memory_format, dtype: torch.dtype) -> None:
    values_NCHW, returned_NCHW = (
        maps(4, 8, 9, 7, key=key).to(dtype).contiguous(memory_format=layout) for key in ("maps", "returned")
    )
    ours, theirs = (through(layer, values_NCHW, returned_NCHW) for layer in pair(8))
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    assert ours[0].is_contiguous(memory_format=layout) and ours[0].dtype == dtype
    torch.testing.assert_close(ours[2], theirs[2], rtol=1e-6 if dtype == torch.float32 else 2**-7, atol=1e-6)


def test_it_can_be_differentiated_twice() -> None:
    """As the inversion of gradients does."""
    layer = PReLU(3).double()
    assert torch.autograd.gradgradcheck(layer, maps(2, 3, 4).double().add(0.05).requires_grad_())


def test_it_needs_no_gradient_and_keeps_the_name_of_its_parameter() -> None:
    ours, theirs = pair(8)
    with torch.inference_mode():
        assert torch.equal(ours(maps(3, 8)), theirs(maps(3, 8)))
    assert list(ours.state_dict()) == ["weight"] and isinstance(ours, nn.PReLU)
