"""How does a clinician ask the model? A page on this machine: photos in, an answer out, nothing kept."""

from client.clinic.app import clinic_app
from client.clinic.consult import Clinic

__all__ = ["Clinic", "clinic_app"]
