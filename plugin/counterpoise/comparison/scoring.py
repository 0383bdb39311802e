"""Scores of every run on the same resamples of the test images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from counterpoise.comparison.runs import ComparedRun
from counterpoise.evaluation.bootstrap import RESAMPLES, bootstrap, draw_images
from counterpoise.evaluation.error_types import ErrorTypes, classify_errors
from counterpoise.evaluation.scoring import class_thresholds
from counterpoise.utils.progress import Track


@dataclass(frozen=True)
class ScoredRun(ComparedRun):
    """A run with its scores.

    Attributes:
        errors: error types, counted among the detections of at least their class's threshold.
        AP, AP50: (1 + B, K) float64, 0-100: on the test set itself and in each of B resamples,
            which are the same for all runs; NaN where there is no box of the class.
    """

    errors: ErrorTypes
    AP: np.ndarray
    AP50: np.ndarray


def score(
    runs: Sequence[ComparedRun], resamples: int = RESAMPLES, track: Track = iter
) -> tuple[ScoredRun, ...]:
    """Score runs.

    Args:
        runs: with equal ground truth.
        resamples: of the bootstrap, >= 1.
        track: wraps the classes of all runs while they are resampled, to show progress.
    """
    truth = runs[0].test_set.ground_truth
    once = np.ones((1, truth.num_images), dtype=np.int64)
    drawn = np.vstack([once, draw_images(truth.num_images, resamples)])
    samples = bootstrap([own for run in runs for own in run.matches], drawn, track)
    by_run = (np.split(values, len(runs), axis=1) for values in (samples.AP, samples.AP50))
    scored = []
    for run, AP, AP50 in zip(runs, *by_run, strict=True):
        own, found = run.test_set.ground_truth, run.test_set.detections  # boxes in its own order
        context = run.test_set.context
        thresholds = class_thresholds(run.matches, own.class_names, context.thresholds)
        scored.append(
            ScoredRun(
                **vars(run),
                errors=classify_errors(own, found, run.matches, np.array(thresholds)),
                AP=AP,
                AP50=AP50,
            )
        )
    return tuple(scored)
