"""How often 95 % intervals cover the truth, on simulated test sets.

    python benchmarks/interval_coverage.py                # 2 to 3 minutes on one core
    python benchmarks/interval_coverage.py --sets 100     # the tables of docs/evaluation.md
    python benchmarks/interval_coverage.py --fewest 2     # with classes on two images

A simulated test set has 30 to 400 images, on each of which two detectors find boxes of 12 classes:
classes on half of the images, on 12 and on 6 of them, each with an AP of about 10, 40, 70 and 90.
Images and boxes differ in how hard they are, for both detectors alike, and the second detector is
the better one. The truth is the same detectors' AP on 600,000 images. Printed is the share of test
sets whose interval covers it, for the intervals of the evaluation and for others that were tried.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from tabulate import tabulate

from counterpoise.evaluation.average_precision import average_precision
from counterpoise.evaluation.bootstrap import (
    AP_interval,
    bootstrap,
    difference_interval,
    draw_images,
    mean_of_classes,
)
from counterpoise.evaluation.matching import IOU_THRESHOLDS, ClassMatches

#: By the AP that results: logit of the share of boxes found, by how much true positives score
#: above false ones, false positives per box, and both parameters of the beta distribution of IoU.
DETECTORS = {
    10: (0.3, 0.8, 2.5, 3.4, 2.4),
    40: (1.9, 1.8, 1.5, 7.5, 2.3),
    70: (3.0, 2.5, 1.0, 14.0, 2.0),
    90: (4.5, 3.2, 0.5, 26.0, 1.6),
}
#: By how much the second detector is better, in units of the scores.
GAIN = 0.4
SIZES = (30, 60, 150, 400)
LARGE = 600_000
#: Images of the rarest classes.
FEWEST = 6

Ends = tuple[float, float]
Matches = tuple[ClassMatches, ...]


class Outcome(NamedTuple):
    """One interval on one simulated test set.

    Attributes:
        what: that was estimated.
        images: of the test set.
        detector: of :data:`DETECTORS`; None for a mean over all.
        metric: AP or AP50.
        method: of the interval.
        covers: 100 where the truth lies in it, else 0.
        width: of the interval.
    """

    what: str
    images: int
    detector: int | None
    metric: str
    method: str
    covers: float
    width: float


def simulate(
    rng: np.random.Generator,
    num_images: int,
    classes: Sequence[tuple[float, int]],
    gains: Sequence[float | np.ndarray] = (0.0, GAIN),
) -> tuple[Matches, ...]:
    """Detections of several detectors on the same images, matched.

    Args:
        rng: source of randomness.
        num_images: of the test set.
        classes: share of the images that hold the class, and key of :data:`DETECTORS`.
        gains: by how much each detector is better than that, in units of the scores: on all
            images alike, or by image.
    """
    matches: list[list[ClassMatches]] = [[] for _ in gains]
    hard_image = rng.normal(0, 0.8, num_images)
    for share, detector in classes:
        found_logit, separation, false_per_box, *beta = DETECTORS[detector]
        boxes = np.where(rng.random(num_images) < share, 1 + rng.poisson(1, num_images), 0)
        gt_images = np.repeat(np.arange(num_images), boxes)
        hard = hard_image[gt_images] + rng.normal(0, 0.7, len(gt_images))
        for run, gain in enumerate(gains):
            gain = np.broadcast_to(gain, num_images)
            own = gain[gt_images]
            found = np.flatnonzero(
                rng.random(len(hard)) < 1 / (1 + np.exp(hard - found_logit - own))
            )
            score = separation + own[found] - 0.6 * hard[found] + rng.normal(0, 0.8, len(found))
            overlap = 0.3 + 0.7 * rng.beta(*beta, len(found))
            # Two boxes per image of the class, and more false positives where it is hard.
            rate = 2 * share * false_per_box * np.exp(0.5 * hard_image - 0.125 - gain / 2)
            false_images = np.repeat(np.arange(num_images), rng.poisson(rate))
            number = len(false_images)
            scores = np.r_[score, rng.normal(0, 1, number)]
            order = np.argsort(-scores)
            overlap = np.r_[overlap, np.zeros(number)][order]
            gt = np.where(
                overlap >= IOU_THRESHOLDS[:, None], np.r_[found, np.full(number, -1)][order], -1
            )
            matches[run].append(
                ClassMatches(
                    detections=order,
                    scores=scores[order],
                    images=np.r_[gt_images[found], false_images][order],
                    gt=gt,
                    ignored=np.zeros_like(gt, dtype=bool),
                    gt_indices=np.arange(len(gt_images)),
                    gt_images=gt_images,
                )
            )
    return tuple(map(tuple, matches))


def true_AP(num_images: int = LARGE, seed: int = 1) -> dict[int, np.ndarray]:
    """AP and AP50 (2 runs, 2) on a very large sample, by :data:`DETECTORS`.

    They do not depend on how frequent a class is: its false positives are in proportion to it.
    """
    runs = simulate(np.random.default_rng(seed), num_images, [(0.5, own) for own in DETECTORS])
    return {own: np.array([AP_and_AP50(run[k]) for run in runs]) for k, own in enumerate(DETECTORS)}


def AP_and_AP50(matches: ClassMatches) -> tuple[float, float]:
    """Both (0-100) of a class; NaN without boxes."""
    values = [
        100 * average_precision(true_positives, np.ones_like(true_positives), matches.num_gt)
        for true_positives in matches.true_positives
    ]
    return float(np.mean(values)), values[0]


def percentile(means: np.ndarray, estimate: float) -> Ends:
    """The middle 95 % of the resamples."""
    return tuple(np.percentile(means, [2.5, 97.5]))


def recentred(means: np.ndarray, estimate: float) -> Ends:
    """The same, moved so that the resamples' mean falls on the estimate."""
    return tuple(np.percentile(means, [2.5, 97.5]) - means.mean() + estimate)


