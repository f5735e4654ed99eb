"""Which network does NVIDIA FLARE's server make? It wants a class and arguments that fit into JSON."""

from __future__ import annotations

from pathlib import Path

from plain_loop import make_model, study_of

from bioface_core.model import Recogniser


class LaidOut(Recogniser):
    """The network as it is before training.

    Args:
        laid: folder of the files.
    """

    def __init__(self, laid: str) -> None:
        study = study_of(Path(laid))
        super().__init__(study.model, len(study.syndromes))
        self.load_state_dict(make_model(Path(laid)).state_dict())
