"""Is a round with a cached front the round without it? And is a photo sent through the front only once?"""

from __future__ import annotations

import gc
import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bioface_core.config import Study
from bioface_core.front import ROWS, CachedFront, FrontCache
from bioface_core.learner import Learner, LocalResult
from bioface_core.model import Recogniser, Rest, frozen_front, run, set_trainable, to_float
from bioface_core.photos import PhotoSet
from bioface_core.resident import DeviceMemory
from bioface_core.secret import SecretRandom
from bioface_core.sections import Model, Train
from bioface_core.seeding import generator
from bioface_core.views import FixedViews, FreshViews, draw_views
from tests.test_learner import MODEL, base_of, learner, stripes, study
from tests.test_privacy import KEY, PLAN, private_study
from tests.test_speed import needs_bf16

MODES = ["ce", "arcface", "joint", "cross-sum", "cross-alternate"]
EVEN = {"batch": ROWS, "epochs": 1, "views": 3}  # every step is of the size in which the cache computes


def frozen(part: str = "last-stage", cache: bool = True, train: dict[str, Any] = EVEN, **changes: Any) -> Study:
    return study(model={"trainable": part}, speed={"cache_trunk": cache}, train=train, **changes)


def rounds(student: Learner, photos: PhotoSet, stream: str = "hospital-1", first: int = 1) -> list[LocalResult]:
    """Two rounds, one after the other."""
    vector, results = student.start(), []
    for round_ in (first, first + 1):
        results.append(student.train(vector, photos, round_, stream))
        vector = vector + results[-1].delta
    return results


class Passing:
    """Counts what goes through the first layer of a learner's network."""

    def __init__(self, student: Learner) -> None:
        self.rows = 0
        student._model.trunk.input_layer[0].register_forward_hook(self._count)

    def _count(self, layer: nn.Module, entering: tuple[Tensor, ...], leaving: Tensor) -> None:
        self.rows += len(leaving)

    def since(self) -> int:
        """Photos since the last call."""
        passed, self.rows = self.rows, 0
        return passed


@pytest.mark.parametrize("part", ["head", "last-stage"])
@pytest.mark.parametrize("mode", MODES)
def test_the_update_is_the_same_bit_for_bit(mode: str, part: str) -> None:
    photos = stripes(2 * ROWS, 3)
    with_, without = (rounds(learner(frozen(part, cache, loss={"mode": mode})), photos) for cache in (True, False))
    for one, other in zip(with_, without, strict=True):
        assert float(one.delta.norm()) > 0
        assert torch.equal(one.delta, other.delta) and one.loss == other.loss


@needs_bf16
@pytest.mark.parametrize("part", ["head", "last-stage"])
def test_so_it_is_in_bf16(part: str) -> None:
    photos, bf16 = stripes(2 * ROWS, 3), {"speed": {"precision": "bf16"}}
    with_, without = (rounds(learner(frozen(part, cache).replace(bf16)), photos) for cache in (True, False))
    for one, other in zip(with_, without, strict=True):
        assert float(one.delta.norm()) > 0
        assert torch.equal(one.delta, other.delta) and one.loss == other.loss


@pytest.mark.parametrize("part", ["head", "last-stage"])
def test_where_steps_have_another_size_kernels_round_otherwise(part: str) -> None:
    """The front is computed 32 at a time, the steps are of 20 and 21; plain descent does not blow rounding up."""
    train = {"batch": 27, "epochs": 1, "views": 3, "optimiser": "sgd", "rate": 1e-2}
    photos = stripes(41, 3)
    with_, without = (rounds(learner(frozen(part, cache, train)), photos) for cache in (True, False))
    for one, other in zip(with_, without, strict=True):
        assert float((one.delta - other.delta).norm()) < 1e-5 * float(other.delta.norm())


def test_another_view_makes_another_update() -> None:
    """Or the tests above would compare nothing."""
    photos = stripes(2 * ROWS, 3)
    fixed, fresh = (rounds(learner(frozen(train={**EVEN, "views": views})), photos) for views in (3, 0))
    assert not torch.equal(fixed[0].delta, fresh[0].delta)


def test_a_photo_passes_the_front_once() -> None:
    student = learner(frozen(train={**EVEN, "views": 1}, loss={"mode": "arcface"}))
    passing, photos, vector = Passing(student), stripes(2 * ROWS, 3), student.start()
    student.train(vector, photos, 1, "hospital-1")
    assert passing.since() == 2 * ROWS + 1, "and one to learn the size of a row"
    for round_ in (2, 3, 4):
        student.train(vector, photos, round_, "hospital-1")
    assert passing.since() == 0


