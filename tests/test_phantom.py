"""Are phantoms what they promise: functions of (seed, person, photo), found by a detector, driven by the table?"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bioface_core.align import TEMPLATE_L2
from bioface_core.errors import ConfigError
from bioface_core.syndromes import Cases, Feature, Syndrome, catalogue, read_syndromes
from simulation import phantom
from simulation.phantom.anatomy import FEATURES, INDEX
from simulation.phantom.patients import syndrome_shifts
from simulation.phantom.people import draw_people

ROWS = torch.arange(19)
PEOPLE, PHOTOS = ROWS // 2, ROWS % 2
SYNDROMES = [catalogue().syndromes[key] if row % 3 else None for row, key in enumerate([*catalogue().syndromes] * 2)][
    :19
]


def _rendered(rows: Tensor, aligned: bool, shift: phantom.SiteShift = phantom.NO_SHIFT) -> phantom.Phantoms:
    camera = phantom.aligned if aligned else phantom.render
    return camera(7, PEOPLE[rows], PHOTOS[rows], [SYNDROMES[row] for row in rows.tolist()], shift=shift)


@pytest.fixture(scope="module")
def all_rows() -> dict[bool, phantom.Phantoms]:
    return {aligned: _rendered(ROWS, aligned) for aligned in (True, False)}


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("order", [[3], [18, 4, 3], list(range(18, -1, -1)), [0, 1, 2, 3, 4, 5, 6, 7, 8, 3]])
def test_a_photo_does_not_depend_on_its_batch(
    all_rows: dict[bool, phantom.Phantoms], aligned: bool, order: list[int]
) -> None:
    rows = torch.tensor(order)
    again = _rendered(rows, aligned)
    assert torch.equal(again.photos_NCHW, all_rows[aligned].photos_NCHW[rows])
    assert torch.equal(again.landmarks_NL2, all_rows[aligned].landmarks_NL2[rows])


def test_a_photo_does_not_depend_on_the_number_of_threads(all_rows: dict[bool, phantom.Phantoms]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert torch.equal(_rendered(ROWS[:8], True).photos_NCHW, all_rows[True].photos_NCHW[:8])
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)


def test_seed_person_and_photo_each_change_the_photo() -> None:
    zero = torch.zeros(1, dtype=torch.int64)
    photos = [
        phantom.aligned(seed, zero + person, zero + photo).photos_NCHW
        for seed, person, photo in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    ]
    assert all(not torch.equal(photos[0], other) for other in photos[1:])


def test_photos_and_landmarks_have_their_shapes(all_rows: dict[bool, phantom.Phantoms]) -> None:
    for aligned, side in ((True, 112), (False, 160)):
        phantoms = all_rows[aligned]
        assert phantoms.photos_NCHW.shape == (19, 3, side, side)
        assert phantoms.photos_NCHW.dtype == torch.uint8
        assert phantoms.landmarks_NL2.shape == (19, 5, 2)
        assert phantoms.landmarks_NL2.dtype == torch.float32
        assert ((phantoms.landmarks_NL2 > 0) & (phantoms.landmarks_NL2 < side)).all()


def test_aligned_landmarks_lie_on_the_template_as_well_as_a_similarity_can(
    all_rows: dict[bool, phantom.Phantoms],
) -> None:
    landmarks = all_rows[True].landmarks_NL2
    assert torch.allclose(landmarks.mean(1), TEMPLATE_L2.mean(0).expand(19, 2), atol=0.5)
    assert (landmarks - TEMPLATE_L2).norm(dim=2).mean() < 4


def test_landmarks_lie_where_the_photo_shows_them() -> None:
    studio = phantom.Dials(nuisance=0.0, spread=0.0)
    people = torch.arange(6) + phantom.HEALTHY
    phantoms = phantom.render(0, people, people * 0, dials=studio, restyled=0.0)
    bright = phantoms.photos_NCHW.float().mean(1)
    for photo, points in zip(bright, phantoms.landmarks_NL2, strict=True):
        for x, y in points[:2].round().long().tolist():
            pupil, cheek = photo[y - 1 : y + 2, x - 1 : x + 2].min(), photo[y + 12 : y + 18, x - 3 : x + 4].mean()
            assert pupil < 0.75 * cheek


def test_the_same_person_is_alike_and_others_are_not() -> None:
    first = draw_people(3, torch.tensor([5, 9, 5]), spread=0.6)
    assert torch.equal(first.features_NF[0], first.features_NF[2])
    assert not torch.equal(first.features_NF[0], first.features_NF[1])


def test_more_patients_or_syndromes_leave_the_others_as_they_are() -> None:
    few, _ = phantom.patients(1, ["noonan"], 2, 1)
    many, _ = phantom.patients(1, ["down", "noonan"], {"down": 1, "noonan": 3}, 2)
    assert torch.equal(few.photos_NCHW, many.photos_NCHW[2:6:2])
    assert many.labels_N.tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
    assert many.patients_N.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_identities_are_nobody_s_patients() -> None:
    patient = phantom.render(0, torch.tensor([0]), torch.tensor([0]))
    people = phantom.identities(0, 3, 2)
    assert people.labels_N.tolist() == [0, 0, 1, 1, 2, 2]
    faces = draw_people(0, torch.cat([torch.arange(3), torch.arange(3) + phantom.HEALTHY]), 1.0).features_NF
    assert len(faces.unique(dim=0)) == 6
    assert len(patient.photos_NCHW) == 1


def test_progress_counts_photos() -> None:
    seen: list[tuple[int, int]] = []
    phantom.identities(0, 5, 2, on_photos=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (10, 10)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_no_photos_are_no_mistake() -> None:
    nobody = torch.zeros(0, dtype=torch.int64)
    assert phantom.render(0, nobody, nobody).photos_NCHW.shape == (0, 3, 160, 160)


@pytest.mark.parametrize("size_px", [63, 100, 0])
def test_a_size_that_would_break_reproducibility_is_refused(size_px: int) -> None:
    with pytest.raises(ConfigError, match="multiple of 8"):
        phantom.render(0, ROWS[:1], ROWS[:1], size_px=size_px)


def test_demographics_are_spread_and_known() -> None:
    person = draw_people(0, torch.arange(2000), 1.0)
    demographics = person.demographics()
    assert 0.45 < demographics.sex_N.float().mean() < 0.55
    assert ((demographics.age_months_N >= 4) & (demographics.age_months_N <= 720)).all()
    assert 0.25 < (demographics.age_months_N > 216).float().mean() < 0.35
    counts = torch.bincount(demographics.ancestry_N.long(), minlength=4)
    assert len(counts) == len(phantom.ANCESTRIES)
    assert (counts > 420).all()


def test_an_older_crowd_is_the_same_people_grown_older() -> None:
    usual, older = draw_people(0, torch.arange(50), 1.0), draw_people(0, torch.arange(50), 1.0, older=0.5)
    assert (older.age_months_N > usual.age_months_N).all()
    assert torch.equal(usual.sex_N, older.sex_N)


def _syndrome(*features: tuple[float, dict[str, float]]) -> Syndrome:
    entries = tuple(
        Feature(hpo="HP:0000001", label="x", probability=share, basis="default", reference="x", effects=effects)
        for share, effects in features
    )
    return Syndrome(name="X", orpha=1, unseen=False, cases=Cases(count=1, basis="assumed"), features=entries)


def test_the_largest_shift_of_a_parameter_is_kept_and_never_the_sum() -> None:
    syndrome = _syndrome((1.0, {"ptosis": 2.0}), (1.0, {"ptosis": 1.0, "ear_low": -1.0}), (1.0, {"ptosis": -0.2}))
    shifts = syndrome_shifts(0, torch.arange(200), [syndrome] * 200, severity=1.0)
    assert ((shifts[:, INDEX["ptosis"]] >= 2 * 0.7 * 0.75) & (shifts[:, INDEX["ptosis"]] <= 2 * 1.3 * 1.25)).all()
    assert (shifts[:, INDEX["ear_low"]] < 0).all()
    assert shifts.count_nonzero() == 400


def test_features_come_with_their_probability_and_independently() -> None:
    syndrome = _syndrome((0.8, {"ptosis": 2.0}), (0.3, {"ear_low": 2.0}))
    shifts = syndrome_shifts(0, torch.arange(4000), [syndrome] * 4000, severity=1.0)
    ptosis, ears = shifts[:, INDEX["ptosis"]] != 0, shifts[:, INDEX["ear_low"]] != 0
    assert abs(ptosis.float().mean() - 0.8) < 0.03
    assert abs(ears.float().mean() - 0.3) < 0.03
    assert abs((ptosis & ears).float().mean() - 0.24) < 0.03


@given(severity=st.floats(0, 2))
@settings(max_examples=10, deadline=None)
def test_severity_scales_the_shifts(severity: float) -> None:
    syndromes = [catalogue().syndromes["kabuki"]] * 5 + [None]
    one, scaled = (syndrome_shifts(0, torch.arange(6), syndromes, value) for value in (1.0, severity))
    assert torch.allclose(scaled, severity * one)
    assert one[5].count_nonzero() == 0


def test_every_effect_of_the_catalogue_is_a_parameter_of_the_generator() -> None:
    effects = {name for s in catalogue().syndromes.values() for f in s.features for name in f.effects}
    assert effects <= set(FEATURES)


def test_an_unknown_effect_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="ptosi, which phantoms do not have; nearest: ptosis"):
        syndrome_shifts(0, torch.arange(1), [_syndrome((1.0, {"ptosi": 1.0}))], 1.0)


def test_the_catalogue_has_ten_syndromes_and_six_unseen_ones() -> None:
    assert len(catalogue().seen) == 10
    assert catalogue().unseen == ("kbg", "sms", "sotos", "fxs", "apert", "turner")
    assert catalogue().hpo_release == "2023-01-27"
    assert catalogue().syndromes["down"].omim == 190685


def test_no_syndrome_lists_a_feature_twice() -> None:
    for syndrome in catalogue().syndromes.values():
        assert max(Counter(feature.hpo for feature in syndrome.features).values()) == 1


def test_realistic_counts_keep_the_proportions_and_the_mean() -> None:
    counts = catalogue().realistic_counts(catalogue().seen, mean=60)
    assert abs(np.mean(list(counts.values())) - 60) < 1
    assert counts["cdls"] > 3 * counts["rts"]


def test_an_unknown_syndrome_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="noonann is no known syndrome; nearest: noonan"):
        phantom.patients(0, ["noonann"], 1, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hpo_release: '2023-01-27'\nsyndromes: {x: {nam: y}}", "syndromes.x"),
        ("hpo_release: '2023'\nsyndromes: {}", "hpo_release"),
        ("[1]", "expected `key: value` lines"),
    ],
)
def test_a_wrong_file_of_syndromes_is_explained_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "syndromes.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_syndromes(tmp_path / "syndromes.yaml")
    assert "\n" not in str(caught.value)


def test_site_shift_grows_with_its_strength_and_differs_between_hospitals() -> None:
    assert phantom.site_shift(0, 1, 0.0) == phantom.NO_SHIFT
    weak, strong, other = phantom.site_shift(0, 1, 0.5), phantom.site_shift(0, 1, 1.0), phantom.site_shift(0, 2, 1.0)
    assert strong != other
    assert np.isclose(np.log(strong.red), 2 * np.log(weak.red))
    assert np.isclose(strong.older, 2 * weak.older)


def test_a_site_shift_changes_colour_and_not_who_is_on_the_photo() -> None:
    red = phantom.SiteShift(red=1.3)
    plain, shifted = _rendered(ROWS[:6], True), _rendered(ROWS[:6], True, shift=red)
    assert (shifted.photos_NCHW[:, 0].float().mean((1, 2)) > plain.photos_NCHW[:, 0].float().mean((1, 2)) + 5).all()
    assert torch.equal(plain.landmarks_NL2, shifted.landmarks_NL2)


@pytest.mark.slow
def test_a_face_detector_finds_them() -> None:
    facenet = pytest.importorskip("facenet_pytorch")
    keys = list(catalogue().syndromes)
    people = torch.arange(96)
    syndromes = [catalogue().syndromes[keys[row % len(keys)]] for row in people.tolist()]
    phantoms = phantom.render(0, people, people * 0, syndromes, size_px=160)
    detector = facenet.MTCNN(select_largest=True, device="cpu")
    boxes, _ = detector.detect(list(phantoms.photos_NCHW.permute(0, 2, 3, 1).numpy()))
    assert sum(box is not None for box in boxes) >= 0.98 * len(people)


def test_only_girls_have_turner_syndrome() -> None:
    _, demographics = phantom.patients(0, ["turner"], 12, 1)
    assert (demographics.sex_N == 0).all()
