"""Confidence intervals of average precision by bootstrap over the images of the test set.

A resample draws as many images as there are, with replacement. Nothing is matched again: an image
drawn m times counts its detections and boxes m times, which gives what pycocotools gives on the
physically repeated images. The interval covers the choice of test images, not the training seed.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from counterpoise.evaluation.average_precision import RECALLS
from counterpoise.evaluation.matching import ClassMatches

RESAMPLES = 1000
SEED = 0

RESAMPLES_AT_ONCE = 100


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


def bootstrap(matches: tuple[ClassMatches, ...], drawn: np.ndarray) -> BootstrapSamples:
    """Average precision of every class in every resample.

    Args:
        matches: of :func:`counterpoise.evaluation.matching.match`.
        drawn: (B, I), of :func:`draw_images`.
    """
    samples = np.stack([_class_samples(m, drawn) for m in matches], axis=-1)
    return BootstrapSamples(AP=100 * samples.mean(axis=0), AP50=100 * samples[0])


def num_images(matches: Iterable[ClassMatches]) -> int:
    """Test images with a box of some classes."""
    return len(np.unique(np.concatenate([m.gt_images for m in matches])))


def interval(samples: np.ndarray, images: int) -> tuple[float, float] | None:
    """95 % percentile interval.

    Args:
        samples: (B,), NaN where a resample has no box.
        images: test images with a box of what was sampled, see :func:`num_images`.

    Returns:
        None with fewer than two images: drawing a single one again and again tells nothing.
    """
    known = samples[~np.isnan(samples)]
    if images < 2 or not len(known):
        return None
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def mean_of_classes(samples: np.ndarray) -> np.ndarray:
    """Mean (B,) over the classes of (B, K) that a resample has."""
    known = ~np.isnan(samples)
    total = np.where(known, samples, 0).sum(axis=1)
    return np.divide(total, known.sum(1), out=np.full(len(total), np.nan), where=known.any(1))


def _class_samples(matches: ClassMatches, drawn: np.ndarray) -> np.ndarray:
    """Average precision (T, B) in [0, 1] of one class."""
    true_positives, ignored = matches.true_positives, matches.ignored
    num_gt = drawn[:, matches.gt_images].sum(axis=1)
    # Precision falls at every false positive, so only its values at true positives matter.
    positions = np.flatnonzero(true_positives.any(axis=0))
    result = np.zeros((len(true_positives), len(drawn)))
    if len(positions):
        for begin in range(0, len(drawn), RESAMPLES_AT_ONCE):
            part = slice(begin, begin + RESAMPLES_AT_ONCE)
            times = np.ascontiguousarray(drawn[part].T, dtype=np.float32)
            seen = _cumulative(np.arange(true_positives.shape[1]), matches.images, positions, times)
            for t in range(len(true_positives)):
                at = np.flatnonzero(true_positives[t, positions])
                if not len(at):
                    continue
                found = np.cumsum(times[matches.images[positions[at]]], axis=0)
                counted = seen[at]
                if ignored[t].any():
                    left_out = np.flatnonzero(ignored[t])
                    counted = counted - _cumulative(
                        left_out, matches.images[left_out], positions[at], times
                    )
                result[t, part] = _interpolated(found, counted, num_gt[part])
    result[:, num_gt == 0] = np.nan
    return result


def _cumulative(
    detections: np.ndarray, images: np.ndarray, positions: np.ndarray, times: np.ndarray
) -> np.ndarray:
    """Weight (P, B) of the given detections up to and including each position.

    Args:
        detections: (D,), ascending ranks.
        images: (D,), of these.
        positions: (P,), ascending ranks.
        times: (I, B) float32. Sums of these counts are whole numbers below 2^24, so exact.
    """
    row = np.searchsorted(positions, detections, side="left")
    kept = row < len(positions)
    counts = torch.sparse_coo_tensor(
        torch.from_numpy(np.stack([row[kept], images[kept]])),
        torch.ones(int(kept.sum())),
        (len(positions), len(times)),
        check_invariants=False,
    )
    return torch.sparse.mm(counts, torch.from_numpy(times)).numpy().cumsum(axis=0)


def _interpolated(found: np.ndarray, counted: np.ndarray, num_gt: np.ndarray) -> np.ndarray:
    """101-point average precision (B,) from true positives and detections (P, B) counted so far."""
    precision = found.astype(np.float64) / np.maximum(counted, 1)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    reached = np.zeros((len(found) + 1, found.shape[1]), dtype=np.int64)
    reached[1:] = _recalls_reached(found / np.maximum(num_gt, 1))
    return (envelope * np.diff(reached, axis=0)).sum(axis=0) / len(RECALLS)


def _recalls_reached(recall: np.ndarray) -> np.ndarray:
    """How many of the 101 recalls are at most each value; a search would take several times longer.

    The guess is off by at most one, where a product rounds across a whole number.
    """
    guess = np.minimum((recall * 100).astype(np.int64), 100)
    guess -= RECALLS[guess] > recall
    guess += RECALLS[np.minimum(guess + 1, 100)] <= recall
    return np.minimum(guess + 1, 101)
