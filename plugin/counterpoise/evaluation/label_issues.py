"""Labels that a detector contradicts: objects overlooked, boxes badly placed, classes swapped.

The three kinds are those of ObjectLab (Tkachenko, Thyagarajan and Mueller, "ObjectLab: Automated
Diagnosis of Mislabeled Images in Object Detection Data", 2023, arXiv:2309.00832, section 3), which
scores whole images. Here every issue has a score of its own, so that it can be shown and mended by
itself. With p the score of a detection d, g a label, and fit(g) the highest score of a detection of
g's class whose IoU with g is at least 0.5 (0 without one):

    overlooked     p (1 - max over g of IoU(d, g))
    badly placed   p (1 - IoU(d, g)) (1 - fit(g))
    swapped        p IoU(d, g) (1 - fit(g))

Each is the probability that the detector is right and the label is not, were its scores
probabilities and their errors independent.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np

from counterpoise.evaluation.error_types import FOREGROUND_IOU
from counterpoise.evaluation.inputs import Detections, GroundTruth
from counterpoise.evaluation.matching import iou

#: IoU from which a detection is of the object of a label of its class, though badly placed: in a
#: crowd, what overlaps a label less than this is mostly a neighbour of the labelled object.
BESIDE_IOU = 0.3


class IssueKind(str, Enum):
    """What may be wrong with the labels."""

    #: A detection that fits no label of any class, and is not beside one of its own.
    OVERLOOKED = "overlooked"
    #: A label of the detection's class beside it, IoU 0.3 to 0.5, that no other detection fits.
    BADLY_PLACED = "badly placed"
    #: A label of another class in the detection's place, which no detection of that class fits.
    SWAPPED = "swapped"


@dataclass(frozen=True)
class LabelIssue:
    """A label that a detection contradicts.

    Attributes:
        kind: what may be wrong.
        detection: index into :class:`Detections`, the suggested box and class.
        gt: index into :class:`GroundTruth` of the label in question; -1 of an overlooked object.
        score: in [0, 1], to rank by.
        earlier: models of the same training before this one that contradict the label, too.
    """

    kind: IssueKind
    detection: int
    gt: int
    score: float
    earlier: int = 0


def find_label_issues(
    truth: GroundTruth, found: Detections, min_score: float = 0.5
) -> list[LabelIssue]:
    """Find the labels that confident detections contradict.

    A label that a confident detection of its class fits is in order; so is everything in ignored
    regions. Each detection and each label is in one issue at most, and of detections of one place,
    whatever their class, only the surest counts as an overlooked object.

    Args:
        truth, found: of one dataset.
        min_score: lowest score of a confident detection.

    Returns:
        by descending score.
    """
    order = np.lexsort((-found.scores, found.images))
    ends = np.searchsorted(found.images[order], np.arange(truth.num_images + 1))
    gt_order = np.argsort(truth.images, kind="stable")
    gt_ends = np.searchsorted(truth.images[gt_order], np.arange(truth.num_images + 1))
    issues: list[LabelIssue] = []
    # An image without a confident detection contradicts nothing.
    for i in np.unique(found.images[found.scores >= min_score]):
        own = order[ends[i] : ends[i + 1]]
        labels = gt_order[gt_ends[i] : gt_ends[i + 1]]
        issues += _in_image(truth, found, own, labels, min_score)
    return sorted(issues, key=lambda issue: -issue.score)


def with_earlier(
    truth: GroundTruth, found: Detections, earlier: Sequence[Detections], min_score: float = 0.5
) -> list[LabelIssue]:
    """Find label issues, and how many earlier models of the same training agree on each.

    What every model contradicts stays hard for all of the training, which wrong labels do and most
    hard objects do not.

    Args:
        truth, found, min_score: as :func:`find_label_issues` takes them.
        earlier: detections of the earlier models.

    Returns:
        by descending number of models, then by descending score. An earlier model agrees where it
        has an issue of that kind and class whose box has an IoU of at least 0.5 with this one's.
    """
    issues = find_label_issues(truth, found, min_score)
    agreeing = np.zeros(len(issues), dtype=int)
    for other in earlier:
        known: dict[tuple[IssueKind, int, int], list[np.ndarray]] = {}
        for issue in find_label_issues(truth, other, min_score):
            known.setdefault(_place(issue, other), []).append(other.boxes[issue.detection])
        for n, issue in enumerate(issues):
            boxes = known.get(_place(issue, found), ())
            overlaps = (iou(found.boxes[issue.detection], box) for box in boxes)
            agreeing[n] += any(overlap >= FOREGROUND_IOU for overlap in overlaps)
    counted = [replace(i, earlier=int(n)) for i, n in zip(issues, agreeing, strict=True)]
    return sorted(counted, key=lambda issue: (-issue.earlier, -issue.score))


def _place(issue: LabelIssue, found: Detections) -> tuple[IssueKind, int, int]:
    """Kind, image and detected class of an issue."""
    d = issue.detection
    return issue.kind, int(found.images[d]), int(found.classes[d])


def _in_image(
    truth: GroundTruth, found: Detections, own: np.ndarray, labels: np.ndarray, min_score: float
) -> Iterator[LabelIssue]:
    """Issues of one image.

    Args:
        own: (D,), its detections by descending score.
        labels: (G,), its labels.
    """
    ignored = truth.ignored[labels]
    scores = found.scores[own]
    overlap = iou(found.boxes[own][:, None], truth.boxes[labels], ignored)  # (D, G)
    same_class = found.classes[own][:, None] == truth.classes[labels]
    fits = overlap >= FOREGROUND_IOU
    fit = np.where(fits & same_class, scores[:, None], 0).max(axis=0, initial=0)  # (G,)
    doubtful = (fit < min_score) & ~ignored

    confident = scores >= min_score
    free = confident & ~fits.any(axis=1)
    beside = same_class & free[:, None] & (overlap >= BESIDE_IOU)
    overlooked = free & ~beside.any(axis=1)
    in_place = fits & ~same_class & confident[:, None]
    in_place &= ~(fits & (same_class | ignored)).any(axis=1)[:, None]
    kept: list[int] = []  # detections in an issue
    for kind, candidates, scale in (
        (IssueKind.SWAPPED, in_place, overlap),
        (IssueKind.BADLY_PLACED, beside, 1 - overlap),
    ):
        value = np.where(candidates & doubtful, scores[:, None] * scale * (1 - fit), -1.0)
        for d, g in _one_to_one(value):
            kept.append(d)
            doubtful[g] = False
            yield LabelIssue(kind, int(own[d]), int(labels[g]), float(value[d, g]))

    for d in np.flatnonzero(overlooked):  # by descending score
        if not (iou(found.boxes[own[d]], found.boxes[own[kept]]) >= FOREGROUND_IOU).any():
            kept.append(d)
            score = scores[d] * (1 - overlap[d].max(initial=0))
            yield LabelIssue(IssueKind.OVERLOOKED, int(own[d]), -1, float(score))


def _one_to_one(value: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of row and column by descending value >= 0, each row and column once."""
    value = value.copy()
    while value.size and value.max() >= 0:
        row, column = np.unravel_index(value.argmax(), value.shape)
        yield int(row), int(column)
        value[row], value[:, column] = -1, -1


