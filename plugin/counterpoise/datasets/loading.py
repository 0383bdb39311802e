"""Reading one custom dataset: parse, check, report, and hold out a part if asked."""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from counterpoise.datasets import cache
from counterpoise.datasets.cache import Reading
from counterpoise.datasets.checks import check_records
from counterpoise.datasets.class_names import check_class_names
from counterpoise.datasets.coco import read_coco
from counterpoise.datasets.damaged import damaged_images
from counterpoise.datasets.fingerprint import fingerprint
from counterpoise.datasets.packed import PackedRecords
from counterpoise.datasets.records import RecordSet
from counterpoise.datasets.report import Report
from counterpoise.datasets.spec import DatasetSpec
from counterpoise.datasets.stratify import stratified_holdout
from counterpoise.datasets.voc import read_voc
from counterpoise.datasets.yolo import read_yolo
from counterpoise.datasets.yolo_yaml import yolo_class_names
from counterpoise.errors import UserError
from counterpoise.utils.text import printable

_READERS: dict[str, Callable[[DatasetSpec], RecordSet]] = {
    "voc": read_voc,
    "yolo": read_yolo,
    "coco": read_coco,
}
_logger = logging.getLogger("counterpoise.datasets")

# Read for its class names and not yet loaded: a run asks for the names first.
_awaiting_use: dict[DatasetSpec, Reading] = {}


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
    if spec not in _awaiting_use:
        _awaiting_use[spec] = _kept_or_read(spec, None)
    return list(_own_names(spec, _awaiting_use[spec]))


def _own_names(spec: DatasetSpec, reading: Reading) -> tuple[str, ...]:
    if not reading.class_names:
        raise UserError(
            f"dataset '{spec.name}' defines no class in {reading.report.source}: set "
            f"DATASETS.CUSTOM.{spec.name}.CLASSES"
        )
    return check_class_names(reading.class_names, f"dataset '{spec.name}'")


def _reading(spec: DatasetSpec, classes: tuple[str, ...] | None) -> Reading:
    """Read a dataset with its own classes, and number them by those of the run."""
    own = _awaiting_use.pop(spec, None) or _kept_or_read(spec, None)
    if classes in (None, own.class_names):
        return own
    if not set(own.class_names) <= set(classes):
        return _kept_or_read(spec, classes)  # reports each box of a class that is not in the list
    ids = [classes.index(name) for name in own.class_names]
    return replace(own, records=own.records.relabelled(ids))


def _kept_or_read(spec: DatasetSpec, classes: tuple[str, ...] | None) -> Reading:
    """Take a dataset from its cache file, or read it and write that file."""
    if spec.cache is None:
        return _read_anew(spec, classes)[0]
    try:
        state = fingerprint(spec)
    except (OSError, UserError):  # the reader says what is wrong
        return _read_anew(spec, classes)[0]
    path = cache.cache_file(spec, classes)
    kept = cache.load(path, state)
    if kept is not None:
        _logger.info("Dataset '%s' is unchanged and taken from %s", spec.name, path)
        return kept
    reading, unwatched = _read_anew(spec, classes)
    if unwatched:
        _logger.info(
            "Dataset '%s' is read anew at every start, because the image %s is outside its folder",
            spec.name, unwatched,
        )  # fmt: skip
    elif state.settled:
        cache.store(path, reading, state, len(classes or reading.class_names))
    return reading


def _read_anew(spec: DatasetSpec, classes: tuple[str, ...] | None) -> tuple[Reading, str]:
    """Read a dataset; return it, and an image whose changes cannot be noticed, or ""."""
    parsed = _READERS[spec.format](spec)
    names = spec.classes or parsed.class_names
    report = Report(spec.name, spec.format, parsed.source)
    records = check_records(parsed, classes or names, report)
    return Reading(records, names, report, _divided(records, spec)), parsed.unwatched


