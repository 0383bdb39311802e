"""Error types and the AP50 that each costs, in the sense of TIDE.

Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020,
arXiv:2008.08115: section 2.2 for the types, 2.3 for what it means to fix an error.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from counterpoise.errors import UserError
from counterpoise.evaluation.average_precision import average_precision, mean_of_known
from counterpoise.evaluation.inputs import Detections, GroundTruth
from counterpoise.evaluation.matching import ClassMatches, iou

#: Lowest IoU of a correctly localised detection (the paper's t_f).
FOREGROUND_IOU = 0.5
#: Highest IoU of a detection on the background (the paper's t_b).
BACKGROUND_IOU = 0.1


class ErrorType(IntEnum):
    """What a detection is; the errors are those from CLASSIFICATION on."""

    #: Not among the detections of a class in an image that count.
    UNCOUNTED = -4
    #: A false positive near no box, at least half of which lies in an ignored region.
    OVER_IGNORED = -3
    #: Matched to an ignored region: neither a true nor a false positive.
    IGNORED = -2
    TRUE_POSITIVE = -1
    #: IoU >= 0.5 with a box of another class.
    CLASSIFICATION = 0
    #: IoU 0.1 to 0.5 with a box of its class.
    LOCALISATION = 1
    #: IoU 0.1 to 0.5 with a box of another class.
    BOTH = 2
    #: IoU >= 0.5 with a box of its class to which another detection is matched.
    DUPLICATE = 3
    #: IoU <= 0.1 with every box.
    BACKGROUND = 4
    #: Not a detection: a box without a true positive, classification or localisation error.
    MISSED = 5


#: The error types by their names in results.
ERROR_TYPES = {each.name.lower(): each for each in ErrorType if each >= ErrorType.CLASSIFICATION}


@dataclass(frozen=True)
class ErrorCount:
    """Errors of one type.

    Attributes:
        count: false positives by their predicted class, missed boxes by their own.
        AP50_lost: AP50 after fixing the errors of this type alone, minus AP50, 0-100; None
            without boxes. The types do not sum to 100 - AP50.
    """

    count: int
    AP50_lost: float | None


@dataclass(frozen=True)
class ErrorTypes:
    """Errors on a test set.

    Attributes:
        types: (D,) int8, the :class:`ErrorType` of each detection, never MISSED.
        gt: (D,) int64, index into :class:`GroundTruth` of the box of a true positive or of a
            classification, localisation or duplicate error; -1 for the other types.
        per_class: by :data:`ERROR_TYPES`, in class order.
        overall: by :data:`ERROR_TYPES`; counts are sums over the classes, AP50 lost the mean over
            the classes with boxes.
    """

    types: np.ndarray
    gt: np.ndarray
    per_class: tuple[dict[str, ErrorCount], ...]
    overall: dict[str, ErrorCount]


@dataclass(frozen=True)
class BackgroundRate:
    """Background errors of a class at a given recall; all None where it does not reach it.

    Attributes:
        score: the highest score threshold that reaches the recall.
        per_image: background errors at or above it, per image of the test set.
        missed: missed boxes when the detections of each class below its own threshold are left out
            (none are where a class does not reach the recall).
    """

    score: float | None
    per_image: float | None
    missed: int | None


def classify_errors(
    ground_truth: GroundTruth,
    detections: Detections,
    matches: Sequence[ClassMatches],
    min_score: np.ndarray | None = None,
) -> ErrorTypes:
    """Give every false positive a type, count the types, and measure what each costs in AP50.

    Where several types apply, the first one counts, in the order of the authors' program:
    localisation, classification, duplicate, background, both. The box is the one of highest IoU. A
    false positive on the background with at least half of its area in an ignored region is not
    counted as an error, but remains a false positive in AP, whichever type is fixed.

    :func:`AP50_after_fixing` says how errors are fixed.

    Args:
        ground_truth, detections: of one test set.
        matches: of :func:`~counterpoise.evaluation.matching.match`, first IoU threshold 0.5.
        min_score: (K,), lowest score of a detection of each class that is counted. AP50 lost is
            of all detections, whatever their score.

    Raises:
        UserError: `min_score` has not one value per class.
    """
    if min_score is None:
        min_score = np.full(len(matches), -np.inf)
    if np.shape(min_score) != (len(matches),):
        raise UserError(
            f"min_score has the shape {np.shape(min_score)}, expected one score for each of the "
            f"{len(matches)} classes"
        )
    types, gt = _types(ground_truth, detections, matches)
    kept = _at_or_above(min_score, matches, len(detections))
    missed = _missed(matches, types, gt, kept)
    AP50 = AP50_after_fixing((), ground_truth, detections, matches, types, gt)
    per_class: list[dict[str, ErrorCount]] = [{} for _ in matches]
    for name, error_type in ERROR_TYPES.items():
        fixed = AP50_after_fixing({error_type}, ground_truth, detections, matches, types, gt)
        counts = missed
        if error_type != ErrorType.MISSED:
            own = detections.classes[kept & (types == error_type)]
            counts = np.bincount(own, minlength=len(matches)).tolist()
        for k, before in enumerate(AP50):
            lost = None if before is None else fixed[k] - before
            per_class[k][name] = ErrorCount(counts[k], lost)
    overall = {
        name: ErrorCount(
            count=sum(own[name].count for own in per_class),
            AP50_lost=mean_of_known([own[name].AP50_lost for own in per_class]),
        )
        for name in ERROR_TYPES
    }
    return ErrorTypes(types, gt, tuple(per_class), overall)


def background_false_positives(
    matches: Sequence[ClassMatches], errors: ErrorTypes, num_images: int, recall: float
) -> tuple[BackgroundRate, ...]:
    """Count background errors per image at a given recall, where runs can be compared.

    Args:
        matches: as for :func:`classify_errors`.
        errors: its result.
        num_images: of the test set.
        recall: to be reached at IoU 0.5, in (0, 1].

    Returns:
        one result per class.

    Raises:
        UserError: `recall` is out of range.
    """
    if not 0 < recall <= 1:
        raise UserError(f"recall is {recall}, expected above 0 and at most 1")
    thresholds = np.full(len(matches), -np.inf)
    for k, match in enumerate(matches):
        # The same division as in the results, so that a recall taken from there is reached.
        reaches = np.cumsum(match.true_positives[0]) / max(match.num_gt, 1) >= recall
        if reaches.any():
            thresholds[k] = match.scores[reaches.argmax()]
    kept = _at_or_above(thresholds, matches, len(errors.types))
    missed = _missed(matches, errors.types, errors.gt, kept)
    background = kept & (errors.types == ErrorType.BACKGROUND)
    return tuple(
        BackgroundRate(
            score=float(score),
            per_image=int(background[match.detections].sum()) / num_images,
            missed=missed[k],
        )
        if np.isfinite(score)
        else BackgroundRate(None, None, None)
        for k, (score, match) in enumerate(zip(thresholds, matches, strict=True))
    )


def AP50_after_fixing(
    fixed: Collection[ErrorType],
    ground_truth: GroundTruth,
    detections: Detections,
    matches: Sequence[ClassMatches],
    types: np.ndarray,
    gt: np.ndarray,
) -> list[float | None]:
    """AP50 of each class after fixing all errors of some types (the paper's section 2.3).

    A fixed classification error becomes a true positive of the class of its box, a fixed
    localisation error one of its own class. Where several would take the same box, the one of
    highest score does and the others are removed; all are where the box has a true positive
    already. Errors of the types both, duplicate and background are removed. Missed boxes are
    removed from the ground truth; if that leaves a class without boxes, its AP50 is 0 with false
    positives and 100 without.

    Args:
        fixed: the types to fix; with none, the result is COCO's AP50.
        ground_truth, detections, matches: as for :func:`classify_errors`.
        types, gt: of :class:`ErrorTypes`.

    Returns:
        K values, 0-100; None for a class without boxes.
    """
    true_positives = types == ErrorType.TRUE_POSITIVE
    removed = np.isin(types, list(fixed))
    classes = detections.classes.copy()
    candidates = removed & np.isin(types, (ErrorType.CLASSIFICATION, ErrorType.LOCALISATION))
    candidates = np.flatnonzero(candidates & ~np.isin(gt, gt[true_positives]))
    candidates = candidates[np.argsort(-detections.scores[candidates], kind="stable")]
    boxes, first = np.unique(gt[candidates], return_index=True)
    best = candidates[first]
    classes[best] = ground_truth.classes[boxes]
    true_positives[best], removed[best] = True, False

    num_gt = np.array([match.num_gt for match in matches])
    if ErrorType.MISSED in fixed:
        num_gt -= _missed(matches, types, gt, types != ErrorType.UNCOUNTED)
    order = np.concatenate([match.detections for match in matches])
    order = order[~removed[order] & (types[order] != ErrorType.IGNORED)]
    # Stable, so that equal scores keep the order in which COCO counts them.
    order = order[np.lexsort((-detections.scores[order], classes[order]))]
    ends = np.searchsorted(classes[order], np.arange(len(matches) + 1))
    AP50: list[float | None] = []
    for k, match in enumerate(matches):
        own = true_positives[order[ends[k] : ends[k + 1]]]
        if not match.num_gt:
            AP50.append(None)
        elif num_gt[k]:
            AP50.append(100 * average_precision(own, np.ones_like(own), int(num_gt[k])))
        else:
            AP50.append(0.0 if len(own) else 100.0)
    return AP50


def _types(
    ground_truth: GroundTruth, detections: Detections, matches: Sequence[ClassMatches]
) -> tuple[np.ndarray, np.ndarray]:
    """The first two attributes of :class:`ErrorTypes`."""
    types = np.full(len(detections), ErrorType.UNCOUNTED, dtype=np.int8)
    gt = np.full(len(detections), -1)
    for match in matches:
        true_positives, ignored = match.true_positives[0], match.ignored[0]
        types[match.detections[true_positives]] = ErrorType.TRUE_POSITIVE
        types[match.detections[ignored]] = ErrorType.IGNORED
        types[match.detections[~true_positives & ~ignored]] = ErrorType.BACKGROUND
        gt[match.detections[true_positives]] = match.gt[0, true_positives]

    wrong = np.flatnonzero(types == ErrorType.BACKGROUND)
    (own, own_gt), (other, other_gt), (region, _) = _most_overlapped(
        ground_truth, detections, wrong
    )
    chosen = np.select(
        [
            (own >= BACKGROUND_IOU) & (own < FOREGROUND_IOU),
            other >= FOREGROUND_IOU,
            own >= FOREGROUND_IOU,
            (np.maximum(own, other) <= BACKGROUND_IOU) & (region >= FOREGROUND_IOU),
            np.maximum(own, other) <= BACKGROUND_IOU,
        ],
        [
            ErrorType.LOCALISATION,
            ErrorType.CLASSIFICATION,
            ErrorType.DUPLICATE,
            ErrorType.OVER_IGNORED,
            ErrorType.BACKGROUND,
        ],
        ErrorType.BOTH,
    )
    types[wrong] = chosen
    gt[wrong] = np.select(
        [
            chosen == ErrorType.CLASSIFICATION,
            np.isin(chosen, (ErrorType.LOCALISATION, ErrorType.DUPLICATE)),
        ],
        [other_gt, own_gt],
        -1,
    )
    return types, gt


def _most_overlapped(
    ground_truth: GroundTruth, detections: Detections, chosen: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """IoU (n,) and index (n,) of what each of n chosen detections overlaps most in its image.

    First among the boxes of its class, then among those of other classes, then among the ignored
    regions, where the overlap is a share of the detection's own area.
    """
    num_images = ground_truth.num_images
    overlaps, indices = np.zeros((3, len(chosen))), np.full((3, len(chosen)), -1)
    of_image = zip(
        _by_image(detections.images[chosen], num_images),
        _by_image(ground_truth.images, num_images),
        strict=True,
    )
    for rows, gt in of_image:
        if not len(rows) or not len(gt):
            continue
        d, ignored = chosen[rows], ground_truth.ignored[gt]
        overlap = iou(detections.boxes[d][:, None], ground_truth.boxes[gt], crowd=ignored)
        same = detections.classes[d][:, None] == ground_truth.classes[gt]
        for i, among in enumerate((same & ~ignored, ~same & ~ignored, ignored)):
            allowed = np.where(among, overlap, 0.0)
            best = allowed.argmax(axis=1)
            overlaps[i, rows] = allowed[np.arange(len(rows)), best]
            indices[i, rows] = gt[best]
    return zip(overlaps, indices, strict=True)


def _by_image(images: np.ndarray, num_images: int) -> list[np.ndarray]:
    """Indices of the elements of each image."""
    order = np.argsort(images, kind="stable")
    return np.split(order, np.searchsorted(images[order], np.arange(1, num_images)))


def _at_or_above(
    min_score: np.ndarray, matches: Sequence[ClassMatches], num_detections: int
) -> np.ndarray:
    """(D,) bool: detections that count and reach the score (K,) of their class."""
    kept = np.zeros(num_detections, dtype=bool)
    for threshold, match in zip(min_score, matches, strict=True):
        kept[match.detections] = match.scores >= threshold
    return kept


def _missed(
    matches: Sequence[ClassMatches], types: np.ndarray, gt: np.ndarray, kept: np.ndarray
) -> list[int]:
    """Boxes of each class without a kept true positive, classification or localisation error."""
    finders = kept & np.isin(
        types, (ErrorType.TRUE_POSITIVE, ErrorType.CLASSIFICATION, ErrorType.LOCALISATION)
    )
    boxes = np.concatenate([match.gt_indices for match in matches])
    classes = np.repeat(np.arange(len(matches)), [match.num_gt for match in matches])
    missed = ~np.isin(boxes, gt[finders])
    return np.bincount(classes[missed], minlength=len(matches)).tolist()
