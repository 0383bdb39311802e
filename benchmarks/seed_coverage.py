"""How often 95 % intervals of a difference over seeds and images cover the truth, by simulation.

    python benchmarks/seed_coverage.py               # about 10 minutes on one core
    python benchmarks/seed_coverage.py --sets 100    # sooner, and less certain

Two configs are trained with 2 to 5 seeds each, and the second one is better. A training with a seed
is a detector of ``interval_coverage.py`` whose quality is drawn at random, by more or by less from
seed to seed, for all classes together and for each class on its own; all of them find boxes on the
same simulated test images. The truth is the difference of the mean AP over very many seeds on very
many images. Printed is the share of simulations whose interval covers it.
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from counterpoise.evaluation.bootstrap import (
    bootstrap,
    draw_images,
    image_variance,
    interval_around,
)
from counterpoise.evaluation.seeds import Trainings, difference
from counterpoise.evaluation.variance import half_width
from interval_coverage import GAIN, AP_and_AP50, Ends, Matches, simulate, table

SEEDS = (2, 3, 5)
IMAGES = 70
RESAMPLES = 300
#: Standard deviation of the quality of a detector, in units of the scores, whose difference between
#: the configs is GAIN: from seed to seed, of all classes together and as much of each class; and of
#: the difference of the configs from image to image.
SPREADS = {
    "only noise": (0.0, 0.0),
    "seeds differ": (0.2, 0.0),
    "images differ": (0.0, 0.6),
    "both differ": (0.2, 0.6),
}
#: Share of the images that hold the class, and its key of DETECTORS.
CLASSES = ((0.5, 40), (0.5, 70), (0.25, 40), (0.1, 10), (0.1, 40), (0.1, 70))
#: What is estimated -> columns of CLASSES.
ESTIMANDS = {
    "class on half of the images": [0],
    "class on 7 images": [4],
    "mean of the rarer half": [3, 4, 5],
    "mean of all": list(range(len(CLASSES))),
}


class Outcome(NamedTuple):
    """One interval on one simulation: 100 where it covers the truth, else 0, and its width."""

    what: str
    seeds: int
    method: str
    covers: float
    width: float


def trainings(
    rng: np.random.Generator, num_images: int, seeds: int, spread: float, by_image: float
) -> list[Matches]:
    """Detections of S trainings of the first config, then of the second, on the same images."""
    liking = rng.normal(0, by_image, num_images)
    gains = []
    for gain in (0.0, GAIN + liking):
        together, own = rng.normal(0, spread, seeds), rng.normal(0, spread, (seeds, len(CLASSES)))
        gains += [gain + together[s] + own[s][:, None] for s in range(seeds)]
    by_class = [
        simulate(rng, num_images, [each], [gain[k] for gain in gains])
        for k, each in enumerate(CLASSES)
    ]
    return [tuple(own[run][0] for own in by_class) for run in range(len(gains))]


def true_difference(spread: float, by_image: float, size: int = 300_000) -> np.ndarray:
    """Difference of AP (K,) over very many seeds and images."""
    # Gauss-Hermite nodes take the place of seeds: the quality of a class is normal.
    nodes, weights = np.polynomial.hermite_e.hermegauss(7 if spread else 1)
    rng = np.random.default_rng(1)
    gains = [np.sqrt(2) * spread * node for node in nodes]
    gains += [GAIN + rng.normal(0, by_image, size) + gain for gain in gains]
    found = []
    for each in CLASSES:
        AP = [AP_and_AP50(run[0])[0] for run in simulate(rng, size, [each], gains)]
        first, second = np.array(AP).reshape(2, -1) @ weights / weights.sum()
        found.append(second - first)
    return np.array(found)


def hierarchical(
    rng: np.random.Generator, first: np.ndarray, second: np.ndarray, columns: Sequence[int]
) -> Ends:
    """Percentiles of a bootstrap that draws pairs of seeds, then images, for samples (S, B, K)."""
    pairs = np.nanmean((second - first)[:, :, columns], axis=2)
    seeds, resamples = pairs.shape
    drawn = rng.integers(seeds, size=(20, resamples, seeds))
    means = pairs.T[np.arange(resamples)[:, None], drawn].mean(axis=-1)
    return tuple(np.nanpercentile(means, [2.5, 97.5]))


def outcomes(sets: int, seed: int = 0) -> Iterator[Outcome]:
    """Intervals of that many simulations of each kind."""
    for name, spreads in SPREADS.items():
        truth = true_difference(*spreads)
        for seeds in SEEDS:
            rng = np.random.default_rng([seed, seeds])
            for _ in range(sets):
                runs = trainings(rng, IMAGES, seeds, *spreads)
                AP = np.array([[AP_and_AP50(m)[0] for m in run] for run in runs])
                drawn = draw_images(IMAGES, RESAMPLES)
                samples = np.array([bootstrap(run, drawn).AP for run in runs])
                images = np.array([[len(np.unique(m.gt_images)) for m in runs[0]]])
                for what, columns in ESTIMANDS.items():
                    columns = [k for k in columns if images[0, k] > 0]
                    if not columns or images[0, columns].max() < 2:
                        continue
                    values = AP[:, columns].mean(axis=1)
                    first, second = (
                        Trainings(values[own], samples[own][..., columns], range(seeds))
                        for own in (slice(seeds), slice(seeds, None))
                    )
                    found, both = difference(first, second, images[0, columns])
                    paired = second.samples.mean(axis=0) - first.samples.mean(axis=0)
                    by_image = half_width(image_variance(paired, images[0, columns]))
                    methods = {
                        "images alone": interval_around(found, by_image),
                        "seeds alone": difference(
                            Trainings(first.values, seeds=first.seeds),
                            Trainings(second.values, seeds=second.seeds),
                        )[1],
                        "percentiles": hierarchical(rng, samples[:seeds], samples[seeds:], columns),
                        "here": both,
                    }
                    true = truth[columns].mean()
                    for method, (low, high) in methods.items():
                        covers = 100.0 * (low - 1e-9 <= true <= high + 1e-9)
                        yield Outcome(f"{name}, {what}", seeds, method, covers, high - low)


def main() -> None:
    """Run the simulation from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", type=int, default=400, help="simulations of each kind")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = list(outcomes(args.sets, args.seed))
    print("Intervals that cover the truth, in percent\n")
    print(table(found, ("what", "seeds"), "method", "covers"))
    print("\nMean width\n")
    print(table(found, ("what", "seeds"), "method", "width"))


if __name__ == "__main__":
    main()
