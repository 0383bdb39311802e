"""Confidence intervals of a difference between trainings of several seeds, on the same test images.

Two things would turn out otherwise if all were done again: the trainings, and the choice of test
images. Every seed is scored on the same images, so the two are crossed, and the variance of the
difference of the means is that of each added up:

* by the seeds, the sample variance of the differences over their number; resampling the seeds gives
  (S - 1) / S of it, a third too little for three seeds;
* by the images, that of the difference of the seeds' means in resamples of the images.

What a seed and an image do together is in both, so the interval is rather too wide than too narrow.
Its width is Student's t with the degrees of freedom of Welch and Satterthwaite: with two or three
seeds it is wide, because so few tell little of how much seeds differ.
``benchmarks/seed_coverage.py`` measures how often it covers the truth.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from counterpoise.evaluation.bootstrap import image_variance, interval_around
from counterpoise.evaluation.results import Interval
from counterpoise.evaluation.variance import Variance, half_width, sum_of


@dataclass(frozen=True)
class Trainings:
    """Trainings of one config that differ in their seed.

    Attributes:
        values: (S,) float64, of each on the test set, 0-100; S >= 1.
        samples: (S, B, K) float64, of the classes in resamples of the test images, NaN where one
            has no box of a class; None where the detections are not there.
        seeds: (S,); None where they are not known.
    """

    values: np.ndarray
    samples: np.ndarray | None = None
    seeds: Sequence[int] | None = None

    @property
    def std(self) -> float | None:
        """Standard deviation of the values, n - 1 in the denominator; None of a single one."""
        return float(self.values.std(ddof=1)) if len(self.values) > 1 else None

    def of_seeds(self, seeds: Sequence[int]) -> "Trainings":
        """Those of some of the seeds, in that order."""
        at = [list(self.seeds).index(seed) for seed in seeds]
        samples = None if self.samples is None else self.samples[at]
        return Trainings(self.values[at], samples, tuple(seeds))


class Difference(NamedTuple):
    """Difference of the means of two configs.

    Attributes:
        value: second minus first.
        interval: 95 %; it covers seeds where there are several, and images where both have samples.
            None where it would cover neither, or where samples are of no class in two images.
    """

    value: float
    interval: Interval | None

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval and it does."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def difference(
    first: Trainings, second: Trainings, images: int | Sequence[int] | None = None
) -> Difference:
    """Difference of the means of two configs, with its 95 % interval.

    It is taken in pairs, over the seeds that both have, where these are several, or where each has
    one training, of the same seed. Otherwise it is that of the means of all: one pair among more
    trainings would say nothing of how much seeds differ.

    Args:
        first: the baseline.
        second: the config that is compared with it.
        images: test images with a box of each class, for the samples.
    """
    common = [seed for seed in first.seeds or () if seed in (second.seeds or ())]
    if len(common) > 1 or (common and len(first.values) == len(second.values) == 1):
        first, second = first.of_seeds(common), second.of_seeds(common)
        parts = _by_seed(second.values - first.values)
    else:
        parts = _by_seed(first.values, second.values)
    found = float(second.values.mean() - first.values.mean())
    if first.samples is not None and second.samples is not None:
        by_image = image_variance(second.samples.mean(axis=0) - first.samples.mean(axis=0), images)
        if by_image is None:
            return Difference(found, None)
        parts.append(by_image)
    interval = interval_around(found, half_width(sum_of(parts))) if parts else None
    return Difference(found, interval)


def _by_seed(*sides: np.ndarray) -> list[Variance]:
    """Variances of the means of one or two sets of values; none where there is one value of each.

    A single value is taken to vary as those of the other side do (Student's pooled variance).
    """
    several = [side for side in sides if len(side) > 1]
    variances = [Variance(float(side.var(ddof=1)) / len(side), len(side) - 1) for side in several]
    if len(several) < len(sides) and several:
        (own,), (side,) = variances, several
        return [Variance(own.value * (1 + len(side)), own.freedom)]
    return variances
