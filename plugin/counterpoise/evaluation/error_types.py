"""Error types and the AP50 that each costs, in the sense of TIDE.

Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020,
arXiv:2008.08115: section 2.2 for the kinds, 2.3 for what it means to fix them.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from counterpoise.errors import UserError
from counterpoise.evaluation.average_precision import average_precision, mean_of_known
from counterpoise.evaluation.inputs import Detections, GroundTruth
from counterpoise.evaluation.matching import ClassMatches, iou

#: IoU from which on a detection is in the right place (the paper's t_f).
FOREGROUND_IOU = 0.5
#: IoU up to which a detection is on the background (the paper's t_b).
BACKGROUND_IOU = 0.1


class ErrorType(IntEnum):
    """What a detection is; from CLASSIFICATION on an error."""

    #: Beyond the detections of a class in an image that count.
    UNCOUNTED = -4
    #: A miss without a box, but over an ignored region of another class: who can tell?
    OVER_IGNORED = -3
    #: Matched to an ignored region: neither hit nor miss.
    IGNORED = -2
    TRUE_POSITIVE = -1
    #: In the place of a box of another class.
    CLASSIFICATION = 0
    #: Near a box of its class, but not near enough.
    LOCALISATION = 1
    #: Near a box of another class, but not near enough.
    BOTH = 2
    #: In the place of a box of its class that a detection of higher score has taken.
    DUPLICATE = 3
    #: Near no box.
    BACKGROUND = 4
    #: No detection, but a box that none found, nor would have if classified or localised rightly.
    MISSED = 5


#: The error types by their names in results.
ERROR_TYPES = {kind.name.lower(): kind for kind in ErrorType if kind >= ErrorType.CLASSIFICATION}


@dataclass(frozen=True)
class ErrorCount:
    """Errors of one kind.

    Attributes:
        count: detections under the class that they name, missed boxes under theirs.
        AP50_lost: AP50 once the errors of this kind alone are fixed, minus AP50, 0-100; None
            without boxes. The kinds do not sum to 100 - AP50.
    """

    count: int
    AP50_lost: float | None


@dataclass(frozen=True)
class ErrorTypes:
    """Errors on a test set.

    Attributes:
        kinds: (D,) int8, what each detection is: a :class:`ErrorType` other than MISSED.
        gt: (D,) int64, the box that a hit, classification, localisation or duplicate error is
            about, as index into :class:`GroundTruth`; -1 for the other kinds.
        per_class: by :data:`ERROR_TYPES`, in class order.
        overall: by :data:`ERROR_TYPES`; counts are sums over the classes, AP50 lost the mean over
            the classes with boxes.
    """

    kinds: np.ndarray
    gt: np.ndarray
    per_class: tuple[dict[str, ErrorCount], ...]
    overall: dict[str, ErrorCount]


@dataclass(frozen=True)
class BackgroundRate:
    """What a class pays for a recall; all None where it does not reach it.

    Attributes:
        score: the highest threshold that reaches the recall.
        per_image: background errors at or above it, per image of the test set.
        missed: missed boxes with the detections at or above it, those of each class cut at its own
            threshold (none cut where a class does not reach the recall).
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
    """Tell the false positives apart, count them, and fix each kind to see what it costs.

    Where several kinds fit, the order is that of the paper's own program: localisation,
    classification, duplicate, background, both. The box in question is the one of highest IoU. A
    false positive that would be background, but lies with at least half of its area in an ignored
    region, is no error; it stays a miss in AP, whichever kind is fixed.

    A fixed classification error is a hit of the class of its box, a fixed localisation error one
    of its own class; where several would hit the same box, the one of highest score does and the
    others are taken away, as are all where the box has been found anyway. Errors of the kinds both,
    duplicate and background are taken away. Missed boxes are taken from those to be found; if that
    leaves a class none, its AP50 is 0 with false positives and 100 without.

    Args:
        ground_truth, detections: of one test set.
        matches: of :func:`~counterpoise.evaluation.matching.match`, first IoU threshold 0.5.
        min_score: (K,), the score from which on a detection of a class is counted. AP50 lost is of
            all detections, whatever this is.

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
    kinds, gt = _tell_apart(ground_truth, detections, matches)
    kept = _at_or_above(min_score, matches, len(detections))
    missed = _missed(matches, kinds, gt, kept)
    AP50 = _fixed_AP50(ground_truth, detections, matches, kinds, gt, ())
    per_class: list[dict[str, ErrorCount]] = [{} for _ in matches]
    for name, kind in ERROR_TYPES.items():
        fixed = _fixed_AP50(ground_truth, detections, matches, kinds, gt, {kind})
        counts = missed
        if kind != ErrorType.MISSED:
            own = detections.classes[kept & (kinds == kind)]
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
    return ErrorTypes(kinds, gt, tuple(per_class), overall)


def background_false_positives(
    matches: Sequence[ClassMatches], kinds: ErrorTypes, num_images: int, recall: float
) -> tuple[BackgroundRate, ...]:
    """Count background errors per image where a recall is reached, to compare runs fairly.

    Args:
        matches: as for :func:`classify_errors`.
        kinds: its result.
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
        # The same division as in the results: a recall that was read off there is reached.
        reaches = np.cumsum(match.true_positives[0]) / max(match.num_gt, 1) >= recall
        if reaches.any():
            thresholds[k] = match.scores[reaches.argmax()]
    kept = _at_or_above(thresholds, matches, len(kinds.kinds))
    missed = _missed(matches, kinds.kinds, kinds.gt, kept)
    background = kept & (kinds.kinds == ErrorType.BACKGROUND)
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


