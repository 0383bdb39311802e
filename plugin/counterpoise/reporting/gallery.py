"""Pictures of a detector's worst errors, and of labels that it contradicts."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from counterpoise.datasets.reading import read_image
from counterpoise.evaluation import ClassResult, GroundTruth
from counterpoise.evaluation.error_types import ErrorType, ErrorTypes
from counterpoise.evaluation.label_issues import IssueKind, LabelIssue
from counterpoise.evaluation.matching import ClassMatches, iou
from counterpoise.evaluation.results import training_count
from counterpoise.evaluation.stored import TestSet
from counterpoise.pages.drawing import draw_boxes
from counterpoise.pages.figures import COLOURS, image_uri
from counterpoise.pages.sections import Picture
from counterpoise.utils.images import UnreadableImageError
from counterpoise.utils.text import counted

#: Pictures, and the image files that could not be read.
Found = tuple[list[Picture], list[str]]

TRUTH_COLOUR, DETECTION_COLOUR, QUESTION_COLOUR = COLOURS[:3]

_SIDE = 300  # pixels of a picture's longer side
_CONTEXT = 2.4  # side of the crop in sides of the box
_MIN_CROP = 96  # pixels
_MAX_BESIDE = 4  # boxes drawn beside the one in question
_MISSED_IN_A_ROW = 3
_MOST_LABELS = 30  # around a label in question


#: A box XYWH with its label and colour.
_Mark = tuple[np.ndarray, str, str]
#: Index of an image, a title, and what is drawn into it, the box in question first.
_Scene = tuple[int, str, Sequence[_Mark]]


def false_positives(test_set: TestSet, errors: ErrorTypes, limit: int) -> Found:
    """Show the false positives of highest score with the ground truth around them.

    Args:
        test_set: of a run.
        errors: of its detections.
        limit: number of pictures.
    """
    truth, found = test_set.ground_truth, test_set.detections
    wrong = np.flatnonzero(errors.types >= ErrorType.CLASSIFICATION)
    scenes: list[_Scene] = []
    for d in wrong[np.argsort(-found.scores[wrong], kind="stable")][:limit]:
        detection, image = _detection(test_set, d), int(found.images[d])
        others = np.flatnonzero(truth.images == image)
        beside = [_box(truth, g) for g in _most_overlapped(found.boxes[d], truth.boxes, others)]
        title = f"{detection[1]}: {_what_is_wrong(test_set, errors, d)}"
        scenes.append((image, title, [detection, *beside]))
    return _drawn(scenes, truth)


def missed_boxes(
    test_set: TestSet,
    matches: Sequence[ClassMatches],
    classes: Sequence[ClassResult],
    limit: int,
) -> Found:
    """Show the boxes missed at the thresholds of their classes, the rarest class first.

    Of a class the largest boxes come first; a class that is missed often leaves room for others.

    Args:
        test_set: of a run.
        matches: of all its classes.
        classes: their results, with the thresholds.
        limit: number of pictures.
    """
    truth, found = test_set.ground_truth, test_set.detections
    thresholds = np.array([c.threshold for c in classes])
    kept = found.scores >= thresholds[found.classes]
    rarest_first = sorted(range(len(classes)), key=lambda k: (training_count(classes[k]), k))
    turns = []
    for rank, k in enumerate(rarest_first):
        finds = matches[k].true_positives[0] & (matches[k].scores >= thresholds[k])
        missed = np.setdiff1d(matches[k].gt_indices, matches[k].gt[0, finds])
        missed = missed[np.argsort(-truth.areas[missed], kind="stable")][:limit]
        turns += [(n // _MISSED_IN_A_ROW, rank, g) for n, g in enumerate(missed)]
    scenes: list[_Scene] = []
    shown = sorted(turns, key=lambda turn: turn[:2])[:limit]
    for _, _, g in sorted(shown, key=lambda turn: turn[1]):
        box, image = _box(truth, g), int(truth.images[g])
        others = np.flatnonzero(kept & (found.images == image))
        beside = _most_overlapped(truth.boxes[g], found.boxes, others)
        marks = [box, *(_detection(test_set, d) for d in beside)]
        scenes.append((image, f"{box[1]}, missed", marks))
    return _drawn(scenes, truth)


def label_issues(test_set: TestSet, issues: Sequence[LabelIssue]) -> Found:
    """Show labels that detections contradict, in a colour of their own, with those around them.

    Args:
        test_set: of a run.
        issues: in it, in the order of the pictures.
    """
    truth, found = test_set.ground_truth, test_set.detections
    scenes: list[_Scene] = []
    for issue in issues:
        d = issue.detection
        image = int(found.images[d])
        others = np.flatnonzero(truth.images == image)
        away = np.abs(_centres(truth.boxes[others]) - _centres(found.boxes[d])).max(axis=1)
        nearest = others[np.argsort(away, kind="stable")][:_MOST_LABELS]
        title = f"{issue.score:.2f}: {_what_the_label_says(truth, found.boxes[d], issue)}"
        if issue.earlier:
            title += f", also at {counted(issue.earlier, 'earlier checkpoint')}"
        marks = [_detection(test_set, d), *(_box(truth, g) for g in nearest if g != issue.gt)]
        if issue.gt >= 0:
            marks.insert(1, (*_box(truth, issue.gt)[:2], QUESTION_COLOUR))
        scenes.append((image, title, marks))
    return _drawn(scenes, truth)


def _what_the_label_says(truth: GroundTruth, box: np.ndarray, issue: LabelIssue) -> str:
    if issue.kind == IssueKind.OVERLOOKED:
        return "no label"
    name = truth.class_names[truth.classes[issue.gt]]
    return f"labelled {name}, IoU {iou(box, truth.boxes[issue.gt]):.2f}"


def _centres(boxes: np.ndarray) -> np.ndarray:
    return boxes[..., :2] + boxes[..., 2:] / 2


def _box(truth: GroundTruth, gt: int) -> _Mark:
    return truth.boxes[gt], truth.class_names[truth.classes[gt]], TRUTH_COLOUR


def _detection(test_set: TestSet, d: int) -> _Mark:
    found = test_set.detections
    name = test_set.ground_truth.class_names[found.classes[d]]
    return found.boxes[d], f"{name} {found.scores[d]:.2f}", DETECTION_COLOUR


def _what_is_wrong(test_set: TestSet, errors: ErrorTypes, detection: int) -> str:
    truth, gt = test_set.ground_truth, errors.gt[detection]
    error_type = ErrorType(errors.types[detection])
    if error_type == ErrorType.CLASSIFICATION:
        return f"classification, the box is {truth.class_names[truth.classes[gt]]}"
    if error_type == ErrorType.LOCALISATION:
        overlap = iou(test_set.detections.boxes[detection], truth.boxes[gt])
        # Rounded down, as one of 0.498 is below the 0.5 of a hit.
        return f"localisation, IoU {math.floor(100 * overlap) / 100:.2f}"
    return error_type.name.lower()


def _most_overlapped(box: np.ndarray, others: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Indices of the few boxes that overlap a box most."""
    overlap = iou(box, others[among])
    best = np.argsort(-overlap, kind="stable")[:_MAX_BESIDE]
    return among[best[overlap[best] > 0]]


