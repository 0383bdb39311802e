"""The comparison of runs, put together."""

from collections.abc import Callable, Mapping, Sequence
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
from counterpoise.comparison.sides import Side
from counterpoise.evaluation.bootstrap import SEED
from counterpoise.evaluation.error_types import ERROR_TYPES, ErrorCount, background_false_positives
from counterpoise.evaluation.groups import frequency_groups
from counterpoise.evaluation.scoring import counts_in_training
from counterpoise.evaluation.seeds import Trainings, difference

#: Recalls at which false positives are compared: the first one that all runs reach.
RECALLS = tuple(i / 20 for i in range(16, 0, -1))


def compare(test_set: str, sides: Sequence[Side]) -> Comparison:
    """Compare sides to the first of them.

    Args:
        test_set: its name.
        sides: of :mod:`counterpoise.comparison.sides`.

    Raises:
        UserError: a file of a run is broken.
    """
    runs = [run for side in sides for run in side.runs]
    truth = runs[0].test_set.ground_truth
    names = truth.class_names
    training = [counts_in_training(run.test_set.context.training, names) for run in runs]
    stated = [counts for counts in training if all(None not in pair for pair in counts)]
    counts = stated[0] if stated else training[0]
    matched = _matched(sides, truth.num_images)
    test_images, test_boxes = truth.images_per_class(), truth.boxes_per_class()
    classes = tuple(
        ClassComparison(
            name=name,
            **_scores(sides, [k]),
            train_images=counts[k][0],
            train_boxes=counts[k][1],
            test_images=int(test_images[k]),
            test_boxes=int(test_boxes[k]),
            missing_resamples=int(np.isnan(runs[0].AP[1:, k]).sum()),
            errors=_errors(sides, lambda run, k=k: run.errors.per_class[k]),
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
        runs=run_costs(sides),
        mean=Scores("mean of classes", **_scores(sides, range(len(names)))),
        groups=tuple(
            GroupComparison(
                name=group.name,
                **_scores(sides, group.classes),
                rule=group.rule,
                classes=tuple(names[k] for k in group.classes),
            )
            for group in groups
        ),
        classes=classes,
        errors=_errors(sides, lambda run: run.errors.overall),
        matched=_sum(sides, [m for m in matched if m is not None]),
        settings=different_settings(sides),
        same_training_data=all(own == counts for own in stated),
        findings={},
        notes=(),
    )
    return replace(comparison, findings=findings(comparison), notes=notes(comparison))


def _values(
    sides: Sequence[Side],
    numbers: Sequence[Sequence[float | None]],
    samples: Sequence[np.ndarray] = (),
    images: np.ndarray | None = None,
) -> Values:
    """The number of each side, with an interval of the difference if there are `samples`.

    Args:
        sides: the baseline first.
        numbers: by side and run.
        samples: by side, (S, B, k) of k classes.
        images: (k,), test images of the classes.
    """
    trainings = [
        None
        if None in own
        else Trainings(np.array(own), samples[i] if samples else None, side.seeds)
        for i, (side, own) in enumerate(zip(sides, numbers, strict=True))
    ]
    values = {}
    for side, own in zip(sides, trainings, strict=True):
        if own is None:
            values[side.name] = Value(None)
            continue
        # A count of a single run stays a whole number.
        mean = own.values.mean().item() if len(own.values) > 1 else own.values[0].item()
        if side is sides[0] or trainings[0] is None:
            values[side.name] = Value(mean, std=own.std)
            continue
        change = difference(trainings[0], own, images)
        if not samples:
            change = change._replace(interval=None)
        values[side.name] = Value(
            mean, change.value, change.interval, change.excludes_zero, own.std
        )
    return values


def _scores(sides: Sequence[Side], classes: Sequence[int]) -> dict[str, Values]:
    """Fields of :class:`Scores`: means over classes, or the values of one."""
    chosen = list(classes)
    images = sides[0].runs[0].test_set.ground_truth.images_per_class()[chosen]
    scores = {}
    for metric in ("AP", "AP50"):
        stacked = [np.stack([getattr(r, metric)[:, chosen] for r in s.runs]) for s in sides]
        known = ~np.isnan(stacked[0][0, 0])
        means = [
            [float(run[0, known].mean()) if known.any() else None for run in own] for own in stacked
        ]
        scores[metric] = _values(sides, means, [own[:, 1:] for own in stacked], images)
    return scores


def _errors(
    sides: Sequence[Side], found: Callable[[ScoredRun], Mapping[str, ErrorCount]]
) -> dict[str, ErrorComparison]:
    by_side = [[found(run) for run in side.runs] for side in sides]
    return {
        name: ErrorComparison(
            count=_values(sides, [[run[name].count for run in own] for own in by_side]),
            AP50_lost=_values(sides, [[run[name].AP50_lost for run in own] for own in by_side]),
        )
        for name in ERROR_TYPES
    }


def _matched(sides: Sequence[Side], num_images: int) -> list[MatchedRecall | None]:
    """What the highest of :data:`RECALLS` that all runs reach costs, per class."""
    all_runs = [run for side in sides for run in side.runs]
    reached = [
        min(m.true_positives[0].sum() / max(m.num_gt, 1) for m in of_class)
        for of_class in zip(*(run.matches for run in all_runs), strict=True)
    ]
    recalls = [next((r for r in RECALLS if r <= most), None) for most in reached]
    rates = {
        recall: [
            [background_false_positives(r.matches, r.errors, num_images, recall) for r in side.runs]
            for side in sides
        ]
        for recall in set(recalls) - {None}
    }
    return [
        None
        if recall is None
        else MatchedRecall(
            recall,
            _values(sides, [[run[k].per_image for run in own] for own in rates[recall]]),
            _values(sides, [[run[k].missed for run in own] for own in rates[recall]]),
        )
        for k, recall in enumerate(recalls)
    ]


def _sum(sides: Sequence[Side], matched: Sequence[MatchedRecall]) -> MatchedRecall | None:
    """Sums over classes, of the sides' means."""
    if not matched:
        return None

    def total(field: str) -> Values:
        sums = {
            side.name: sum(getattr(m, field)[side.name].value for m in matched) for side in sides
        }
        first = sums[sides[0].name]
        return {
            side.name: Value(sums[side.name], None if side is sides[0] else sums[side.name] - first)
            for side in sides
        }

    recalls = {m.recall for m in matched}
    recall = recalls.pop() if len(recalls) == 1 else None
    return MatchedRecall(recall, total("background_per_image"), total("missed"))
