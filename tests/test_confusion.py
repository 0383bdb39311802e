"""Confusion matrix: one-to-one matching, so that rows sum to the ground truth."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from counterpoise.errors import UserError
from counterpoise.evaluation.confusion import confusion_matrix
from counterpoise.evaluation.inputs import Detections, GroundTruth

BOX, NEAR, FAR = (0, 0, 10, 10), (0, 0, 10, 9), (50, 50, 10, 10)


def ground_truth(rows, num_images=1, num_classes=2):
    """From rows (image, class, box, ignored)."""
    images, classes, boxes, ignored = zip(*rows, strict=True)
    boxes = np.array(boxes, dtype=float)
    return GroundTruth(
        tuple(map(str, range(num_classes))), tuple(range(num_images)), ("",) * num_images, boxes,
        boxes[:, 2:].prod(axis=1), np.array(classes), np.array(images), np.array(ignored, bool),
    )  # fmt: skip


def detections(*rows):
    """From rows (image, class, box, score)."""
    images, classes, boxes, scores = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Detections(
        np.array(boxes, dtype=float).reshape(-1, 4), np.array(scores, dtype=float),
        np.array(classes, dtype=np.int64), np.array(images, dtype=np.int64),
    )  # fmt: skip


@pytest.mark.parametrize(
    "boxes, found, expected",
    [
        pytest.param(
            # Each of the duplicates was once counted as another find of the same box.
            [(0, 0, BOX, 0)],
            [(0, 0, BOX, 0.9), (0, 0, BOX, 0.8), (0, 1, NEAR, 0.7)],
            [[1, 0, 0], [0, 0, 0], [1, 1, 0]],
            id="duplicates go to the background row",
        ),
        pytest.param(
            # One detection was once counted for every box that it overlaps.
            [(0, 0, BOX, 0), (0, 1, NEAR, 0)],
            [(0, 1, BOX, 0.9)],
            [[0, 1, 0], [0, 0, 1], [0, 0, 0]],
            id="one detection of two boxes takes the nearest alone",
        ),
        pytest.param(
            [(0, 0, BOX, 0), (0, 1, NEAR, 0)],
            [(0, 1, BOX, 0.9), (0, 0, BOX, 0.8)],
            [[0, 1, 0], [1, 0, 0], [0, 0, 0]],
            id="the nearest free box is second choice",
        ),
        pytest.param(
            [(0, 0, BOX, 0)],
            [(0, 0, FAR, 0.9)],
            [[0, 0, 1], [0, 0, 0], [1, 0, 0]],
            id="missed and background",
        ),
        pytest.param(
            [(0, 0, BOX, 0)],
            [(0, 0, BOX, 0.5), (0, 1, BOX, 0.59)],
            [[1, 0, 0], [0, 0, 0], [0, 0, 0]],
            id="each class has its own threshold, which counts",
        ),
        pytest.param([(0, 0, BOX, 0)], [], [[0, 0, 1], [0, 0, 0], [0, 0, 0]], id="no detections"),
    ],
)
def test_scenes(boxes, found, expected):
    result = confusion_matrix(ground_truth(boxes), detections(*found), np.array([0.5, 0.6]))
    assert result.counts == tuple(map(tuple, expected))
    assert result.ignored == 0


def test_detections_over_ignored_regions_of_any_class_are_left_out():
    truth = ground_truth([(0, 0, (0, 0, 40, 40), 1), (0, 1, BOX, 0)])
    found = detections((0, 1, BOX, 0.9), (0, 1, (20, 20, 10, 10), 0.8), (0, 0, FAR, 0.7))
    result = confusion_matrix(truth, found, np.zeros(2))
    assert result.counts == ((0, 0, 0), (0, 1, 0), (1, 0, 0))
    assert result.ignored == 1


@pytest.mark.parametrize("threshold", [0.0, 0.5, 2.0])
def test_rows_sum_to_the_boxes_and_columns_to_the_detections(threshold):
    rng = np.random.default_rng(0)
    boxes = np.c_[rng.uniform(0, 30, (200, 2)), rng.uniform(10, 40, (200, 2))]
    columns = rng.integers(20, size=200), rng.integers(5, size=200), boxes, rng.random(200) < 0.1
    truth = ground_truth(zip(*columns, strict=True), num_images=20, num_classes=5)
    source = rng.integers(200, size=2000)
    found = Detections(
        boxes[source] + rng.normal(0, 1, (2000, 4)), rng.random(2000),
        rng.integers(5, size=2000), truth.images[source],
    )  # fmt: skip
    result = confusion_matrix(truth, found, np.full(5, threshold))
    counts = np.array(result.counts)
    np.testing.assert_array_equal(counts[:5].sum(axis=1), truth.boxes_per_class())
    assert counts[:, :5].sum() + result.ignored == (found.scores >= threshold).sum()
    assert counts[5, 5] == 0
    json.dumps(asdict(result))


def test_one_threshold_for_all_classes_is_refused():
    with pytest.raises(UserError, match="expected one score for each of the 2 classes"):
        confusion_matrix(ground_truth([(0, 0, BOX, 0)]), detections(), np.array([0.5]))
