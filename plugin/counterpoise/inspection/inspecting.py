"""The full inspection, put together."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from detectron2.config import CfgNode

from counterpoise.datasets import Report, dataset_names, dataset_report, register_datasets
from counterpoise.evaluation import GroundTruth
from counterpoise.inspection.anchor_changes import compare_with_anchors
from counterpoise.inspection.anchors import anchor_setting
from counterpoise.inspection.balancing import repeat_factors, weights_by_rule
from counterpoise.inspection.duplicate_files import find_duplicate_files
from counterpoise.inspection.ground_truth import (
    class_counts,
    class_sizes,
    cooccurrence,
    imbalance,
    joined,
    of_classes,
    rare_samples,
    read_ground_truth,
    without_ignored,
)
from counterpoise.inspection.near_duplicates import find_near_duplicates
from counterpoise.inspection.recommendation import combined_config, recommend
from counterpoise.inspection.results import Inspection, InvalidAnnotations, Split
from counterpoise.inspection.target import Target
from counterpoise.utils.progress import Track


def inspect(target: Target, cfg: CfgNode, track: Track = iter) -> Inspection:
    """Inspect a dataset.

    Its custom datasets are registered with ``BAD_RECORDS: skip``, so that all invalid annotations
    are listed.

    Args:
        target: of :func:`find_target`.
        cfg: of :func:`counterpoise.config.loading.load_config`; its model gives the anchors.
        track: wraps the files to read, to show progress.

    Raises:
        UserError: a dataset cannot be read, or the model cannot be built.
    """
    register_datasets(target.specs, classes=target.classes)
    datasets = [name for names in target.members.values() for name in names]
    read = {name: read_ground_truth(name) for name in datasets}
    class_names = tuple(
        dict.fromkeys(name for truth in read.values() for name in truth.class_names)
    )
    truths = {
        split: joined([of_classes(read[name], class_names) for name in names])
        for split, names in target.members.items()
    }
    custom = dataset_names(target.specs)
    reports = {name: dataset_report(name) for name in datasets if name in custom}
    with_crowds = next(iter(truths.values()))
    truth = without_ignored(with_crowds)
    has_boxes = len(truth.boxes) > 0
    notes = list(target.notes)
    setting = anchor_setting(cfg)
    if setting is None:
        notes.append(
            f"boxes are not compared with anchors, because {cfg.MODEL.META_ARCHITECTURE} as "
            "configured does not take its anchors from DefaultAnchorGenerator"
        )
    filter_empty = cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    least_frequency, factors = repeat_factors(with_crowds, filter_empty)
    sizes, all_sizes = class_sizes(truth)
    files = {name: own.file_names for name, own in truths.items()}
    splits = tuple(
        _split(name, role, target.members[name], truths[name], reports)
        for name, role in target.splits.items()
    )
    if has_boxes:
        notes += [
            f"{split.name} has no boxes, so that nothing can be measured on it"
            for split in splits[1:]
            if not split.boxes
        ]
    inspection = Inspection(
        name=target.name,
        format=reports[datasets[0]].format if datasets[0] in reports else None,
        class_names=class_names,
        splits=splits,
        sizes=sizes,
        all_sizes=all_sizes,
        anchors=compare_with_anchors(truth, setting) if setting and has_boxes else None,
        cooccurrence=cooccurrence(truth),
        invalid_annotations=_invalid_annotations(reports),
        duplicate_files=find_duplicate_files(files, track),
        near_duplicates=find_near_duplicates(files, track),
        weights=weights_by_rule([c.boxes for c in splits[0].classes], cfg) if has_boxes else (),
        least_frequency=least_frequency,
        repeat_factors=factors,
        samples=rare_samples(truth),
        notes=tuple(notes),
    )
    return _with_advice(inspection, target, cfg)


def _with_advice(inspection: Inspection, target: Target, cfg: CfgNode) -> Inspection:
    """Add what follows from the measurements, and the config that it makes."""
    used = {name for names in target.members.values() for name in names}
    own = [spec for spec in target.specs.values() if not used.isdisjoint(spec.parts)]
    # The numbers of plain YOLO labels count the classes of the list itself.
    named = [spec.name for spec in own if spec.format != "yolo" or spec.data_yaml is not None]
    relistable = named if len(named) == len(own) else []
    advice = recommend(inspection, cfg, [spec.name for spec in own], relistable)
    has_boxes = inspection.all_sizes.boxes > 0
    config = combined_config(target.custom, inspection.splits, advice) if has_boxes else ""
    return replace(inspection, recommendations=advice, config=config)


def _split(
    name: str,
    role: str | None,
    datasets: tuple[str, ...],
    truth: GroundTruth,
    reports: Mapping[str, Report],
) -> Split:
    counts = class_counts(truth)
    own = [reports[dataset] for dataset in datasets if dataset in reports]
    with_boxes = np.unique(truth.images[~truth.ignored])
    return Split(
        name=name,
        role=role,
        datasets=datasets,
        images=truth.num_images,
        empty_images=truth.num_images - len(with_boxes),
        boxes=sum(count.boxes for count in counts),
        clipped=sum(report.clipped for report in own),
        imbalance=imbalance([count.boxes for count in counts]),
        classes=counts,
        notes=tuple(
            note if len(own) == 1 else f"{report.name}: {note}"
            for report in own
            for note in report.notes
        ),
    )


def _invalid_annotations(reports: Mapping[str, Report]) -> tuple[InvalidAnnotations, ...]:
    """What is invalid, by source; the parts of a holdout have one source between them."""
    by_source: dict[str, list[str]] = {}
    for name, report in reports.items():
        by_source.setdefault(report.source, []).append(name)
    return tuple(
        InvalidAnnotations(tuple(names), source, tuple(reports[names[0]].invalid_annotations))
        for source, names in by_source.items()
    )
