"""One evaluation of detections on a test set, put together from the measures of this package."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from counterpoise.balance.class_counts import ClassCounts
from counterpoise.errors import UserError
from counterpoise.evaluation.average_precision import mean_of_known
from counterpoise.evaluation.bootstrap import (
    RESAMPLES,
    SEED,
    AP_interval,
    BootstrapSamples,
    bootstrap,
    draw_images,
)
from counterpoise.evaluation.coco_metrics import CocoMetrics, coco_metrics
from counterpoise.evaluation.confusion import confusion_matrix
from counterpoise.evaluation.error_types import (
    ErrorTypes,
    background_false_positives,
    classify_errors,
)
from counterpoise.evaluation.groups import frequency_groups
from counterpoise.evaluation.inputs import (
    Detections,
    GroundTruth,
    parse_detections,
    parse_ground_truth,
)
from counterpoise.evaluation.matching import ClassMatches, match
from counterpoise.evaluation.operating_points import at_threshold, best_f1_thresholds
from counterpoise.evaluation.proposals import ProposalResult
from counterpoise.evaluation.results import ClassResult, Evaluation, GroupResult
from counterpoise.evaluation.voc_metrics import VocResult, voc_average_precision

#: Recalls at which false positives on background are counted.
RECALLS = (0.5, 0.8)
BEST_F1 = "maximal F1 on this test set, so both are optimistic"


def evaluate_detections(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    training: ClassCounts | None = None,
    thresholds: Mapping[str, float] | None = None,
    thresholds_from: str = "given",
    proposals: ProposalResult | None = None,
    resamples: int = RESAMPLES,
) -> Evaluation:
    """Score detections against ground truth, both in COCO form.

    Args:
        ground_truth: COCO dataset with ``images``, ``annotations`` and ``categories``. Annotations
            with ``iscrowd`` 1 or ``difficult`` 1 are regions in which a detection is neither a
            true nor a false positive. Annotation ids are not read: pycocotools counts a match to
            an annotation of id 0 as a false positive.
        detections: COCO results with ``image_id``, ``category_id``, ``bbox`` (XYWH, pixels) and
            ``score``; may be empty.
        training: counts over the training set, looked up by class name.
        thresholds: score in [0, 1] per class name at which precision, recall and confusion are
            measured; None takes the one of maximal F1.
        thresholds_from: where `thresholds` come from, in words.
        proposals: recall of the RPN's proposals, for the record.
        resamples: of the bootstrap, >= 1.

    Returns:
        the result, classes in the order of ``categories``.

    Raises:
        UserError: the ground truth has no box that counts, or either side is invalid.
    """
    truth = parse_ground_truth(ground_truth)
    found = parse_detections(detections, ground_truth, truth)
    return evaluate_arrays(
        truth, found, training, thresholds, thresholds_from, proposals, resamples
    )


def evaluate_arrays(
    truth: GroundTruth,
    found: Detections,
    training: ClassCounts | None = None,
    thresholds: Mapping[str, float] | None = None,
    thresholds_from: str = "given",
    proposals: ProposalResult | None = None,
    resamples: int = RESAMPLES,
) -> Evaluation:
    """:func:`evaluate_detections` for what is parsed already."""
    if resamples < 1:
        raise UserError(f"resamples is {resamples}, expected a number >= 1")
    if truth.ignored.all():
        raise UserError(
            f"the ground truth has no box of the classes [{', '.join(truth.class_names)}] in its "
            f"{truth.num_images} images, so there is nothing to evaluate: check the class names"
        )
    measured = _measure(truth, found, thresholds, resamples)
    coco, voc, samples = measured.coco, measured.voc, measured.samples
    per_class = _class_results(truth, measured, training, proposals)
    test_images = truth.images_per_class()
    return Evaluation(
        **coco.summary,
        VOC07_AP50=voc.VOC07_AP50,
        VOC10_AP50=voc.VOC10_AP50,
        AP_interval=AP_interval(samples.AP, test_images, [c["AP"] for c in coco.per_class]),
        AP50_interval=AP_interval(samples.AP50, test_images, [c["AP50"] for c in coco.per_class]),
        resamples=resamples,
        bootstrap_seed=SEED,
        test_images=truth.num_images,
        thresholds_from=BEST_F1 if thresholds is None else thresholds_from,
        per_class=tuple(per_class),
        groups=_groups(per_class, coco, samples),
        errors=measured.errors.overall,
        confusion=confusion_matrix(truth, found, np.array(measured.thresholds)),
        proposals=proposals,
        notes=tuple(_notes(truth, found, per_class)),
    )


@dataclass(frozen=True)
class _Measured:
    """Everything that a result is put together from, ``thresholds`` (K,) by class."""

    matches: tuple[ClassMatches, ...]
    samples: BootstrapSamples
    coco: CocoMetrics
    voc: VocResult
    thresholds: list[float]
    errors: ErrorTypes


def _measure(
    truth: GroundTruth,
    found: Detections,
    thresholds: Mapping[str, float] | None,
    resamples: int,
) -> _Measured:
    matches = match(truth, found)
    drawn = draw_images(truth.num_images, resamples)
    with ThreadPoolExecutor(1) as aside:
        bootstrapped = aside.submit(bootstrap, matches, drawn)
        coco = coco_metrics(truth, found)
        voc = voc_average_precision(truth, found)
        chosen = class_thresholds(matches, truth.class_names, thresholds)
        errors = classify_errors(truth, found, matches, np.array(chosen))
        return _Measured(matches, bootstrapped.result(), coco, voc, chosen, errors)


def _class_results(
    truth: GroundTruth,
    measured: _Measured,
    training: ClassCounts | None,
    proposals: ProposalResult | None,
) -> list[ClassResult]:
    counts = counts_in_training(training, truth.class_names)
    background = [
        background_false_positives(measured.matches, measured.errors, truth.num_images, recall)
        for recall in RECALLS
    ]
    test_images, test_boxes = truth.images_per_class(), truth.boxes_per_class()
    results = []
    for k, name in enumerate(truth.class_names):
        coco, voc = measured.coco.per_class[k], measured.voc.per_class[k]
        samples, samples50 = measured.samples.AP[:, k], measured.samples.AP50[:, k]
        point = at_threshold(measured.matches[k], measured.thresholds[k])
        results.append(
            ClassResult(
                name=name,
                **coco,
                VOC07_AP50=voc.VOC07_AP50,
                VOC10_AP50=voc.VOC10_AP50,
                AP_interval=AP_interval(samples, test_images[k], coco["AP"]),
                AP50_interval=AP_interval(samples50, test_images[k], coco["AP50"]),
                missing_resamples=int(np.isnan(samples).sum()),
                threshold=measured.thresholds[k],
                precision=point.precision,
                recall=point.recall,
                F1=point.F1,
                detections=point.detections,
                background_at_recall={
                    str(recall): result[k]
                    for recall, result in zip(RECALLS, background, strict=True)
                },
                errors=measured.errors.per_class[k],
                proposal_AR100=proposals.per_class_AR100[k] if proposals else None,
                proposal_AR1000=proposals.per_class_AR1000[k] if proposals else None,
                train_images=counts[k][0],
                train_boxes=counts[k][1],
                test_images=int(test_images[k]),
                test_boxes=int(test_boxes[k]),
            )
        )
    return results


def class_thresholds(
    matches: Sequence[ClassMatches],
    names: Sequence[str],
    thresholds: Mapping[str, float] | None,
) -> list[float]:
    """Score threshold of each class.

    Args:
        matches: of the K classes.
        names: of the classes.
        thresholds: by name; None chooses those of the largest F1.

    Raises:
        UserError: a class has none.
    """
    if thresholds is None:
        return best_f1_thresholds(matches)
    if missing := [name for name in names if name not in thresholds]:
        raise UserError(
            f"there is no score threshold for the classes [{', '.join(missing)}]: give one for "
            "every class of the test set"
        )
    return [float(thresholds[name]) for name in names]


def counts_in_training(
    training: ClassCounts | None, names: Sequence[str]
) -> list[tuple[int | None, int | None]]:
    """Training images and boxes of each class, (None, None) where they are not known."""
    if training is None:
        return [(None, None)] * len(names)
    known = dict(
        zip(training.names, zip(training.images, training.boxes, strict=True), strict=True)
    )
    return [known.get(name, (None, None)) for name in names]


def _groups(
    per_class: Sequence[ClassResult],
    coco: CocoMetrics,
    samples: BootstrapSamples,
) -> tuple[GroupResult, ...]:
    if any(c.train_images is None for c in per_class):
        return ()
    groups = frequency_groups(
        [c.train_images for c in per_class], [c.train_boxes for c in per_class]
    )
    return tuple(
        GroupResult(
            name=group.name,
            rule=group.rule,
            classes=tuple(per_class[k].name for k in group.classes),
            AP=mean_of_known(coco.per_class[k]["AP"] for k in group.classes),
            AP50=mean_of_known(coco.per_class[k]["AP50"] for k in group.classes),
            AP_interval=AP_interval(
                samples.AP[:, list(group.classes)],
                [per_class[k].test_images for k in group.classes],
                [coco.per_class[k]["AP"] for k in group.classes],
            ),
        )
        for group in groups
    )


def _notes(truth: GroundTruth, found: Detections, per_class: Sequence[ClassResult]) -> list[str]:
    notes = []
    if absent := [c.name for c in per_class if not c.test_boxes]:
        notes.append(f"Without test boxes, so without AP and not in the mean: {', '.join(absent)}.")
    if untrained := [c.name for c in per_class if c.train_boxes == 0 and c.test_boxes]:
        notes.append(f"Without training boxes, but in the mean: {', '.join(untrained)}.")
    if not len(found):
        notes.append("There are no predictions at all, so every AP is 0.")
        return notes
    predicted = np.bincount(found.classes, minlength=truth.num_classes)
    never = [
        c.name
        for c, number in zip(per_class, predicted, strict=True)
        if c.test_boxes and not number
    ]
    if never:
        notes.append(f"Never predicted: {', '.join(never)}.")
    return notes
