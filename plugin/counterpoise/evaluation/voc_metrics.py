"""Pascal VOC's average precision, by the rules of 2007 and by those of 2010 and later."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from counterpoise.evaluation.average_precision import mean_of_known
from counterpoise.evaluation.inputs import Detections, GroundTruth
from counterpoise.evaluation.matching import iou

IOU_THRESHOLD = 0.5

# Bit for bit as Detectron2 has them: the fourth lies above 0.3, so 3 of 10 boxes do not reach it.
_RECALLS_OF_2007 = np.arange(0.0, 1.1, 0.1)


@dataclass(frozen=True)
class VocClassResult:
    """Average precision of one class; None without boxes that count.

    Attributes:
        VOC07_AP50: mean of the precision at 11 recalls (VOC 2007), 0-100.
        VOC10_AP50: area under the whole curve (VOC 2010 and later), 0-100.
    """

    VOC07_AP50: float | None
    VOC10_AP50: float | None


@dataclass(frozen=True)
class VocResult:
    """Pascal VOC's metrics of a test set.

    Attributes:
        VOC07_AP50, VOC10_AP50: means over the classes with boxes, 0-100; None where no class has
            any.
        per_class: in class order.
    """

    VOC07_AP50: float | None
    VOC10_AP50: float | None
    per_class: tuple[VocClassResult, ...]


def voc_average_precision(ground_truth: GroundTruth, detections: Detections) -> VocResult:
    """Score detections by the rules of Pascal VOC (Everingham et al., IJCV 2010).

    A detection goes to the box of its class that it overlaps most in its image, be that box taken
    or not. With an IoU above 0.5 the first detection of a box is a true positive, every later one a
    false positive, and a detection of an ignored box (`difficult`) neither. Any number of
    detections counts.

    VOC counts pixels from 1 and its boxes include their last pixel, hence the +1 in its widths. Our
    boxes count from 0 and end after their last pixel: the same widths, so the same IoU.

    Args:
        ground_truth, detections: of one test set.

    Returns:
        equal to ``voc_eval`` of ``detectron2.evaluation.pascal_voc_evaluation`` at IoU 0.5, with
        ``use_07_metric`` and without, except that detections of equal score stay in their order.
    """
    order = np.lexsort((-detections.scores, detections.classes))
    overlap, box = _most_overlapped(ground_truth, detections)
    overlap, box = overlap[order], box[order]
    claims = overlap > IOU_THRESHOLD
    ignored = claims & (ground_truth.ignored[box] if len(ground_truth.ignored) else False)
    claims = np.flatnonzero(claims & ~ignored)
    _, first = np.unique(box[claims], return_index=True)
    true_positives = np.zeros(len(order), dtype=bool)
    true_positives[claims[first]] = True

    num_gt = ground_truth.boxes_per_class()
    ends = np.searchsorted(detections.classes[order], np.arange(ground_truth.num_classes + 1))
    per_class = tuple(
        _class_result(true_positives[begin:end][~ignored[begin:end]], n)
        for (begin, end), n in zip(pairwise(ends), num_gt.tolist(), strict=True)
    )
    return VocResult(
        VOC07_AP50=mean_of_known([c.VOC07_AP50 for c in per_class]),
        VOC10_AP50=mean_of_known([c.VOC10_AP50 for c in per_class]),
        per_class=per_class,
    )


def _most_overlapped(
    ground_truth: GroundTruth, detections: Detections
) -> tuple[np.ndarray, np.ndarray]:
    """IoU (D,) with the box of the same image and class that a detection overlaps most; its index.

    The first of equals; 0 and -1 where a detection overlaps none.
    """
    num_images = ground_truth.num_images
    gt_group = ground_truth.classes * num_images + ground_truth.images
    gt_order = np.argsort(gt_group, kind="stable")
    gt_group = gt_group[gt_order]
    group = detections.classes * num_images + detections.images
    first = np.searchsorted(gt_group, group, "left")
    count = np.searchsorted(gt_group, group, "right") - first
    best, box = np.zeros(len(detections)), np.full(len(detections), -1)
    # All detections against the n-th box of their image and class: few steps, little memory.
    for n in range(count.max(initial=0)):
        rows = np.flatnonzero(count > n)
        gt = gt_order[first[rows] + n]
        overlap = iou(detections.boxes[rows], ground_truth.boxes[gt])
        better = overlap > best[rows]
        best[rows[better]] = overlap[better]
        box[rows[better]] = gt[better]
    return best, box


def _class_result(true_positives: np.ndarray, num_gt: int) -> VocClassResult:
    """Both averages from flags (D,) of the detections that count, by descending score."""
    if num_gt == 0:
        return VocClassResult(None, None)
    found = np.cumsum(true_positives)
    recall = found / num_gt
    precision = found / np.arange(1, len(true_positives) + 1)
    # Highest precision at this or any higher recall, 0 beyond the last one.
    envelope = np.r_[np.maximum.accumulate(precision[::-1])[::-1], 0.0]
    at_11 = envelope[np.searchsorted(recall, _RECALLS_OF_2007, "left")]
    area = np.sum(np.diff(recall, prepend=0.0) * envelope[:-1])
    return VocClassResult(100 * float(at_11.sum() / 11), 100 * float(area))