def basic(means: np.ndarray, estimate: float) -> Ends:
    """The same, mirrored at the estimate."""
    return tuple(2 * estimate - np.percentile(means, [97.5, 2.5]))


def bca(means: np.ndarray, estimate: float, left_out: np.ndarray) -> Ends:
    """Bias-corrected and accelerated (Efron, 1987), with the jackknife over the images."""
    normal = NormalDist()
    below = ((means < estimate).mean() + (means <= estimate).mean()) / 2
    bias = normal.inv_cdf(np.clip(below, 0.001, 0.999))
    change = np.nanmean(left_out) - left_out[~np.isnan(left_out)]
    squares = (change**2).sum()
    skew = (change**3).sum() / (6 * squares**1.5) if squares > 1e-12 else 0.0
    at = [bias + (bias + z) / (1 - skew * (bias + z)) for z in (-1.959964, 1.959964)]
    return tuple(np.percentile(means, [100 * normal.cdf(z) for z in at]))


def intervals(
    samples: np.ndarray,
    left_out: np.ndarray,
    images: np.ndarray,
    estimates: np.ndarray,
    difference: bool,
) -> dict[str, Ends]:
    """Every interval, by name.

    Args:
        samples: (B, K).
        left_out: (I, K), without one image at a time.
        images: (K,), of the classes.
        estimates: (K,), on the test set.
        difference: of two runs, and not an AP.
    """
    means, estimate = mean_of_classes(samples), estimates.mean()
    means = means[~np.isnan(means)]
    of_evaluation = (
        difference_interval(samples, images, estimate)
        if difference
        else AP_interval(samples, images, estimates)
    )
    return {
        "percentile": percentile(means, estimate),
        "recentred": recentred(means, estimate),
        "basic": basic(means, estimate),
        "BCa": bca(means, estimate, mean_of_classes(left_out)),
        "evaluation": of_evaluation,
    }


