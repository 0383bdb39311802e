"""Average recall of class-agnostic proposals."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from counterpoise.evaluation.matching import IOU_THRESHOLDS, iou

#: Proposals of an image that count.
LIMITS = (100, 1000)


@dataclass(frozen=True)
class ImageRecall:
    """How well the proposals of an image cover its n boxes.

    Attributes:
        classes: (n,) int64, of the boxes.
        overlaps: (2, n) float64, IoU of each box with its proposal under either of :data:`LIMITS`,
            0 without one.
        num_proposals: that the model gave.
    """

    classes: np.ndarray
    overlaps: np.ndarray
    num_proposals: int


@dataclass(frozen=True)
class ProposalResult:
    """Average recall over IoU 0.50:0.95; None without boxes.

    Attributes:
        proposal_AR100, proposal_AR1000: of all boxes, with the 100 and 1,000 best proposals of
            each image, 0-100.
        per_class_AR100, per_class_AR1000: K values, of the boxes of a class, 0-100.
        num_boxes: that were to be covered.
        max_proposals: the most that any image had. Where it is below a limit, the recall at that
            limit is the recall of all proposals.
    """

    proposal_AR100: float | None
    proposal_AR1000: float | None
    per_class_AR100: tuple[float | None, ...]
    per_class_AR1000: tuple[float | None, ...]
    num_boxes: int
    max_proposals: int


@dataclass
class ProposalRecall:
    """Gathers image after image; see :meth:`add`.

    Processes that share a test set exchange their `state`, a list that can be pickled; the
    concatenated lists are the state for all images.

    Attributes:
        num_classes: K.
        state: one entry for each image added.
    """

    num_classes: int
    state: list[ImageRecall] = field(default_factory=list)

    def add(self, proposals: np.ndarray, gt_boxes: np.ndarray, gt_classes: np.ndarray) -> None:
        """Add an image.

        Pairs of proposal and box are made one to one, the pair of highest IoU among all that are
        left first, as ``_evaluate_box_proposals`` of ``detectron2.evaluation.coco_evaluation``
        does. Unlike there, the boxes of an image without proposals count as not covered.

        Args:
            proposals: (P, 4), XYXY, by descending objectness.
            gt_boxes: (n, 4), XYXY; boxes that count, so without ignored regions.
            gt_classes: (n,) integers in [0, K).
        """
        overlap = iou(_xywh(proposals)[:, None], _xywh(gt_boxes))
        self.state.append(
            ImageRecall(
                classes=np.asarray(gt_classes, dtype=np.int64),
                overlaps=np.stack([_pair(overlap[:limit].copy()) for limit in LIMITS]),
                num_proposals=len(proposals),
            )
        )

    def result(self) -> ProposalResult:
        """Average over the images added so far."""
        none = ImageRecall(np.zeros(0, np.int64), np.zeros((len(LIMITS), 0)), 0)
        images = [none, *self.state]
        classes = np.concatenate([image.classes for image in images])
        covered = np.concatenate([image.overlaps for image in images], axis=1)
        # Share of the thresholds that a box reaches: its mean is the mean of the recalls.
        reached = (covered[..., None] >= IOU_THRESHOLDS).mean(axis=-1)
        per_class = [reached[:, classes == k] for k in range(self.num_classes)]
        return ProposalResult(
            proposal_AR100=_percent(reached[0]),
            proposal_AR1000=_percent(reached[1]),
            per_class_AR100=tuple(_percent(own[0]) for own in per_class),
            per_class_AR1000=tuple(_percent(own[1]) for own in per_class),
            num_boxes=len(classes),
            max_proposals=max(image.num_proposals for image in images),
        )


def _xywh(boxes: np.ndarray | Sequence[Sequence[float]]) -> np.ndarray:
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _pair(overlap: np.ndarray) -> np.ndarray:
    """IoU (n,) of each box with its proposal, from those of all pairs (P, n), which it destroys."""
    num_proposals, num_boxes = overlap.shape
    covered = np.zeros(num_boxes)
    if not overlap.size:
        return covered
    nearest, best = overlap.argmax(axis=0), overlap.max(axis=0)
    for _ in range(min(num_proposals, num_boxes)):
        box = best.argmax()
        covered[box] = best[box]
        proposal = nearest[box]
        overlap[proposal], overlap[:, box], best[box] = -1, -1, -1
        # Only the boxes whose nearest proposal this was need another one.
        again = np.flatnonzero((nearest == proposal) & (best >= 0))
        nearest[again] = overlap[:, again].argmax(axis=0)
        best[again] = overlap[nearest[again], again]
    return covered


def _percent(reached: np.ndarray) -> float | None:
    return 100 * float(reached.mean()) if reached.size else None
