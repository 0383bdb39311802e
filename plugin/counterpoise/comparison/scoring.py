"""Scores of every run on the same resamples of the test images."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from counterpoise.comparison.runs import Contender
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
    contenders: Sequence[Contender], resamples: int = RESAMPLES, track: Track = iter
) -> tuple[RunScores, ...]:
    """Score runs.

    Args:
        contenders: with equal ground truth.
        resamples: of the bootstrap, >= 1.
        track: wraps the classes of all runs while they are resampled, to show progress.
    """
    truth = contenders[0].ground_truth
    drawn = draw_images(truth.num_images, resamples)
    steps = track([(run, k) for run in range(len(contenders)) for k in range(truth.num_classes)])
    parts = {(run, k): bootstrap((contenders[run].matches[k],), drawn) for run, k in steps}
    scores = []
    for run, contender in enumerate(contenders):
        own = contender.matches
        by_threshold = np.array([_average_precision(m) for m in own])
        columns = [parts[run, k] for k in range(truth.num_classes)]
        scores.append(
            RunScores(
                name=contender.name,
                matches=own,
                errors=classify_errors(truth, contender.detections, own, _min_scores(contender)),
                AP=100 * by_threshold.mean(axis=1),
                AP50=100 * by_threshold[:, 0],
                samples=BootstrapSamples(
                    AP=np.hstack([part.AP for part in columns]),
                    AP50=np.hstack([part.AP50 for part in columns]),
                ),
            )
        )
    return tuple(scores)


def _min_scores(contender: Contender) -> np.ndarray:
    """Score (K,) from which on a detection counts; that of maximal F1 where the run has none."""
    best = best_f1_thresholds(contender.matches)
    return np.array(
        [
            chosen if threshold is None else threshold
            for chosen, threshold in zip(best, contender.thresholds, strict=True)
        ]
    )


def _average_precision(matches: ClassMatches) -> list[float]:
    """Average precision in [0, 1] at each IoU threshold."""
    return [
        average_precision(true_positives, ~ignored, matches.num_gt)
        for true_positives, ignored in zip(matches.true_positives, matches.ignored, strict=True)
    ]
