"""Runs side by side on one test set: paired differences, kinds of error, cost and settings."""

from counterpoise.comparison.comparing import compare
from counterpoise.comparison.contenders import Contender, read_contenders
from counterpoise.comparison.results import Comparison
from counterpoise.comparison.scoring import score

__all__ = ["Comparison", "Contender", "compare", "read_contenders", "score"]
