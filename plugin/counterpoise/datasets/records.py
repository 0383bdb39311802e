"""The common form into which each reader parses its format, before any check of content."""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from counterpoise.datasets.invalid_annotations import InvalidAnnotation, InvalidKind

Box = tuple[float, float, float, float]


class Coordinates(Enum):
    """What the numbers of a box mean."""

    PIXELS = "pixels from 0"
    PIXELS_FROM_1 = "pixels counted from 1, the last one included"
    FRACTIONS = "fractions of the image size"


@dataclass
class ObjectRecord:
    """One object as written in the annotation file.

    Attributes:
        class_name: stripped name.
        box: (x0, y0, x1, y1) in the :class:`Coordinates` of its set, unchecked.
        where: place for a message, such as ``BloodImage_00338.xml, object 3``.
        iscrowd: 1 for a COCO crowd region.
        difficult: VOC flag, 0 or 1; None where the format has none.
        segmentation: COCO polygons or RLE as written, unchecked.
        area: COCO's area of the object in pixels squared as written, unchecked.
    """

    class_name: str
    box: Box
    where: str
    iscrowd: int = 0
    difficult: int | None = None
    segmentation: Any = None
    area: Any = None


@dataclass
class ImageRecord:
    """One image with its objects.

    Attributes:
        path: image file; it may be missing.
        id: identifier within the set.
        where: place of the record for a message.
        stated_size: (width, height) in pixels that the annotation states, or None.
        objects: the readable objects.
    """

    path: Path
    id: int | str
    where: str
    stated_size: tuple[int, int] | None = None
    objects: list[ObjectRecord] = field(default_factory=list)


@dataclass
class RecordSet:
    """A parsed dataset.

    Attributes:
        source: what was read, for messages.
        coordinates: meaning of all boxes of the set.
        class_names: names that the dataset itself defines, in its own order.
        images: readable records.
        invalid_annotations: what could not be parsed.
        notes: what a user should know though nothing is wrong.
    """

    source: str
    coordinates: Coordinates
    class_names: tuple[str, ...] = ()
    images: list[ImageRecord] = field(default_factory=list)
    invalid_annotations: list[InvalidAnnotation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def reject(self, kind: InvalidKind, where: str, reason: object, boxes: int = 0) -> None:
        """Note an invalid annotation; the arguments are the fields of InvalidAnnotation."""
        self.invalid_annotations.append(InvalidAnnotation(kind, where, str(reason), boxes))
