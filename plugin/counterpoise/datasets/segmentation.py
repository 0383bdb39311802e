"""COCO's segmentations and areas: what is usable of them, and the area of a segment."""

import math
import re
from numbers import Real
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures.masks import polygon_area

# The alphabet of a compressed RLE; a last character with the continuation bit would make the
# decoder read past the end.
_COMPRESSED = re.compile(r"[0-o]*[0-O]")

_LARGEST = 2.0**53  # pixels; beyond it, and for NaN, a number is no coordinate


def usable_segmentation(value: Any, width: int, height: int) -> list | dict | None:
    """Return the polygons or the compressed RLE that Detectron2 can read.

    Args:
        value: ``segmentation`` of a COCO annotation: a list of polygons, or a dict with ``size``
            and ``counts``.
        width: image width in pixels.
        height: image height in pixels.

    Returns:
        The valid polygons, or an RLE with text ``counts``; None when nothing is valid.
    """
    if isinstance(value, list):
        return [polygon for polygon in value if _is_polygon(polygon)] or None
    if not isinstance(value, dict) or value.get("size") != [height, width]:
        return None
    counts = value.get("counts")
    if isinstance(counts, bytes):  # pycocotools' own form, which Detectron2's loader hands on
        counts = counts.decode("latin-1")
    if isinstance(counts, list):
        if not all(type(n) is int and n >= 0 for n in counts) or sum(counts) != width * height:
            return None
        runs = {"size": [height, width], "counts": counts}
        counts = mask_util.frPyObjects(runs, height, width)["counts"].decode("ascii")
    elif not isinstance(counts, str) or not _COMPRESSED.fullmatch(counts):
        return None
    rle = {"size": [height, width], "counts": counts}
    try:
        mask_util.decode(rle)  # refuses runs that do not fill the image
    except ValueError:
        return None
    return rle


def segment_area(segmentation: Any, width: int, height: int) -> float | None:
    """Return the area of a segment in pixels squared; None where nothing of it is usable.

    That of polygons is their sum, as COCO's own files and Detectron2 have it, also where polygons
    overlap.

    Args:
        segmentation: as in :func:`usable_segmentation`.
        width: image width in pixels.
        height: image height in pixels.
    """
    segmentation = usable_segmentation(segmentation, width, height)
    if segmentation is None:
        return None
    if isinstance(segmentation, dict):
        return float(mask_util.area(segmentation))
    return float(sum(polygon_area(*np.reshape(polygon, (-1, 2)).T) for polygon in segmentation))


def usable_area(value: Any) -> float | None:
    """Return the ``area`` of a COCO annotation; None where it is not a finite number >= 0."""
    if type(value) is float:  # nearly all are, and it is faster to say so
        return value if 0 <= value < math.inf else None
    if isinstance(value, bool) or not isinstance(value, Real):  # NumPy's are Real, too
        return None
    try:
        area = float(value)
    except OverflowError:
        return None
    return area if math.isfinite(area) and area >= 0 else None


def _is_polygon(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) >= 6
        and len(value) % 2 == 0
        and all(type(v) in (int, float) and -_LARGEST < v < _LARGEST for v in value)
    )
