"""Runs side by side on one test set: paired differences, error types, cost and settings."""

from counterpoise.comparison.comparing import compare
from counterpoise.comparison.results import Comparison
from counterpoise.comparison.runs import ComparedRun, read_runs
from counterpoise.comparison.scoring import score
from counterpoise.comparison.sides import Side, sides_of, sides_over_seeds

__all__ = [
    "ComparedRun",
    "Comparison",
    "Side",
    "compare",
    "read_runs",
    "score",
    "sides_of",
    "sides_over_seeds",
]
