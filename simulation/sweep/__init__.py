"""What comes out if a setting is changed? A study times a grid of overrides times seeds, in one tidy table.

plan -> what is asked; shared -> what many runs have in common; job -> one run; judge -> how a model is measured;
pool -> all runs, resumable, in parallel; table -> rows, means and intervals; chart -> their picture; results -> files.
"""

from simulation.sweep.plan import Sweep, find_sweep, read_sweep
from simulation.sweep.pool import run_sweep
from simulation.sweep.results import write_results

__all__ = ["Sweep", "find_sweep", "read_sweep", "run_sweep", "write_results"]
