"""COCO's matching of detections to ground truth, for all classes and IoU thresholds at once.

What pycocotools computes image by image is kept per detection, for the intervals, curves,
thresholds and error types, which need it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from counterpoise.evaluation.inputs import Detections, GroundTruth

#: 0.50, 0.55, ... 0.95, bit for bit as pycocotools has them.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
#: Detections of one class in one image that count.
MAX_DETECTIONS = 100
#: Pairs of detection and box whose IoU is computed at once, which bounds the memory.
PAIRS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class ClassMatches:
    """The detections of one class, by descending score, and what they matched; T IoU thresholds.

    Attributes:
        detections: (D,) int64, index into the arrays of :class:`Detections`.
        scores: (D,) float64, descending.
        images: (D,) int64.
        gt: (T, D) int64, index into the arrays of :class:`GroundTruth`, -1 where there is no match.
        ignored: (T, D) bool, matched to an ignored region: neither a true nor a false positive.
        gt_indices: (n,) int64, the boxes of the class that count.
        gt_images: (n,) int64, their images.
    """

    detections: np.ndarray
    scores: np.ndarray
    images: np.ndarray
    gt: np.ndarray
    ignored: np.ndarray
    gt_indices: np.ndarray
    gt_images: np.ndarray

    @property
    def true_positives(self) -> np.ndarray:
        """(T, D) bool: true positives."""
        return (self.gt >= 0) & ~self.ignored

    @property
    def num_gt(self) -> int:
        """Boxes that count."""
        return len(self.gt_indices)


def corners(boxes: np.ndarray) -> np.ndarray:
    """Boxes (..., 4) XYWH as XYXY."""
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def iou(boxes: np.ndarray, others: np.ndarray, crowd: np.ndarray | bool = False) -> np.ndarray:
    """IoU of boxes with others of equal or broadcast shape, computed as pycocotools does.

    Args:
        boxes: (..., 4), XYWH.
        others: (..., 4), XYWH.
        crowd: (...) bool; there the union is the area of `boxes` alone.

    Returns:
        (...) float64, 0 where both are without area.
    """
    low = np.maximum(boxes[..., :2], others[..., :2])
    high = np.minimum(boxes[..., :2] + boxes[..., 2:], others[..., :2] + others[..., 2:])
    intersection = np.clip(high - low, 0, None).prod(axis=-1)
    area, other_area = boxes[..., 2:].prod(axis=-1), others[..., 2:].prod(axis=-1)
    union = np.where(crowd, area, area + other_area - intersection)
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def match(
    ground_truth: GroundTruth,
    detections: Detections,
    thresholds: np.ndarray = IOU_THRESHOLDS,
    max_detections: int = MAX_DETECTIONS,
) -> tuple[ClassMatches, ...]:
    """Match detections to ground truth of their class as pycocotools' ``evaluateImg`` does.

    In each image the detections of a class choose in the order of their scores; each takes the free
    box of highest IoU, or else an ignored region, where the IoU reaches the threshold.

    Args:
        ground_truth, detections: of one test set.
        thresholds: (T,), IoU.
        max_detections: of a class in an image.

    Returns:
        one result per class, in class order.
    """
    num_images = max(ground_truth.num_images, 1)
    group = detections.classes * num_images + detections.images
    order = np.lexsort((-detections.scores, group))
    rank = _rank_in_runs(group[order])
    order, rank = order[rank < max_detections], rank[rank < max_detections]

    gt_group = ground_truth.classes * num_images + ground_truth.images
    gt_order = np.argsort(gt_group, kind="stable")
    pairs = [
        _overlapping(
            part, gt_order, gt_group[gt_order], group, ground_truth, detections, thresholds
        )
        for part in _parts(order, group, gt_group)
    ]
    position, gt, overlap = map(np.concatenate, zip(*pairs, strict=True)) if pairs else ([], [], [])
    gt_of = np.full((len(thresholds), len(detections)), -1)
    _assign(position, gt, overlap, group, ground_truth.ignored, thresholds, gt_of)

    ignored = np.zeros_like(gt_of, dtype=bool)
    if len(ground_truth.ignored):
        ignored = (gt_of >= 0) & ground_truth.ignored[gt_of]
    # Equal scores stay in the order of images and, within an image, of their ranks.
    keys = (rank, detections.images[order], -detections.scores[order], detections.classes[order])
    order = order[np.lexsort(keys)]
    counted = np.flatnonzero(~ground_truth.ignored)
    counted = counted[np.argsort(ground_truth.classes[counted], kind="stable")]
    classes = np.arange(ground_truth.num_classes + 1)
    ends = np.searchsorted(detections.classes[order], classes)
    gt_ends = np.searchsorted(ground_truth.classes[counted], classes)
    return tuple(
        _of_class(
            order[ends[k] : ends[k + 1]], counted[gt_ends[k] : gt_ends[k + 1]],
            gt_of, ignored, ground_truth, detections,
        )
        for k in range(ground_truth.num_classes)
    )  # fmt: skip


def _of_class(
    chosen: np.ndarray,
    counted: np.ndarray,
    gt_of: np.ndarray,
    ignored: np.ndarray,
    ground_truth: GroundTruth,
    detections: Detections,
) -> ClassMatches:
    return ClassMatches(
        detections=chosen,
        scores=detections.scores[chosen],
        images=detections.images[chosen],
        gt=gt_of[:, chosen],
        ignored=ignored[:, chosen],
        gt_indices=counted,
        gt_images=ground_truth.images[counted],
    )


def _rank_in_runs(values: np.ndarray) -> np.ndarray:
    """Position of each element within its run of equal values."""
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]][: len(values)])
    lengths = np.diff(np.r_[starts, len(values)])
    return np.arange(len(values)) - np.repeat(starts, lengths)


def _parts(order: np.ndarray, group: np.ndarray, gt_group: np.ndarray) -> Iterator[np.ndarray]:
    """Split detections so that the pairs of a part fit into memory."""
    sizes = np.sort(gt_group)
    counts = np.searchsorted(sizes, group[order], "right") - np.searchsorted(sizes, group[order])
    cuts = np.flatnonzero(np.diff(np.cumsum(counts) // PAIRS_AT_ONCE)) + 1
    return (part for part in np.split(order, cuts) if len(part))


def _overlapping(
    chosen: np.ndarray,
    gt_order: np.ndarray,
    gt_group: np.ndarray,
    group: np.ndarray,
    ground_truth: GroundTruth,
    detections: Detections,
    thresholds: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (detection, ground truth, IoU) of one image and class that reach the lowest threshold.

    The order of the detections is kept; for each one, the order of the ground truth.
    """
    first = np.searchsorted(gt_group, group[chosen], "left")
    count = np.searchsorted(gt_group, group[chosen], "right") - first
    detection = np.repeat(chosen, count)
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    gt = gt_order[np.repeat(first, count) + within]
    overlap = iou(
        detections.boxes[detection], ground_truth.boxes[gt], crowd=ground_truth.ignored[gt]
    )
    kept = overlap >= thresholds[0]
    return detection[kept], gt[kept], overlap[kept]


