"""What do we measure ourselves against? Flower as its documentation deploys it: nothing tuned, nothing held back."""

from simulation.stock.timings import StockTimings, run_stock

__all__ = ["StockTimings", "run_stock"]
