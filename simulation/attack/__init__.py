"""What could somebody learn of a patient who wanted to? Three attacks on a run, tried by whoever has the run."""