def _assign(
    detection: np.ndarray,
    gt: np.ndarray,
    overlap: np.ndarray,
    group: np.ndarray,
    ignored: np.ndarray,
    thresholds: np.ndarray,
    gt_of: np.ndarray,
) -> None:
    """Let the detections choose, the n-th of every image and class at the same time."""
    if not len(detection):
        return
    starts = np.flatnonzero(np.r_[True, detection[1:] != detection[:-1]])
    turn = _rank_in_runs(group[detection[starts]])
    turn_of_pair = np.repeat(turn, np.diff(np.r_[starts, len(detection)]))
    taken = np.zeros((len(thresholds), len(ignored)), dtype=bool)
    by_turn = np.argsort(turn_of_pair, kind="stable")
    ends = np.cumsum(np.bincount(turn_of_pair))
    for begin, end in zip(np.r_[0, ends[:-1]], ends, strict=True):
        pairs = by_turn[begin:end]
        d, g = detection[pairs], gt[pairs]
        starts = np.flatnonzero(np.r_[True, d[1:] != d[:-1]])
        reaches = overlap[pairs] >= thresholds[:, None]
        free = reaches & ~taken[:, g] & ~ignored[g]
        best = _last_best(overlap[pairs], free, starts)
        if ignored[g].any():
            region = _last_best(overlap[pairs], reaches & ignored[g], starts)
            best = np.where(best >= 0, best, region)
        t, column = np.nonzero(best >= 0)
        chosen = g[best[t, column]]
        gt_of[t, d[starts[column]]] = chosen
        taken[t, chosen] = True


def _last_best(overlap: np.ndarray, allowed: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Index (T, S) of the highest allowed overlap in each of S runs, the last of equals, or -1."""
    values = np.where(allowed, overlap, -1.0)
    best = np.maximum.reduceat(values, starts, axis=1)
    lengths = np.diff(np.r_[starts, values.shape[1]])
    is_best = allowed & (values == np.repeat(best, lengths, axis=1))
    return np.maximum.reduceat(np.where(is_best, np.arange(values.shape[1]), -1), starts, axis=1)
