"""Does an explanation follow what is really there, and leave the model as it was?"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bioface_core import loss
from bioface_core.align import TEMPLATE_L2
from bioface_core.config import Study, find_study, read_study
from bioface_core.expert import Expert
from bioface_core.gallery import Gallery
from bioface_core.learner import Learner
from bioface_core.model import to_float
from bioface_core.overlay import overlay
from bioface_core.regions import REGIONS, masks
from bioface_core.saliency import Explanation, blurred, explain
from bioface_core.weights import random_base
from simulation import phantom

NAMES = [region.name for region in REGIONS]
# A haemangioma in one region sets each class of the planted network apart from the others, and nothing else does.
PLANTED = ("forehead", "cheeks", "nose", "chin")
RADIUS_PX, RED_C = 5, torch.tensor([170, 20, 40], dtype=torch.uint8)
KEYS = ("down", "williams", "noonan", "cdls")


def study(*overrides: str, classes: int = 3) -> Study:
    small = ("model.width=0.125", "model.embedding=16", "model.pool=global", "loss.identification=false")
    return read_study(find_study("smoke"), (*small, *overrides, f"syndromes=[{','.join(KEYS[:classes])}]"))


def untrained(*overrides: str) -> Expert:
    chosen = study(*overrides)
    return Expert.of(chosen, untrained_weights(chosen))


def faces(count: int = 2) -> Tensor:
    numbers_N = torch.arange(count)
    return phantom.aligned(8, numbers_N, torch.zeros_like(numbers_N)).photos_NCHW


def people(numbers_N: Tensor) -> Tensor:
    """Healthy phantoms, one photo each."""
    return phantom.aligned(3, numbers_N, torch.zeros_like(numbers_N)).photos_NCHW


def planted(photos_NCHW: Tensor, regions_N: list[str], draw: torch.Generator) -> Tensor:
    """The same photos with a haemangioma somewhere in each one's region."""
    ys_H1, xs_1W = torch.arange(112)[:, None], torch.arange(112)[None]
    marked = []
    for photo_CHW, region in zip(photos_NCHW, regions_N, strict=True):
        inside_A2 = masks()[NAMES.index(region)].nonzero()
        y, x = inside_A2[int(torch.randint(len(inside_A2), (), generator=draw))]
        spot_HW = (ys_H1 - y) ** 2 + (xs_1W - x) ** 2 <= RADIUS_PX**2
        marked.append(torch.where(spot_HW, RED_C[:, None, None], photo_CHW))
    return torch.stack(marked)


@pytest.fixture(scope="module")
def trained() -> Expert:
    """A network that tells the planted marks apart, whoever bears them."""
    chosen = study("model.width=0.25", "model.embedding=32", "model.pool=flat", "model.norm=batch", classes=4)
    photos_NCHW = people(torch.arange(60))
    expert = Expert.of(chosen, untrained_weights(chosen))
    network = expert.network.requires_grad_(True).train()
    stepper = torch.optim.Adam(network.parameters(), 2e-3)
    draw = torch.Generator().manual_seed(0)
    for _ in range(120):
        shown_M = torch.randint(len(photos_NCHW), (32,), generator=draw)
        labels_M = torch.randint(len(PLANTED), (32,), generator=draw)
        marked_MCHW = planted(photos_NCHW[shown_M], [PLANTED[label] for label in labels_M], draw)
        scores_MK = loss.scores(network(to_float(marked_MCHW)), network.prototypes, chosen.loss)
        stepper.zero_grad()
        F.cross_entropy(16 * scores_MK, labels_M).backward()
        stepper.step()
    network.requires_grad_(False).eval()
    return expert


def untrained_weights(chosen: Study) -> dict[str, Tensor]:
    learner = Learner(chosen, random_base(chosen.model, 0))
    weights = dict(learner.weights(learner.start()))
    draw = torch.Generator().manual_seed(1)
    return weights | {"prototypes": F.normalize(torch.randn(weights["prototypes"].shape, generator=draw))}


def found(expert: Expert, faces_NCHW: Tensor, syndrome: str = "down") -> Explanation:
    return explain(expert, Gallery.empty(expert), faces_NCHW, syndrome)


def new_people(where: str, count: int) -> Tensor:
    return planted(people(torch.arange(100, 100 + count)), [where] * count, torch.Generator().manual_seed(7))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4), ids=PLANTED)
