"""Validity of COCO segmentations: what Detectron2 cannot use is left out."""

import math
import re
from typing import Any

import pycocotools.mask as mask_util

# The alphabet of a compressed RLE; a last character with the continuation bit would make the
# decoder read past the end.
_COMPRESSED = re.compile(r"[0-o]*[0-O]")


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


def _is_polygon(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) >= 6
        and len(value) % 2 == 0
        and all(type(v) in (int, float) and math.isfinite(v) for v in value)
    )
