"""Are faces found, aligned and measured as they should be, on photos of every kind?"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from bioface_core import duplicates, quality
from bioface_core.align import TEMPLATE_L2, align, invert, similarity, transform
from bioface_core.duplicates import near_duplicates
from bioface_core.examine import examine
from bioface_core.faces import Detector
from bioface_core.pictures import PictureError, read_picture
from bioface_core.quality import Findings, Gate, Reason, judge
from bioface_core.seeding import generator
from simulation import phantom


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector()


@pytest.fixture(scope="module")
def people() -> phantom.Phantoms:
    """Eight healthy phantoms at 160 px, with true landmarks."""
    return phantom.render(3, torch.arange(8), torch.zeros(8, dtype=torch.int64))


def landmarks(scale: float, turn_deg: float, x: float, y: float) -> Tensor:
    """The template as it lies on a photo: turned, enlarged by ``scale`` and moved, (5, 2)."""
    turn = math.radians(turn_deg)
    matrix = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return scale * TEMPLATE_L2 @ matrix.T + torch.tensor([x, y])


def noisy(people: int) -> Tensor:
    spread = torch.randn(people, 5, 2, generator=generator("landmarks"))
    return torch.stack([landmarks(1 + n / 2, 20.0 * n - 40, 10.0 * n, 5.0) for n in range(people)]) + 2 * spread


def plain_similarity(points: np.ndarray[Any, Any], template: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Least squares over (a, b, x, y) for u = ax - by + x', v = bx + ay + y'."""
    rows, values = [], []
    for (x, y), (u, v) in zip(points, template, strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        values += [u, v]
    a, b, right, down = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    return np.array([[a, -b, right], [b, a, down]])


def test_similarity_is_the_least_squares_fit() -> None:
    points_NL2 = noisy(6).double()
    for points_L2, matrix_23 in zip(points_NL2.numpy(), similarity(points_NL2).numpy(), strict=True):
        np.testing.assert_allclose(matrix_23, plain_similarity(points_L2, TEMPLATE_L2.double().numpy()), atol=1e-8)


def test_similarity_never_mirrors() -> None:
    mirrored_12L2 = TEMPLATE_L2[None] * torch.tensor([-1.0, 1.0])
    assert torch.linalg.det(similarity(mirrored_12L2)[:, :, :2]) > 0


def test_inverse_leads_back() -> None:
    points_NL2 = noisy(4)
    there_N23 = similarity(points_NL2)
    torch.testing.assert_close(transform(invert(there_N23), transform(there_N23, points_NL2)), points_NL2)


@pytest.mark.parametrize("scale", [0.6, 1.0, 1.7, 5.3])
def test_align_reads_the_right_place(scale: float) -> None:
    """On a photo whose brightness is its column, a pixel of the crop tells which column it came from."""
    across = torch.arange(600.0) / 3
    photo_CHW = across.round().to(torch.uint8).expand(3, 600, 600)
    points_L2 = landmarks(scale, 0, 3.0, 5.0)
    crop_HW = align([photo_CHW], points_L2[None])[0, 0]
    expected_W = (scale * torch.arange(112.0) + 3) / 3
    seen_W = crop_HW[56].float()
    assert (seen_W - expected_W)[2 : min(110, int(590 / scale))].abs().max() <= 1


def test_align_averages_what_it_shrinks() -> None:
    """Stripes one pixel wide become even grey; skipping pixels would make a moire of them."""
    stripes_CHW = (torch.arange(1200) % 2 * 255).to(torch.uint8).expand(3, 1200, 1200)
    face = align([stripes_CHW], landmarks(7.3, 0, 100, 100)[None]).float()
    assert (face - 127.5).abs().max() < 12


def test_what_the_photo_does_not_show_is_black() -> None:
    white_CHW = torch.full((3, 60, 60), 255, dtype=torch.uint8)
    face_CHW = align([white_CHW], TEMPLATE_L2[None])[0]
    assert face_CHW[:, 10, 10].tolist() == [255] * 3 and face_CHW[:, 100, 100].tolist() == [0] * 3


def test_align_batched_equals_single(people: phantom.Phantoms) -> None:
    """Landmarks of all scales, so that a batch holds faces that are enlarged and faces that are shrunk."""
    points_NL2 = noisy(8)
    batched = align(people.photos_NCHW, points_NL2)
    single = torch.cat([align(people.photos_NCHW[n : n + 1], points_NL2[n : n + 1]) for n in range(8)])
    cropped = align(list(people.photos_NCHW), points_NL2)
    assert torch.equal(batched, single)
    assert (batched.int() - cropped.int()).abs().max() <= 1


def test_landmarks_of_phantoms_are_found(detector: Detector, people: phantom.Phantoms) -> None:
    found = detector.detect(people.photos_NCHW)
    assert sorted(found.photo_B.tolist()) == list(range(8)), "one face on each"
    truth_BL2 = people.landmarks_NL2[found.photo_B]
    eyes_B = quality.eye_distance(truth_BL2)
    error_B = (found.landmarks_BL2 - truth_BL2).norm(dim=2).mean(1) / eyes_B
    assert error_B.median() < 0.08 and error_B.max() < 0.15


def test_detection_batched_equals_single(detector: Detector, people: phantom.Phantoms) -> None:
    batched = detector.detect(people.photos_NCHW)
    for row, photo in enumerate(batched.photo_B.tolist()):
        alone = detector.detect(people.photos_NCHW[photo : photo + 1])
        torch.testing.assert_close(alone.landmarks_BL2[0], batched.landmarks_BL2[row], atol=1e-2, rtol=0)


@pytest.mark.parametrize("size", [(8, 8), (64, 64), (40, 200)])
def test_where_there_is_no_face_none_is_found(detector: Detector, size: tuple[int, int]) -> None:
    grey = torch.full((2, 3, *size), 90, dtype=torch.uint8)
    found = detector.detect(grey)
    assert len(found.photo_B) == 0 and found.landmarks_BL2.shape == (0, 5, 2)


@pytest.mark.slow
def test_the_cascade_finds_what_the_library_finds(detector: Detector, people: phantom.Phantoms) -> None:
    """The library goes through the same networks box by box; its landmarks lie a pixel further right and down."""
    facenet = pytest.importorskip("facenet_pytorch")
    slow, ours = facenet.MTCNN(), detector.detect(people.photos_NCHW)
    for row, photo in enumerate(ours.photo_B.tolist()):
        _, _, points = slow.detect(people.photos_NCHW[photo].permute(1, 2, 0), landmarks=True)
        apart = ours.landmarks_BL2[row] - torch.as_tensor(np.asarray(points[0], dtype=np.float32))
        assert apart.norm(dim=1).max() < 6 and apart.abs().mean() < 3


@pytest.mark.slow
def test_a_mirrored_photo_has_mirrored_landmarks(detector: Detector, london: Path) -> None:
    """Off by a constant, they would not: the library is off by 3.5 % of the eye distance here."""
    photos = torch.stack([read_picture(path) for path in sorted(london.rglob("*.jpg"))[:24]])
    found, mirrored = detector.detect(photos, 40), detector.detect(photos.flip(3), 40)
    back = mirrored.landmarks_BL2[mirrored.photo_B.argsort()][:, [1, 0, 2, 4, 3]]
    back[..., 0] = photos.shape[3] - 1 - back[..., 0]
    straight = found.landmarks_BL2[found.photo_B.argsort()]
    error = (straight - back).norm(dim=2) / quality.eye_distance(straight)[:, None]
    assert error.mean() < 0.03


def on_canvas(height: int, width: int, *pasted: tuple[Tensor, int, int]) -> Tensor:
    """Photos pasted on even grey at (top, left)."""
    canvas_CHW = torch.full((3, height, width), 120, dtype=torch.uint8)
    for photo_CHW, top, left in pasted:
        canvas_CHW[:, top : top + photo_CHW.shape[1], left : left + photo_CHW.shape[2]] = photo_CHW
    return canvas_CHW


def resized(photo_CHW: Tensor, size_px: int) -> Tensor:
    return functional.interpolate(photo_CHW[None], (size_px, size_px), mode="bilinear", antialias=True)[0]


def test_every_kind_of_scene_is_examined(detector: Detector, people: phantom.Phantoms) -> None:
    one, other = people.photos_NCHW[:2]
    scenes = [
        one,
        on_canvas(1500, 1000, (one, 700, 500)),  # a small face on a large photo: found on the second look
        on_canvas(200, 400, (one, 20, 20), (other, 20, 220)),
        on_canvas(300, 400, (resized(one, 280), 10, 10), (resized(other, 90), 10, 300)),  # somebody in the background
        on_canvas(500, 500),
        resized(one, 36),
        torch.zeros((3, 1, 1), dtype=torch.uint8),
    ]
    findings = examine(scenes, detector, Gate())
    expected = [None, None, Reason.SEVERAL_FACES, None, Reason.NO_FACE]
    assert judge(findings, Gate())[:5] == expected
    assert judge(findings, Gate())[5] in (Reason.NO_FACE, Reason.TOO_SMALL)
    assert judge(findings, Gate())[6] is Reason.NO_FACE
    shifted = findings.landmarks_NL2[1] - torch.tensor([500.0, 700.0])
    assert (shifted - people.landmarks_NL2[0]).norm(dim=1).max() < 6, "landmarks are pixels of the photo"
    assert findings.rival_N[3] < 0.25 and not findings.faces_NCHW[4].any()


def test_examine_takes_no_photo_at_all(detector: Detector) -> None:
    assert judge(examine([], detector, Gate()), Gate()) == []


def test_pose_is_read_from_the_nose() -> None:
    straight_L2 = TEMPLATE_L2.clone()
    turned_L2 = straight_L2 + torch.tensor([[0.0, 0], [0, 0], [25, 0], [0, 0], [0, 0]])
    lifted_L2 = straight_L2 - torch.tensor([[0.0, 0], [0, 0], [0, 20], [0, 0], [0, 0]])
    points_NL2 = torch.stack([straight_L2, turned_L2, lifted_L2, landmarks(3, 30, 7, 8)])
    yaw_N, height_N = quality.pose(points_NL2)
    assert abs(yaw_N[0]) < 3 and yaw_N[1] > 50 and height_N[2] < 0.1
    assert float(yaw_N[3]) == pytest.approx(float(yaw_N[0]), abs=1e-2), "tilt and size do not count"
    assert float(height_N[3]) == pytest.approx(float(height_N[0]), abs=1e-3)


def test_blur_rises_with_blurring(people: phantom.Phantoms) -> None:
    sharp = align(people.photos_NCHW, people.landmarks_NL2)
    grades = [sharp]
    for _ in range(3):
        padded = functional.pad(grades[-1].float(), (3, 3, 3, 3), mode="replicate")
        grades.append(functional.avg_pool2d(padded, 7, 1).round().to(torch.uint8))
    measured = torch.stack([quality.blur(grade) for grade in grades])
    assert (measured.diff(dim=0) > 0).all()
    assert (measured[0] < Gate().blur).all() and (measured[-1] > Gate().blur).all()
    assert quality.blur(torch.zeros_like(sharp[:1])).isfinite().all()


def findings_with(**changed: float) -> Findings:
    """A good face, but for what is changed."""
    good = {"probability": 1.0, "rival": 0.0, "eye_distance": 50.0, "yaw": 0.0, "nose_height": 0.5, "blur": 0.4}
    columns = {f"{name}_N": torch.tensor([value]) for name, value in (good | changed).items()}
    return Findings(torch.zeros((1, 3, 112, 112), dtype=torch.uint8), torch.zeros(1, 5, 2), **columns)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, None),
        ({"probability": 0.5}, Reason.NO_FACE),
        ({"rival": 0.5}, Reason.SEVERAL_FACES),
        ({"eye_distance": 9.0}, Reason.TOO_SMALL),
        ({"yaw": -60.0}, Reason.EXTREME_POSE),
        ({"nose_height": 0.95}, Reason.EXTREME_POSE),
        ({"blur": 0.8}, Reason.BLURRED),
        ({"blur": 0.8, "eye_distance": 9.0}, Reason.TOO_SMALL),
    ],
)
def test_one_reason_for_each_photo(changed: dict[str, float], reason: Reason | None) -> None:
    assert judge(findings_with(**changed), Gate()) == [reason]


