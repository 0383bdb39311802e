"""The comparison of runs, put together."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from counterpoise.comparison.cost import different_settings, run_costs
from counterpoise.comparison.findings import findings, notes
from counterpoise.comparison.results import (
    ClassComparison,
    Comparison,
    ErrorComparison,
    GroupComparison,
    MatchedRecall,
    Scores,
    Value,
    Values,
)
from counterpoise.comparison.scoring import ScoredRun
from counterpoise.evaluation.bootstrap import SEED, interval
from counterpoise.evaluation.error_types import ERROR_TYPES, ErrorCount, background_false_positives
from counterpoise.evaluation.groups import frequency_groups
from counterpoise.evaluation.scoring import training_counts

#: Recalls at which false positives are compared: the first one that all runs reach.
RECALLS = tuple(i / 20 for i in range(16, 0, -1))


def compare(test_set: str, runs: Sequence[ScoredRun]) -> Comparison:
    """Compare runs to the first of them.

    Args:
        test_set: its name.
        runs: of :func:`~counterpoise.comparison.scoring.score`.

    Raises:
        UserError: a file of a run is broken.
    """
    truth = runs[0].test_set.ground_truth
    names = truth.class_names
    training = [training_counts(run.test_set.context.training, names) for run in runs]
    stated = [counts for counts in training if all(None not in pair for pair in counts)]
    counts = stated[0] if stated else training[0]
    matched = _matched(runs, truth.num_images)
    test_images, test_boxes = truth.images_per_class(), truth.boxes_per_class()
    classes = tuple(
        ClassComparison(
            name=name,
            **_scores(runs, [k]),
            train_images=counts[k][0],
            train_boxes=counts[k][1],
            test_images=int(test_images[k]),
            test_boxes=int(test_boxes[k]),
            missing_resamples=int(np.isnan(runs[0].AP[1:, k]).sum()),
            errors=_errors(runs, [run.errors.per_class[k] for run in runs]),
            matched=matched[k],
        )
        for k, name in enumerate(names)
    )
    groups = frequency_groups(*zip(*counts, strict=True)) if stated else ()
    comparison = Comparison(
        test_set=test_set,
        test_images=truth.num_images,
        resamples=len(runs[0].AP) - 1,
        bootstrap_seed=SEED,
        runs=run_costs(runs),
        mean=Scores("mean of classes", **_scores(runs, range(len(names)))),
        groups=tuple(
            GroupComparison(
                name=group.name,
                **_scores(runs, group.classes),
                rule=group.rule,
                classes=tuple(names[k] for k in group.classes),
            )
            for group in groups
        ),
        classes=classes,
        errors=_errors(runs, [run.errors.overall for run in runs]),
        matched=_sum(runs, [m for m in matched if m is not None]),
        settings=different_settings(runs),
        same_training_data=all(own == counts for own in stated),
        findings={},
        notes=(),
    )
    return replace(comparison, findings=findings(comparison), notes=notes(comparison))


def _values(
    runs: Sequence[ScoredRun],
    numbers: Sequence[float | None],
    samples: Sequence[np.ndarray] = (),
    images: np.ndarray | None = None,
) -> Values:
    """The number of each run, with an interval of the difference if there are `samples`."""
    first = numbers[0]
    values = {runs[0].name: Value(first)}
    for i, (run, own) in enumerate(zip(runs[1:], numbers[1:], strict=True), start=1):
        difference = None if own is None or first is None else own - first
        spread = None
        if samples and difference is not None:
            spread = interval(samples[i] - samples[0], images, difference)
        excludes_zero = spread is not None and not spread[0] <= 0 <= spread[1]
        values[run.name] = Value(own, difference, spread, excludes_zero)
    return values


def _scores(runs: Sequence[ScoredRun], classes: Sequence[int]) -> dict[str, Values]:
    """Fields of :class:`Scores`: means over classes, or the values of one."""
    chosen = list(classes)
    images = runs[0].test_set.ground_truth.images_per_class()[chosen]
    scores = {}
    for metric in ("AP", "AP50"):
        samples = [getattr(run, metric)[:, chosen] for run in runs]
        known = ~np.isnan(samples[0][0])
        means = [float(own[0, known].mean()) if known.any() else None for own in samples]
        scores[metric] = _values(runs, means, [own[1:] for own in samples], images)
    return scores


def _errors(
    runs: Sequence[ScoredRun], found: Sequence[Mapping[str, ErrorCount]]
) -> dict[str, ErrorComparison]:
    return {
        name: ErrorComparison(
            count=_values(runs, [own[name].count for own in found]),
            AP50_lost=_values(runs, [own[name].AP50_lost for own in found]),
        )
        for name in ERROR_TYPES
    }


def _matched(runs: Sequence[ScoredRun], num_images: int) -> list[MatchedRecall | None]:
    """What the highest of :data:`RECALLS` that all runs reach costs, per class."""
    reached = [
        min(m.true_positives[0].sum() / max(m.num_gt, 1) for m in of_class)
        for of_class in zip(*(run.matches for run in runs), strict=True)
    ]
    recalls = [next((r for r in RECALLS if r <= most), None) for most in reached]
    rates = {
        recall: [
            background_false_positives(run.matches, run.errors, num_images, recall) for run in runs
        ]
        for recall in set(recalls) - {None}
    }
    return [
        None
        if recall is None
        else MatchedRecall(
            recall,
            _values(runs, [own[k].per_image for own in rates[recall]]),
            _values(runs, [own[k].missed for own in rates[recall]]),
        )
        for k, recall in enumerate(recalls)
    ]


def _sum(runs: Sequence[ScoredRun], matched: Sequence[MatchedRecall]) -> MatchedRecall | None:
    if not matched:
        return None

    def total(field: str) -> Values:
        return _values(
            runs, [sum(getattr(m, field)[run.name].value for m in matched) for run in runs]
        )

    recalls = {m.recall for m in matched}
    recall = recalls.pop() if len(recalls) == 1 else None
    return MatchedRecall(recall, total("background_per_image"), total("missed"))
