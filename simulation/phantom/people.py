"""Who is a phantom? Demographics, features in standard deviations, and a style that changes between photos.

Everything here is a function of (seed, person), except style, which a photo may draw anew.

Legend: N rows (a person may fill several), F features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bioface_core.photos import Demographics
from simulation.phantom.anatomy import FEATURES, INDEX, LATERAL, MEASURES
from simulation.phantom.columns import choose
from simulation.phantom.randomness import Layout, Stream, draw_rows

ANCESTRIES = ("group-1", "group-2", "group-3", "group-4")
"""Four groups of equal size that differ in skin tone (1 lightest), hair and iris colour, and in nothing else."""

ADULT_MONTHS = 216.0
_ASYMMETRY = 0.15  # standard deviations
_ADULT_SHARE = 0.3
_ELDEST_MONTHS = 720.0
_YOUNGEST_MONTHS = 4.0
_DARKEST_IRIS_AND_HAIR = torch.tensor(
    [[1.0, 0.85], [0.5, 0.45], [0.3, 0.25], [0.2, 0.15]]
)  # per group: how far the tables go
_MEN = {  # shift of the mean in standard deviations for adult men; for adult women the same with the other sign
    **{"jaw_width": 0.6, "jaw_squareness": 0.6, "chin_height": 0.5, "brow_thickness": 0.7, "brow_height": -0.5},
    **{"upper_lip": -0.4, "lower_lip": -0.3, "nose_length": 0.4, "face_length": 0.4, "eye_opening": -0.3},
}
_STYLE_UNIFORMS = (
    *("hair_shade", "grey", "lips", "brow_density", "stubble", "glasses", "glasses_size", "glasses_shade", "long_hair"),
    *("hair_length", "hair_volume", "temple", "recede", "blush"),
)
_STYLE_NORMALS = {"hue": (3,), "tan": (), "hair_noise": (1, 20, 8), "strands": (1, 3, 32)}
_STYLE = Layout(_STYLE_UNIFORMS, _STYLE_NORMALS)
_PERSON = Layout(
    ("sex", "age", "ancestry", "tone", "iris", *_STYLE_UNIFORMS),
    {"features": (len(MEASURES),), "asymmetry": (len(LATERAL),), **_STYLE_NORMALS},
)


@dataclass(frozen=True)
class Style:
    """What a person can change from one photo to the next.

    Attributes:
        tone_N: skin tone, 0 lightest to 1 darkest.
        hue_N3: small shift of the skin's red, green and blue.
        hair_shade_N: place in the table of hair colours, 0 black to 1 fair.
        grey_N: share of grey, 0..1.
        lips_N: redness of the lips, 0..1.
        brow_density_N: opacity of the eyebrows.
        stubble_N: darkness of a shaved beard, 0 for women and children.
        glasses_N: 1 with, 0 without.
        glasses_size_N: factor.
        glasses_shade_N: brightness of the frame.
        hair_length_N: how far down the hair reaches, face units.
        hair_volume_N: thickness of the hair, face units.
        temple_N: how much the hairline falls towards the temples.
        recede_N: receding hairline of men.
        blush_N: redness of the cheeks.
        hair_noise_N1YX: locks.
        strands_N1YX: strands.
    """

    tone_N: Tensor
    hue_N3: Tensor
    hair_shade_N: Tensor
    grey_N: Tensor
    lips_N: Tensor
    brow_density_N: Tensor
    stubble_N: Tensor
    glasses_N: Tensor
    glasses_size_N: Tensor
    glasses_shade_N: Tensor
    hair_length_N: Tensor
    hair_volume_N: Tensor
    temple_N: Tensor
    recede_N: Tensor
    blush_N: Tensor
    hair_noise_N1YX: Tensor
    strands_N1YX: Tensor


@dataclass(frozen=True)
class Person:
    """One row per photo: who is on it.

    Attributes:
        features_NF: standard deviations, in the order of ``FEATURES``.
        asymmetry_NF: what is added on the right half of the face and taken away on the left.
        age_months_N: age.
        sex_N: 0 female, 1 male.
        ancestry_N: index into ``ANCESTRIES``.
        iris_N: place in the table of iris colours, 0 brown to 1 grey.
        style: as in everyday life.
    """

    features_NF: Tensor
    asymmetry_NF: Tensor
    age_months_N: Tensor
    sex_N: Tensor
    ancestry_N: Tensor
    iris_N: Tensor
    style: Style

    @property
    def maturity_N(self) -> Tensor:
        """How far the face has grown up, 0 at birth to 1 in adults."""
        return (self.age_months_N / ADULT_MONTHS).clamp(0, 1) ** 0.6

    def demographics(self) -> Demographics:
        """The columns a store keeps."""
        return Demographics(self.age_months_N, self.sex_N.to(torch.int8), self.ancestry_N.to(torch.int16))


def draw_people(seed: int, people_N: Tensor, spread: float, older: float = 0.0, only_N: Tensor | None = None) -> Person:
    """Draws healthy people.

    Args:
        seed: of the whole set.
        people_N: int64 person of each row; equal numbers are the same person.
        spread: how much faces differ, 1 as in a population.
        older: 0 for the usual ages; above 0 an older crowd, below 0 a younger one.
        only_N: int64, 0 or 1 where a person must be female or male, -1 where either will do.
    """
    draws = draw_rows(seed, Stream.PERSON, people_N, torch.zeros_like(people_N), _PERSON)
    sex_N = (draws["sex"] < 0.5).long()
    if only_N is not None:
        sex_N = torch.where(only_N < 0, sex_N, only_N)
    ancestry_N = (draws["ancestry"] * len(ANCESTRIES)).long()
    age_months_N = _age(draws["age"] ** torch.tensor(-older).exp())
    person = Person(
        features_NF=_features(draws["features"]),
        asymmetry_NF=_asymmetry(draws["asymmetry"]) * spread,
        age_months_N=age_months_N,
        sex_N=sex_N,
        ancestry_N=ancestry_N,
        iris_N=draws["iris"] * _DARKEST_IRIS_AND_HAIR[ancestry_N, 0],
        style=_style(draws, sex_N, age_months_N, ancestry_N, (ancestry_N + draws["tone"]) / len(ANCESTRIES)),
    )
    return replace(person, features_NF=(person.features_NF + _dimorphism(person)) * spread)


def restyle(person: Person, seed: int, people_N: Tensor, photos_N: Tensor, share: float) -> Person:
    """Gives ``share`` of the photos another haircut, glasses and tan, so that identity must be read from the face.

    Args:
        person: the people of the rows.
        seed: of the whole set.
        people_N: int64 person of each row.
        photos_N: int64 photo of each row.
        share: 0..1.
    """
    layout = Layout(("changes", *_STYLE.uniform), _STYLE.normal)
    draws = draw_rows(seed, Stream.STYLE, people_N, photos_N, layout)
    tone_N = person.style.tone_N + 0.06 * draws["tan"]
    other = _style(draws, person.sex_N, person.age_months_N, person.ancestry_N, tone_N.clamp(0, 1))
    return replace(person, style=choose(draws["changes"] < share, other, person.style))


def _features(measures_NF: Tensor) -> Tensor:
    """Measures with the few correlations that keep a face plausible; signs are 0."""
    features_NF = torch.zeros(len(measures_NF), len(FEATURES))
    features_NF[:, : len(MEASURES)] = measures_NF
    wings, bridge = features_NF[:, INDEX["ala_width"]], features_NF[:, INDEX["bridge_width"]]
    features_NF[:, INDEX["ala_width"]] = 0.8 * wings + 0.6 * bridge
    features_NF[:, INDEX["synophrys"]] *= 0.5
    return features_NF


def _asymmetry(lateral_NL: Tensor) -> Tensor:
    asymmetry_NF = torch.zeros(len(lateral_NL), len(FEATURES))
    asymmetry_NF[:, [INDEX[name] for name in LATERAL]] = _ASYMMETRY * lateral_NL
    return asymmetry_NF


def _dimorphism(person: Person) -> Tensor:
    """What being a man or a woman adds, growing with maturity, (N, F)."""
    shift_F = torch.zeros(len(FEATURES))
    for name, shift in _MEN.items():
        shift_F[INDEX[name]] = shift
    return shift_F * ((2 * person.sex_N - 1) * person.maturity_N)[:, None]


def _age(quantile_N: Tensor) -> Tensor:
    """Months of age: mostly children, as in a clinic of genetics."""
    child_N = _YOUNGEST_MONTHS + (ADULT_MONTHS - _YOUNGEST_MONTHS) * (quantile_N / (1 - _ADULT_SHARE)) ** 1.2
    grown_N = ((quantile_N - (1 - _ADULT_SHARE)) / _ADULT_SHARE).clamp_min(0)
    adult_N = ADULT_MONTHS + (_ELDEST_MONTHS - ADULT_MONTHS) * grown_N * grown_N.sqrt()
    return torch.where(quantile_N < 1 - _ADULT_SHARE, child_N, adult_N)


def _style(draws: dict[str, Tensor], sex_N: Tensor, age_months_N: Tensor, ancestry_N: Tensor, tone_N: Tensor) -> Style:
    man_N = sex_N * (age_months_N > 190)
    ageing_N = ((age_months_N - 420) / 300).clamp(0, 1)
    infant_N = (1 - age_months_N / 24).clamp(0, 1)
    long_N = draws["long_hair"] < (0.15 + 0.6 * (1 - sex_N)) * (1 - infant_N)
    length_N = torch.where(long_N, 0.2 + 1.4 * draws["hair_length"], -0.35 + 0.45 * draws["hair_length"])
    return Style(
        tone_N=tone_N,
        hue_N3=0.012 * draws["hue"],
        hair_shade_N=draws["hair_shade"] * _DARKEST_IRIS_AND_HAIR[ancestry_N, 1],
        grey_N=ageing_N * draws["grey"],
        lips_N=draws["lips"],
        brow_density_N=0.65 + 0.4 * draws["brow_density"],
        stubble_N=man_N * draws["stubble"] ** 2 * 0.7,
        glasses_N=(draws["glasses"] < 0.05 + 0.15 * (age_months_N > 60)).float(),
        glasses_size_N=0.9 + 0.25 * draws["glasses_size"],
        glasses_shade_N=0.08 + 0.4 * draws["glasses_shade"],
        hair_length_N=length_N,
        hair_volume_N=(0.04 + 0.13 * draws["hair_volume"]) * (1 - 0.6 * infant_N),
        temple_N=0.4 + 0.8 * draws["temple"],
        recede_N=man_N * ageing_N * draws["recede"],
        blush_N=0.05 + 0.15 * draws["blush"],
        hair_noise_N1YX=draws["hair_noise"],
        strands_N1YX=draws["strands"],
    )