def test_both_find_what_was_planted(trained: Expert, number: int) -> None:
    """In new people: heat lies in that region above the rest of the face, and blurring it costs most."""
    where = PLANTED[number]
    photos_NCHW = new_people(where, 16)
    first = masks()[NAMES.index(where)]
    explained = [found(trained, photo_CHW[None], KEYS[number]) for photo_CHW in photos_NCHW]
    costliest = [one.effects[0].region.name for one in explained]
    assert costliest.count(where) >= 12
    heat_HW = torch.stack([one.heat_NHW[0] for one in explained]).mean(0)
    density_R = torch.stack([heat_HW[mask_HW].mean() for mask_HW in masks()])
    assert NAMES[int(density_R.argmax())] == where
    assert heat_HW[first].mean() > 3 * heat_HW[~first].mean()


@pytest.mark.slow
def test_it_depends_on_what_was_learned(trained: Expert) -> None:
    """Adebayo et al. 2018: a map that survives random weights shows edges, not reasons."""
    photos_NCHW = new_people("chin", 8)
    random = Expert.of(trained.study, untrained_weights(trained.study))

    def alike(face_CHW: Tensor) -> float:
        maps = [found(one, face_CHW[None], KEYS[3]).heat_NHW.flatten() for one in (trained, random)]
        return float(torch.corrcoef(torch.stack(maps))[0, 1])

    assert sum(alike(face_CHW) for face_CHW in photos_NCHW) / len(photos_NCHW) < 0.5


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("model.pool=flat", "model.norm=group"),
        ("model.norm=batch",),
        ("model.squeeze_excite=false", "model.stem=face"),
        ("loss.mode=ce", "model.trainable=head"),
        ("model.depth=18", "speed.channels_last=false"),
    ],
)
def test_the_model_is_left_as_it_was(overrides: tuple[str, ...]) -> None:
    expert, photos_NCHW = untrained(*overrides), faces()
    before = {name: tensor.clone() for name, tensor in expert.network.state_dict().items()}
    embedded = expert.embed(photos_NCHW)
    one = found(expert, photos_NCHW)
    assert one.heat_NHW.shape == (2, 112, 112) and float(one.heat_NHW.max()) == pytest.approx(1.0)
    assert float(one.heat_NHW.min()) >= 0 and len(one.effects) == len(REGIONS)
    assert all(torch.equal(before[name], tensor) for name, tensor in expert.network.state_dict().items())
    assert not expert.network.training and torch.equal(expert.embed(photos_NCHW), embedded)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in expert.network.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in expert.network.modules())
    again = found(expert, photos_NCHW)
    assert torch.equal(again.heat_NHW, one.heat_NHW) and again.effects == one.effects


def slow_effect(expert: Expert, photos_NCHW: Tensor, target: int, mask_HW: Tensor) -> float:
    """What ``explain`` says of a region, written out for one photo after the other."""

    def odds(photos: list[Tensor]) -> float:
        patient_D = sum(expert.embed(photo_CHW[None])[0] for photo_CHW in photos)
        assert isinstance(patient_D, Tensor)
        scores_K = expert.scores(F.normalize(patient_D, dim=0)[None])[0]
        share_K = (scores_K / expert.calibration.temperature).softmax(0)
        return float(torch.log(share_K[target] / (1 - share_K[target])))

    hidden = [blurred(photo_CHW[None], mask_HW)[0] for photo_CHW in photos_NCHW]
    return odds([*photos_NCHW]) - odds(hidden)


def test_effects_are_those_of_one_region_after_the_other() -> None:
    expert, photos_NCHW = untrained(), faces(3)
    effects = {one.region.name: one.fall for one in found(expert, photos_NCHW, "williams").effects}
    for region, mask_HW in zip(REGIONS, masks(), strict=True):
        assert effects[region.name] == pytest.approx(slow_effect(expert, photos_NCHW, 1, mask_HW), abs=1e-4)
    assert list(effects.values()) == sorted(effects.values(), reverse=True)


