"""Scoring of detections: pure functions on arrays, without Detectron2.

``evaluate_detections`` takes COCO dictionaries from any detector; the modules behind it can be used
one by one.
"""

from counterpoise.evaluation.inputs import (
    Detections,
    GroundTruth,
    parse_detections,
    parse_ground_truth,
    read_detections,
    read_ground_truth,
)
from counterpoise.evaluation.proposals import ProposalRecall
from counterpoise.evaluation.results import ClassResult, Evaluation, GroupResult
from counterpoise.evaluation.scoring import evaluate_arrays, evaluate_detections

__all__ = [
    "ClassResult",
    "Detections",
    "Evaluation",
    "GroundTruth",
    "GroupResult",
    "ProposalRecall",
    "evaluate_arrays",
    "evaluate_detections",
    "parse_detections",
    "parse_ground_truth",
    "read_detections",
    "read_ground_truth",
]
