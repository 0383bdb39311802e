"""Scores of every run on the same resamples of the test images."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from counterpoise.comparison.runs import ComparedRun
from counterpoise.evaluation.average_precision import average_precision
from counterpoise.evaluation.bootstrap import (
    RESAMPLES,
    BootstrapSamples,
    bootstrap,
    draw_images,
)
from counterpoise.evaluation.error_types import ErrorTypes, classify_errors
from counterpoise.evaluation.matching import ClassMatches
from counterpoise.evaluation.operating_points import best_f1_thresholds

Track = Callable[[Sequence[Any]], Iterable[Any]]


@dataclass(frozen=True)
class RunScores:
    """One run.

    Attributes:
        name: of the run.
        matches: per class.
        errors: error types, counted among the detections of at least their class's threshold.
        AP, AP50: (K,) float64, 0-100; NaN without test boxes.
        samples: of the bootstrap; run by run on the same resamples.
    """

    name: str
    matches: tuple[ClassMatches, ...]
    errors: ErrorTypes
    AP: np.ndarray
    AP50: np.ndarray
    samples: BootstrapSamples


def score(
    runs: Sequence[ComparedRun], resamples: int = RESAMPLES, track: Track = iter
) -> tuple[RunScores, ...]:
    """Score runs.

    Args:
        runs: with equal ground truth.
        resamples: of the bootstrap, >= 1.
        track: wraps the classes of all runs while they are resampled, to show progress.
    """
    truth = runs[0].test_set.ground_truth
    drawn = draw_images(truth.num_images, resamples)
    steps = track([(i, k) for i in range(len(runs)) for k in range(truth.num_classes)])
    parts = {(i, k): bootstrap((runs[i].matches[k],), drawn) for i, k in steps}
    scores = []
    for i, run in enumerate(runs):
        by_threshold = np.array([_average_precision(own) for own in run.matches])
        columns = [parts[i, k] for k in range(truth.num_classes)]
        found = run.test_set.detections
        scores.append(
            RunScores(
                name=run.name,
                matches=run.matches,
                errors=classify_errors(truth, found, run.matches, _min_scores(run)),
                AP=100 * by_threshold.mean(axis=1),
                AP50=100 * by_threshold[:, 0],
                samples=BootstrapSamples(
                    AP=np.hstack([part.AP for part in columns]),
                    AP50=np.hstack([part.AP50 for part in columns]),
                ),
            )
        )
    return tuple(scores)


def _min_scores(run: ComparedRun) -> np.ndarray:
    """Score (K,) from which on a detection counts; that of maximal F1 where the run has none."""
    known = run.test_set.context.thresholds
    if known is None:
        return np.array(best_f1_thresholds(run.matches))
    return np.array([known[name] for name in run.test_set.ground_truth.class_names])


def _average_precision(matches: ClassMatches) -> list[float]:
    """Average precision in [0, 1] at each IoU threshold."""
    return [
        average_precision(true_positives, ~ignored, matches.num_gt)
        for true_positives, ignored in zip(matches.true_positives, matches.ignored, strict=True)
    ]
