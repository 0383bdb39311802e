"""Confusion matrix of a detector, with a row and a column for the background."""

from dataclasses import dataclass, replace

import numpy as np

from counterpoise.errors import UserError
from counterpoise.evaluation.inputs import Detections, GroundTruth
from counterpoise.evaluation.matching import match

IOU_THRESHOLD = 0.5


@dataclass(frozen=True)
class ConfusionMatrix:
    """What became of every box and every detection.

    Attributes:
        counts: K + 1 rows of K + 1 counts. Row: the true class, the last one for detections
            without a box. Column: the predicted class, the last one for boxes without a detection.
            Row k < K sums to the boxes of class k; the last entry of the last row is 0.
        ignored: detections over ignored regions alone, which are in no cell.
    """

    counts: tuple[tuple[int, ...], ...]
    ignored: int


def confusion_matrix(
    ground_truth: GroundTruth, detections: Detections, min_score: np.ndarray
) -> ConfusionMatrix:
    """Match detections to boxes of any class, one to one, and count the pairs by their classes.

    In each image the detections choose by descending score; each takes the free box of highest
    IoU >= 0.5, or else lies over an ignored region that covers at least half of it.

    Args:
        ground_truth, detections: of one test set.
        min_score: (K,), the score from which on a detection of a class counts.

    Raises:
        UserError: `min_score` has not one value per class.
    """
    num_classes = ground_truth.num_classes
    if np.shape(min_score) != (num_classes,):
        raise UserError(
            f"min_score has the shape {np.shape(min_score)}, expected one score for each of the "
            f"{num_classes} classes"
        )
    kept = detections.scores >= np.asarray(min_score)[detections.classes]
    predicted = detections.classes[kept]
    (pairs,) = match(
        replace(ground_truth, class_names=("object",), classes=np.zeros_like(ground_truth.classes)),
        Detections(
            detections.boxes[kept],
            detections.scores[kept],
            np.zeros_like(predicted),
            detections.images[kept],
        ),
        thresholds=np.array([IOU_THRESHOLD]),
        max_detections=len(predicted),
    )
    gt, true_positives, ignored = pairs.gt[0], pairs.true_positives[0], pairs.ignored[0]
    predicted = predicted[pairs.detections]
    missed = np.setdiff1d(pairs.gt_indices, gt[true_positives])
    counts = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    np.add.at(counts, (ground_truth.classes[gt[true_positives]], predicted[true_positives]), 1)
    np.add.at(counts, (num_classes, predicted[~true_positives & ~ignored]), 1)
    np.add.at(counts, (ground_truth.classes[missed], num_classes), 1)
    return ConfusionMatrix(tuple(map(tuple, counts.tolist())), int(ignored.sum()))
