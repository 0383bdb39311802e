"""Matching at all thresholds at once: equality with pycocotools per class and threshold."""

import numpy as np
import pytest

from counterpoise.evaluation import matching
from counterpoise.evaluation.average_precision import average_precision
from counterpoise.evaluation.inputs import parse_detections, parse_ground_truth
from counterpoise.evaluation.matching import iou, match
from scenes import crowded_scene, pycocotools_evaluation, scene


def matches_of(truth, detections):
    parsed = parse_ground_truth(truth)
    return match(parsed, parse_detections(detections, truth, parsed))


def average_precisions(matches):
    return np.array(
        [
            [average_precision(m.true_positives[t], ~m.ignored[t], m.num_gt) for m in matches]
            for t in range(10)
        ]
    )


@pytest.mark.parametrize("make", [scene, crowded_scene])
@pytest.mark.parametrize("seed", range(4))
def test_every_class_and_threshold_scores_as_in_pycocotools(make, seed):
    truth, detections = make(seed=seed)
    precision = pycocotools_evaluation(truth, detections).eval["precision"][..., 0, -1]
    own = average_precisions(matches_of(truth, detections))
    np.testing.assert_allclose(own, precision.mean(axis=1), atol=1e-12)


def test_the_memory_bound_does_not_change_the_result(monkeypatch):
    truth, detections = crowded_scene()
    at_once = matches_of(truth, detections)
    monkeypatch.setattr(matching, "PAIRS_AT_ONCE", 3)
    for one, other in zip(at_once, matches_of(truth, detections), strict=True):
        np.testing.assert_array_equal(one.gt, other.gt)


def test_no_box_is_matched_twice_and_every_true_positive_overlaps_its_box():
    truth, detections = crowded_scene(seed=5)
    parsed = parse_ground_truth(truth)
    found = parse_detections(detections, truth, parsed)
    for own in match(parsed, found):
        for t, threshold in enumerate(matching.IOU_THRESHOLDS):
            true_positives = own.true_positives[t]
            assert len(set(own.gt[t, true_positives])) == true_positives.sum()
            overlap = iou(
                found.boxes[own.detections[true_positives]], parsed.boxes[own.gt[t, true_positives]]
            )
            assert (overlap >= threshold).all()


def test_no_detections_and_no_ground_truth_give_empty_matches():
    truth, detections = scene(classes=2)
    assert [len(m.scores) for m in matches_of(truth, [])] == [0, 0]
    truth["annotations"] = []
    assert not any(m.true_positives.any() or m.num_gt for m in matches_of(truth, detections))


@pytest.mark.parametrize(
    "other, crowd, expected",
    [
        ([0, 0, 10, 10], False, 1.0),
        ([5, 0, 10, 10], False, 1 / 3),
        ([0, 0, 20, 20], False, 0.25),
        ([0, 0, 20, 20], True, 1.0),
        ([10, 0, 10, 10], False, 0.0),
        ([0, 0, 0, 0], False, 0.0),
    ],
)
def test_iou_of_a_square_of_ten(other, crowd, expected):
    square = np.array([0.0, 0.0, 10.0, 10.0])
    assert iou(square, np.array(other, dtype=float), crowd) == pytest.approx(expected)


def test_iou_of_two_boxes_without_area_is_zero():
    assert iou(np.zeros(4), np.zeros(4)) == 0
