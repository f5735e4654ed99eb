"""Is each photo changed by its own draw alone?"""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from bioface_core import augment
from bioface_core.model import to_float
from bioface_core.sections import Augment
from bioface_core.seeding import generator

STILL = Augment(rotate_deg=0, scale=0, shift=0, light=0, colour=0, erase=0, mirror=False)
PHOTOS = torch.randint(0, 256, (5, 3, 112, 112), dtype=torch.uint8, generator=generator("photos"))


def one(draws: augment.Draws, position: int) -> augment.Draws:
    return augment.Draws(*(getattr(draws, field.name)[position : position + 1] for field in fields(draws)))


def test_batched_equals_single() -> None:
    draws = augment.draw(5, Augment(), generator(0))
    together = augment.apply(PHOTOS, draws)
    for position in range(5):
        alone = augment.apply(PHOTOS[position : position + 1], one(draws, position))
        torch.testing.assert_close(together[position : position + 1], alone, rtol=0, atol=1e-6)


def test_all_dials_at_zero_change_nothing() -> None:
    changed = augment.apply(PHOTOS, augment.draw(5, STILL, generator(0)))
    torch.testing.assert_close(changed, to_float(PHOTOS), rtol=0, atol=1e-4)  # a fortieth of a grey level


@pytest.mark.parametrize("dial", ["rotate_deg", "scale", "shift", "light", "colour", "erase", "mirror"])
def test_every_dial_does_something(dial: str) -> None:
    value = True if dial == "mirror" else 20.0 if dial == "rotate_deg" else 0.3
    changed = augment.apply(PHOTOS, augment.draw(5, STILL.model_copy(update={dial: value}), generator(1)))
    assert not torch.allclose(changed, to_float(PHOTOS), atol=1e-3)
    assert changed.abs().max() <= 1


def test_mirrored_draw_is_the_mirror_image() -> None:
    settings = STILL.model_copy(update={"mirror": True})
    draws = augment.draw(64, settings, generator(2))
    mirrored_N = draws.affine_N23[:, 0, 0] < 0
    assert 16 < int(mirrored_N.sum()) < 48
    photo = PHOTOS[:1].expand(64, -1, -1, -1)
    changed = augment.apply(photo, draws)
    torch.testing.assert_close(changed[mirrored_N][0], to_float(augment.mirror(PHOTOS[0])), rtol=0, atol=1e-4)


def test_same_generator_same_draws() -> None:
    first, second = augment.draw(9, Augment(), generator(3)), augment.draw(9, Augment(), generator(3))
    assert all(torch.equal(getattr(first, f.name), getattr(second, f.name)) for f in fields(first))


def test_erased_square_is_grey_and_inside_its_rectangle() -> None:
    draws = augment.draw(5, STILL.model_copy(update={"erase": 0.5}), generator(4))
    white = torch.full((5, 3, 112, 112), 255, dtype=torch.uint8)
    changed = augment.apply(white, draws)
    for photo, (left, top, right, bottom) in zip(changed, draws.erased_N4, strict=True):
        expected = max(0.0, float(right - left)) * max(0.0, float(bottom - top)) / 4
        inside_share = float((photo[0] < 0.5).float().mean())
        assert inside_share <= expected + 0.02