def test_heat_is_the_slope_at_each_position() -> None:
    """Against differences: each position of the maps is moved a little, in the direction it already points."""
    expert, photos_NCHW = untrained("model.width=0.125", "model.norm=frozen"), faces(1)
    trunk = expert.network.double().trunk
    views_MCHW = torch.cat([photos_NCHW, photos_NCHW.flip(3)]).double().div(127.5).sub(1)
    maps_MCHW = trunk.body[:2](trunk.input_layer(views_MCHW))

    def odds(maps: Tensor) -> Tensor:
        embedded_D = F.normalize(F.normalize(trunk.output_layer(trunk.body[2:](maps))).sum(0), dim=0)
        scores_K = expert.scores(embedded_D[None])[0] / expert.calibration.temperature
        return scores_K[0] - scores_K[1:].logsumexp(0)

    slope_2HW, step = torch.zeros(2, 14, 14, dtype=torch.float64), 1e-5
    for view in range(2):
        for y in range(14):
            for x in range(14):
                moved = maps_MCHW.clone()
                moved[view, :, y, x] *= 1 + step
                slope_2HW[view, y, x] = (odds(moved) - odds(maps_MCHW)) / step
    coarse_HW = slope_2HW[0].relu() + slope_2HW[1].relu().flip(1)
    expected_HW = F.interpolate(coarse_HW[None, None], (112, 112), mode="bilinear", align_corners=False)[0, 0]
    expert.network.float()
    assert found(expert, photos_NCHW).heat_NHW[0].double().allclose(expected_HW / expected_HW.max(), atol=5e-3)


def test_a_mirrored_face_gets_the_mirrored_map() -> None:
    expert, photos_NCHW = untrained(), faces(1)
    plain, mirrored = found(expert, photos_NCHW), found(expert, photos_NCHW.flip(3))
    assert mirrored.heat_NHW.allclose(plain.heat_NHW.flip(2), atol=1e-4)


def test_a_gallerys_syndrome_can_be_explained() -> None:
    expert, photos_NCHW = untrained(), faces(2)
    gallery = Gallery.empty(expert).add("own", "Our own", expert.embed(photos_NCHW[:1]))
    one = explain(expert, gallery, photos_NCHW[:1], "own")
    assert float(one.heat_NHW.max()) == pytest.approx(1.0) and one.effects[0].fall > 0
    strict = replace(expert, calibration=replace(expert.calibration, temperature=expert.calibration.temperature * 2))
    softer = explain(strict, gallery, photos_NCHW[:1], "own")
    assert abs(softer.effects[0].fall) < abs(one.effects[0].fall)


def test_regions_do_not_overlap_and_are_symmetric() -> None:
    found_RHW = masks()
    assert all(not bool((found_RHW[a] & found_RHW[b]).any()) for a, b in combinations(range(len(REGIONS)), 2))
    assert torch.equal(found_RHW, found_RHW.flip(2)) and bool(found_RHW.flatten(1).any(1).all())
    assert len({region.hpo for region in REGIONS}) == len(REGIONS)


@pytest.mark.parametrize(
    ("landmark", "name"), [(0, "periorbital"), (1, "periorbital"), (2, "nose"), (3, "mouth"), (4, "mouth")]
)
def test_landmarks_lie_in_their_regions(landmark: int, name: str) -> None:
    x, y = TEMPLATE_L2[landmark].round().int().tolist()
    assert bool(masks()[NAMES.index(name), y, x])


def test_blurring_leaves_the_rest_as_it_was() -> None:
    photo_1CHW, mask_HW = faces(1), masks()[NAMES.index("nose")]
    hidden_1CHW = blurred(photo_1CHW, mask_HW)
    far_HW = F.max_pool2d(mask_HW.float()[None, None], 7, 1, 3)[0, 0] == 0
    assert torch.equal(hidden_1CHW[..., far_HW], photo_1CHW[..., far_HW])
    assert float(hidden_1CHW[..., mask_HW].float().std()) < float(photo_1CHW[..., mask_HW].float().std())
    grey_1CHW = torch.full_like(photo_1CHW, 90)
    assert torch.equal(blurred(grey_1CHW, mask_HW), grey_1CHW)


def test_an_overlay_shows_heat_and_keeps_the_face_where_it_is_cold() -> None:
    face_CHW = faces(1)[0]
    heat_HW = torch.zeros(112, 112)
    assert torch.equal(overlay(face_CHW, heat_HW), face_CHW)
    heat_HW[40:60, 40:60] = 1
    shown_CHW = overlay(face_CHW, heat_HW)
    assert shown_CHW.dtype == torch.uint8 and shown_CHW.shape == (3, 112, 112)
    assert torch.equal(shown_CHW[:, :40], face_CHW[:, :40])
    assert not torch.equal(shown_CHW[:, 40:60, 40:60], face_CHW[:, 40:60, 40:60])
