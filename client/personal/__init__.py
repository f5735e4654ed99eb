"""How does a hospital make the shared model its own? Some more training on its own patients, held against no more."""

from client.personal.fit import Personal, Plan, personalise, personalise_to
from client.personal.words import describe

__all__ = ["Personal", "Plan", "describe", "personalise", "personalise_to"]