def issues_as_coco(
    truth: GroundTruth, found: Detections, issues: list[LabelIssue]
) -> dict[str, list[Mapping[str, Any]]]:
    """Suggestions as a COCO dataset, for annotation tools.

    Args:
        truth, found: of the dataset.
        issues: of :func:`find_label_issues`.

    Returns:
        ``images`` (those with an issue), ``categories`` (ids in class order from 0) and
        ``annotations``: each has the suggested ``bbox`` (XYWH, pixels) and ``category_id``, the
        ``kind``, the ``score``, the number of ``earlier_models`` that agree, and in ``label`` the
        ``bbox`` and ``category_id`` as they stand, or null for an overlooked object.
    """
    images: dict[int, dict[str, Any]] = {}
    annotations = []
    for number, issue in enumerate(issues, start=1):
        d, g = issue.detection, issue.gt
        i = int(found.images[d])
        images[i] = {"id": truth.image_ids[i], "file_name": truth.file_names[i]}
        if truth.image_sizes is not None:
            width, height = truth.image_sizes[i].astype(int).tolist()
            images[i] |= {"width": width, "height": height}
        label = None
        if g >= 0:
            label = {"bbox": truth.boxes[g].tolist(), "category_id": int(truth.classes[g])}
        annotations.append(
            {
                "id": number,
                "image_id": truth.image_ids[i],
                "category_id": int(found.classes[d]),
                "bbox": found.boxes[d].tolist(),
                "area": float(found.boxes[d, 2:].prod()),
                "iscrowd": 0,
                "kind": issue.kind.value,
                "score": issue.score,
                "earlier_models": issue.earlier,
                "label": label,
            }
        )
    return {
        "images": [images[i] for i in sorted(images)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(truth.class_names)],
        "annotations": annotations,
    }
