"""Confidence intervals of average precision by bootstrap over the images of the test set.

A resample draws as many images as there are, with replacement. Nothing is matched again: an image
drawn m times counts its detections and boxes m times, which gives what pycocotools gives on the
physically repeated images. The interval covers the choice of test images, not the training seed.

The percentiles of the resamples themselves lie too high and too close together: interpolated
precision is a maximum, which noise raises, and few images vary less than what they are drawn from.
An interval has therefore a corrected centre, and its width is the resamples' standard deviation
times Student's t (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, sections 10.2 and
12.5). ``benchmarks/interval_coverage.py`` measures how often it covers the truth.
"""

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from counterpoise.evaluation.average_precision import RECALLS
from counterpoise.evaluation.matching import ClassMatches
from counterpoise.evaluation.variance import Variance, half_width, sum_of
from counterpoise.utils.progress import Track

RESAMPLES = 1000
SEED = 0
#: Resamples that are computed at once, which bounds the memory.
RESAMPLES_AT_ONCE = 100
#: Bias of an AP, in units of the bias that resampling adds. A resample is as noisy as a test set of
#: half as many images, and by simulation the bias shrinks with the number of images to the power of
#: 0.6: 1 / (2^0.6 - 1) is 2.
BIAS_FACTOR = 2


@dataclass(frozen=True)
class BootstrapSamples:
    """Average precision in B resamples.

    Attributes:
        AP: (B, K) float64, 0-100, mean over the IoU thresholds; NaN where a resample has no box of
            the class.
        AP50: the same at the first IoU threshold.
    """

    AP: np.ndarray
    AP50: np.ndarray


def draw_images(num_images: int, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """How often each image is drawn, (B, I) int64; equal arguments give equal draws.

    Runs on the same test set are thereby compared on the same resamples, in pairs.
    """
    rng = np.random.default_rng(seed)
    if num_images == 0:
        return np.zeros((resamples, 0), dtype=np.int64)
    return rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=resamples)