def _drawn(scenes: Iterable[_Scene], truth: GroundTruth) -> Found:
    pictures, unreadable = [], []
    for image, title, marks in scenes:
        name = truth.file_names[image]
        try:
            pixels = Image.fromarray(read_image(name, "RGB"))
        except UnreadableImageError:
            unreadable.append(name)
            continue
        pictures.append(Picture(image_uri(_crop(pixels, marks), quality=75), title, name))
    return pictures, list(dict.fromkeys(unreadable))


def _crop(image: Image.Image, marks: Sequence[_Mark]) -> np.ndarray:
    """Surroundings of the first box with all boxes, (H, W, 3) uint8."""
    boxes, labels, colours = zip(*marks, strict=True)
    boxes = np.array(boxes)
    x, y, width, height = boxes[0]
    side = max(_CONTEXT * max(width, height), _MIN_CROP)
    size = np.minimum(side, image.size)
    corner = np.array([x + width / 2, y + height / 2]) - size / 2
    corner = np.clip(corner, 0, image.size - size)
    scale = _SIDE / size.max()
    shown = tuple(np.maximum(np.round(size * scale), 1).astype(int).tolist())
    pixels = image.resize(shown, Image.Resampling.BICUBIC, box=(*corner, *(corner + size)))
    boxes[:, :2] = (boxes[:, :2] - corner) * scale
    boxes[:, 2:] = boxes[:, :2] + boxes[:, 2:] * scale
    # The box in question lies over its neighbours.
    return draw_boxes(np.asarray(pixels), boxes[::-1], labels[::-1], colours[::-1])
