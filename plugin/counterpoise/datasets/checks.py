"""The checks of images and boxes that all formats share; what passes becomes dataset dicts."""

import math
from collections.abc import Sequence
from typing import Any

from detectron2.structures import BoxMode

from counterpoise.datasets.invalid_annotations import InvalidAnnotationError, InvalidKind
from counterpoise.datasets.records import Box, Coordinates, ImageRecord, ObjectRecord, RecordSet
from counterpoise.datasets.report import Report
from counterpoise.datasets.segmentation import usable_area, usable_segmentation
from counterpoise.utils.images import UnreadableImageError, read_image_size

# In pixels. Writers round to a few decimals: an overhang below it is not worth counting, and what
# is thinner than it is not a visible part of a box.
_ROUNDING = 0.01


def check_records(
    records: RecordSet, classes: Sequence[str], report: Report
) -> list[dict[str, Any]]:
    """Check every image and box; return the valid ones as Detectron2 dataset dicts.

    Args:
        records: the parsed dataset; it receives the invalid annotations that are found.
        classes: class names; their order gives the category ids.
        report: receives the counts, all invalid annotations (the parser's first) and the notes.

    Returns:
        Per image ``file_name``, ``height``, ``width``, ``image_id`` and ``annotations``; an
        annotation holds ``bbox`` (XYXY_ABS, pixels, clipped to the image), ``bbox_mode``,
        ``category_id``, ``iscrowd``, and, where the format has them, ``difficult``,
        ``segmentation`` and ``area``. All values are plain Python types.
    """
    report.notes += records.notes
    checker = _Checker(records, {name: i for i, name in enumerate(classes)})
    dicts = []
    for record in records.images:
        try:
            dicts.append(checker.image(record))
        except InvalidAnnotationError as error:
            records.reject(error.kind, record.where, error, boxes=len(record.objects))
    report.invalid_annotations += records.invalid_annotations
    report.clipped = checker.clipped
    report.images = len(dicts)
    report.boxes = sum(len(d["annotations"]) for d in dicts)
    report.empty_images = sum(not d["annotations"] for d in dicts)
    if checker.invalid_areas:
        report.notes.append(
            "boxes whose 'area' is not a finite number >= 0, so that the area of their segment or "
            f"box is taken: {checker.invalid_areas}"
        )
    if checker.lost_segmentations:
        report.notes.append(
            f"boxes kept without their segmentation, which is invalid: {checker.lost_segmentations}"
        )
    return dicts


def clip_box(
    box: Box, coordinates: Coordinates, width: int, height: int
) -> tuple[list[float], bool]:
    """Bring a box into pixels from 0 and clip it to its image.

    Args:
        box: (x0, y0, x1, y1) as written.
        coordinates: meaning of these numbers.
        width: image width in pixels.
        height: image height in pixels.

    Returns:
        [x0, y0, x1, y1] in pixels, and whether a part of the box was outside the image.

    Raises:
        InvalidAnnotationError: the box is not finite, has no area, is a single pixel of VOC's
            inclusive coordinates, or lies completely outside.
    """
    x0, y0, x1, y1 = box
    if not all(map(math.isfinite, box)):
        raise InvalidAnnotationError(InvalidKind.NOT_FINITE, _as_written(box))
    # VOC's last pixel belongs to the box, so equal numbers are one pixel; but a box of a single
    # pixel is a click in the labelling tool (BCCD has two), not an object.
    thin = x1 == x0 or y1 == y0
    click = (x0, y0) == (x1, y1)
    if x1 < x0 or y1 < y0 or click or (thin and coordinates is not Coordinates.PIXELS_FROM_1):
        raise InvalidAnnotationError(InvalidKind.ZERO_SIZE, _as_written(box))
    if coordinates is Coordinates.PIXELS_FROM_1:  # as in Detectron2: x1 and y1 are inclusive
        x0, y0 = x0 - 1, y0 - 1
    elif coordinates is Coordinates.FRACTIONS:
        x0, y0, x1, y1 = x0 * width, y0 * height, x1 * width, y1 * height
    clipped = [max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))]
    if clipped[2] - clipped[0] <= _ROUNDING or clipped[3] - clipped[1] <= _ROUNDING:
        kind = InvalidKind.OUTSIDE if clipped != [x0, y0, x1, y1] else InvalidKind.ZERO_SIZE
        raise InvalidAnnotationError(kind, f"{_as_written(box)} in an image of {width} x {height}")
    overhang = max(abs(a - b) for a, b in zip(clipped, (x0, y0, x1, y1), strict=True))
    return clipped, overhang > _ROUNDING