def copies(photo_CHW: Tensor) -> list[Tensor]:
    """The same photo as it comes back from a phone, a mail and an archive."""
    image = Image.fromarray(photo_CHW.permute(1, 2, 0).numpy())
    again = io.BytesIO()
    image.save(again, "JPEG", quality=60)
    changed = [Image.open(again), image.convert("L").convert("RGB"), image.crop((6, 4, 156, 158))]
    return [torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in changed]


def test_copies_are_told_from_other_photos(people: phantom.Phantoms) -> None:
    """With the true landmarks, half a pixel of error on the copies."""
    again = phantom.render(3, torch.arange(8), torch.ones(8, dtype=torch.int64))
    shots = align(
        torch.cat([people.photos_NCHW, again.photos_NCHW]), torch.cat([people.landmarks_NL2, again.landmarks_NL2])
    )
    assert near_duplicates(shots) == [], "another shot of the same person is no copy"
    jpeg, grey, cropped = copies(people.photos_NCHW[0])
    points_NL2 = people.landmarks_NL2[0] + torch.tensor([[0.4, -0.3], [-0.3, 0.4], [-6.3, -3.7]])[:, None]
    more = torch.cat([shots, align([jpeg, grey, cropped], points_NL2)])
    assert {(0, 16), (0, 17), (0, 18)} <= set(near_duplicates(more))
    assert all(earlier in (0, 16, 17) for earlier, _ in near_duplicates(more))