def _divided(records: PackedRecords, spec: DatasetSpec) -> np.ndarray | None:
    """Number of each image's part (M,) uint8; None where there is one part, or too few images."""
    if len(spec.parts) == 1 or len(records) < len(spec.parts):
        return None
    ids = [record["image_id"] for record in records]
    labels = [frozenset(a["category_id"] for a in record["annotations"]) for record in records]
    part = np.zeros(len(ids), np.uint8)
    share = 1.0  # of the images that are left
    # The test set first, so that it stays the same with or without a validation set.
    for name, fraction in reversed(spec.held_out.items()):
        left = np.flatnonzero(part == 0).tolist()
        held = stratified_holdout(
            [ids[i] for i in left], [labels[i] for i in left], fraction / share
        )
        part[[i for i in left if ids[i] in held]] = spec.parts.index(name)
        share -= fraction
    return part


class Part(NamedTuple):
    """A dataset as registered: a whole source, or a part of it."""

    dicts: PackedRecords
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
        spec, reading = self.spec, _reading(self.spec, self.classes)
        classes = self.classes or _own_names(spec, reading)
        report = replace(reading.report, notes=list(reading.report.notes))
        self._note_damaged(reading, report)
        if self._refuse:
            report.refuse()
        report.refuse_if_without_images()
        parts = {spec.name: Part(reading.records, report)}
        if spec.held_out:
            parts |= self._held_out(reading, classes, report)
        _logger.log(
            logging.WARNING if report.invalid_annotations else logging.INFO, report.summary()
        )
        self.classes = classes
        return parts

    def _note_damaged(self, reading: Reading, report: Report) -> None:
        """Note which images are damaged after their first bytes, or refuse them."""
        damaged = damaged_images(self.spec.cache, reading.records.files())
        if not damaged:
            return
        (file, reason), number = next(iter(damaged.items())), len(damaged)
        found = f"{printable(file, lines=False)} ({reason})"
        if self._refuse:
            more = f", and {number - 1} more are damaged" if number > 1 else ""
            raise UserError(
                f"dataset '{report.name}': {found} cannot be used, as was found when it was last "
                f"read in full{more}: repair it, or set DATASETS.BAD_RECORDS to 'skip'"
            )
        report.notes.append(
            f"{number} of the images cannot be used, as was found when they were last read in "
            f"full, such as {found}; a training leaves them out, and an evaluation takes them to "
            "show nothing"
        )

    def _held_out(
        self, reading: Reading, classes: tuple[str, ...], report: Report
    ) -> dict[str, Part]:
        if reading.part is None:
            keys = " and ".join(
                key for key in ("HOLDOUT", "HOLDOUT_TEST") if getattr(self.spec, key.lower())
            )
            least = {2: "two", 3: "three"}[len(self.spec.parts)]
            raise UserError(
                f"DATASETS.CUSTOM.{self.spec.name}.{keys} needs at least {least} usable images, "
                f"but {report.source} holds {report.images}: set it to 0"
            )
        parts = {}
        # They count over all parts.
        notes = [f"in all of '{self.spec.name}': {note}" for note in report.notes]
        for number, name in enumerate(self.spec.parts):
            records = reading.records.select(reading.part == number)
            part_report = replace(
                report,
                name=name,
                images=len(records),
                boxes=int(records.box_counts.sum()),
                empty_images=int((records.box_counts == 0).sum()),
                notes=notes,
            )
            parts[name] = Part(records, part_report)
            note = f"'{name}' takes {part_report.images} images, {part_report.boxes} boxes of it"
            if lacking := _classes_in(reading.records, classes) - _classes_in(records, classes):
                note += f", but none of class {', '.join(sorted(lacking))}"
            report.notes.append(note)
        return parts


def _classes_in(records: PackedRecords, classes: tuple[str, ...]) -> set[str]:
    _, boxes = records.count_classes(len(classes), crowds=True)
    return {classes[i] for i in np.flatnonzero(boxes)}
