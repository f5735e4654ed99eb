"""What is a phantom? A procedurally drawn face that stands in for a patient; it illustrates and is no clinical data.

The way of a photo: randomness -> people, patients, shot (draw) -> anatomy, relief, look -> skin, eyes, mouth (paint) ->
light, camera, backdrop, sensor (photograph) -> sets (what is called from outside).
"""

from bioface_core.sections import PhantomDials as Dials
from simulation.phantom.people import ANCESTRIES
from simulation.phantom.photograph import Phantoms
from simulation.phantom.sets import (
    HEALTHY,
    aligned,
    healthy,
    identities,
    patient_numbers,
    patients,
    photograph_patients,
    render,
)
from simulation.phantom.site import NO_SHIFT, SiteShift, site_shift

__all__ = [
    "ANCESTRIES",
    "HEALTHY",
    "NO_SHIFT",
    "Dials",
    "Phantoms",
    "SiteShift",
    "aligned",
    "healthy",
    "identities",
    "patient_numbers",
    "patients",
    "photograph_patients",
    "render",
    "site_shift",
]
