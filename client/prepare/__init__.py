"""How do a hospital's photos become a store? ``bioface prepare``, entirely on the hospital's machine.

In the order of the work: sources, manifest and gmdb (which photos of whom) -> pipeline (read, detect, measure, judge)
with work (what survives an interruption) -> split (whose photos are held out) -> report and sheet (what a person looks
at).
"""

from client.prepare.options import PrepareOptions
from client.prepare.pipeline import prepare
from client.prepare.report import Outcome, describe

__all__ = ["Outcome", "PrepareOptions", "describe", "prepare"]
