"""What makes an annotation invalid, and the record of one that is."""

from dataclasses import dataclass
from enum import Enum

from counterpoise.utils.text import printable

_LONGEST = 500  # characters of a reason in messages


class InvalidKind(str, Enum):
    """What is wrong with an annotation; the values stand in messages."""

    __str__ = str.__str__

    ZERO_SIZE = "zero-size or inverted box"
    OUTSIDE = "box completely outside the image"
    NOT_FINITE = "box with NaN or infinite numbers"
    UNKNOWN_CLASS = "unknown class"
    UNREADABLE_OBJECT = "unreadable object or line"
    UNKNOWN_IMAGE = "annotation for an unknown image"
    DUPLICATE_ANNOTATION = "duplicate annotation id"
    UNREADABLE_FILE = "unreadable annotation file"
    UNREADABLE_ENTRY = "unreadable image entry"
    NO_ANNOTATION_FILE = "no annotation file"
    DUPLICATE_IMAGE = "duplicate image id"
    NO_IMAGE = "image missing"
    OUTSIDE_FILE = "file outside of the dataset's folders"
    AMBIGUOUS_IMAGE = "several images fit"
    UNREADABLE_IMAGE = "unreadable image"
    TOO_MANY_BOXES = "image with too many boxes"
    OTHER_SIZE = "image of another size than stated"
    LABEL_WITHOUT_IMAGE = "label file without image"


_BOX_KINDS = frozenset(
    {
        InvalidKind.ZERO_SIZE,
        InvalidKind.OUTSIDE,
        InvalidKind.NOT_FINITE,
        InvalidKind.UNKNOWN_CLASS,
        InvalidKind.UNREADABLE_OBJECT,
        InvalidKind.UNKNOWN_IMAGE,
        InvalidKind.DUPLICATE_ANNOTATION,
    }
)


@dataclass(frozen=True)
class InvalidAnnotation:
    """One annotation that cannot be used, and is left out.

    Attributes:
        kind: what is wrong; it decides whether a box or a whole image is left out.
        where: file, line or id.
        reason: what was found there.
        boxes: readable boxes that are left out together with their image.
    """

    kind: InvalidKind
    where: str
    reason: str
    boxes: int = 0

    @property
    def drops_image(self) -> bool:
        """Whether the whole image is left out, not only a box."""
        return self.kind not in _BOX_KINDS

    def __str__(self) -> str:
        reason = self.reason
        if len(reason) > _LONGEST:  # a damaged file may hold a "word" of megabytes
            reason = f"{reason[:_LONGEST]} ..."
        return printable(f"{self.where}: {reason}", lines=False)


class InvalidAnnotationError(Exception):
    """An annotation breaks a rule; the message is the reason, the place is known to the caller."""

    def __init__(self, kind: InvalidKind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