def bootstrap(
    matches: Sequence[ClassMatches], drawn: np.ndarray, track: Track = iter
) -> BootstrapSamples:
    """Average precision of every class in every resample.

    Args:
        matches: of :func:`counterpoise.evaluation.matching.match`, of one run or several in a row.
        drawn: (B, I), of :func:`draw_images`.
        track: wraps the classes, to show progress.
    """
    parts = [
        np.ascontiguousarray(drawn[begin : begin + RESAMPLES_AT_ONCE].T, dtype=np.float32)
        for begin in range(0, len(drawn), RESAMPLES_AT_ONCE)
    ]
    # numpy and torch let other threads run while they compute.
    with _one_thread_each() as threads, ThreadPoolExecutor(threads) as pool:
        computed = pool.map(lambda own: _class_samples(own, parts), matches)
        samples = np.array([next(computed) for _ in track(matches)])
    return BootstrapSamples(AP=100 * samples[:, 0].T, AP50=100 * samples[:, 1].T)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[int]:
    """Let torch compute in the calling thread alone, and give the number of threads that it had.

    Each thread of a pool would start as many of OpenMP's own, and there may be no room for them.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def AP_interval(
    samples: np.ndarray,
    images: int | Sequence[int],
    estimates: float | Sequence[float | None] | None,
) -> tuple[float, float] | None:
    """95 % interval of an average precision, or of the mean of those of several classes.

    It is computed on the logits, so that it stays within 0-100 and is longer towards 50. Its centre
    is the estimate minus :data:`BIAS_FACTOR` times the bias that the resamples add; with few boxes
    that is much, and the interval is stretched as far as the estimate. A class that a resample
    lacks counts there with its own estimate: the mean of the others is of other classes, and no
    bias.

    Args:
        samples: (B,) or (B, K), 0-100, NaN where a resample has no box of a class.
        images: test images with a box of each class, of ``images_per_class``.
        estimates: a value or K, on the test set itself, 0-100; None for a class without boxes.

    Returns:
        None where no class is in two images: drawing a single one again and again tells nothing.
    """
    samples, images = samples.reshape(len(samples), -1), np.atleast_1d(images)
    means = _known_means(samples)
    if images.max() < 2 or not len(means):
        return None
    known = np.array(np.atleast_1d(estimates), dtype=float)  # NaN for None
    estimate = np.nanmean(known)
    filled = np.where(np.isnan(samples), known, samples)[:, ~np.isnan(known)].mean(axis=1)
    at = _logit(estimate)
    centre = at - BIAS_FACTOR * (_logit(filled).mean() - at)
    half = half_width(_variance(_logit(means), samples, images))
    low, high = np.clip(_inverse_logit(np.array([centre - half, centre + half])), 0, 100)
    return float(min(low, estimate)), float(max(high, estimate))


def difference_interval(
    samples: np.ndarray, images: int | Sequence[int], estimate: float | None = None
) -> tuple[float, float] | None:
    """95 % interval of a difference of two runs, in which the bias of both cancels.

    Args:
        samples: (B,) or (B, K), differences of values in 0-100 on the same resamples; NaN where a
            resample has no box of a class.
        images: as for :func:`AP_interval`.
        estimate: the difference on the test set itself, the centre of the interval; None takes the
            mean of the resamples.

    Returns:
        within -100 and 100; None where no class is in two images.
    """
    variance = image_variance(samples, images)
    if variance is None:
        return None
    if estimate is None:
        estimate = _known_means(samples.reshape(len(samples), -1)).mean()
    return interval_around(estimate, half_width(variance))


def interval_around(centre: float, half: float) -> tuple[float, float]:
    """Interval of a difference of two values in 0-100, from its centre and half of its width."""
    low, high = np.clip([centre - half, centre + half], -100, 100)
    return float(low), float(high)


def mean_of_classes(samples: np.ndarray) -> np.ndarray:
    """Mean (B,) over the classes of (B, K) that a resample has."""
    known = ~np.isnan(samples)
    total = np.where(known, samples, 0).sum(axis=1)
    return np.divide(total, known.sum(1), out=np.full(len(total), np.nan), where=known.any(1))


def _known_means(samples: np.ndarray) -> np.ndarray:
    means = mean_of_classes(samples)
    return means[~np.isnan(means)]


def image_variance(samples: np.ndarray, images: int | Sequence[int]) -> Variance | None:
    """Variance of a value, or of the mean over classes, by the choice of test images.

    Args:
        samples: (B,) or (B, K), NaN where a resample has no box of a class.
        images: test images with a box of each class, of ``images_per_class``.

    Returns:
        None where no class is in two images: drawing a single one again and again tells nothing.
    """
    samples, images = samples.reshape(len(samples), -1), np.atleast_1d(images)
    means = _known_means(samples)
    if images.max() < 2 or not len(means):
        return None
    return _variance(means, samples, images)


def _variance(means: np.ndarray, samples: np.ndarray, images: np.ndarray) -> Variance:
    """That of the resamples, times n / (n - 1) of n images.

    For a mean of classes, n - 1 is that of Welch and Satterthwaite.
    """
    known = ~np.isnan(samples).all(axis=0)
    of_classes = map(
        Variance, np.nanvar(samples[:, known], axis=0), np.maximum(images[known] - 1.0, 1.0)
    )
    freedom = sum_of(list(of_classes)).freedom
    return Variance(means.var() * (freedom + 1) / freedom, freedom)


def _logit(value: np.ndarray | float) -> np.ndarray | float:
    """Of a value in 0-100, which is kept half a point away from either end to be finite."""
    return np.log((value + 0.5) / (100.5 - value))


def _inverse_logit(value: np.ndarray) -> np.ndarray:
    return 101 / (1 + np.exp(-value)) - 0.5


def _class_samples(matches: ClassMatches, parts: Sequence[np.ndarray]) -> np.ndarray:
    """AP and AP50 (2, B) in [0, 1] of one class; how often images are drawn is in parts."""
    samples = np.concatenate([_samples_of_part(matches, times) for times in parts], axis=1)
    return np.stack([samples.mean(axis=0), samples[0]])


def _samples_of_part(matches: ClassMatches, times: np.ndarray) -> np.ndarray:
    """Average precision (T, b) by IoU threshold of a class, each image drawn (I, b) times."""
    true_positives, ignored = matches.true_positives, matches.ignored
    num_gt = times[matches.gt_images].sum(axis=0)
    # Precision falls at every false positive, so only its values at true positives matter.
    positions = np.flatnonzero(true_positives.any(axis=0))
    result = np.zeros((len(true_positives), times.shape[1]))
    known = num_gt > 0
    result[:, ~known] = np.nan
    if not len(positions):
        return result
    seen = _cumulative(np.arange(true_positives.shape[1]), matches.images, positions, times)
    found_at = times[matches.images[positions]]
    reached = _recalls_reached(num_gt)
    for t in range(len(true_positives)):
        at = np.flatnonzero(true_positives[t, positions])
        if not len(at):
            continue
        counted = seen[at]
        if ignored[t].any():
            left_out = np.flatnonzero(ignored[t])
            counted -= _cumulative(left_out, matches.images[left_out], positions[at], times)
        found = np.cumsum(found_at[at], axis=0)
        result[t, known] = _interpolated(found, counted, reached)[known]
    return result


def _cumulative(
    detections: np.ndarray, images: np.ndarray, positions: np.ndarray, times: np.ndarray
) -> np.ndarray:
    """Weight (P, B) of the given detections up to and including each position.

    Args:
        detections: (D,), ascending ranks.
        images: (D,), of these.
        positions: (P,), ascending ranks.
        times: (I, B) float32. Sums of these counts are integers below 2^24, so exact.
    """
    first = np.searchsorted(detections, np.r_[-1, positions[:-1]], side="right")
    last = np.searchsorted(detections, positions[-1:], side="right")[0]
    # a sum of rows for each position, several times faster than a sparse product
    columns = map(torch.from_numpy, (images[:last], times, first))
    weights = F.embedding_bag(*columns, mode="sum").numpy()
    return weights.cumsum(axis=0, out=weights)


def _interpolated(found: np.ndarray, counted: np.ndarray, reached: np.ndarray) -> np.ndarray:
    """101-point average precision (B,) from true positives and detections (P, B) counted so far.

    Args:
        found: float32.
        counted: float32, changed.
        reached: of :func:`_recalls_reached`.
    """
    # The arrays are large, so that passes over them are what costs: few, in place, of few bits.
    number = found.shape[1]
    place = found.astype(np.int32)
    place *= number
    place += np.arange(number, dtype=np.int32)
    steps = np.diff(reached.take(place), axis=0, prepend=np.zeros((1, number), np.int16))
    precision = np.divide(found, np.maximum(counted, 1, out=counted), dtype=np.float64)[::-1]
    envelope = np.maximum.accumulate(precision, axis=0, out=precision)[::-1]
    return np.einsum("pb,pb->b", envelope, steps) / len(RECALLS)


def _recalls_reached(num_gt: np.ndarray) -> np.ndarray:
    """How many of the 101 recalls are reached by 0 to N true positives, (N + 1, B).

    Args:
        num_gt: (B,), boxes of the class, at most N.
    """
    recall = np.arange(int(num_gt.max()) + 1)[:, None] / np.maximum(num_gt, 1)
    # A search would take several times longer. The guess is off by at most one, where a product
    # rounds across a whole number.
    guess = np.minimum((recall * 100).astype(np.int64), 100)
    guess -= RECALLS[guess] > recall
    guess += RECALLS[np.minimum(guess + 1, 100)] <= recall
    return np.minimum(guess + 1, 101).astype(np.int16)
