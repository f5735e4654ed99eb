"""What would the model be if nothing had gone wrong? The same rounds inline, with the hospitals that answered each.

A federation that was disturbed must end with this model, bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from flwr.clientapp import ClientApp
from torch import Tensor

from bioface_core.checkpoint import RunFolder, open_run
from bioface_core.config import Study
from client.app import make_client_app
from server.app import make_server_app
from server.rounds import RoundDone
from simulation import sites
from simulation.hospitals import hospital_names
from simulation.inline import InlineGrid
from simulation.local_grid import server_context


class ReplayGrid(InlineGrid):
    """A grid on which only the hospitals that answered are connected, round by round.

    Args:
        client_app: answers for every hospital.
        names: the hospitals, by partition.
        answered: the names of those that answered, from round 0 on.
    """

    def __init__(self, client_app: ClientApp, names: Sequence[str], answered: Sequence[Sequence[str]]) -> None:
        super().__init__(client_app, len(names))
        self.nodes = dict(zip(super().get_node_ids(), names, strict=True))
        self._answered, self._round = answered, 0

    def get_node_ids(self) -> list[int]:
        """Those who answered the round that is on."""
        return [node for node, name in self.nodes.items() if name in self._answered[self._round]]

    def note(self, event: object) -> None:
        """Is told of everything that happens; ends the run after the last round that was answered.

        Raises:
            _Enough: that round is on the disk.
        """
        if isinstance(event, RoundDone):
            self._round += 1
            if self._round == len(self._answered):
                raise _Enough


class _Enough(Exception):
    """The rounds that were wanted are done."""


def answered_by_round(folder: Path) -> list[tuple[str, ...]]:
    """Who answered each round of a run, from round 0 on."""
    files = sorted(folder.glob("round-[0-9]*.json"))
    return [tuple(json.loads(file.read_text(encoding="utf-8"))["answered"]) for file in files]


def last_vector(folder: Path) -> Tensor:
    """The shared vector after the last complete round of a run."""
    run = RunFolder(folder)
    return run.read_tensors(run.last_round())["vector"]


def replay(folder: Path, study: Study, answered: Sequence[Sequence[str]]) -> Tensor:
    """The shared vector after as many rounds, made inline.

    Args:
        folder: a run folder with hospitals and start laid out.
        study: the deployed one.
        answered: see ``answered_by_round``.
    """
    with open_run(folder, study) as run, suppress(_Enough):
        learner = sites.open_learner(folder)
        grid = ReplayGrid(make_client_app(sites.SiteOpener(folder)), hospital_names(study), answered)
        make_server_app(study, learner, run, grid.nodes, grid.note)(grid, server_context())
    return last_vector(folder)
