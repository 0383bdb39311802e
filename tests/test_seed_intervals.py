"""Intervals over seeds and test images: what they reduce to, and how often they are right."""

import numpy as np
import pytest

from counterpoise.evaluation.bootstrap import difference_interval, image_variance
from counterpoise.evaluation.seeds import Trainings, difference
from counterpoise.evaluation.variance import Variance, half_width, student_t, sum_of
from seed_coverage import IMAGES, RESAMPLES


@pytest.mark.parametrize(
    "freedom, quantile",
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (7, 2.36462), (30, 2.04227), (1e5, 1.95999)],
)
def test_students_t_is_that_of_the_tables(freedom, quantile):
    assert student_t(freedom) == pytest.approx(quantile, rel=1e-5)


def test_a_sum_of_variances_has_the_freedom_of_the_one_that_dominates():
    assert sum_of([Variance(1, 2), Variance(1e-9, 50)]).freedom == pytest.approx(2)
    assert sum_of([Variance(1, 4), Variance(1, 4)]) == Variance(2, 8)
    assert half_width(sum_of([Variance(0, 2), Variance(0, 3)])) == 0


def trainings(rng, seeds, classes=3, resamples=200):
    samples = rng.normal(40, 2, (seeds, resamples, classes))
    return Trainings(samples.mean(axis=(1, 2)), samples, tuple(range(1, seeds + 1)))


def test_equal_seeds_give_the_interval_over_images_alone():
    rng = np.random.default_rng(0)
    one, other = trainings(rng, 1), trainings(rng, 1)
    images = [20, 30, 5]
    change = one.samples[0] - other.samples[0]
    alone = difference_interval(change, images, float(one.values[0] - other.values[0]))
    for seeds in (1, 3):
        repeated = [
            Trainings(each.values.repeat(seeds), each.samples.repeat(seeds, axis=0), range(seeds))
            for each in (other, one)
        ]
        found, spread = difference(*repeated, images)
        assert found == pytest.approx(one.values[0] - other.values[0])
        assert spread == pytest.approx(alone)


def test_without_detections_it_is_students_interval_of_the_paired_differences():
    first = Trainings(np.array([50.0, 55.0, 60.0]), seeds=(1, 2, 3))
    second = Trainings(np.array([63.0, 52.0, 57.0]), seeds=(3, 1, 2))
    found, (low, high) = difference(first, second)
    assert found == pytest.approx((2 + 2 + 3) / 3)
    half = 4.30265 * np.std([2, 2, 3], ddof=1) / np.sqrt(3)
    assert (low, high) == pytest.approx((found - half, found + half), rel=1e-4)


def test_seeds_that_one_side_lacks_do_not_count_where_several_are_common():
    first = Trainings(np.array([50.0, 52.0, 90.0]), seeds=(1, 2, 3))
    second = Trainings(np.array([55.0, 53.0, 10.0]), seeds=(2, 1, 4))
    paired = half_width(Variance(0, 1))
    assert difference(first, second) == (3.0, (3 - paired, 3 + paired))


def test_a_pair_of_single_trainings_says_nothing_of_seeds():
    pair = (Trainings(np.array([value]), seeds=(1,)) for value in (50.0, 51.0))
    assert difference(*pair) == (1.0, None)


def test_a_single_training_is_taken_to_vary_as_those_of_the_other_side():
    first = Trainings(np.array([50.0, 52.0]), seeds=(1, 2))
    found, spread = difference(first, Trainings(np.array([51.5]), seeds=(1,)))
    half = 12.7062 * np.sqrt(2 * (1 / 2 + 1))  # Student's t of one degree, pooled
    assert found == 0.5
    assert spread == pytest.approx((0.5 - half, 0.5 + half), rel=1e-5)


@pytest.mark.parametrize("seeds", [(1, 2, 3), (2, 3, 4), (3, 4, 5), (4, 5, 6)])
def test_intervals_cover_whatever_seeds_are_common(seeds):
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        by_seed = rng.normal(50, 1, (2, 7))  # a seed says nothing of the training of another config
        first = Trainings(by_seed[0, [1, 2, 3]], seeds=(1, 2, 3))
        low, high = difference(first, Trainings(by_seed[1, list(seeds)], seeds=seeds))[1]
        covered += low <= 0 <= high
    assert covered / 400 > 0.92


def test_without_a_common_seed_all_count():
    first = Trainings(np.array([50.0, 52.0]), seeds=(1, 2))
    found, spread = difference(first, Trainings(np.array([60.0, 61.0]), seeds=(3, 4)))
    assert found == 9.5
    unpaired = sum_of([Variance(1, 1), Variance(0.25, 1)])  # Welch
    assert spread == pytest.approx((9.5 - half_width(unpaired), 9.5 + half_width(unpaired)))


def test_it_covers_more_than_seeds_or_images_alone():
    rng = np.random.default_rng(1)
    first, second = trainings(rng, 3), trainings(rng, 3)
    images = [30, 30, 30]
    _, both = difference(first, second, images)
    paired = (second.samples - first.samples).mean(axis=0)
    by_seed = Variance(np.var(second.values - first.values, ddof=1) / 3, 2)
    parts = [by_seed, image_variance(paired, images)]
    assert both[1] - both[0] == pytest.approx(2 * half_width(sum_of(parts)))


def test_a_class_in_a_single_image_has_no_interval():
    rng = np.random.default_rng(0)
    first, second = trainings(rng, 3, classes=1), trainings(rng, 3, classes=1)
    assert difference(first, second, 1)[1] is None


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("by_seed, by_image, noise", [(1, 0, 0), (0, 8, 8), (1, 8, 8), (0, 0, 8)])
def test_it_covers_the_truth_of_crossed_seeds_and_images(seeds, by_seed, by_image, noise):
    """A value is a mean over images, with effects of seeds, images, and both together."""
    rng = np.random.default_rng([seeds, by_seed, by_image])
    covered = []
    for _ in range(300):
        change = (
            3.0
            + rng.normal(0, by_seed, (seeds, 1))
            + rng.normal(0, by_image, IMAGES)
            + rng.normal(0, noise, (seeds, IMAGES))
        )
        drawn = rng.multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), RESAMPLES) / IMAGES
        first = Trainings(np.full(seeds, 40.0), np.full((seeds, RESAMPLES, 1), 40.0))
        second = Trainings(
            40 + change.mean(axis=1), 40 + (change @ drawn.T)[..., None], range(seeds)
        )
        first = Trainings(first.values, first.samples, range(seeds))
        _, (low, high) = difference(first, second, IMAGES)
        covered.append(low <= 3 <= high)
    # Two standard errors of 300 simulations are 2.5 %.
    assert np.mean(covered) > 0.92
