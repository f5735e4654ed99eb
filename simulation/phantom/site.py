"""How does one hospital's photo differ from another's? By camera, light and the ages it sees: a site shift.

All values are public: they may stand in a config or a report.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

from simulation.phantom.randomness import Stream, philox


@dataclass(frozen=True)
class SiteShift:
    """What a hospital's camera, light and patients add to every photo. The defaults add nothing.

    Attributes:
        red: factor on red (colour cast).
        blue: factor on blue.
        brightness: factor on all colours.
        contrast: factor on the distance from mid-grey.
        blur_px: added deviation of the lens blur, pixels of the aligned photo.
        noise: added deviation of the sensor noise, share of white.
        light_x: where the lamp stands, radians to the right.
        older: above 0 an older crowd, below 0 a younger one; 0.7 makes the median child about twice as old.
    """

    red: float = 1.0
    blue: float = 1.0
    brightness: float = 1.0
    contrast: float = 1.0
    blur_px: float = 0.0
    noise: float = 0.0
    light_x: float = 0.0
    older: float = 0.0


NO_SHIFT = SiteShift()


def site_shift(seed: int, hospital: int, strength: float) -> SiteShift:
    """The shift of one hospital.

    Args:
        seed: of the simulation.
        hospital: its number, not negative.
        strength: 0 none; 1 as between hospitals that never agreed on a camera.

    Returns:
        A function of the arguments alone; it grows in proportion to ``strength``.
    """
    source = philox(seed, Stream.SITE, hospital)
    red, blue, brightness, contrast, light_x, older = (strength * source.standard_normal(6).clip(-2, 2)).tolist()
    blur, noise = (strength * source.random(2)).tolist()
    return SiteShift(
        red=exp(0.06 * red),
        blue=exp(0.08 * blue),
        brightness=exp(0.15 * brightness),
        contrast=exp(0.12 * contrast),
        blur_px=0.9 * blur,
        noise=0.03 * noise,
        light_x=0.35 * light_x,
        older=0.5 * older,
    )