def outcomes(sets: int, seed: int = 0, fewest: int = FEWEST) -> Iterator[Outcome]:
    """Intervals on that many test sets of each of :data:`SIZES`.

    Args:
        sets: of each size.
        seed: of the simulation.
        fewest: images of the rarest classes.
    """
    truth = true_AP()
    # The classes' images of a test set, by name; None stands for half of all.
    frequencies = {"half of the images": None, "12 images": 12, f"{fewest} images": fewest}
    for size in SIZES:
        rng = np.random.default_rng([seed, size])
        classes = [
            (min(0.5, (count or size) / size), own)
            for count in frequencies.values()
            for own in DETECTORS
        ]
        drawn, all_but_one = draw_images(size), 1 - np.eye(size, dtype=np.int64)
        for _ in range(sets):
            runs = simulate(rng, size, classes)
            images = np.array([len(np.unique(m.gt_images)) for m in runs[0]])
            samples, left_out = (
                [bootstrap(run, times) for run in runs] for times in (drawn, all_but_one)
            )
            for i, metric in enumerate(("AP", "AP50")):
                # Each a list over the two runs, the classes last.
                values = (
                    [getattr(own, metric) for own in samples],
                    [getattr(own, metric) for own in left_out],
                    [np.array([AP_and_AP50(m)[i] for m in run]) for run in runs],
                    [np.array([truth[own][run, i] for _, own in classes]) for run in (0, 1)],
                )
                for what, detector, columns in _estimands(list(frequencies)):
                    columns = [k for k in columns if images[k] > 0]
                    if not columns or images[columns].max() < 2:
                        continue
                    for difference in (False, True):
                        own = [
                            (second - first if difference else first)[..., columns]
                            for first, second in values
                        ]
                        true = own[3].mean()
                        found = intervals(own[0], own[1], images[columns], own[2], difference)
                        name = f"difference, {what}" if difference else what
                        for method, (low, high) in found.items():
                            covers = 100.0 * (low - 1e-9 <= true <= high + 1e-9)
                            yield Outcome(name, size, detector, metric, method, covers, high - low)


def _estimands(frequencies: Sequence[str]) -> list[tuple[str, int | None, list[int]]]:
    """What is estimated, of which detector, and the classes."""
    number = len(DETECTORS)
    return [
        *(
            (f"class on {frequency}", own, [number * i + j])
            for i, frequency in enumerate(frequencies)
            for j, own in enumerate(DETECTORS)
        ),
        ("mean of the 4 frequent classes", None, list(range(number))),
        ("mean of all 12 classes", None, list(range(number * len(frequencies)))),
    ]


def table(found: Sequence[Outcome], rows: Sequence[str], column: str, value: str) -> str:
    """Means of a value, pooled over what is neither among the rows nor the column."""
    cells: dict[tuple, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for each in found:
        row = tuple(getattr(each, name) for name in rows)
        cells[row][getattr(each, column)].append(getattr(each, value))
    names = list(next(iter(cells.values())))
    body = [[*row, *(f"{np.mean(own[name]):.1f}" for name in names)] for row, own in cells.items()]
    return tabulate(body, [*rows, *names], tablefmt="github", disable_numparse=True)


def main() -> None:
    """Run the simulation from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", type=int, default=50, help="test sets of each size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fewest", type=int, default=FEWEST, help="images of the rarest classes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = list(outcomes(args.sets, args.seed, args.fewest))
    print("Intervals that cover the truth, in percent\n")
    print(table(found, ("what", "images"), "method", "covers"))
    print("\nThose of the evaluation, by the AP of the detector\n")
    classes = [each for each in found if each.detector and each.method == "evaluation"]
    print(table(classes, ("what", "metric"), "detector", "covers"))
    print("\nMean width\n")
    print(table(found, ("what",), "method", "width"))


if __name__ == "__main__":
    main()