def test_each_view_passes_the_front_once_of_patients_and_of_people() -> None:
    student = learner(frozen(loss={"mode": "cross-alternate"}))
    passing, photos, vector = Passing(student), stripes(2 * ROWS, 3), student.start()
    for round_ in (1, 2, 3, 4) * 5:
        student.train(vector, photos, round_, "hospital-1")
    views, people = 3 * 2 * ROWS, 3 * 12
    assert passing.since() == views + people + -people % ROWS + 1
    student.train(vector, photos, 4, "hospital-1")
    assert passing.since() == 0


def test_held_out_photos_pass_the_front_once() -> None:
    student, held_out = learner(frozen()), stripes(20, 3, "new")
    plain = learner(frozen(cache=False))
    passing = Passing(student)
    first, again = (student.embed(student.start(), held_out) for _ in range(2))
    assert passing.since() == 2 * ROWS + 1 and torch.equal(first, again)
    torch.testing.assert_close(first, plain.embed(plain.start(), held_out), rtol=0, atol=1e-5)
    student.evaluate(student.start(), held_out)
    assert passing.since() == 0


def test_nothing_is_kept_where_views_are_fresh_or_all_trains() -> None:
    for changed in (frozen(train={**EVEN, "views": 0}), frozen("all"), frozen("se+bias"), frozen(cache=False)):
        student = learner(changed)
        passing, photos = Passing(student), stripes(ROWS, 3)
        counts = [(student.train(student.start(), photos, 1, "h"), passing.since())[1] for _ in range(2)]
        assert counts == [2 * ROWS, 2 * ROWS], "a step on patients and one on people"


def test_a_restarted_run_goes_on_bit_for_bit() -> None:
    """A row does not depend on when it was computed, nor on who else was in its batch."""
    train = {"batch": 9, "epochs": 2, "views": 2}
    photos = stripes(23, 3)
    going_on, restarted = learner(frozen(train=train)), learner(frozen(train=train))
    first = going_on.train(going_on.start(), photos, 1, "hospital-1")
    vector = going_on.start() + first.delta
    results = [student.train(vector, photos, 2, "hospital-1") for student in (going_on, restarted)]
    assert torch.equal(results[0].delta, results[1].delta)


def test_hospitals_that_share_a_learner_have_caches_of_their_own() -> None:
    ours, theirs = stripes(ROWS, 3), stripes(2 * ROWS, 3, "theirs")
    shared = learner(frozen())
    together = [rounds(shared, photos, name)[1].delta for photos, name in ((ours, "a"), (theirs, "b"))]
    alone = [rounds(learner(frozen()), photos, name)[1].delta for photos, name in ((ours, "a"), (theirs, "b"))]
    assert torch.equal(together[0], alone[0]) and torch.equal(together[1], alone[1])
    other_stream = rounds(shared, ours, "b")[1].delta
    assert torch.equal(other_stream, rounds(learner(frozen()), ours, "b")[1].delta), "the stream draws the views"
    assert not torch.equal(other_stream, together[0])


def test_what_does_not_fit_is_said_once_and_computed_anew(caplog: pytest.LogCaptureFixture) -> None:
    student = learner(frozen(loss={"mode": "arcface"}).replace({"speed": {"device_memory_mb": 0}}))
    photos = stripes(ROWS, 3)
    with caplog.at_level(logging.WARNING, "bioface.memory"):
        small = rounds(student, photos)
    assert len(caplog.messages) == 1 and "do not fit into the 0 MB left on cpu: it is computed anew" in caplog.text
    plain = rounds(learner(frozen(cache=False, loss={"mode": "arcface"})), photos)
    assert torch.equal(small[1].delta, plain[1].delta)


def test_room_is_given_back_with_the_photos() -> None:
    student = learner(frozen(loss={"mode": "arcface"}))
    free, photos = student._sight.memory.free, stripes(ROWS, 3)
    student.train(student.start(), photos, 1, "hospital-1")
    assert student._sight.memory.free < free - 3 * ROWS * 1000
    del photos
    gc.collect()
    assert student._sight.memory.free == free


