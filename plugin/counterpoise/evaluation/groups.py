"""Groups of classes by how often they occur in training."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

#: Largest number of training images of a group (LVIS, arXiv:1908.03195, section 3).
LVIS_GROUPS = (("rare", 10), ("common", 100), ("frequent", float("inf")))
#: With fewer classes than this they are split into halves.
FEW_CLASSES = 20


@dataclass(frozen=True)
class Group:
    """Classes of similar frequency.

    Attributes:
        name: rare, common, frequent, head or tail.
        rule: what puts a class into it, in words.
        classes: indices in class order, at least one.
    """

    name: str
    rule: str
    classes: tuple[int, ...]


def metric_name(group: str, classes: Collection[str]) -> str:
    """Name of the mean AP of a group, such as ``AP-tail``, where metrics stand beside each other.

    Args:
        group: its name.
        classes: names of all classes, whose metrics are called ``AP-`` and that name; where one has
            the name of the group, that is ``AP-group-tail``.
    """
    return f"AP-group-{group}" if group in classes else f"AP-{group}"


def mean_title(name: str, classes: Sequence[str], with_boxes: Collection[str]) -> str:
    """Title of the mean of a group, with the number of classes that it is over.

    Args:
        name: of the group.
        classes: its names.
        with_boxes: names of the classes that have test boxes, and so a value.
    """
    known = sum(each in with_boxes for each in classes)
    of_all = f" of {len(classes)}" if known < len(classes) else ""
    return f"mean of {name} ({known}{of_all})"


def frequency_groups(images: Sequence[int], boxes: Sequence[int]) -> tuple[Group, ...]:
    """Group classes by training images as LVIS does, or into two halves where that is no help.

    That is where they are few, or all in one of LVIS's groups, such as COCO's.

    Args:
        images: (K,), training images that hold the class, for LVIS's groups.
        boxes: (K,), training boxes, for the halves: in few classes the images can be all alike.

    Returns:
        groups that have classes, the most frequent first; none for a single class. Of an odd number
        of classes the middle one belongs to the tail.
    """
    num_classes = len(images)
    if num_classes < 2:
        return ()
    groups = _lvis_groups(images) if num_classes >= FEW_CLASSES else ()
    if len(groups) < 2:
        order = sorted(range(num_classes), key=lambda k: (-boxes[k], -images[k], k))
        half = num_classes // 2
        halves = (("head", "more", order[:half]), ("tail", "fewer", order[half:]))
        return tuple(
            Group(name, f"the half of the classes with {rule} training boxes", tuple(sorted(part)))
            for name, rule, part in halves
        )
    return groups


def _lvis_groups(images: Sequence[int]) -> tuple[Group, ...]:
    groups, above = [], 0
    for name, limit in LVIS_GROUPS:
        part = tuple(k for k, n in enumerate(images) if above < n <= limit or n == above == 0)
        first = f"{above + 1} to" if above else "up to"
        rule = f"more than {above}" if limit == float("inf") else f"{first} {limit}"
        if part:
            groups.append(Group(name, f"{rule} training images", part))
        above = limit
    return tuple(reversed(groups))
