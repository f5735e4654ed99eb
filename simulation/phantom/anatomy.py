"""How does a face follow from its measures? Each feature is a number of standard deviations; here it becomes lengths.

``MEASURES`` vary in everybody; ``SIGNS`` are 0 unless a syndrome brings them. Both are what ``effects`` in
configs/syndromes.yaml may name. Lengths are in face units (canvas.py); the constants were fitted by eye to adult
proportions, and children's by how a face grows. They illustrate; they are no anthropometry.

Legend: M half faces, F features. Every length is (M, 1, 1, 1).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

MEASURES = (
    *("face_width", "face_length", "jaw_width", "jaw_squareness", "chin_height", "chin_width", "chin_projection"),
    *("cheek_fullness", "cheekbone", "midface_depth", "forehead_height", "forehead_width", "forehead_bulge"),
    *("eye_distance", "fissure_length", "fissure_slant", "eye_opening", "ptosis", "epicanthus", "eye_prominence"),
    *("eye_puffiness", "iris_size", "lash_length"),
    *("brow_height", "brow_thickness", "brow_arch", "brow_slant", "brow_length", "synophrys"),
    *("bridge_height", "bridge_width", "bridge_convexity", "nose_length", "tip_size", "ala_width"),
    *("nares_anteversion", "columella", "philtrum_length", "philtrum_depth"),
    *("mouth_width", "mouth_corners", "upper_lip", "lower_lip", "cupid_bow"),
    *("ear_size", "ear_low", "ear_protrusion", "hairline_low", "widows_peak", "neck_width"),
)
SIGNS = (
    *("mouth_opening", "tongue", "smile", "lip_scar", "lip_tent", "strabismus", "lid_notch", "lid_eversion"),
    *("brow_tail_sparseness", "brow_flare", "wrinkles", "hirsutism", "hair_sparseness", "asymmetry"),
    *("skin_lightness", "hair_lightness", "iris_lightness"),
)
FEATURES = MEASURES + SIGNS
INDEX = {name: position for position, name in enumerate(FEATURES)}
LATERAL = (  # what may differ between left and right
    *("fissure_length", "fissure_slant", "eye_opening", "ptosis", "brow_height", "brow_slant", "brow_arch"),
    *("ear_size", "ear_low", "ear_protrusion", "mouth_corners"),
)


class Morphology:
    """The features of a batch of half faces, read by name as (M, 1, 1, 1)."""

    def __init__(self, values_MF: Tensor, maturity_M: Tensor) -> None:
        self._values_MF = values_MF
        self.maturity = maturity_M.reshape(-1, 1, 1, 1)
        self.childhood = 1 - self.maturity

    def __getitem__(self, name: str) -> Tensor:
        return self._values_MF[:, INDEX[name]].reshape(-1, 1, 1, 1)


@dataclass(frozen=True)
class Head:
    """Skull, jaw and soft parts."""

    maturity: Tensor
    half_width: Tensor
    jaw_half_width: Tensor
    jaw_power: Tensor  # of the superellipse of the lower face: higher is squarer
    chin_y: Tensor
    chin_half_width: Tensor
    chin_depth: Tensor
    cheek_depth: Tensor
    cheekbone_depth: Tensor
    midface_depth: Tensor
    top_y: Tensor
    forehead_half_width: Tensor
    forehead_depth: Tensor
    neck_half_width: Tensor
    wrinkles: Tensor
    hirsutism: Tensor


@dataclass(frozen=True)
class Eyes:
    """The palpebral fissure and what lies in and around it."""

    x: Tensor
    half_length: Tensor
    slant: Tensor
    opening: Tensor
    droop: Tensor
    fold: Tensor  # epicanthus, 0..1
    depth: Tensor
    puffiness: Tensor
    iris_radius: Tensor
    lashes: Tensor
    notch: Tensor
    eversion: Tensor
    squint: Tensor


@dataclass(frozen=True)
class Brows:
    """Shape and density of the eyebrows."""

    y: Tensor
    half_thickness: Tensor
    arch: Tensor
    slant: Tensor
    half_length: Tensor
    meeting: Tensor
    tail: Tensor
    flare: Tensor


@dataclass(frozen=True)
class Nose:
    """Bridge, tip, wings and the base above the lip."""

    y: Tensor
    base_y: Tensor
    bridge_depth: Tensor
    bridge_half_width: Tensor
    hump: Tensor
    tip_depth: Tensor
    tip_half_width: Tensor
    wing_x: Tensor
    anteversion: Tensor
    columella: Tensor


@dataclass(frozen=True)
class Mouth:
    """Lips and philtrum."""

    y: Tensor
    half_width: Tensor
    upper: Tensor
    lower: Tensor
    bow: Tensor
    corner_rise: Tensor
    philtrum_length: Tensor
    philtrum_depth: Tensor
    opening: Tensor
    smile: Tensor
    tongue: Tensor
    scar: Tensor
    tent: Tensor


@dataclass(frozen=True)
class Ears:
    """Size and place of the ears."""

    size: Tensor
    y: Tensor
    protrusion: Tensor


@dataclass(frozen=True)
class Hairline:
    """Where the hair of the head begins."""

    y: Tensor
    peak: Tensor
    sparseness: Tensor


@dataclass(frozen=True)
class Face:
    """Every length of a half face."""

    head: Head
    eyes: Eyes
    brows: Brows
    nose: Nose
    mouth: Mouth
    ears: Ears
    hairline: Hairline


def face_of(m: Morphology) -> Face:
    """All lengths of half faces from their features."""
    nose = _nose(m)
    return Face(_head(m), _eyes(m), _brows(m), nose, _mouth(m, nose), _ears(m), _hairline(m))


def _head(m: Morphology) -> Head:
    return Head(
        maturity=m.maturity,
        half_width=0.78 + 0.040 * m["face_width"] + 0.02 * m.childhood,
        jaw_half_width=0.60 + 0.05 * m["jaw_width"] - 0.02 * m.childhood,
        jaw_power=2.3 + 0.35 * m["jaw_squareness"].clamp(-2.5, 3),
        chin_y=1.13 + 0.055 * m["chin_height"] + 0.06 * m["face_length"] - 0.18 * m.childhood,
        chin_half_width=0.24 + 0.045 * m["chin_width"],
        chin_depth=0.07 + 0.05 * m["chin_projection"],
        cheek_depth=0.05 + 0.04 * m["cheek_fullness"] + 0.07 * m.childhood,
        cheekbone_depth=0.02 + 0.03 * m["cheekbone"],
        midface_depth=0.05 * m["midface_depth"] - 0.03 * m.childhood,
        top_y=-1.17 - 0.05 * m["forehead_height"] - 0.03 * m.childhood,
        forehead_half_width=0.72 + 0.04 * m["forehead_width"] + 0.05 * m.childhood,
        forehead_depth=0.05 + 0.06 * m["forehead_bulge"] + 0.07 * m.childhood,
        neck_half_width=0.36 + 0.09 * m.maturity + 0.05 * m["neck_width"],
        wrinkles=m["wrinkles"].clamp(0, 3),
        hirsutism=m["hirsutism"].clamp(0, 3),
    )


def _eyes(m: Morphology) -> Eyes:
    return Eyes(
        x=0.335 + 0.024 * m["eye_distance"] + 0.004 * m.childhood,
        half_length=(0.150 + 0.012 * m["fissure_length"] - 0.006 * m.childhood).clamp_min(0.09),
        slant=(0.04 + 0.075 * m["fissure_slant"]).clamp(-0.35, 0.40),
        opening=(0.060 + 0.010 * m["eye_opening"] + 0.004 * m["eye_prominence"] + 0.012 * m.childhood).clamp(
            0.03, 0.11
        ),
        droop=(0.10 + 0.12 * m["ptosis"]).clamp(0, 0.65),
        fold=((m["epicanthus"] - 0.8) * 0.5 + 0.2 * m.childhood).clamp(0, 1),
        depth=-0.055 + 0.035 * m["eye_prominence"] + 0.03 * m.childhood,
        puffiness=(0.3 + 0.25 * m["eye_puffiness"]).clamp(0, 1.2),
        iris_radius=0.061 + 0.004 * m["iris_size"].clamp(-2.5, 2.5),
        lashes=(0.8 + 0.18 * m["lash_length"]).clamp(0.25, 1.4),
        notch=m["lid_notch"].clamp(0, 2.5),
        eversion=m["lid_eversion"].clamp(0, 2.5),
        squint=0.016 * m["strabismus"].clamp(-2, 2),
    )


def _brows(m: Morphology) -> Brows:
    return Brows(
        y=-0.215 - 0.026 * m["brow_height"],
        half_thickness=(0.030 + 0.009 * m["brow_thickness"] - 0.008 * m.childhood).clamp(0.010, 0.065),
        arch=0.045 + 0.022 * m["brow_arch"],
        slant=-0.025 + 0.026 * m["brow_slant"],
        half_length=0.225 + 0.02 * m["brow_length"],
        meeting=((m["synophrys"] - 1) * 0.6).clamp(0, 1),
        tail=m["brow_tail_sparseness"].clamp(0, 2),
        flare=m["brow_flare"].clamp(0, 2),
    )


def _nose(m: Morphology) -> Nose:
    y = 0.44 + 0.04 * m["nose_length"] - 0.07 * m.childhood - 0.015 * m["nares_anteversion"]
    return Nose(
        y=y,
        base_y=y + 0.065,
        bridge_depth=(0.115 + 0.042 * m["bridge_height"] - 0.06 * m.childhood).clamp(-0.03, 0.28),
        bridge_half_width=(0.085 + 0.014 * m["bridge_width"] + 0.02 * m.childhood).clamp_min(0.045),
        hump=0.02 * m["bridge_convexity"].clamp(-1.5, 3),
        tip_depth=0.27 + 0.02 * m["tip_size"] - 0.07 * m.childhood,
        tip_half_width=(0.098 + 0.016 * m["tip_size"]).clamp_min(0.06),
        wing_x=(0.168 + 0.016 * m["ala_width"] - 0.016 * m.childhood).clamp(0.10, 0.28),
        anteversion=(0.3 + 0.35 * m["nares_anteversion"] + 0.3 * m.childhood).clamp(-0.4, 1.8),
        columella=0.016 * m["columella"].clamp(-2, 3),
    )


def _mouth(m: Morphology, nose: Nose) -> Mouth:
    philtrum_length = (0.150 + 0.026 * m["philtrum_length"] - 0.02 * m.childhood).clamp(0.06, 0.28)
    upper = (0.062 + 0.014 * m["upper_lip"]).clamp(0.014, 0.13)
    return Mouth(
        y=nose.base_y + philtrum_length + upper * 0.9 + 0.02 * m["face_length"],
        half_width=(0.255 + 0.026 * m["mouth_width"] - 0.03 * m.childhood).clamp(0.14, 0.40),
        upper=upper,
        lower=(0.085 + 0.014 * m["lower_lip"]).clamp(0.03, 0.15),
        bow=(0.5 + 0.35 * m["cupid_bow"]).clamp(-0.3, 1.6),
        corner_rise=0.018 * m["mouth_corners"],
        philtrum_length=philtrum_length,
        philtrum_depth=(0.55 + 0.3 * m["philtrum_depth"]).clamp(0, 1.5),
        opening=0.35 * m["mouth_opening"],
        smile=0.3 * m["smile"],
        tongue=m["tongue"].clamp(0, 2),
        scar=m["lip_scar"].clamp(0, 2),
        tent=m["lip_tent"].clamp(0, 2.5),
    )


def _ears(m: Morphology) -> Ears:
    return Ears(
        size=(1 + 0.10 * m["ear_size"]).clamp(0.6, 1.4),
        y=0.17 + 0.055 * m["ear_low"] + 0.03 * m.childhood,
        protrusion=(0.5 + 0.35 * m["ear_protrusion"]).clamp(-0.2, 2),
    )


def _hairline(m: Morphology) -> Hairline:
    return Hairline(
        y=-0.72 + 0.055 * m["hairline_low"] - 0.025 * m["forehead_height"] - 0.02 * m.childhood,
        peak=(0.05 * m["widows_peak"]).clamp(-0.04, 0.15),
        sparseness=m["hair_sparseness"].clamp(0, 2.5),
    )
