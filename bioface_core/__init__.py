"""What does a federation compute? Everything here is pure: no socket, no environment variable, no global state."""

__version__ = "0.1.0"
