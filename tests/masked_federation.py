"""What is the smallest federation that masks? The small one with identities, whose sites stay open between messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import Context, Message

from bioface_core.checkpoint import open_run
from bioface_core.config import Study
from client.app import make_client_app
from client.masking import Masking
from client.memory import Memory
from client.residuals import Residuals
from client.site import Site
from server.collect import Clock
from server.rounds import Event, RunState, run_rounds
from simulation.identities import lay_identities, open_identity, with_roster
from simulation.inline import InlineGrid
from tests.small_federation import HELD_OUT, TRAINED, SmallLearner, names, photos_of, small_study

FIRST_NODE = 1000


def masked_study(hospitals: int = 3, **federation: Any) -> Study:
    """The small study with masks; beyond the third, hospitals have the photos of the first three again."""
    study = small_study(**({"rounds": 2, "quorum": 0.5} | federation))
    return with_roster(study.replace({"secure": {"enabled": True}, "simulation": {"hospitals": hospitals}}))


@dataclass
class MaskedSites:
    """Opens each site once; a killed one is opened again, as a site process is started again.

    Attributes:
        study: of all.
        folder: for the identities, and for the memories.
        remembers: whether the sites have memories on the disk.
    """

    study: Study
    folder: Path
    remembers: bool = False
    _open: dict[int, Site] = field(default_factory=dict)
    _memories: dict[int, Memory] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        lay_identities(self.folder, self.study)

    def __call__(self, context: Context) -> Site:
        return self.site(int(context.node_config["partition-id"]))

    def site(self, index: int) -> Site:
        """Hospital ``index``, from 0."""
        if index not in self._open:
            self._open[index] = self._make(index)
        return self._open[index]

    def kill(self, index: int) -> None:
        """What was in the memory of the hospital's process is gone; what was on its disk is there."""
        self._open.pop(index, None)
        if index in self._memories:
            self._memories.pop(index).close()

    def close(self) -> None:
        for index in list(self._open):
            self.kill(index)

    def _make(self, index: int) -> Site:
        name, photos = names(self.study)[index], index % 3
        if self.remembers:
            self._memories[index] = Memory(self.folder / f"{name}.sqlite")
        memory = self._memories.get(index)
        masking = Masking(self.study, name, open_identity(self.folder, name), memory)
        train, heldout = photos_of(TRAINED[photos]), photos_of(HELD_OUT[photos])
        state: dict[str, Any] = {"memory": memory, "masking": masking, "residuals": Residuals(self.folder / name)}
        return Site(name, self.study, SmallLearner(), train, heldout, **state)


@dataclass
class FakeClock:
    """Time that passes only while somebody waits."""

    time: float = 0.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


Question = Callable[[Message], Message | None]


class WatchedGrid(InlineGrid):
    """A grid on which every message can be looked at and changed, both ways, or kept back.

    Args:
        sites: answer.
        down: what a node gets in place of a message; None keeps it back.
        up: what the server gets in place of a reply.
    """

    def __init__(
        self,
        sites: MaskedSites,
        down: Question = lambda message: message,
        up: Question = lambda message: message,
    ) -> None:
        super().__init__(make_client_app(sites), sites.study.simulation.hospitals)
        self._down, self._up = down, up

    def _answer(self, message: Message) -> Message:
        return super()._answer(message)

    def pull_messages(self, message_ids: Any) -> Any:
        for identity in list(message_ids):
            message = self._waiting.get(identity)
            if message is None:
                continue
            asked = self._down(message)
            if asked is None:
                del self._waiting[identity]
                continue
            self._waiting[identity] = asked
            for reply in super().pull_messages([identity]):
                answered = self._up(reply)
                if answered is not None:
                    yield answered


def hospital_of(message: Message) -> int:
    """The number, from 1, of the hospital that a message is to, or a reply from."""
    metadata = message.metadata
    node = metadata.dst_node_id if metadata.dst_node_id >= FIRST_NODE else metadata.src_node_id
    return node - FIRST_NODE + 1


@dataclass
class MaskedRun:
    """A run on a watched grid.

    Attributes:
        path: the run folder, and beside it that of the sites.
        study: with masks.
    """

    path: Path
    study: Study = field(default_factory=masked_study)
    down: Question = lambda message: message
    up: Question = lambda message: message
    remembers: bool = False
    events: list[Event] = field(default_factory=list)
    clock: FakeClock = field(default_factory=FakeClock)
    on_event: Callable[[Event], None] = lambda event: None

    def __post_init__(self) -> None:
        self.sites = MaskedSites(self.study, self.path.with_name(f"{self.path.name}-sites"), self.remembers)

    def go(self) -> RunState:
        """Runs, or goes on."""
        clock, grid = Clock(self.clock.now, self.clock.sleep), WatchedGrid(self.sites, self.down, self.up)
        try:
            with open_run(self.path, self.study) as folder:
                hospitals = names(self.study)
                return run_rounds(grid, self.study, SmallLearner(), folder, hospitals, self._note, clock)
        finally:
            self.sites.close()

    def of(self, kind: type[Any]) -> list[Any]:
        """The events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def _note(self, event: Event) -> None:
        self.events.append(event)
        self.on_event(event)