def _tell_apart(
    ground_truth: GroundTruth, detections: Detections, matches: Sequence[ClassMatches]
) -> tuple[np.ndarray, np.ndarray]:
    """The first two attributes of :class:`ErrorTypes`."""
    kinds = np.full(len(detections), ErrorType.UNCOUNTED, dtype=np.int8)
    gt = np.full(len(detections), -1)
    for match in matches:
        true_positives, ignored = match.true_positives[0], match.ignored[0]
        kinds[match.detections[true_positives]] = ErrorType.TRUE_POSITIVE
        kinds[match.detections[ignored]] = ErrorType.IGNORED
        kinds[match.detections[~true_positives & ~ignored]] = ErrorType.BACKGROUND
        gt[match.detections[true_positives]] = match.gt[0, true_positives]

    wrong = np.flatnonzero(kinds == ErrorType.BACKGROUND)
    (own, own_gt), (other, other_gt), (region, _) = _most_overlapped(
        ground_truth, detections, wrong
    )
    kind = np.select(
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
    kinds[wrong] = kind
    gt[wrong] = np.select(
        [
            kind == ErrorType.CLASSIFICATION,
            np.isin(kind, (ErrorType.LOCALISATION, ErrorType.DUPLICATE)),
        ],
        [other_gt, own_gt],
        -1,
    )
    return kinds, gt


def _most_overlapped(
    ground_truth: GroundTruth, detections: Detections, chosen: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """IoU (n,) and index (n,) of what each of n chosen detections overlaps most in its image.

    Once among the boxes of its class, once among those of others, once among ignored regions, there
    by the share of its own area.
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
    """(D,) bool: detections that count and have at least the score (K,) of their class."""
    kept = np.zeros(num_detections, dtype=bool)
    for threshold, match in zip(min_score, matches, strict=True):
        kept[match.detections] = match.scores >= threshold
    return kept


def _missed(
    matches: Sequence[ClassMatches], kinds: np.ndarray, gt: np.ndarray, kept: np.ndarray
) -> list[int]:
    """Boxes of each class that no kept detection finds, nor would with the right class or place."""
    finds = kept & np.isin(
        kinds, (ErrorType.TRUE_POSITIVE, ErrorType.CLASSIFICATION, ErrorType.LOCALISATION)
    )
    boxes = np.concatenate([match.gt_indices for match in matches])
    classes = np.repeat(np.arange(len(matches)), [match.num_gt for match in matches])
    missed = ~np.isin(boxes, gt[finds])
    return np.bincount(classes[missed], minlength=len(matches)).tolist()


def _fixed_AP50(
    ground_truth: GroundTruth,
    detections: Detections,
    matches: Sequence[ClassMatches],
    kinds: np.ndarray,
    gt: np.ndarray,
    fixed: Collection[ErrorType],
) -> list[float | None]:
    """AP50 of each class, 0-100, once all errors of some kinds are fixed; None without boxes."""
    true_positives = kinds == ErrorType.TRUE_POSITIVE
    gone = np.isin(kinds, list(fixed))
    classes = detections.classes.copy()
    can_hit = gone & np.isin(kinds, (ErrorType.CLASSIFICATION, ErrorType.LOCALISATION))
    can_hit = np.flatnonzero(can_hit & ~np.isin(gt, gt[true_positives]))
    can_hit = can_hit[np.argsort(-detections.scores[can_hit], kind="stable")]
    boxes, first = np.unique(gt[can_hit], return_index=True)
    best = can_hit[first]
    classes[best] = ground_truth.classes[boxes]
    true_positives[best], gone[best] = True, False

    num_gt = np.array([match.num_gt for match in matches])
    if ErrorType.MISSED in fixed:
        num_gt -= _missed(matches, kinds, gt, kinds != ErrorType.UNCOUNTED)
    order = np.concatenate([match.detections for match in matches])
    order = order[~gone[order] & (kinds[order] != ErrorType.IGNORED)]
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
