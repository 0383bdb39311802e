"""The checks of images and boxes that all formats share; what passes is packed into arrays."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import msgspec
import numpy as np

from counterpoise.datasets.boxes import Problem, clip_boxes, describe, repeated
from counterpoise.datasets.invalid_annotations import (
    InvalidAnnotation,
    InvalidAnnotationError,
    InvalidKind,
)
from counterpoise.datasets.packed import PackedRecords, pack_texts
from counterpoise.datasets.records import ImageRecord, ObjectColumns, RecordSet
from counterpoise.datasets.report import Report
from counterpoise.datasets.segmentation import usable_area, usable_segmentation
from counterpoise.utils.images import (
    ImageHeader,
    UnreadableImageError,
    read_image_header,
    remarks_on_pixels,
)
from counterpoise.utils.text import counted, listed

#: Boxes of an image, whose IoU with all proposals is a matrix in memory.
MAX_BOXES = 10_000


def check_records(records: RecordSet, classes: Sequence[str], report: Report) -> PackedRecords:
    """Check every image and box; return the valid ones in Detectron2's form.

    Args:
        records: the parsed dataset.
        classes: class names; their order gives the category ids.
        report: receives the counts, all invalid annotations (the parser's first) and the notes.

    Returns:
        Per image ``file_name``, ``height``, ``width``, ``image_id`` and ``annotations``; an
        annotation holds ``bbox`` (XYXY_ABS, pixels, clipped to the image), ``bbox_mode``,
        ``category_id``, ``iscrowd``, and, where the format has them, ``difficult``,
        ``segmentation`` and ``area``. All values are plain Python types.
    """
    report.notes += records.notes
    objects = _Objects.by_image(records.objects)
    boxes_per_image = np.bincount(objects.image, minlength=len(records.images))
    sizes, invalid, headers = _check_images(records.images, boxes_per_image)
    report.notes += remarks_on_pixels(headers)
    objects = objects.take(sizes[objects.image, 0] > 0)
    clipped = clip_boxes(objects.box, records.coordinates, sizes[objects.image])
    ids, reasons = _category_ids(records.objects.names, classes)
    category_ids = ids[objects.name] if len(ids) else objects.name
    valid = (category_ids >= 0) & (clipped.problem == Problem.NONE)
    for i in np.flatnonzero(~valid).tolist():
        image = int(objects.image[i])
        if category_ids[i] < 0:
            kind, reason = InvalidKind.UNKNOWN_CLASS, reasons[objects.name[i]]
        else:
            kind, reason = describe(clipped.problem[i], objects.box[i], sizes[image])
        where = records.place(records.images[image], int(objects.number[i]))
        invalid.append((image, InvalidAnnotation(kind, where, reason)))
    invalid.sort(key=lambda found: found[0])  # stable: boxes of an image stay in their order
    report.invalid_annotations += records.invalid_annotations + [found for _, found in invalid]

    objects, boxes, category_ids = objects.take(valid), clipped.boxes[valid], category_ids[valid]
    images = np.flatnonzero(sizes[:, 0])
    packed = PackedRecords(
        _image_columns([records.images[i] for i in images.tolist()], sizes[images])
        | {
            "box_ends": np.searchsorted(objects.image, images, side="right"),
            "boxes": boxes,
            "category_ids": category_ids,
            "crowd": objects.crowd,
            "difficult": objects.difficult,
            "areas": _areas(objects.area, report),
        }
        | _segmentations(objects, sizes, report)
    )
    again = repeated(objects.image, category_ids, boxes)
    if len(again):
        report.notes.append(_of_repeated(len(again), records.images[objects.image[again[0]]]))
    report.clipped = int(clipped.outside[valid].sum())
    report.images = len(packed)
    report.boxes = len(objects.image)
    if difficult := int(np.count_nonzero(objects.difficult)):
        report.notes.append(_of_difficult(difficult))
    report.empty_images = int((packed.box_counts == 0).sum())
    return packed


def _of_repeated(count: int, first: ImageRecord) -> str:
    verb = "repeats" if count == 1 else "repeat"
    return (
        f"{counted(count, 'box')} {verb} another of the same class and place, first in "
        f"{os.path.basename(first.path)}: each counts, and in an evaluation can only be missed"
    )


def _of_difficult(count: int) -> str:
    verb = "is" if count == 1 else "are"
    return (
        f"{counted(count, 'box')} {verb} marked difficult: training uses them, an evaluation "
        "counts them neither as found nor as missed"
    )


@dataclass
class _Objects:
    """:class:`ObjectColumns` as arrays, sorted by image; ``box`` is (N, 4)."""

    image: np.ndarray
    name: np.ndarray
    box: np.ndarray
    number: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    segmentation: np.ndarray
    area: np.ndarray

    @classmethod
    def by_image(cls, columns: ObjectColumns) -> "_Objects":
        objects = cls(
            *(np.asarray(getattr(columns, name)) for name in ("image", "name")),
            np.asarray(columns.box).reshape(-1, 4),
            *(np.asarray(getattr(columns, name)) for name in ("number", "crowd", "difficult")),
            *(_as_objects(values) for values in (columns.segmentation, columns.area)),
        )
        if (np.diff(objects.image) < 0).any():
            return objects.take(np.argsort(objects.image, kind="stable"))
        return objects

    def take(self, which: np.ndarray) -> "_Objects":
        """Return some of the objects, by indices or by a mask."""
        if which.dtype == bool and which.all():
            return self
        columns = (getattr(self, column.name) for column in fields(self))
        return _Objects(*(column[which] if len(column) else column for column in columns))


def _as_objects(values: list[Any]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _check_images(
    images: list[ImageRecord], boxes: np.ndarray
) -> tuple[np.ndarray, list[tuple[int, InvalidAnnotation]], list[ImageHeader]]:
    """Return int64 (M, 2), width and height or 0 where an image is invalid, what is wrong, and the
    headers of the valid images.
    """
    sizes = np.zeros((len(images), 2), np.int64)
    invalid, headers = [], []
    seen: dict[int | str, str] = {}
    seen_files: dict[str, str] = {}
    for i, image in enumerate(images):
        try:
            if boxes[i] > MAX_BOXES:
                reason = f"{boxes[i]:,} boxes, more than {MAX_BOXES:,}"
                raise InvalidAnnotationError(InvalidKind.TOO_MANY_BOXES, reason)
            if image.id in seen:
                reason = f"id {image.id!r} was used before by {seen[image.id]}"
                raise InvalidAnnotationError(InvalidKind.DUPLICATE_IMAGE, reason)
            seen[image.id] = image.where
            header = _header(image)
            if image.path in seen_files:
                reason = f"{image.path} is the image of {seen_files[image.path]}, too"
                raise InvalidAnnotationError(InvalidKind.DUPLICATE_IMAGE, reason)
            seen_files[image.path] = image.where
            sizes[i] = header.size
            headers.append(header)
        except InvalidAnnotationError as error:
            found = InvalidAnnotation(error.kind, image.where, str(error), int(boxes[i]))
            invalid.append((i, found))
    return sizes, invalid, headers


def _header(record: ImageRecord) -> ImageHeader:
    if record.outside:
        raise InvalidAnnotationError(InvalidKind.OUTSIDE_FILE, record.outside)
    try:
        header = read_image_header(record.path)
    except FileNotFoundError:
        raise InvalidAnnotationError(InvalidKind.NO_IMAGE, f"there is no {record.path}") from None
    except UnreadableImageError as error:
        raise InvalidAnnotationError(
            InvalidKind.UNREADABLE_IMAGE, f"{record.path}: {error}"
        ) from None
    size = header.size
    if record.stated_size not in (None, size):
        turned = " (turned by its EXIF orientation)" if record.stated_size == size[::-1] else ""
        stated, found = ("{} x {}".format(*wh) for wh in (record.stated_size, size))
        reason = f"stated {stated}, but {os.path.basename(record.path)} is {found}{turned}"
        raise InvalidAnnotationError(InvalidKind.OTHER_SIZE, reason)
    return header


def _category_ids(names: Iterable[str], classes: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Return int32, the category id of each name or -1, and what to say of a name without one."""
    known = {name: i for i, name in enumerate(classes)}
    in_lower_case = {name.lower(): name for name in reversed(classes)}
    among = f", but the class list is [{listed(classes, 10)}]"
    reasons = []
    for name in names:
        near = in_lower_case.get(name.lower())
        case = f"; the class list has '{near}', and upper and lower case differ" if near else ""
        reasons.append(f"unknown class {name!r}{case or among}")
    return np.array([known.get(name, -1) for name in names], np.int32), reasons


def _image_columns(images: list[ImageRecord], sizes: np.ndarray) -> dict[str, np.ndarray]:
    texts = [
        json.dumps((image.path, height, width, image.id)).encode()
        for image, (width, height) in zip(images, sizes.tolist(), strict=True)
    ]
    joined, ends = pack_texts(texts)
    return {"images": joined, "image_ends": ends}


def _areas(written: np.ndarray, report: Report) -> np.ndarray:
    """Return float64, NaN where no area is stated or none that is usable.

    It is taken as stated, also where the box is clipped: COCO's sizes are those of whole segments.
    """
    areas = [None if area is None else usable_area(area) for area in written]
    invalid = sum(area is None for area in areas) - sum(area is None for area in written)
    if invalid:
        report.notes.append(
            "boxes whose 'area' is not a finite number >= 0, so that the area of their segment or "
            f"box is taken: {invalid}"
        )
    return np.array(areas, np.float64)  # None becomes NaN


def _segmentations(objects: _Objects, sizes: np.ndarray, report: Report) -> dict[str, np.ndarray]:
    texts, lost = [], 0
    for value, image in zip(objects.segmentation, objects.image, strict=False):
        usable = None if value is None else usable_segmentation(value, *sizes[image].tolist())
        lost += usable is None and value is not None
        texts.append(b"" if usable is None else msgspec.json.encode(usable))
    if lost:
        report.notes.append(f"boxes kept without their segmentation, which is invalid: {lost}")
    joined, ends = pack_texts(texts if any(texts) else [])
    return {"segmentations": joined, "segmentation_ends": ends}
