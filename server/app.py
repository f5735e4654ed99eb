"""What does the lab run? Flower's ServerApp around the round loop, for every engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from bioface_core.checkpoint import RunFolder
from bioface_core.config import Study
from server.rounds import Event, RunState, SharedModel, run_rounds


def make_server_app(
    study: Study,
    model: SharedModel,
    folder: RunFolder,
    hospitals: Mapping[int, str] | Sequence[str],
    on_event: Callable[[Event], None] = lambda event: None,
    on_end: Callable[[RunState], None] = lambda state: None,
) -> ServerApp:
    """The ServerApp of a run.

    Args:
        study: every parameter.
        model: the shared model, at its start.
        folder: open and locked while the app runs.
        hospitals: names by node, or names alone.
        on_event: is told of everything that happens, from the app's thread.
        on_end: is given the last state.

    Returns:
        An app whose errors, when it is called, are those of ``run_rounds``.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        """Runs to the last round."""
        on_end(run_rounds(grid, study, model, folder, hospitals, on_event))

    return app
