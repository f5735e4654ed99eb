"""What does the lab's page answer? Its files, and one question: how does the run stand?"""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

from fastapi import FastAPI

from bioface_core.report.page import REPORT_STYLE
from bioface_core.web.door import Token, local_app
from server.dashboard.state import Watch

_HERE = Path(__file__).parent
_ASSETS = {
    "/": _HERE / "page.html",
    "/page.js": _HERE / "page.js",
    "/page.css": _HERE / "page.css",
    "/report.css": REPORT_STYLE,
}
_LARGEST_BODY = 1024  # nothing is sent here


def dashboard_app(watch: Watch, token: Token) -> FastAPI:
    """The page of a run.

    Args:
        watch: what it looks at.
        token: what it must show.
    """
    app, one_at_a_time = local_app(token, _ASSETS, _LARGEST_BODY), Lock()

    @app.get("/api/state")
    def state() -> dict[str, Any]:
        with one_at_a_time:
            return watch.look()

    return app
