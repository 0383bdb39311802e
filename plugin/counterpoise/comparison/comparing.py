"""The comparison of runs, put together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import sub
from typing import TypeVar

import numpy as np

from counterpoise.comparison.cost import different_settings, run_costs
from counterpoise.comparison.findings import findings, notes
from counterpoise.comparison.results import (
    ClassComparison,
    Comparison,
    Difference,
    ErrorComparison,
    GroupComparison,
    MatchedRecall,
    Scores,
)
from counterpoise.comparison.runs import ComparedRun
from counterpoise.comparison.scoring import RunScores
from counterpoise.evaluation.bootstrap import SEED, interval, num_images
from counterpoise.evaluation.error_types import ERROR_TYPES, ErrorCount, background_false_positives
from counterpoise.evaluation.groups import frequency_groups

#: Recalls at which false positives are compared: the first one that all runs reach.
RECALLS = tuple(i / 20 for i in range(16, 0, -1))

T = TypeVar("T")
D = TypeVar("D")
#: Training images and boxes by class; None where a run does not say.
Counts = Mapping[str, tuple[int | None, int | None]]


def compare(test_set: str, runs: Sequence[ComparedRun], scores: Sequence[RunScores]) -> Comparison:
    """Compare runs to the first of them.

    Args:
        test_set: its name.
        runs: of :func:`~counterpoise.comparison.runs.read_runs`.
        scores: of :func:`~counterpoise.comparison.scoring.score`, in the same order.

    Raises:
        UserError: a file of a run is broken.
    """
    truth = runs[0].test_set.ground_truth
    training = [_training_counts(run) for run in runs]
    stated = [counts for counts in training if _complete(counts)]
    counts = stated[0] if stated else training[0]
    matched = _matched(scores, truth.num_images)
    test_images, test_boxes = truth.images_per_class(), truth.boxes_per_class()
    classes = tuple(
        ClassComparison(
            name=name,
            train_images=counts[name][0],
            train_boxes=counts[name][1],
            test_images=int(test_images[k]),
            test_boxes=int(test_boxes[k]),
            scores=_scores(scores, [k]),
            missing_resamples=int(np.isnan(scores[0].samples.AP[:, k]).sum()),
            errors=_errors({s.name: s.errors.per_class[k] for s in scores}),
            matched=matched[k],
        )
        for k, name in enumerate(truth.class_names)
    )
    groups = (
        frequency_groups([c.train_images for c in classes], [c.train_boxes for c in classes])
        if stated
        else ()
    )
    comparison = Comparison(
        test_set=test_set,
        test_images=truth.num_images,
        resamples=len(scores[0].samples.AP),
        bootstrap_seed=SEED,
        runs=run_costs(runs),
        mean=_scores(scores, range(len(classes))),
        groups=tuple(
            GroupComparison(
                name=group.name,
                rule=group.rule,
                classes=tuple(truth.class_names[k] for k in group.classes),
                scores=_scores(scores, group.classes),
            )
            for group in groups
        ),
        classes=classes,
        errors=_errors({s.name: s.errors.overall for s in scores}),
        matched=_sum(matched),
        settings=different_settings(runs),
        same_training_data=all(own == counts for own in stated),
        findings={},
        notes=(),
    )
    return replace(comparison, findings=findings(comparison), notes=notes(comparison))


def _training_counts(run: ComparedRun) -> Counts:
    counts = dict.fromkeys(run.test_set.ground_truth.class_names, (None, None))
    if training := run.test_set.context.training:
        own = zip(training.names, zip(training.images, training.boxes, strict=True), strict=True)
        counts |= {name: pair for name, pair in own if name in counts}
    return counts


def _complete(counts: Counts) -> bool:
    return all(None not in pair for pair in counts.values())


def _to_first(values: Mapping[str, T], minus: Callable[[T, T], D]) -> dict[str, D]:
    """Difference of each run to the first one."""
    first, *others = values
    return {run: minus(values[run], values[first]) for run in others}


def _scores(scores: Sequence[RunScores], classes: Sequence[int]) -> Scores:
    """Means over classes, or the values of one, in all runs."""
    chosen = list(classes)
    images = [num_images([scores[0].matches[k]]) for k in chosen]
    means, differences = {}, {}
    for metric in ("AP", "AP50"):
        means[metric] = {s.name: _mean(getattr(s, metric)[chosen]) for s in scores}
        samples = {s.name: getattr(s.samples, metric)[:, chosen] for s in scores}
        values = {run: (mean, samples[run]) for run, mean in means[metric].items()}
        differences[metric] = _to_first(
            values, lambda own, first: _difference(*own, *first, images)
        )
    return Scores(means["AP"], means["AP50"], differences["AP"], differences["AP50"])


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _difference(
    value: float | None,
    samples: np.ndarray,
    first: float | None,
    first_samples: np.ndarray,
    images: Sequence[int],
) -> Difference:
    if value is None or first is None:
        return Difference(None, None, False)
    spread = interval(samples - first_samples, images, value - first)
    excludes_zero = spread is not None and (spread[0] > 0 or spread[1] < 0)
    return Difference(value - first, spread, excludes_zero)


def _errors(found: Mapping[str, Mapping[str, ErrorCount]]) -> dict[str, ErrorComparison]:
    kinds = {}
    for kind in ERROR_TYPES:
        count = {run: own[kind].count for run, own in found.items()}
        lost = {run: own[kind].AP50_lost for run, own in found.items()}
        kinds[kind] = ErrorComparison(count, lost, _to_first(count, sub), _to_first(lost, _minus))
    return kinds


def _minus(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _matched(scores: Sequence[RunScores], num_images: int) -> list[MatchedRecall | None]:
    """What the highest of :data:`RECALLS` that all runs reach costs, per class."""
    reached = [
        min(m.true_positives[0].sum() / max(m.num_gt, 1) for m in of_class)
        for of_class in zip(*(s.matches for s in scores), strict=True)
    ]
    recalls = [next((r for r in RECALLS if r <= most), None) for most in reached]
    rates = {
        recall: {
            s.name: background_false_positives(s.matches, s.errors, num_images, recall)
            for s in scores
        }
        for recall in set(recalls) - {None}
    }
    return [
        None
        if recall is None
        else _matched_recall(
            recall,
            {run: own[k].per_image for run, own in rates[recall].items()},
            {run: own[k].missed for run, own in rates[recall].items()},
        )
        for k, recall in enumerate(recalls)
    ]


def _sum(matched: Sequence[MatchedRecall | None]) -> MatchedRecall | None:
    known = [m for m in matched if m is not None]
    if not known:
        return None
    recalls, runs = {m.recall for m in known}, known[0].missed
    return _matched_recall(
        recalls.pop() if len(recalls) == 1 else None,
        {run: sum(m.background_per_image[run] for m in known) for run in runs},
        {run: sum(m.missed[run] for m in known) for run in runs},
    )


def _matched_recall(
    recall: float | None, per_image: dict[str, float], missed: dict[str, int]
) -> MatchedRecall:
    return MatchedRecall(recall, per_image, missed, _to_first(per_image, sub))
