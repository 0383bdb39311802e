"""Boxes of a dataset, all at once: brought into pixels, clipped, and checked."""

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from counterpoise.datasets.invalid_annotations import InvalidKind
from counterpoise.datasets.records import Coordinates

# In pixels. Writers round to a few decimals: an overhang below it is not worth counting, and what
# is thinner than it is not a visible part of a box.
_ROUNDING = 0.01
_BLOCK = 1 << 18  # boxes at once, so that what is in between takes little memory


class Problem(IntEnum):
    """What is wrong with a box."""

    NONE = 0
    NOT_FINITE = 1
    FLAT = 2
    OUTSIDE = 3
    TINY = 4


_KINDS = {
    Problem.NOT_FINITE: InvalidKind.NOT_FINITE,
    Problem.FLAT: InvalidKind.ZERO_SIZE,
    Problem.OUTSIDE: InvalidKind.OUTSIDE,
    Problem.TINY: InvalidKind.ZERO_SIZE,
}


class ClippedBoxes(NamedTuple):
    """Boxes in pixels from 0, clipped to their images.

    Attributes:
        boxes: float64 (N, 4), (x0, y0, x1, y1); of no meaning where there is a problem.
        problem: int8 (N,), of :class:`Problem`.
        outside: bool (N,), whether a part of the box was outside the image.
    """

    boxes: np.ndarray
    problem: np.ndarray
    outside: np.ndarray


def clip_boxes(boxes: np.ndarray, coordinates: Coordinates, sizes: np.ndarray) -> ClippedBoxes:
    """Bring boxes into pixels from 0, clip them to their images, and check them.

    A box must be finite, have an area of which a part is inside the image, and be more than a
    single pixel of VOC's inclusive coordinates.

    Args:
        boxes: float64 (N, 4), (x0, y0, x1, y1) as written.
        coordinates: meaning of these numbers.
        sizes: int64 (N, 2), width and height in pixels of the image of each box.
    """
    result = ClippedBoxes(
        np.empty_like(boxes), np.empty(len(boxes), np.int8), np.empty(len(boxes), bool)
    )
    for start in range(0, len(boxes), _BLOCK):
        block = slice(start, start + _BLOCK)
        parts = _clip_block(boxes[block], coordinates, sizes[block])
        for column, part in zip(result, parts, strict=True):
            column[block] = part
    return result


@np.errstate(invalid="ignore", over="ignore")  # what is not finite is found and reported
def _clip_block(boxes: np.ndarray, coordinates: Coordinates, sizes: np.ndarray) -> ClippedBoxes:
    written = boxes.reshape(-1, 2, 2)  # (N, corner, axis)
    extent = written[:, 1] - written[:, 0]
    # VOC's last pixel belongs to the box, so equal numbers are one pixel; but a box of a single
    # pixel is a click in the labelling tool (BCCD has two), not an object.
    inclusive = coordinates is Coordinates.PIXELS_FROM_1
    flat = (extent < 0).any(1) | (extent == 0).all(1)
    if not inclusive:
        flat |= (extent == 0).any(1)
    pixels = written.copy()
    if inclusive:  # as in Detectron2: x1 and y1 are inclusive
        pixels[:, 0] -= 1
    elif coordinates is Coordinates.FRACTIONS:
        pixels *= sizes[:, None]
    clipped = np.stack([np.maximum(pixels[:, 0], 0), np.minimum(pixels[:, 1], sizes)], axis=1)
    moved = np.abs(clipped - pixels).max(axis=(1, 2))
    tiny = (clipped[:, 1] - clipped[:, 0] <= _ROUNDING).any(1)
    problem = np.select(
        [~np.isfinite(boxes).all(1), flat, tiny & (moved > 0), tiny],
        [Problem.NOT_FINITE, Problem.FLAT, Problem.OUTSIDE, Problem.TINY],
        Problem.NONE,
    )
    return ClippedBoxes(clipped.reshape(-1, 4), problem, moved > _ROUNDING)


def repeated(images: np.ndarray, classes: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Find boxes that are there more than once.

    Args:
        images: (N,), integers.
        classes: (N,), integers.
        boxes: float64 (N, 4).

    Returns:
        indices of those with an earlier one of the same image, class and corners.
    """
    # Rows are sorted by a hash, in a tenth of the time that they would take themselves.
    columns = [images.astype(np.int64), classes.astype(np.int64), *boxes.T.copy().view(np.int64)]
    factors = np.random.default_rng(0).integers(2**62, size=len(columns)) * 2 + 1
    hashes = np.zeros(len(boxes), np.int64)
    for column, factor in zip(columns, factors, strict=True):
        hashes += (column ^ (column >> 32)) * factor  # the bits of whole numbers are all high ones
        hashes ^= hashes >> 29
    order = np.argsort(hashes, kind="stable")
    again, before = order[1:], order[:-1]
    alike = hashes[again] == hashes[before]
    again, before = again[alike], before[alike]
    same = np.all([column[again] == column[before] for column in columns], axis=0)
    return np.sort(again[same])


def describe(problem: int, box: np.ndarray, size: np.ndarray) -> tuple[InvalidKind, str]:
    """Return the kind of a problem, and what was found.

    Args:
        problem: of :class:`Problem`, not NONE.
        box: float64 (4,), as written.
        size: int64 (2,), width and height of its image.
    """
    found = "x {0:g} to {2:g}, y {1:g} to {3:g}".format(*box.tolist())
    if problem in (Problem.OUTSIDE, Problem.TINY):
        found += " in an image of {} x {}".format(*size.tolist())
    return _KINDS[Problem(problem)], found