def test_unexplained_is_what_least_squares_leaves() -> None:
    one, other = (torch.rand(56, 56, generator=generator(name)).double() for name in ("one", "other"))
    down, right = np.gradient(other.numpy())
    y, x = np.mgrid[-1:1:56j, -1:1:56j]
    changes = [other.numpy(), np.ones((56, 56)), right, down, x * down - y * right, x * right + y * down]
    basis = np.stack([change[4:52, 8:48].ravel() for change in changes], 1)
    target = one.numpy()[4:52, 8:48].ravel()
    rest = target - basis @ np.linalg.lstsq(basis, target, rcond=None)[0]
    assert float(duplicates._fit(one[None], other[None])) == pytest.approx(rest.var() / target.var(), abs=1e-5)


def test_even_faces_do_not_divide_by_zero() -> None:
    assert near_duplicates(torch.full((2, 3, 112, 112), 7, dtype=torch.uint8)) == []
    assert near_duplicates(torch.zeros((0, 3, 112, 112), dtype=torch.uint8)) == []


def gradient(mode: str) -> Image.Image:
    """Dark at the left, bright at the right, 60 x 40."""
    ramp = np.tile(np.linspace(20, 230, 60), (40, 1))
    if mode == "I;16":
        return Image.fromarray((ramp * 200).astype(np.uint16))
    if mode in ("F", "I"):
        return Image.fromarray(ramp.astype(np.float32 if mode == "F" else np.int32))
    return Image.fromarray(ramp.astype(np.uint8)).convert("RGB").convert(mode)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *[("RGB", suffix) for suffix in ("jpg", "png", "webp", "bmp", "tiff", "gif", "ppm")],
        *[("L", "jpg"), ("L", "png"), ("LA", "png"), ("RGBA", "png"), ("P", "png"), ("1", "png"), ("CMYK", "jpg")],
        *[("I;16", "png"), ("I;16", "tiff"), ("I", "tiff"), ("F", "tiff"), ("CMYK", "tiff"), ("YCbCr", "jpg")],
    ],
)
def test_every_kind_of_picture_is_read(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"photo.{suffix}"
    gradient(mode).save(path)
    photo_CHW = read_picture(path)
    assert photo_CHW.shape == (3, 40, 60) and photo_CHW.dtype == torch.uint8
    left, right = photo_CHW[:, :, :12].float().mean(), photo_CHW[:, :, -12:].float().mean()
    assert left < 70 and right > 180


def test_exif_turns_the_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees
    gradient("RGB").save(tmp_path / "photo.jpg", exif=exif)
    photo_CHW = read_picture(tmp_path / "photo.jpg")
    assert photo_CHW.shape == (3, 60, 40) and photo_CHW[:, 0].float().mean() < photo_CHW[:, -1].float().mean() - 100


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(tmp_path / "photo.png")
    assert (read_picture(tmp_path / "photo.png") == 255).all()


def test_large_pictures_are_scaled_down(tmp_path: Path) -> None:
    gradient("RGB").resize((3000, 1000)).save(tmp_path / "photo.jpg")
    assert read_picture(tmp_path / "photo.jpg").shape == (3, 667, 2000)


def jpeg() -> bytes:
    content = io.BytesIO()
    Image.effect_noise((200, 200), 60).convert("RGB").save(content, "JPEG")
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("photo.jpg", jpeg()[:2000], Reason.UNREADABLE),
        ("photo.jpg", b"", Reason.UNREADABLE),
        ("photo.jpg", b"\xff\xd8\xff\xe0" + bytes(500), Reason.UNREADABLE),
        ("photo.png", b"\x89PNG\r\n\x1a\n" + bytes(500), Reason.UNREADABLE),
        ("notes.txt", b"seen on Monday", Reason.NOT_AN_IMAGE),
        ("letter.pdf", b"%PDF-1.7\n", Reason.NOT_AN_IMAGE),
        ("photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", Reason.UNSUPPORTED),
        ("photo.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", Reason.UNSUPPORTED),
    ],
)
def test_what_is_no_picture_says_why(tmp_path: Path, name: str, content: bytes, reason: Reason) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PictureError) as refused:
        read_picture(tmp_path / name)
    assert refused.value.reason is reason and refused.value.detail


@pytest.mark.parametrize("pixels", [50 * 50, 50 * 30])
def test_bombs_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    """Pillow warns above its limit, and fails above twice that: both are refused."""
    Image.new("RGB", (50, 60)).save(tmp_path / "photo.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels // 2)
    with pytest.raises(PictureError, match="million pixels"):
        read_picture(tmp_path / "photo.png")
