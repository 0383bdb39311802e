"""The fast bootstrap equals pycocotools on images that are physically repeated."""

import numpy as np
import pytest

from counterpoise.evaluation import bootstrap as module
from counterpoise.evaluation import evaluate_detections
from counterpoise.evaluation.bootstrap import bootstrap, draw_images, interval, mean_of_classes
from counterpoise.evaluation.inputs import parse_detections, parse_ground_truth
from counterpoise.evaluation.matching import match
from scenes import crowded_scene, pycocotools_stats, scene


def samples_of(truth, detections, drawn):
    parsed = parse_ground_truth(truth)
    return bootstrap(match(parsed, parse_detections(detections, truth, parsed)), drawn)


def repeated(truth, detections, times):
    """The data with image i repeated times[i] times."""
    images, annotations, results = [], [], []
    for image, number in enumerate(times):
        for _ in range(number):
            own = len(images)
            images.append({"id": own})
            annotations += [
                {**a, "image_id": own} for a in truth["annotations"] if a["image_id"] == image
            ]
            results += [{**d, "image_id": own} for d in detections if d["image_id"] == image]
    annotations = [{**a, "id": i} for i, a in enumerate(annotations, start=1)]
    return {**truth, "images": images, "annotations": annotations}, results


@pytest.mark.parametrize("seed", range(2))
def test_every_resample_scores_as_pycocotools_on_the_repeated_images(seed):
    truth, detections = crowded_scene(seed)
    rng = np.random.default_rng(seed)
    for detection in detections:  # without ties, whose order depends on the numbers of the images
        detection["score"] = float(rng.random())
    drawn = draw_images(30, resamples=8, seed=seed)
    samples = samples_of(truth, detections, drawn)
    for b, times in enumerate(drawn):
        expected = pycocotools_stats(*repeated(truth, detections, times))
        assert mean_of_classes(samples.AP)[b] == pytest.approx(expected[0], abs=1e-9)
        assert mean_of_classes(samples.AP50)[b] == pytest.approx(expected[1], abs=1e-9)


def test_drawing_every_image_once_gives_the_average_precision():
    truth, detections = crowded_scene()
    samples = samples_of(truth, detections, np.ones((1, 30), dtype=np.int64))
    assert mean_of_classes(samples.AP)[0] == pytest.approx(pycocotools_stats(truth, detections)[0])


def test_the_number_of_resamples_computed_at_once_changes_nothing(monkeypatch):
    truth, detections = scene()
    drawn = draw_images(20, resamples=50)
    at_once = samples_of(truth, detections, drawn)
    monkeypatch.setattr(module, "RESAMPLES_AT_ONCE", 7)
    np.testing.assert_array_equal(at_once.AP, samples_of(truth, detections, drawn).AP)


def test_equal_seeds_draw_equal_images_and_each_resample_is_as_large_as_the_set():
    drawn = draw_images(12, resamples=40)
    np.testing.assert_array_equal(drawn, draw_images(12, resamples=40))
    assert (drawn.sum(axis=1) == 12).all()
    assert (drawn != draw_images(12, resamples=40, seed=1)).any()


def test_resamples_without_a_class_are_left_out_of_its_interval():
    truth, detections = scene(images=20, classes=2)
    rare = next(a for a in truth["annotations"] if a["category_id"] == 1)
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] == 0] + [rare]
    samples = samples_of(truth, detections, draw_images(20))
    missing = np.isnan(samples.AP[:, 1]).mean()
    assert missing == pytest.approx((1 - 1 / 20) ** 20, abs=0.05)
    assert not np.isnan(mean_of_classes(samples.AP)).any()


def test_an_interval_is_the_middle_95_percent_of_what_is_known():
    assert interval(np.arange(1001.0), images=2) == pytest.approx((25.0, 975.0))
    assert interval(np.r_[np.arange(1001.0), np.full(99, np.nan)], 2) == pytest.approx((25, 975))
    assert interval(np.full(5, np.nan), images=2) is None


def test_a_class_in_a_single_image_has_no_interval_and_no_test_set_of_one_image_has():
    truth, detections = scene(images=20, classes=2)
    rare = next(a for a in truth["annotations"] if a["category_id"] == 1)
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] == 0] + [rare]
    result = evaluate_detections(truth, detections)
    assert result.per_class[1].AP_interval is result.per_class[1].AP50_interval is None
    assert result.per_class[0].AP_interval is not None and result.AP_interval is not None
    alone = evaluate_detections(*scene(images=1))
    assert alone.AP_interval is None
    assert {c.AP_interval for c in alone.per_class} == {None}
