"""The fast bootstrap equals pycocotools on repeated images, and its intervals cover the truth."""

import numpy as np
import pytest
import torch

from counterpoise.evaluation import bootstrap as module
from counterpoise.evaluation import evaluate_detections
from counterpoise.evaluation.bootstrap import (
    AP_interval,
    bootstrap,
    difference_interval,
    draw_images,
    mean_of_classes,
)
from counterpoise.evaluation.inputs import parse_detections, parse_ground_truth
from counterpoise.evaluation.matching import match
from interval_coverage import AP_and_AP50, simulate, true_AP
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


def test_a_thread_of_the_pool_starts_none_of_its_own(monkeypatch):
    """On 64 cores they would be 4,096, which is more than many a machine lets a process start."""
    truth, detections = crowded_scene()
    seen, compute = [], module._class_samples

    def watched(*arguments):
        seen.append(torch.get_num_threads())
        return compute(*arguments)

    monkeypatch.setattr(module, "_class_samples", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        samples_of(truth, detections, draw_images(30, resamples=5))
        assert set(seen) == {1} and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


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


def spread(number=1000, mean=0.0):
    """Samples of standard deviation 1."""
    samples = np.random.default_rng(0).normal(size=number)
    return mean + (samples - samples.mean()) / samples.std()


def test_95_percent_intervals_cover_the_AP_of_a_very_large_sample():
    rng, drawn = np.random.default_rng(0), draw_images(60, resamples=150)
    classes = [(0.5, own) for own in (10, 40, 70) * 2]
    truth = true_AP(num_images=60_000)
    first, second = (np.mean([truth[own][run, 0] for _, own in classes]) for run in (0, 1))
    above, below = np.zeros((2, 2, 200), dtype=bool)
    for n in range(200):
        runs = simulate(rng, 60, classes)
        images = [len(np.unique(m.gt_images)) for m in runs[0]]
        own, other = (bootstrap(run, drawn).AP for run in runs)
        AP, other_AP = ([AP_and_AP50(m)[0] for m in run] for run in runs)
        change = np.mean(other_AP) - np.mean(AP)
        found = AP_interval(own, images, AP), difference_interval(other - own, images, change)
        for i, ((low, high), true) in enumerate(zip(found, (first, second - first), strict=True)):
            above[i, n], below[i, n] = low > true, high < true
    assert (1 - (above | below).mean(axis=1) >= 0.9).all()
    # Percentiles of the resamples lie above the truth in 17 % of these test sets.
    assert (above.mean(axis=1) <= 0.08).all() and (below.mean(axis=1) <= 0.08).all()


def test_an_AP_interval_is_lowered_by_twice_the_bias_and_that_of_a_difference_is_not_moved():
    many = 10**6
    assert difference_interval(spread(mean=12), many, estimate=10) == pytest.approx(
        (8.04, 11.96), abs=1e-3
    )
    assert difference_interval(spread(mean=12), many) == pytest.approx((10.04, 13.96), abs=1e-3)
    # Near 50 a point of AP is about 0.04 on the logits.
    low, high = AP_interval(spread(mean=52), many, 51)
    assert (low + high) / 2 == pytest.approx(49, abs=0.05)
    assert high - low == pytest.approx(2 * 1.96, abs=0.05)


@pytest.mark.parametrize("rare", [0.0, 90.0])
def test_classes_that_resamples_lack_do_not_move_an_interval(rare):
    # Constant, so there is no bias: only the classes of the mean change from draw to draw.
    samples = np.tile([50.0, 50.0, rare, rare], (1000, 1))
    samples[np.random.default_rng(0).random((1000, 4)) < [0, 0, 0.4, 0.4]] = np.nan
    low, high = AP_interval(samples, [200, 200, 2, 2], [50, 50, rare, rare])
    mean = (100 + 2 * rare) / 4
    assert low < mean < high
    logits = np.log([p / (100 - p) for p in (low, mean, high)])
    assert logits[1] - logits[0] == pytest.approx(logits[2] - logits[1], rel=0.02)


def test_an_interval_holds_its_estimate_however_far_the_resamples_are_above_it():
    low, high = AP_interval(spread(mean=60), 200, 40)
    assert low < 25 and high == pytest.approx(40)


@pytest.mark.parametrize("images, t", [(4, 3.1824), (6, 2.5706), (13, 2.1788), (61, 2.0003)])
def test_the_fewer_images_the_wider_an_interval_by_students_t(images, t):
    low, high = difference_interval(spread(), images)
    assert (high - low) / 2 == pytest.approx(t * (images / (images - 1)) ** 0.5, rel=0.01)


def test_the_interval_of_a_mean_counts_the_images_of_the_classes_that_vary():
    varies, constant = spread(), np.zeros(1000)
    _, high = difference_interval(np.c_[varies, constant], [6, 1000])
    assert 2 * high == pytest.approx(difference_interval(varies, 6)[1])
    _, high = difference_interval(np.c_[varies, varies], [7, 7])
    assert high == pytest.approx(difference_interval(varies, 13)[1])


def test_resamples_without_a_box_do_not_change_an_interval():
    known = spread()
    assert difference_interval(np.r_[known, np.full(99, np.nan)], 9) == pytest.approx(
        difference_interval(known, 9)
    )
    absent = np.full(1000, np.nan)
    assert difference_interval(np.c_[known, absent], [9, 0]) == pytest.approx(
        difference_interval(known, 9)
    )
    assert difference_interval(absent, 9) is None


def test_intervals_stay_within_what_is_possible_and_that_of_a_constant_is_a_point():
    near_100 = 100 - np.abs(spread())
    assert 90 < AP_interval(near_100, 4, 99.5)[0] < AP_interval(near_100, 4, 99.5)[1] <= 100
    assert 0 <= AP_interval(100 - near_100, 4, 0.5)[0] < AP_interval(100 - near_100, 4, 0.5)[1] < 10
    assert difference_interval(40 * spread(), 2) == (-100, 100)
    for value in (0.0, 37.0, 100.0):
        assert AP_interval(np.full(9, value), 5, value) == pytest.approx((value, value))
        assert difference_interval(np.full(9, value), 5, value) == (value, value)


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
