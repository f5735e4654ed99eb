"""How does a lab see a run while it goes on? A page on this machine that reads the run folder and touches nothing."""

from server.dashboard.app import dashboard_app
from server.dashboard.state import Watch

__all__ = ["Watch", "dashboard_app"]
