"""Does a federation work on this machine, end to end? Real processes, keys and certificates, and faults if wanted."""

from simulation.rehearse.run import Outcome, rehearse

__all__ = ["Outcome", "rehearse"]
