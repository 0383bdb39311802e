"""The common form into which each reader parses its format, before any check of content."""

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from counterpoise.datasets.invalid_annotations import InvalidAnnotation, InvalidKind

Box = tuple[float, float, float, float]


class Coordinates(Enum):
    """What the numbers of a box mean."""

    PIXELS = "pixels from 0"
    PIXELS_FROM_1 = "pixels counted from 1, the last one included"
    FRACTIONS = "fractions of the image size"


@dataclass
class ImageRecord:
    """One image as the annotations state it.

    Attributes:
        path: image file; it may be missing.
        id: identifier within the set.
        where: place of the record for a message.
        stated_size: (width, height) in pixels that the annotation states, or None.
        labels: place of its objects for a message, where that is another file.
        outside: why the file must not be opened, where it lies outside of the dataset.
    """

    path: str
    id: int | str
    where: str
    stated_size: tuple[int, int] | None = None
    labels: str = ""
    outside: str = ""


class ObjectColumns:
    """All readable objects of a set, a column for each of their properties.

    One Python object per box would take ten times the memory and most of the reading time.

    Attributes:
        image: index into the images of the set.
        name: index into :attr:`names`.
        box: four numbers per object, (x0, y0, x1, y1) in the :class:`Coordinates` of the set,
            unchecked.
        number: what tells the object from the others for a message, such as its line.
        crowd: 1 for a COCO crowd region.
        difficult: VOC flag, 0 or 1; empty where the format has none.
        segmentation: COCO polygons or RLE as written, unchecked; empty where the format has none.
        area: COCO's area in pixels squared as written, unchecked; empty where the format has none.
        names: the class names that occur, stripped.
    """

    def __init__(self) -> None:
        self.image = array("q")
        self.name = array("i")
        self.box = array("d")
        self.number = array("q")
        self.crowd = array("b")
        self.difficult = array("b")
        self.segmentation: list[Any] = []
        self.area: list[Any] = []
        self.names: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.image)

    def add(self, image: int, class_name: str, box: Box, number: int, crowd: int = 0) -> None:
        """Append an object; what only one format has, its reader appends itself."""
        self.image.append(image)
        self.name.append(self.names.setdefault(class_name, len(self.names)))
        self.box.extend(box)
        self.number.append(number)
        self.crowd.append(crowd)


@dataclass
class RecordSet:
    """A parsed dataset.

    Attributes:
        source: what was read, for messages.
        coordinates: meaning of all boxes of the set.
        place: names an object for a message, by its image and its number.
        class_names: names that the dataset itself defines, in its own order.
        images: readable records.
        objects: their readable objects.
        invalid_annotations: what could not be parsed.
        notes: what a user should know though nothing is wrong.
        unwatched: the first image that lies outside the folders of the dataset, if any: a change
            of it would not be noticed by what is looked at there.
    """

    source: str
    coordinates: Coordinates
    place: Callable[[ImageRecord, int], str]
    class_names: tuple[str, ...] = ()
    images: list[ImageRecord] = field(default_factory=list)
    objects: ObjectColumns = field(default_factory=ObjectColumns)
    invalid_annotations: list[InvalidAnnotation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unwatched: str = ""

    def reject(self, kind: InvalidKind, where: str, reason: object, boxes: int = 0) -> None:
        """Note an invalid annotation; the arguments are the fields of InvalidAnnotation."""
        self.invalid_annotations.append(InvalidAnnotation(kind, where, str(reason), boxes))
