"""How is a phantom photographed? Draw the person and the shot, paint and light the face, look at it through a camera.

Whatever is drawn depends on (seed, person, photo) alone, and the picture is computed by one thread in loops that treat
every row alike, so a photo is the same to the last bit in every batch.

Legend: N photos, M half faces, L five landmarks, F features, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from bioface_core.photos import Demographics
from bioface_core.sections import PhantomDials
from bioface_core.syndromes import Syndrome
from simulation.phantom import camera, eyes, light, mouth, sensor, skin
from simulation.phantom.anatomy import INDEX, Face, Head, Morphology, face_of
from simulation.phantom.backdrop import backdrop
from simulation.phantom.camera import Frame
from simulation.phantom.canvas import double, whole_face
from simulation.phantom.columns import take
from simulation.phantom.look import Expression, look_of
from simulation.phantom.patients import only_sex, syndrome_shifts
from simulation.phantom.people import Person, draw_people, restyle
from simulation.phantom.relief import relief
from simulation.phantom.shot import Shot, draw_shots
from simulation.phantom.site import SiteShift

_SIGN_OF_ASYMMETRY = 1.5  # how much one standard deviation of the sign multiplies everyday asymmetry


@dataclass(frozen=True)
class Phantoms:
    """Photographs of phantoms.

    Attributes:
        photos_NCHW: uint8, RGB.
        landmarks_NL2: float32 pixels (x, y) of left eye, right eye, nose, left and right corner of the mouth, as they
            lie on the photo; the centre of the first pixel is (0, 0).
        demographics: who is on each photo.
    """

    photos_NCHW: Tensor
    landmarks_NL2: Tensor
    demographics: Demographics


@dataclass(frozen=True)
class Sitting:
    """Everything that is drawn before anything is painted; a row per photo."""

    people_N: Tensor
    photos_N: Tensor
    person: Person
    shot: Shot
    expression: Expression


@dataclass(frozen=True)
class _Head:
    """A painted and lit head in its own coordinates.

    Attributes:
        picture_N4YX: red, green, blue and opacity over the whole face.
        relief_N1yx: depth over the whole face, face units.
        face: lengths of the N left halves, then of the N right halves.
        smile_M111: of each half.
    """

    picture_N4YX: Tensor
    relief_N1yx: Tensor
    face: Face
    smile_M111: Tensor


@dataclass(frozen=True)
class Studio:
    """What all photos of a call share; see ``render`` in sets.py."""

    seed: int
    dials: PhantomDials
    shift: SiteShift
    restyled: float
    size_px: int
    aligned: bool


def draw(studio: Studio, people_N: Tensor, photos_N: Tensor, syndromes_N: Sequence[Syndrome | None]) -> Sitting:
    """Draws everything that is random but the sensor's noise."""
    seed, dials = studio.seed, studio.dials
    person = draw_people(seed, people_N, dials.spread, studio.shift.older, only_sex(syndromes_N))
    shifts_NF = syndrome_shifts(seed, people_N, syndromes_N, dials.severity)
    person = replace(person, features_NF=person.features_NF + shifts_NF)
    person = restyle(person, seed, people_N, photos_N, studio.restyled)
    return Sitting(people_N, photos_N, person, *draw_shots(seed, people_N, photos_N, dials.nuisance))


def photograph(sitting: Sitting, studio: Studio) -> Phantoms:
    """Computes the photos of a small batch; memory and time are best for about eight."""
    with _one_thread(), torch.inference_mode():
        head = _sculpt(sitting, studio.shift.light_x)
        landmarks_NL2 = _landmarks(head, sitting.shot)
        frame = _frame(landmarks_NL2, studio)
        image_N3HW = _expose(head, frame, sitting, studio.shift)
        photos_NCHW = sensor.develop(
            image_N3HW, sitting.shot, studio.shift, studio.seed, sitting.people_N, sitting.photos_N
        )
    return Phantoms(photos_NCHW, camera.on_frame(landmarks_NL2, frame), sitting.person.demographics())


