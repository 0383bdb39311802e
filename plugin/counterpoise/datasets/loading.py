"""Reading one custom dataset: parse, check, report, and hold out a part if asked."""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

from counterpoise.datasets.checks import check_records
from counterpoise.datasets.coco import read_coco
from counterpoise.datasets.records import RecordSet
from counterpoise.datasets.report import Report
from counterpoise.datasets.spec import DatasetSpec
from counterpoise.datasets.stratify import stratified_holdout
from counterpoise.datasets.voc import read_voc
from counterpoise.datasets.yolo import read_yolo
from counterpoise.datasets.yolo_yaml import yolo_class_names
from counterpoise.errors import UserError

DatasetDicts = list[dict[str, Any]]

_READERS: dict[str, Callable[[DatasetSpec], RecordSet]] = {
    "voc": read_voc,
    "yolo": read_yolo,
    "coco": read_coco,
}
_logger = logging.getLogger("counterpoise.datasets")

# Parsed for its class names and not yet loaded: a run asks for the names first.
_parsed: dict[DatasetSpec, RecordSet] = {}


def read_class_names(spec: DatasetSpec) -> list[str]:
    """Return the class list that the dataset itself defines, or ``spec.classes`` if given.

    YOLO: by class index. COCO: by category id. VOC: the sorted names found in the XMLs.

    Raises:
        UserError: the dataset cannot be read or defines no class.
    """
    if spec.classes:
        return list(spec.classes)
    if spec.format == "yolo":
        return list(yolo_class_names(spec))
    if spec not in _parsed:
        _parsed[spec] = _READERS[spec.format](spec)
    return list(_own_names(spec, _parsed[spec]))


def _own_names(spec: DatasetSpec, records: RecordSet) -> tuple[str, ...]:
    names = spec.classes or records.class_names
    if not names:
        raise UserError(
            f"dataset '{spec.name}' defines no class in {records.source}: set "
            f"DATASETS.CUSTOM.{spec.name}.CLASSES"
        )
    return names


class Part(NamedTuple):
    """A dataset as registered: a whole source, or one side of its holdout."""

    dicts: DatasetDicts
    report: Report


class Source:
    """A custom dataset that is read and checked when it is first used, and only once.

    Args:
        spec: the dataset as configured.
        classes: class names by category id; None takes the dataset's own.
        bad_records: ``"skip"`` or ``"refuse"``.
    """

    def __init__(
        self, spec: DatasetSpec, classes: tuple[str, ...] | None, bad_records: str
    ) -> None:
        self.spec = spec
        self.settings = (spec, classes, bad_records)
        self.classes = classes  # those of the dataset once it is read
        self._refuse = bad_records == "refuse"

    @cached_property
    def parts(self) -> dict[str, Part]:
        """The datasets by registered name, and the source as a whole by its own name.

        Raises:
            UserError: a file or class list is missing or unusable, no image is left, or there are
                invalid annotations and they are refused.
        """
        spec = self.spec
        records = _parsed.pop(spec, None) or _READERS[spec.format](spec)
        classes = self.classes or _own_names(spec, records)
        report = Report(spec.name, spec.format, records.source)
        dicts = check_records(records, classes, report)
        if self._refuse:
            report.refuse()
        report.refuse_if_without_images()
        parts = {spec.name: Part(dicts, report)}
        if spec.holdout:
            parts |= self._held_out(dicts, classes, report)
        _logger.log(
            logging.WARNING if report.invalid_annotations else logging.INFO, report.summary()
        )
        self.classes = classes
        return parts

    def _held_out(
        self, dicts: DatasetDicts, classes: tuple[str, ...], report: Report
    ) -> dict[str, Part]:
        if len(dicts) < 2:
            raise UserError(
                f"DATASETS.CUSTOM.{self.spec.name}.HOLDOUT needs at least two usable images, but "
                f"{report.source} holds {len(dicts)}: set it to 0"
            )
        ids = [d["image_id"] for d in dicts]
        labels = [frozenset(a["category_id"] for a in d["annotations"]) for d in dicts]
        held = stratified_holdout(ids, labels, self.spec.holdout)
        train = [d for d in dicts if d["image_id"] not in held]
        val = [d for d in dicts if d["image_id"] in held]
        parts = {}
        for name, dicts_of_part in zip(self.spec.parts, (train, val), strict=True):
            part_report = replace(
                report,
                name=name,
                images=len(dicts_of_part),
                boxes=sum(len(d["annotations"]) for d in dicts_of_part),
                empty_images=sum(not d["annotations"] for d in dicts_of_part),
            )
            parts[name] = Part(dicts_of_part, part_report)
            note = f"'{name}' takes {part_report.images} images, {part_report.boxes} boxes of it"
            if lacking := _classes_in(dicts, classes) - _classes_in(dicts_of_part, classes):
                note += f", but none of class {', '.join(sorted(lacking))}"
            report.notes.append(note)
        return parts


def _classes_in(dicts: DatasetDicts, classes: tuple[str, ...]) -> set[str]:
    return {classes[a["category_id"]] for d in dicts for a in d["annotations"]}
