"""Kinds of invalid annotations, and one invalid annotation."""

from dataclasses import dataclass
from enum import Enum

_LONGEST = 500  # characters of a reason in messages


class Kind(str, Enum):
    """Kinds of invalid annotations."""

    __str__ = str.__str__

    ZERO_SIZE = "zero-size or inverted box"
    OUTSIDE = "box wholly outside the image"
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
    AMBIGUOUS_IMAGE = "several images fit"
    UNREADABLE_IMAGE = "unreadable image"
    OTHER_SIZE = "image of another size than stated"
    LABEL_WITHOUT_IMAGE = "label file without image"


_BOX_KINDS = frozenset(
    {
        Kind.ZERO_SIZE,
        Kind.OUTSIDE,
        Kind.NOT_FINITE,
        Kind.UNKNOWN_CLASS,
        Kind.UNREADABLE_OBJECT,
        Kind.UNKNOWN_IMAGE,
        Kind.DUPLICATE_ANNOTATION,
    }
)


@dataclass(frozen=True)
class InvalidAnnotation:
    """One invalid annotation.

    Attributes:
        kind: what is wrong; it decides whether a box or a whole image is left out.
        where: file, line or id.
        reason: what was found there.
        boxes: readable boxes that are left out together with their image.
    """

    kind: Kind
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
        return f"{self.where}: {reason}"


class InvalidAnnotationError(Exception):
    """A record that breaks a rule; whoever catches it knows the place and notes it."""

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
