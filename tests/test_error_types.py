"""Error types: a scene for each type and each way of fixing it, and what must always hold."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from counterpoise.errors import UserError
from counterpoise.evaluation.coco_metrics import coco_metrics
from counterpoise.evaluation.error_types import (
    ERROR_TYPES,
    AP50_after_fixing,
    ErrorType,
    background_false_positives,
    classify_errors,
)
from counterpoise.evaluation.inputs import Detections, GroundTruth
from counterpoise.evaluation.matching import match

# IoU with BOX: SHIFTED 2 / 3, NEAR 1 / 3, TOUCHING 1 / 19, FAR none.
BOX, SHIFTED, NEAR = (0, 0, 10, 10), (2, 0, 10, 10), (5, 0, 10, 10)
TOUCHING, FAR = (9, 0, 10, 10), (50, 50, 10, 10)


def scene(boxes, found, num_classes=2, num_images=1):
    """Boxes (image, class, box, ignored) and detections (image, class, box, score), matched."""
    images, classes, places, ignored = zip(*boxes, strict=True)
    places = np.array(places, dtype=float)
    truth = GroundTruth(
        tuple(map(str, range(num_classes))), tuple(range(num_images)), ("",) * num_images, places,
        places[:, 2:].prod(axis=1), np.array(classes), np.array(images), np.array(ignored, bool),
    )  # fmt: skip
    images, classes, places, scores = zip(*found, strict=True) if found else ((), (), (), ())
    detections = Detections(
        np.array(places, dtype=float).reshape(-1, 4), np.array(scores, dtype=float),
        np.array(classes, dtype=np.int64), np.array(images, dtype=np.int64),
    )  # fmt: skip
    return truth, detections, match(truth, detections)


def random_scene(seed=0, num_images=40, num_classes=4, boxes=200, found=700):
    rng = np.random.default_rng(seed)
    places = np.c_[rng.uniform(0, 80, (boxes, 2)), rng.uniform(10, 50, (boxes, 2))]
    images, classes = rng.integers(num_images, size=boxes), rng.integers(num_classes, size=boxes)
    ignored = rng.random(boxes) < 0.05
    source = rng.integers(boxes, size=found)
    spread = rng.choice([1, 4, 12, 60], (found, 1))
    moved = np.abs(places[source] + rng.normal(0, 1, (found, 4)) * spread)
    label = np.where(
        rng.random(found) < 0.7, classes[source], rng.integers(num_classes, size=found)
    )
    return scene(
        list(zip(images, classes, places, ignored, strict=True)),
        list(zip(images[source], label, moved, rng.random(found), strict=True)),
        num_classes, num_images,
    )  # fmt: skip


def counts(errors):
    return {name: own.count for name, own in errors.items() if own.count}


def lost(errors):
    return {name: own.AP50_lost for name, own in errors.items() if own.AP50_lost}


def AP50(truth, detections):
    return [own["AP50"] for own in coco_metrics(truth, detections).per_class]


A = (0, 0, BOX, 0)  # a box of class 0


@pytest.mark.parametrize(
    "boxes, found, expected",
    [
        ([A], (0, 1, BOX), ErrorType.CLASSIFICATION),
        ([A], (0, 1, SHIFTED), ErrorType.CLASSIFICATION),
        ([A], (0, 0, NEAR), ErrorType.LOCALISATION),
        ([A], (0, 1, NEAR), ErrorType.BOTH),
        ([A], (0, 0, TOUCHING), ErrorType.BACKGROUND),
        ([A], (0, 1, TOUCHING), ErrorType.BACKGROUND),
        ([A], (0, 0, FAR), ErrorType.BACKGROUND),
        # The borders belong to the errors that say more: IoU 0.5, and 0.1.
        ([A], (0, 1, (0, 0, 10, 5)), ErrorType.CLASSIFICATION),
        ([A], (0, 0, (0, 0, 10, 1)), ErrorType.LOCALISATION),
        ([A], (0, 1, (0, 0, 10, 1)), ErrorType.BACKGROUND),
        pytest.param(
            [(0, 0, (0, 0, 90, 55), 1)], (0, 1, FAR), ErrorType.OVER_IGNORED,
            id="just half of it in a region of another class",
        ),
        pytest.param(
            [A, (0, 1, (5, 0, 10, 10), 0)], (0, 1, SHIFTED), ErrorType.TRUE_POSITIVE,
            id="its class comes first",
        ),
        pytest.param(
            [A, (0, 1, NEAR, 0)], (0, 1, BOX), ErrorType.LOCALISATION,
            id="near a box of its class comes before in the place of another",
        ),
        pytest.param(
            [A, (0, 1, (14, 0, 10, 10), 0)], (0, 1, NEAR), ErrorType.BOTH,
            id="touching a box of its class is not near",
        ),
        pytest.param([(0, 0, BOX, 1)], (0, 0, BOX), ErrorType.IGNORED, id="matched to a region"),
        pytest.param(
            [(0, 0, (0, 0, 90, 90), 1)], (0, 1, FAR), ErrorType.OVER_IGNORED,
            id="half of it in a region of another class",
        ),
        pytest.param(
            [(0, 0, (0, 0, 90, 54), 1)], (0, 1, FAR), ErrorType.BACKGROUND,
            id="less than half of it in a region",
        ),
        pytest.param(
            [(0, 0, (0, 0, 90, 90), 1), A], (0, 1, BOX), ErrorType.CLASSIFICATION,
            id="a region excuses no error at a box",
        ),
    ],
)  # fmt: skip
def test_type_of_a_detection(boxes, found, expected):
    result = classify_errors(*scene(boxes, [(*found, 0.9)]))
    assert result.types.tolist() == [expected]


B = (0, 0, FAR, 0)  # a second box of class 0
FOUND_A, FOUND_B = (0, 0, BOX, 0.9), (0, 0, FAR, 0.7)
HALF = 100 * 51 / 101  # AP50 where one of two boxes is found, first


def test_second_detection_of_a_box_is_a_duplicate():
    result = classify_errors(*scene([A], [FOUND_A, (0, 0, SHIFTED, 0.8)]))
    assert result.types.tolist() == [ErrorType.TRUE_POSITIVE, ErrorType.DUPLICATE]
    assert result.gt.tolist() == [0, 0]


@pytest.mark.parametrize(
    "wrong, name",
    [
        ((0, 0, SHIFTED, 0.8), "duplicate"),
        ((0, 0, (80, 80, 10, 10), 0.8), "background"),
        ((0, 0, (75, 0, 10, 10), 0.8), "both"),
    ],
)
def test_fixing_removes_the_detection(wrong, name):
    of_class_1 = (0, 1, (70, 0, 10, 10), 0)
    own = classify_errors(*scene([A, B, of_class_1], [FOUND_A, wrong, FOUND_B])).per_class[0]
    assert counts(own) == {name: 1}
    # Precision is 1 up to a recall of 0.5, then 2 / 3.
    assert lost(own) == pytest.approx({name: 100 - (100 * 51 + 100 * 50 * 2 / 3) / 101})


def test_fixing_a_classification_error_moves_a_true_positive_to_the_class_of_the_box():
    boxes = [A, (0, 1, FAR, 0)]
    result = classify_errors(*scene(boxes, [(0, 1, BOX, 0.9), (0, 1, FAR, 0.8)]))
    assert [counts(own) for own in result.per_class] == [{}, {"classification": 1}]
    assert lost(result.per_class[0]) == pytest.approx({"classification": 100})
    assert lost(result.per_class[1]) == pytest.approx({"classification": 50})
    assert counts(result.overall) == {"classification": 1}
    assert lost(result.overall) == pytest.approx({"classification": 75})


def test_a_fixed_localisation_error_is_a_true_positive():
    own = classify_errors(*scene([A], [(0, 0, NEAR, 0.9)])).per_class[0]
    assert counts(own) == {"localisation": 1}
    assert lost(own) == pytest.approx({"localisation": 100})


@pytest.mark.parametrize(
    "k, place, name", [(0, NEAR, "localisation"), (1, SHIFTED, "classification")]
)
def test_one_of_several_errors_at_a_box_is_fixed_and_the_others_are_removed(k, place, name):
    found = [(0, k, place, 0.9), (0, k, place, 0.8), FOUND_B]
    result = classify_errors(*scene([A, B], found))
    assert counts(result.overall) == {name: 2}
    before = 100 * 51 / 101 / 3 if k == 0 else HALF
    assert lost(result.per_class[0]) == pytest.approx({name: 100 - before})


def test_a_localisation_error_at_a_box_that_is_found_is_removed():
    own = classify_errors(*scene([A], [(0, 0, NEAR, 0.9), (0, 0, BOX, 0.8)])).per_class[0]
    assert counts(own) == {"localisation": 1}
    assert lost(own) == pytest.approx({"localisation": 50})


def test_of_several_errors_at_a_box_the_one_of_highest_score_is_fixed_in_whatever_order():
    found = [(0, 0, NEAR, 0.4), (0, 0, FAR, 0.6), (0, 0, NEAR, 0.8)]
    own = classify_errors(*scene([A], found)).per_class[0]
    assert lost(own)["localisation"] == pytest.approx(100)


def test_a_fixed_error_at_a_box_that_is_found_makes_no_second_true_positive():
    found = [FOUND_A, (0, 0, (70, 70, 9, 9), 0.85), (0, 0, NEAR, 0.8)]
    truth, detections, matches = scene([A, B], found)
    result = classify_errors(truth, detections, matches)
    fixed = [ErrorType.LOCALISATION]
    after = AP50_after_fixing(fixed, truth, detections, matches, result.types, result.gt)
    assert after[0] == pytest.approx(AP50(truth, detections)[0])


def test_classification_error_at_a_box_that_is_found_leaves_the_class_of_the_box_alone():
    boxes = [A, (0, 1, FAR, 0)]
    result = classify_errors(*scene(boxes, [FOUND_A, (0, 1, BOX, 0.8), (0, 1, FAR, 0.7)]))
    assert lost(result.per_class[0]) == {}
    assert lost(result.per_class[1]) == pytest.approx({"classification": 50})


def test_each_type_is_fixed_alone():
    # The localisation error fixes the box although a classification error of higher score would.
    own = classify_errors(*scene([A], [(0, 1, BOX, 0.9), (0, 0, NEAR, 0.8)])).per_class[0]
    assert lost(own) == pytest.approx({"classification": 100, "localisation": 100})


def test_a_fixed_missed_box_leaves_the_ground_truth():
    own = classify_errors(*scene([A, B], [FOUND_A])).per_class[0]
    assert counts(own) == {"missed": 1}
    assert lost(own) == pytest.approx({"missed": 100 - HALF})


@pytest.mark.parametrize("found, gain", [([], 100), ([(0, 0, FAR, 0.9)], 0)])
def test_a_class_of_missed_boxes_alone_reaches_100_unless_false_positives_remain(found, gain):
    own = classify_errors(*scene([A], found)).per_class[0]
    assert own["missed"].count == 1
    assert own["missed"].AP50_lost == pytest.approx(gain)


def test_class_without_boxes_loses_no_AP_and_is_not_in_the_mean():
    result = classify_errors(*scene([A], [FOUND_A, (0, 1, FAR, 0.9)]))
    assert counts(result.per_class[1]) == {"background": 1}
    assert all(own.AP50_lost is None for own in result.per_class[1].values())
    assert lost(result.overall) == {}


def test_a_detection_over_a_region_of_another_class_stays_a_false_positive_whatever_is_fixed():
    boxes = [A, (0, 1, (40, 40, 50, 50), 1)]
    truth, found, matches = scene(boxes, [(0, 0, FAR, 0.9), (0, 0, BOX, 0.8)])
    result = classify_errors(truth, found, matches)
    assert counts(result.overall) == {} and lost(result.overall) == {}
    assert AP50(truth, found)[0] == pytest.approx(50)


@pytest.mark.parametrize("seed", range(3))
def test_every_counted_detection_is_a_true_positive_or_ignored_or_one_error(seed):
    truth, found, matches = random_scene(seed)
    result = classify_errors(truth, found, matches)
    for k, match_ in enumerate(matches):
        types = result.types[match_.detections]
        np.testing.assert_array_equal(types == ErrorType.TRUE_POSITIVE, match_.true_positives[0])
        np.testing.assert_array_equal(types == ErrorType.IGNORED, match_.ignored[0])
        errors = sum(result.per_class[k][name].count for name in ERROR_TYPES if name != "missed")
        no_errors = np.isin(
            types, (ErrorType.TRUE_POSITIVE, ErrorType.IGNORED, ErrorType.OVER_IGNORED)
        ).sum()
        assert errors + no_errors == len(match_.detections)
    assert set(counts(result.overall)) == set(ERROR_TYPES), "a scene with all error types"
    about_a_box = (
        ErrorType.TRUE_POSITIVE,
        ErrorType.CLASSIFICATION,
        ErrorType.LOCALISATION,
        ErrorType.DUPLICATE,
    )
    np.testing.assert_array_equal(result.gt >= 0, np.isin(result.types, about_a_box))
    json.dumps([asdict(own) for own in result.overall.values()])


def test_fixing_nothing_gives_COCO_AP50_and_fixing_all_gives_100():
    truth, found, matches = random_scene()
    result = classify_errors(truth, found, matches)
    found = Detections(
        *(each[result.types != ErrorType.OVER_IGNORED]
          for each in (found.boxes, found.scores, found.classes, found.images))
    )  # fmt: skip
    matches = match(truth, found)
    result = classify_errors(truth, found, matches)
    after = [
        AP50_after_fixing(fixed, truth, found, matches, result.types, result.gt)
        for fixed in ((), tuple(ERROR_TYPES.values()))
    ]
    assert after[0] == pytest.approx(AP50(truth, found), abs=1e-9)
    assert after[1] == pytest.approx([100] * 4)


@pytest.mark.parametrize("name", ["both", "duplicate", "background", "missed"])
def test_AP_lost_is_what_COCO_gives_without_the_errors(name):
    truth, found, matches = random_scene(1)
    result = classify_errors(truth, found, matches)
    before = AP50(truth, found)
    if name == "missed":
        finds = np.isin(
            result.types,
            (ErrorType.TRUE_POSITIVE, ErrorType.CLASSIFICATION, ErrorType.LOCALISATION),
        )
        left = np.isin(np.arange(len(truth.boxes)), result.gt[finds]) | truth.ignored
        truth = GroundTruth(
            truth.class_names, truth.image_ids, truth.file_names,
            *(each[left] for each in
              (truth.boxes, truth.areas, truth.classes, truth.images, truth.ignored)),
        )  # fmt: skip
    else:
        left = result.types != ERROR_TYPES[name]
        found = Detections(
            *(each[left] for each in (found.boxes, found.scores, found.classes, found.images))
        )
    gain = np.subtract(AP50(truth, found), before)
    assert [own[name].AP50_lost for own in result.per_class] == pytest.approx(gain, abs=1e-9)
    assert (gain > 0).any()


def test_counts_above_a_score_are_those_of_the_detections_above_it():
    truth, found, matches = random_scene(2)
    min_score = np.array([0.2, 0.9, 0.5, 2.0])
    above = classify_errors(truth, found, matches, min_score)
    kept = found.scores >= min_score[found.classes]
    alone = Detections(
        *(each[kept] for each in (found.boxes, found.scores, found.classes, found.images))
    )
    expected = classify_errors(truth, alone, match(truth, alone))
    assert [counts(own) for own in above.per_class] == [counts(own) for own in expected.per_class]
    assert lost(above.overall) == lost(classify_errors(truth, found, matches).overall)


def test_detections_beyond_the_first_100_of_a_class_in_an_image_are_not_counted():
    found = [(0, 0, FAR, 0.9)] * 120
    result = classify_errors(*scene([A], found))
    assert counts(result.overall) == {"background": 100, "missed": 1}
    assert (result.types == ErrorType.UNCOUNTED).sum() == 20


def test_background_rate_is_measured_at_the_highest_score_that_reaches_the_recall():
    boxes = [A, B, (1, 0, BOX, 0)]
    found = [
        (0, 0, (80, 0, 10, 10), 0.95), (0, 0, BOX, 0.9), (1, 0, FAR, 0.8), (0, 0, FAR, 0.7),
        (1, 0, (80, 0, 10, 10), 0.7), (1, 0, (80, 80, 10, 10), 0.6),
    ]  # fmt: skip
    truth, detections, matches = scene(boxes, found, num_images=4)
    errors = classify_errors(truth, detections, matches)
    third, two_thirds, all_boxes = (
        background_false_positives(matches, errors, 4, recall)[0] for recall in (1 / 3, 2 / 3, 1)
    )
    assert (third.score, third.per_image, third.missed) == (0.9, 1 / 4, 2)
    assert (two_thirds.score, two_thirds.per_image, two_thirds.missed) == (0.7, 3 / 4, 1)
    assert (all_boxes.score, all_boxes.per_image, all_boxes.missed) == (None, None, None)
    assert background_false_positives(matches, errors, 4, 0.5)[1].per_image is None, "no boxes"


@pytest.mark.parametrize("recall", [0, 1.1, float("nan")])
def test_recall_out_of_range_is_refused(recall):
    truth, found, matches = scene([A], [FOUND_A])
    with pytest.raises(UserError, match="expected above 0 and at most 1"):
        background_false_positives(matches, classify_errors(truth, found, matches), 1, recall)


def test_one_score_for_all_classes_is_refused():
    with pytest.raises(UserError, match="expected one score for each of the 2 classes"):
        classify_errors(*scene([A], [FOUND_A]), min_score=np.array([0.5]))
