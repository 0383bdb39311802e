"""Precision, recall and the thresholds chosen by them, on scores that can be counted by hand."""

import numpy as np
import pytest

from counterpoise.evaluation.matching import ClassMatches
from counterpoise.evaluation.operating_points import (
    at_threshold,
    best_common_threshold,
    best_f1_threshold,
    precision_recall_curve,
    precision_threshold,
    recall_threshold,
)


def matches(scores, true_positives, num_gt, ignored=()):
    """A class of such detections, at one IoU threshold."""
    gt = np.where(np.array(true_positives, dtype=bool), np.arange(len(true_positives)), -1)[None]
    left_out = np.isin(np.arange(len(true_positives)), ignored)[None]
    everything = np.arange(len(true_positives))
    return ClassMatches(
        detections=everything,
        scores=np.array(scores, dtype=float),
        images=everything,
        gt=np.where(left_out, 99, gt),
        ignored=left_out,
        gt_indices=np.arange(num_gt),
        gt_images=np.zeros(num_gt, dtype=int),
    )


# Precision 1, 1/2, 2/3, 2/4, 3/5; recall 1/4, 1/4, 2/4, 2/4, 3/4.
FIVE = matches([0.9, 0.8, 0.7, 0.6, 0.5], [1, 0, 1, 0, 1], num_gt=4)


def test_the_curve_counts_true_positives_from_the_highest_score():
    curve = precision_recall_curve(FIVE)
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3, 2 / 4, 3 / 5])
    np.testing.assert_allclose(curve.recall, [1 / 4, 1 / 4, 2 / 4, 2 / 4, 3 / 4])
    np.testing.assert_allclose(curve.f1, [2 / 5, 1 / 3, 4 / 7, 1 / 2, 2 / 3])


def test_equal_scores_are_one_point_because_no_threshold_tells_them_apart():
    curve = precision_recall_curve(matches([0.9, 0.5, 0.5], [0, 1, 0], num_gt=1))
    np.testing.assert_allclose(curve.scores, [0.9, 0.5])
    np.testing.assert_allclose(curve.precision, [0, 1 / 3])


def test_detections_over_ignored_regions_are_not_counted():
    point = at_threshold(matches([0.9, 0.8, 0.7], [1, 1, 0], num_gt=2, ignored=[1]), 0.75)
    assert (point.precision, point.recall, point.detections) == (100, 50, 1)
    curve = precision_recall_curve(matches([0.9, 0.8, 0.7], [1, 1, 0], num_gt=2, ignored=[1]))
    np.testing.assert_allclose(curve.scores, [0.9, 0.7])
    np.testing.assert_allclose(curve.precision, [1, 1 / 2])


@pytest.mark.parametrize(
    "threshold, precision, recall, f1",
    [(0.9, 100, 25, 40), (0.7, 200 / 3, 50, 400 / 7), (0.0, 60, 75, 200 / 3), (0.95, None, 0, 0)],
)
def test_a_threshold_keeps_the_scores_of_at_least_it(threshold, precision, recall, f1):
    point = at_threshold(FIVE, threshold)
    assert point.precision == (None if precision is None else pytest.approx(precision))
    assert (point.recall, point.F1) == (pytest.approx(recall), pytest.approx(f1))


@pytest.mark.parametrize(
    "choose, kept",
    [
        (best_f1_threshold, 5),
        (lambda m: recall_threshold(m, 0.5), 3),
        (lambda m: recall_threshold(m, 0.25), 1),
        (lambda m: precision_threshold(m, 0.65), 3),
        (lambda m: precision_threshold(m, 0.6), 5),
        (lambda m: precision_threshold(m, 1.0), 1),
    ],
)
def test_a_chosen_threshold_lies_below_the_last_kept_score_and_above_the_next(choose, kept):
    threshold = choose(FIVE)
    assert (FIVE.scores >= threshold).sum() == kept
    assert threshold < FIVE.scores[kept - 1]


def test_scores_of_any_range_and_next_to_each_other_have_a_threshold_between_them():
    logit = matches([-2.0], [1], num_gt=1)
    assert at_threshold(logit, best_f1_threshold(logit)).F1 == 100
    close = matches([np.nextafter(0.5, 1), 0.5], [1, 0], num_gt=1)
    assert at_threshold(close, best_f1_threshold(close)).precision == 100


def test_what_is_not_reached_has_no_threshold():
    assert recall_threshold(FIVE, 0.9) is None
    assert precision_threshold(matches([0.9, 0.8], [0, 1], num_gt=1), 0.9) is None
    assert best_f1_threshold(matches([0.9], [0], num_gt=1)) is None
    assert recall_threshold(matches([0.9], [0], num_gt=0), 0.5) is None
    nothing = matches([], [], num_gt=0)
    assert best_f1_threshold(nothing) is recall_threshold(nothing, 0.5) is None
    assert at_threshold(nothing, 0.5).recall is None


def test_the_common_threshold_has_the_largest_mean_f1_of_all_thresholds():
    rng = np.random.default_rng(0)
    classes = []
    for size in (40, 15, 6):
        scores = np.sort(rng.random(size))[::-1]
        classes.append(matches(scores, rng.random(size) < scores, num_gt=size))
    best = best_common_threshold(classes)

    def mean(threshold):
        return np.mean([at_threshold(m, threshold).F1 for m in classes])

    every = np.concatenate([m.scores for m in classes])
    assert mean(best) == pytest.approx(max(map(mean, every)))
    assert best_common_threshold([matches([], [], num_gt=2)]) == 0


def test_of_common_thresholds_with_equal_mean_f1_the_higher_one_is_taken():
    # The F1 add up to 1 + 1 + 0.8 from 0.6 on and to 0.8 + 1 + 1 from 0.45 on, but for rounding.
    classes = [
        matches([0.9, 0.7, 0.5], [1, 1, 0], num_gt=2),
        matches([0.8, 0.6, 0.4], [1, 1, 0], num_gt=2),
        matches([0.85, 0.65, 0.45], [1, 1, 1], num_gt=3),
    ]
    assert best_common_threshold(classes) == pytest.approx(0.55)