@pytest.mark.parametrize("part", ["head", "last-stage"])
@pytest.mark.parametrize("mode", ["joint", "cross-alternate"])
def test_a_private_round_can_be_cached(part: str, mode: str) -> None:
    """Views are drawn from the secret stream, once; whoever is drawn finds theirs again."""
    deltas, passed = [], []
    for cache in (True, False):
        settings = private_study(
            model={**private_study().model.model_dump(), "trainable": part},
            loss={"mode": mode, "identification": True},
            train={"views": 1, "optimiser": "sgd", "batch": ROWS},
            speed={"cache_trunk": cache},
        )
        student = Learner(settings, base_of(settings, 4), stripes(ROWS, 4, "people"))
        passing, photos, secret = Passing(student), stripes(2 * ROWS, 3), SecretRandom(KEY)
        everybody = replace(PLAN, sampling_rate=0.9, noise_multiplier=1e-6)
        results = [student.train(student.start(), photos, round_, "h", everybody, secret) for round_ in (1, 2, 3)]
        passing.since()
        student.train(student.start(), photos, 4, "h", everybody, secret)
        deltas.append([result.delta for result in results])
        passed.append(passing.since())
    for one, other in zip(*deltas, strict=True):
        assert float((one - other).norm()) < 1e-4 * float(other.norm())
    assert passed[0] == 0 < passed[1]


def test_secret_views_are_not_those_of_the_seed() -> None:
    train = Train(views=2)
    one, other = (draw_views(4, train, randomness) for randomness in (SecretRandom(KEY), generator(0, "views", "h")))
    assert isinstance(one, FixedViews) and isinstance(other, FixedViews)
    assert not torch.equal(one.draws.affine_N23, other.draws.affine_N23)


def test_fixed_views_are_few_and_all_of_them_are_shown() -> None:
    views = draw_views(5, Train(views=3), generator("views"))
    assert isinstance(views, FixedViews) and views.keys == 15
    positions_B = torch.arange(5).repeat(40)
    pick = views.pick(positions_B, generator("pick"))
    assert pick.keys_B is not None and torch.equal(views.positions(pick.keys_B), positions_B)
    assert set(pick.keys_B.tolist()) == set(range(15))
    assert torch.equal(pick.draws.colour_N33, views.draws.colour_N33[pick.keys_B])
    assert isinstance(draw_views(5, Train(), generator("views")), FreshViews)


def test_how_much_of_a_trunk_is_frozen() -> None:
    def layers(part: str, **changes: Any) -> int:
        network = Recogniser(Model.model_validate({**MODEL, **changes}), 3)
        set_trainable(network, part)
        return frozen_front(network.trunk)

    # three layers at the entrance, four units, and behind them norm, dropout and pool before what trains
    assert [layers(part) for part in ("all", "se+bias", "last-stage", "head")] == [0, 0, 3 + 3, 3 + 4 + 3]
    assert layers("head", norm="group", base="scratch") == 3 + 4, "a group norm before the embedding layer trains"
    assert layers("head", norm="batch", base="scratch") == 0, "it mixes the batch"


@pytest.mark.parametrize("part", ["all", "last-stage", "head"])
def test_front_and_rest_are_the_trunk(part: str) -> None:
    student = learner(frozen(part))
    trunk, photos = student._model.trunk, to_float(stripes(3, 3).photos_NCHW)
    first = frozen_front(trunk)
    rest = Rest(trunk, first)
    assert torch.equal(rest(run(trunk.layers()[:first], photos)), trunk(photos))
    names = {name for name, _ in student._model.named_parameters()}
    assert {name for name, _ in rest.named_parameters()} == names - {"prototypes"}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_row_comes_back_as_it_was(layout: torch.memory_format) -> None:
    maps = torch.randn(6, 4, 5, 5, generator=generator("maps")).contiguous(memory_format=layout)
    cache = FrontCache(9, maps[:1])
    keys_B = torch.tensor([8, 0, 3, 5, 1, 2])
    cache.put(keys_B, maps)
    back = cache.get(keys_B[[4, 4, 1]])
    assert torch.equal(back, maps[[4, 4, 1]]) and back.is_contiguous(memory_format=layout)
    with pytest.raises(AssertionError, match="never computed"):
        cache.get(torch.tensor([4]))


def test_rows_are_computed_in_whole_batches_and_none_twice() -> None:
    memory, photos = DeviceMemory(torch.device("cpu")), stripes(50, 3)
    views = draw_views(50, Train(views=2), generator("views"))
    assert isinstance(views, FixedViews)
    sizes: list[int] = []

    def front(shown: Tensor) -> Tensor:
        sizes.append(len(shown))
        return shown.mean((2, 3))

    cache = FrontCache(views.keys, torch.zeros(1, 3))
    feed = CachedFront(memory.hold(photos), views, cache, front, nn.Identity())
    for step in range(30):
        keys_B = torch.randint(views.keys, (7,), generator=generator(step))
        shown = views.show(photos.photos_NCHW[views.positions(keys_B)], keys_B)
        torch.testing.assert_close(feed.start_keys(keys_B)(), shown.mean((2, 3)))
    assert sizes == [ROWS] * 4, "a hundred views, the last batch filled up"