@contextmanager
def _one_thread() -> Iterator[None]:
    """More threads would cut the loops elsewhere, and the remainder of a cut is computed with other rounding."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _sculpt(sitting: Sitting, light_x: float) -> _Head:
    face, look = _face(sitting), look_of(sitting.person, sitting.expression)
    look = replace(look, smile=(look.smile + face.mouth.smile).clamp(0, 1))
    image_M3YX = skin.paint_skin(face, look)
    opacity_M1YX = skin.paint_surroundings(image_M3YX, face, look)
    eyes.paint_eyes(image_M3YX, face.eyes, look)
    eyes.paint_brows(image_M3YX, face.brows, face.eyes, look)
    mouth.paint_nose(image_M3YX, face.nose, look)
    mouth.paint_mouth(image_M3YX, face, look)
    eyes.paint_glasses(image_M3YX, face.eyes, look)
    relief_N1yx = whole_face(relief(face, look.smile))
    relief_N1yx = F.avg_pool2d(F.pad(relief_N1yx, (1, 1, 1, 1), mode="replicate"), 3, 1)
    picture_N4YX = whole_face(torch.cat([image_M3YX, opacity_M1YX], 1))
    factor, gloss = (double(part) for part in light.shading(relief_N1yx, sitting.shot, light_x))
    picture_N4YX[:, :3] *= factor
    picture_N4YX[:, :3] += gloss
    return _Head(picture_N4YX, relief_N1yx, face, look.smile)


def _face(sitting: Sitting) -> Face:
    """Lengths of both halves of every face, as this photo shows them."""
    person, features_NF = sitting.person, sitting.person.features_NF + sitting.shot.jitter_NF
    sign_N1 = person.features_NF[:, INDEX["asymmetry"], None].clamp_min(0)
    uneven_NF = person.asymmetry_NF * (1 + _SIGN_OF_ASYMMETRY * sign_N1)
    features_MF = torch.cat([features_NF - uneven_NF, features_NF + uneven_NF])
    return face_of(Morphology(features_MF, person.maturity_N.repeat(2)))


def _landmarks(head: _Head, shot: Shot) -> Tensor:
    """The five points on the raw photo, -1..1, (N, L, 2)."""
    eye_x = head.face.eyes.x.reshape(2, -1)
    mouth_x = mouth.smiling_half_width(head.face.mouth, head.smile_M111).reshape(2, -1)
    mouth_y = mouth.corner_y(head.face.mouth, head.smile_M111).reshape(2, -1)
    nose_y = head.face.nose.y.reshape(2, -1).mean(0) - 0.02
    middle = torch.zeros_like(nose_y)
    x_NL = torch.stack([-eye_x[0], eye_x[1], middle, -mouth_x[0], mouth_x[1]], 1)
    y_NL = torch.stack([middle, middle, nose_y, mouth_y[0], mouth_y[1]], 1)
    depth_NL = camera.sample(head.relief_N1yx, x_NL[:, None, None], y_NL[:, None, None])[:, 0, 0]
    return camera.project(x_NL, y_NL, depth_NL, shot)


def _frame(landmarks_NL2: Tensor, studio: Studio) -> Frame:
    if studio.aligned:
        return camera.aligned_frame(landmarks_NL2, studio.size_px)
    return camera.whole_frame(len(landmarks_NL2), studio.size_px)


def _expose(head: _Head, frame: Frame, sitting: Sitting, shift: SiteShift) -> Tensor:
    """The light that falls on the sensor, after lens and exposure, (N, 3, H, W)."""
    body = camera.body_coordinates(frame, sitting.shot)
    x, y = camera.unproject(*body, head.relief_N1yx, sitting.shot)
    seen = camera.sample(head.picture_N4YX, x, y)
    one_half = _first_half(head.face.head)
    image = backdrop(frame, body, sitting.person, sitting.shot, one_half)
    image += seen[:, 3:] * camera.on_picture(x, y) * (seen[:, :3] - image)
    return sensor.blur(sensor.expose(image, sitting.shot, shift), sitting.shot, frame.pixel_N, shift)


def _first_half(head: Head) -> Head:
    return take(head, slice(0, len(head.chin_y) // 2))
