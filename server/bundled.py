"""What does stock Flower find in our bundle? An app that says who runs this federation instead."""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Refuses: rounds are run by the ServerApp process of `bioface lab serve`, from installed code.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError("this federation is run by `bioface lab serve`, not from its bundle")
