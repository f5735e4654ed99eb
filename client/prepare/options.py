"""What can be chosen when photos are prepared? Who is held out, what a photo must be like, what else is drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bioface_core.errors import PhotoError
from bioface_core.quality import Gate

SHEET_SUFFIXES = (".png", ".jpg", ".jpeg")
LAYOUTS = ("auto", "gmdb")


@dataclass(frozen=True)
class PrepareOptions:
    """Choices of one ``bioface prepare``.

    Attributes:
        heldout: share of each class's patients that are never trained on, from 0 (nobody) to below 1.
        seed: chooses who they are.
        sheet: where to draw the aligned faces with their landmarks, a PNG or JPEG file; None draws none.
        gate: what is asked of a photo.
        device: where the detector runs.
        batch: photos examined together, and the most that an interruption costs.
        layout: of the source: ``auto`` is a folder per class or a CSV manifest, ``gmdb`` the GestaltMatcher Database,
            which says itself who is held out.
    """

    heldout: float = 0.33
    seed: int = 0
    sheet: Path | None = None
    gate: Gate = field(default_factory=Gate)
    device: str = "cpu"
    batch: int = 16
    layout: str = "auto"

    def check(self) -> None:
        """Makes sure that the choices can be followed.

        Raises:
            PhotoError: they cannot.
        """
        if self.layout not in LAYOUTS:
            raise PhotoError(f"--layout {self.layout} is not known; expected {' or '.join(LAYOUTS)}")
        if not 0 <= self.heldout < 1:
            raise PhotoError(f"--heldout {self.heldout} is no share; expected 0 (nobody) to below 1, such as 0.33")
        if self.sheet and self.sheet.suffix.lower() not in SHEET_SUFFIXES:
            raise PhotoError(f"--sheet {self.sheet} is no PNG or JPEG file; expected a name such as faces.png")
        if self.sheet and not self.sheet.absolute().parent.is_dir():
            raise PhotoError(f"--sheet {self.sheet}: its folder does not exist: make it first")
