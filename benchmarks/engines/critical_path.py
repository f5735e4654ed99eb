"""How long would a run's rounds take if nothing else ran here? ``critical_path.py inline|workers|flower`` and an order.

From CPU seconds, which other work on the machine hardly changes: in every phase of a round the server's, and those of
whichever worker had most; or all of them shared evenly, where that is more, as it is where a runtime keeps the
processors busy beside its workers. What is spent waiting for a message is not in it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from plain_loop import read_order, study_of
from process_tree import cpu_seconds

from bioface_core.checkpoint import open_run
from server.app import make_server_app
from server.journal import Aggregated, Checkpointed, Started
from server.rounds import Event, RunState
from simulation.hospitals import hospital_names
from simulation.run import run_engine
from simulation.sites import open_learner

_Seconds = Mapping[int, float]  # by process


class CriticalPath:
    """Adds up phase by phase.

    Args:
        workers: processors.
    """

    def __init__(self, workers: int) -> None:
        self._workers, self._before = workers, dict[int, float]()
        self.seconds = self.total = 0.0

    def note(self, event: Event) -> None:
        """Is told of everything; a phase of round 1 or later ends with its sum, or with the checkpoint."""
        if not isinstance(event, Started | Aggregated | Checkpointed):
            return
        now = {number: cpu for (number, _), cpu in cpu_seconds(os.getpid()).items()}
        if not isinstance(event, Started) and event.round > 0:
            self._add({number: cpu - self._before.get(number, 0.0) for number, cpu in now.items()})
        self._before = now

    def _add(self, spent: _Seconds) -> None:
        server, everything = spent[os.getpid()], sum(spent.values())
        longest = max((cpu for number, cpu in spent.items() if number != os.getpid()), default=0.0)
        self.seconds += max(server + longest, everything / self._workers if longest else everything)
        self.total += everything


def main() -> None:
    """Runs the rounds and leaves the figures."""
    engine, order = sys.argv[1], read_order(sys.argv[2:])
    settings = {"engine": engine, "workers": order.workers}
    study = study_of(order.laid).replace({"federation": {"rounds": order.rounds}, "simulation": settings})
    path, ends = CriticalPath(order.workers), list[RunState]()
    with tempfile.TemporaryDirectory() as scratch, open_run(Path(scratch) / "run", study) as run:
        for name in ("hospitals", "base.safetensors"):
            (run.path / name).symlink_to(order.laid / name)
        model = open_learner(run.path)
        run_engine(study, make_server_app(study, model, run, hospital_names(study), path.note, ends.append), run.path)
    wall = sum(summary.seconds for summary in ends[0].history[1:])
    order.out.write_text(json.dumps({"path": path.seconds, "total": path.total, "wall": wall}), encoding="utf-8")


if __name__ == "__main__":
    main()
