"""Boxes and images per class of a dataset."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ClassCounts:
    """Counts per class, all three in the same order.

    Attributes:
        names: class names, ordered as in the first dataset.
        images: images that hold at least one box of the class.
        boxes: boxes of the class. Crowd regions count in neither.
        num_images: images in all.
        num_empty: images without any box.
    """

    names: tuple[str, ...]
    images: tuple[int, ...]
    boxes: tuple[int, ...]
    num_images: int = 0
    num_empty: int = 0
