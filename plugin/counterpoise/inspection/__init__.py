"""Looking into a dataset before training: counts, sizes, anchors, duplicate files, and advice."""

from counterpoise.inspection.inspecting import inspect
from counterpoise.inspection.results import Inspection
from counterpoise.inspection.target import Target, find_target

__all__ = ["Inspection", "Target", "find_target", "inspect"]
