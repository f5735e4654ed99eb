"""What does our own software cost, on each of its engines? ``with_bioface.py inline|workers|flower`` and the order."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from plain_loop import make_model, read_order, study_of, write_result

from bioface_core.checkpoint import open_run
from simulation.progress import Progress
from simulation.run import federate
from simulation.sites import open_learner


def main() -> None:
    """A run in a folder of its own, of the hospitals and the start that are laid out."""
    engine, order = sys.argv[1], read_order(sys.argv[2:])
    settings = {"engine": engine, "workers": order.workers}
    study = study_of(order.laid).replace({"federation": {"rounds": order.rounds}, "simulation": settings})
    with tempfile.TemporaryDirectory() as scratch, Progress(quiet=True) as progress:
        with open_run(Path(scratch) / "run", study) as run:
            for name in ("hospitals", "base.safetensors"):
                (run.path / name).symlink_to(order.laid / name)
            state = federate(run, study, progress)
            learner = open_learner(run.path)
        model = make_model(order.laid)
        model.load_state_dict(learner.weights(state.server.vector), strict=False)
        write_result(order, model)


if __name__ == "__main__":
    main()
