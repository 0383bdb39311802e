"""Finished runs of an ablation, scored on equal resamples of their test images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from counterpoise.ablation.results import RunResult
from counterpoise.ablation.summary import Resamples
from counterpoise.comparison import read_runs
from counterpoise.evaluation.bootstrap import RESAMPLES, bootstrap, draw_images
from counterpoise.evaluation.stored import stored_test_sets
from counterpoise.utils.progress import Track


def resample(
    results: Sequence[RunResult],
    folders: Mapping[tuple[str, int], Path],
    resamples: int = RESAMPLES,
    track: Track = iter,
) -> Resamples | None:
    """Score runs on resamples of their test images.

    Args:
        results: of finished runs on one dataset.
        folders: OUTPUT_DIR by (config, seed).
        resamples: of the bootstrap, >= 1.
        track: wraps the runs, to show progress.

    Returns:
        None where there is one run alone, or the detections of one are not there.

    Raises:
        UserError: detections are there and cannot be read, or the test images differ.
    """
    test_set = results[0].scores.test_set
    keys = [(result.config, result.seed) for result in results]
    stored = (test_set in stored_test_sets(folders[key]) for key in keys if key in folders)
    if len(keys) < 2 or sum(stored) < len(keys):
        return None
    _, runs = read_runs([folders[key] for key in keys], test_set)
    truth = runs[0].test_set.ground_truth
    drawn = draw_images(truth.num_images, resamples)
    samples = [bootstrap(run.matches, drawn) for run in track(runs)]
    return Resamples(
        class_names=tuple(truth.class_names),
        images=truth.images_per_class(),
        AP={key: own.AP for key, own in zip(keys, samples, strict=True)},
        AP50={key: own.AP50 for key, own in zip(keys, samples, strict=True)},
    )
