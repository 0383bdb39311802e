"""The whole inspection, put together."""

from collections.abc import Mapping
from dataclasses import replace

from detectron2.config import CfgNode

from counterpoise.datasets import (
    Report,
    dataset_names,
    dataset_report,
    load_dataset,
    register_datasets,
)
from counterpoise.inspection.anchors import anchor_setting, compare_with_anchors
from counterpoise.inspection.balancing import repeat_factors, weights_by_rule
from counterpoise.inspection.duplicate_files import Track, find_overlap
from counterpoise.inspection.ground_truth import (
    GroundTruth,
    class_sizes,
    cooccurrence,
    ground_truth,
    imbalance,
    rare_samples,
)
from counterpoise.inspection.recommendation import combined_config, recommend
from counterpoise.inspection.results import Inspection, InvalidAnnotations, Split
from counterpoise.inspection.target import Target


def inspect(target: Target, cfg: CfgNode, track: Track = iter) -> Inspection:
    """Inspect a dataset.

    Its custom datasets are registered with ``BAD_RECORDS: skip``, so that invalid are listed.

    Args:
        target: of :func:`find_target`.
        cfg: of :func:`counterpoise.config.loading.load_config`; its model gives the anchors.
        track: wraps the files to hash, to show progress.

    Raises:
        UserError: a dataset cannot be read, or the model cannot be built.
    """
    register_datasets(target.specs, classes=target.classes)
    loaded = {name: load_dataset(name) for name in target.splits}
    class_names = tuple(dict.fromkeys(name for _, own in loaded.values() for name in own))
    truths = {name: ground_truth(name, *data, class_names) for name, data in loaded.items()}
    custom = dataset_names(target.specs)
    reports = {name: dataset_report(name) for name in target.splits if name in custom}
    subject, truth = next(iter(truths.items()))
    has_boxes = len(truth.boxes) > 0
    notes = list(target.notes)
    setting = anchor_setting(cfg)
    if setting is None:
        notes.append(
            f"boxes are not compared with anchors, because {cfg.MODEL.META_ARCHITECTURE} as "
            "configured does not take its anchors from DefaultAnchorGenerator"
        )
    filter_empty = cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    least_frequency, factors = repeat_factors(truth, filter_empty)
    sizes, all_sizes = class_sizes(truth)
    splits = tuple(
        _split(name, role, truths[name], reports.get(name)) for name, role in target.splits.items()
    )
    inspection = Inspection(
        name=target.name,
        format=reports[subject].format if subject in reports else None,
        class_names=class_names,
        splits=splits,
        sizes=sizes,
        all_sizes=all_sizes,
        anchors=compare_with_anchors(truth, setting) if setting and has_boxes else None,
        cooccurrence=cooccurrence(truth),
        invalid=_faults(reports),
        overlap=find_overlap({name: t.files for name, t in truths.items()}, track),
        weights=weights_by_rule([c.boxes for c in splits[0].classes], cfg) if has_boxes else (),
        least_frequency=least_frequency,
        repeat_factors=factors,
        samples=rare_samples(truth, class_names),
        notes=tuple(notes),
    )
    changeable = [s.name for s in target.specs.values() if target.splits.keys() & set(s.parts)]
    advice = recommend(inspection, cfg, changeable)
    return replace(
        inspection, recommendations=advice, config=combined_config(target.datasets, advice)
    )


def _split(name: str, role: str | None, truth: GroundTruth, report: Report | None) -> Split:
    counts = truth.counts()
    return Split(
        name=name,
        role=role,
        images=len(truth.files),
        empty_images=truth.num_empty(),
        boxes=len(truth.boxes),
        clipped=report.clipped if report else 0,
        imbalance=imbalance([count.boxes for count in counts]),
        classes=counts,
        notes=tuple(report.notes) if report else (),
    )


def _faults(reports: Mapping[str, Report]) -> tuple[InvalidAnnotations, ...]:
    """Faults by source; the two parts of a holdout have one source, and its invalid once."""
    sources = dict.fromkeys(report.source for report in reports.values())
    return tuple(
        InvalidAnnotations(
            splits=tuple(name for name, report in reports.items() if report.source == source),
            source=source,
            invalid=next(
                tuple(r.invalid_annotations) for r in reports.values() if r.source == source
            ),
        )
        for source in sources
    )
