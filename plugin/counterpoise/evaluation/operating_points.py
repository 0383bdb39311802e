"""Precision and recall at a score threshold, and thresholds chosen by them, per class.

Everything here is at the first IoU threshold of the matches, 0.50.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from counterpoise.evaluation.matching import ClassMatches


@dataclass(frozen=True)
class OperatingPoint:
    """What a class's detections of at least `threshold` are worth.

    Attributes:
        threshold: score, those of at least this are kept.
        precision: 0-100; None where nothing is kept.
        recall: 0-100; None without boxes.
        F1: 0-100, harmonic mean of both; None without boxes.
        detections: number kept, those over ignored regions not counted.
    """

    threshold: float
    precision: float | None
    recall: float | None
    F1: float | None
    detections: int


@dataclass(frozen=True)
class Curve:
    """Precision and recall at the S distinct scores of a class, descending.

    Attributes:
        scores: (S,) float64.
        precision, recall: (S,) float64, 0-1, of the detections of at least that score.
    """

    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray

    @property
    def f1(self) -> np.ndarray:
        """(S,) float64, 0-1."""
        total = self.precision + self.recall
        return np.divide(
            2 * self.precision * self.recall, total, out=np.zeros_like(total), where=total > 0
        )


def precision_recall_curve(matches: ClassMatches) -> Curve:
    """Curve of a class, without interpolation; empty without detections, recall 0 without boxes."""
    kept = ~matches.ignored[0]
    scores, true_positives = matches.scores[kept], matches.true_positives[0, kept]
    last = np.flatnonzero(np.r_[scores[1:] != scores[:-1], True][: len(scores)])
    found = np.cumsum(true_positives)[last]
    return Curve(scores[last], found / (last + 1), found / max(matches.num_gt, 1))


def at_threshold(matches: ClassMatches, threshold: float) -> OperatingPoint:
    """Precision and recall of the detections with a score of at least `threshold`."""
    kept = (matches.scores >= threshold) & ~matches.ignored[0]
    true_positives, count = int(matches.true_positives[0, kept].sum()), int(kept.sum())
    precision = 100 * true_positives / count if count else None
    if not matches.num_gt:
        return OperatingPoint(threshold, precision, None, None, count)
    return OperatingPoint(
        threshold=threshold,
        precision=precision,
        recall=100 * true_positives / matches.num_gt,
        F1=200 * true_positives / (count + matches.num_gt),
        detections=count,
    )


def best_f1_threshold(matches: ClassMatches) -> float | None:
    """Threshold of maximal F1, the higher one of equals; None where nothing is found."""
    curve = precision_recall_curve(matches)
    if not curve.f1.any():
        return None
    return _below(curve.scores, int(curve.f1.argmax()))


def best_common_threshold(matches: Sequence[ClassMatches]) -> float:
    """The one threshold with the largest mean F1 over the classes with boxes; 0 where all is 0."""
    curves = [precision_recall_curve(m) for m in matches if m.num_gt]
    at = np.concatenate([curve.scores for curve in curves] or [[]])
    if not len(at):
        return 0.0
    steps = np.concatenate([np.diff(curve.f1, prepend=0.0) for curve in curves])
    scores, place = np.unique(-at, return_inverse=True)
    # Rounded, since sums that are equal must stay so for the higher score to be taken.
    total = np.cumsum(np.bincount(place, steps)).round(9)
    return _below(-scores, int(total.argmax())) if total.any() else 0.0


def best_f1_thresholds(matches: Sequence[ClassMatches]) -> list[float]:
    """Threshold of maximal F1 for every class; the best common one where a class finds nothing.

    What such a class detects is all wrong, and has to be counted somewhere.
    """
    chosen = [best_f1_threshold(own) for own in matches]
    if None not in chosen:
        return chosen
    common = best_common_threshold(matches)
    return [common if threshold is None else threshold for threshold in chosen]


def recall_threshold(matches: ClassMatches, recall: float) -> float | None:
    """Highest threshold with at least `recall` (0-1); None where it is not reached."""
    curve = precision_recall_curve(matches)
    reached = np.flatnonzero(curve.recall >= recall)
    return _below(curve.scores, int(reached[0])) if matches.num_gt and len(reached) else None


def precision_threshold(matches: ClassMatches, precision: float) -> float | None:
    """Lowest threshold with at least `precision` (0-1); None where it is not reached.

    Precision is not monotonous in the threshold, so the lowest one is that of the largest recall.
    """
    curve = precision_recall_curve(matches)
    reached = np.flatnonzero(curve.precision >= precision)
    return _below(curve.scores, int(reached[-1])) if len(reached) else None


def _below(scores: np.ndarray, index: int) -> float:
    """Halfway to the next lower score, so that a new detection of nearly the same score is kept."""
    score = scores[index]
    following = scores[index + 1] if index + 1 < len(scores) else min(score, 0.0)
    halfway = (score + following) / 2
    return float(halfway if halfway > following else score)  # rounding may leave no room