def _as_written(box: Box) -> str:
    return "x {0:g} to {2:g}, y {1:g} to {3:g}".format(*box)


class _Checker:
    def __init__(self, records: RecordSet, category_ids: dict[str, int]) -> None:
        self.records = records
        self.category_ids = category_ids
        self.seen: dict[int | str, str] = {}
        self.clipped = 0
        self.lost_segmentations = 0
        self.invalid_areas = 0

    def image(self, record: ImageRecord) -> dict[str, Any]:
        if record.id in self.seen:
            reason = f"id {record.id!r} was used before by {self.seen[record.id]}"
            raise InvalidAnnotationError(InvalidKind.DUPLICATE_IMAGE, reason)
        self.seen[record.id] = record.where
        width, height = _image_size(record)
        annotations = []
        for obj in record.objects:
            try:
                annotations.append(self.box(obj, width, height))
            except InvalidAnnotationError as error:
                self.records.reject(error.kind, obj.where, error)
        return {
            "file_name": str(record.path),
            "height": height,
            "width": width,
            "image_id": record.id,
            "annotations": annotations,
        }

    def box(self, obj: ObjectRecord, width: int, height: int) -> dict[str, Any]:
        if obj.class_name not in self.category_ids:
            raise InvalidAnnotationError(
                InvalidKind.UNKNOWN_CLASS, self._unknown_class(obj.class_name)
            )
        bbox, was_outside = clip_box(obj.box, self.records.coordinates, width, height)
        self.clipped += was_outside
        annotation = {
            "bbox": bbox,
            "bbox_mode": int(BoxMode.XYXY_ABS),
            "category_id": self.category_ids[obj.class_name],
            "iscrowd": obj.iscrowd,
        }
        if obj.difficult is not None:
            annotation["difficult"] = obj.difficult
        if obj.segmentation is not None:
            segmentation = usable_segmentation(obj.segmentation, width, height)
            if segmentation is None:
                self.lost_segmentations += 1
            else:
                annotation["segmentation"] = segmentation
        if obj.area is not None:
            # As stated, also where the box is clipped: COCO's sizes are those of whole segments.
            area = usable_area(obj.area)
            if area is None:
                self.invalid_areas += 1
            else:
                annotation["area"] = area
        return annotation

    def _unknown_class(self, name: str) -> str:
        near = [known for known in self.category_ids if known.lower() == name.lower()]
        hint = f"; the class list has '{near[0]}', and upper and lower case differ" if near else ""
        return f"unknown class {name!r}{hint}"


def _image_size(record: ImageRecord) -> tuple[int, int]:
    try:
        size = read_image_size(record.path)
    except FileNotFoundError:
        raise InvalidAnnotationError(InvalidKind.NO_IMAGE, f"there is no {record.path}") from None
    except UnreadableImageError as error:
        raise InvalidAnnotationError(
            InvalidKind.UNREADABLE_IMAGE, f"{record.path}: {error}"
        ) from None
    if record.stated_size not in (None, size):
        turned = " (turned by its EXIF orientation)" if record.stated_size == size[::-1] else ""
        stated, found = ("{} x {}".format(*wh) for wh in (record.stated_size, size))
        reason = f"stated {stated}, but {record.path.name} is {found}{turned}"
        raise InvalidAnnotationError(InvalidKind.OTHER_SIZE, reason)
    return size
