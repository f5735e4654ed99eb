"""What must be said beside an answer, and what helps with a photo that cannot be used?"""

from __future__ import annotations

from bioface_core.calibration import Calibration
from bioface_core.expert import Expert
from bioface_core.quality import Reason
from bioface_core.report.words import percent, plural
from client.predict.words import NOT_A_DIAGNOSIS

ADVICE = {
    Reason.NOT_AN_IMAGE: "Choose a photo: JPEG or PNG.",
    Reason.UNSUPPORTED: "Export it as JPEG and choose that.",
    Reason.UNREADABLE: "The file is damaged or too large: export it again, smaller.",
    Reason.NO_FACE: "Choose a photo that shows the whole face, upright and from the front.",
    Reason.SEVERAL_FACES: "Cut the photo so that only the patient's face is on it.",
    Reason.TOO_SMALL: "Choose a larger photo, or one taken from nearer.",
    Reason.EXTREME_POSE: "Choose a photo taken from the front, at the height of the eyes.",
    Reason.BLURRED: "Choose a sharper photo.",
    Reason.DUPLICATE: "It is there already and counts once.",
}


def caveats(expert: Expert) -> tuple[str, ...]:
    """What an answer of this model is not, and what its figures rest on."""
    return (
        NOT_A_DIAGNOSIS,
        "A probability says how likely a syndrome is if the patient has one of those listed. It does not say that the "
        "patient has any: many healthy faces are given a ranking too.",
        _sureness(expert.calibration),
        "How well the model does on patients unlike those it learned from, by age, sex or ancestry, it cannot know.",
        "The heat map shows what this model reacts to. It is no proof that the region is affected.",
        "Terms move the ranking by how often each syndrome has them, as HPO lists it. They are not independent of the "
        "photo, so that each counts by half.",
    )


def _sureness(calibration: Calibration) -> str:
    if not calibration.patients:
        return "This model is not calibrated: there are no probabilities, and nobody is told that none is recognised."
    return (
        f"Calibrated on {plural(calibration.patients, 'held-out patient')}: of answers given with 70 %, about 70 % are "
        f"right. They are off by {100 * calibration.ece:.1f} points on average, of which chance on so few patients "
        f"gives about {100 * calibration.ece_by_chance:.1f}. Of these patients' first syndromes "
        f"{percent(calibration.curve[0].risk)} were wrong."
    )
