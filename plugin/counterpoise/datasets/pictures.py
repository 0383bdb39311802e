"""Training images made of several: mosaic, mixup and pasted boxes.

Functions of pictures and a generator. Boxes follow their pixels, are cut off where these are, and
are dropped where less than :data:`VISIBLE` of their area or of :data:`SIDE` pixels is left.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

#: Share of a box's area that has to be left for the box to count; less is hard to recognise.
VISIBLE = 0.25
#: Pixels that either side of a box has to keep.
SIDE = 2.0
#: Sizes of a picture in a mosaic or mixup, as factors of the size that fits the canvas.
SCALES = (0.5, 1.5)
#: Share of a box that a pasted one may cover.
COVERED = 0.3
_PASTE_SCALES = (0.75, 1.33)
_PLACES = 20  # that are tried for a pasted box
_CONTEXT = 0.1  # of the sides of a box that are cut out around it, and fade into the picture


@dataclass(frozen=True)
class Picture:
    """An image and its boxes.

    Attributes:
        pixels: (H, W, 3), uint8.
        boxes: (n, 4), float, XYXY in pixels.
        classes: (n,), int.
    """

    pixels: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]


@dataclass(frozen=True)
class Patch:
    """A box cut out of an image, with a little around it and what else can be seen there.

    Attributes:
        pixels: (h, w, 3), uint8.
        boxes: (n, 4), float, XYXY within `pixels`, the one that was cut out first.
        classes: (n,), of the boxes.
        source_size: (width, height) of the image it is from.
    """

    pixels: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    source_size: tuple[int, int]


def mosaic(pictures: Sequence[Picture], rng: np.random.Generator, fill: Sequence[float]) -> Picture:
    """Four pictures around a random point of a canvas (Bochkovskiy et al. 2020, arXiv:2004.10934).

    The canvas is as large as the first picture. Each one is scaled to fit it, then by a factor from
    :data:`SCALES`, and touches the point with a corner.

    Args:
        pictures: four.
        rng: of all that is random.
        fill: 3 values of the pixels that no picture reaches.
    """
    width, height = pictures[0].size
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = np.round(fill)
    x, y = (int(rng.uniform(0.25, 0.75) * side) for side in (width, height))
    boxes = []
    for i, picture in enumerate(pictures):
        w, h = _scaled(picture, (width, height), rng)
        right, below = i % 2, i // 2
        corner = (x if right else x - w, y if below else y - h)
        window = (
            x if right else 0, y if below else 0, width if right else x, height if below else y,
        )  # fmt: skip
        boxes.append(_draw(canvas, picture, (w, h), corner, window))
    return _picture(canvas, boxes)


def mixup(first: Picture, second: Picture, rng: np.random.Generator) -> Picture:
    """Two pictures, each at half its contrast (Zhang et al. 2019, arXiv:1902.04103).

    The second one is scaled to fit the first, then by a factor from :data:`SCALES`, and lies
    anywhere on it. The share is 1/2, as in YOLOX (arXiv:2107.08430), and not drawn as in the paper,
    which weighs the losses by it.
    """
    width, height = first.size
    size = _scaled(second, (width, height), rng)
    rooms = (width - size[0], height - size[1])
    corner = tuple(int(rng.integers(min(0, room), max(0, room), endpoint=True)) for room in rooms)
    canvas = first.pixels.copy()
    boxes = _draw(canvas, second, size, corner, (0, 0, width, height))
    # What the second picture does not reach is the mean of two equal values.
    mixed = (first.pixels.astype(np.uint16) + canvas + 1) // 2
    return _picture(mixed.astype(np.uint8), [(first.boxes, first.classes), boxes])


def cut(picture: Picture, index: int) -> Patch:
    """Cut a box out of a picture, with a tenth of its sides around it."""
    box = picture.boxes[index]
    margin = _CONTEXT * (box[2:] - box[:2])
    x0, y0 = np.floor(np.maximum(box[:2] - margin, 0)).astype(int)
    x1, y1 = np.ceil(np.minimum(box[2:] + margin, picture.size)).astype(int)
    inside, seen = visible(picture.boxes, (x0, y0, x1, y1))
    seen[index] = False
    shown = np.r_[index, np.flatnonzero(seen)]
    return Patch(
        picture.pixels[y0:y1, x0:x1],
        inside[shown] - [x0, y0, x0, y0],
        picture.classes[shown],
        picture.size,
    )


def paste(picture: Picture, patch: Patch, rng: np.random.Generator, mirror: bool = True) -> Picture:
    """Paste a box where it covers at most :data:`COVERED` of any other one.

    In the manner of Ghiasi et al. 2021 (arXiv:2012.07177), which has masks. Without one the
    background within the box comes along, the object leaves the context that it is found in, and a
    detector can learn the seam; around the box the patch fades (Dwibedi et al. 2017,
    arXiv:1708.01642, on blending).

    Args:
        picture: to paste into; it stays as it is.
        patch: what to paste.
        rng: of all that is random.
        mirror: whether half of the boxes are mirrored.

    Returns:
        a new picture, or `picture` itself where no place was found.
    """
    if not patch.pixels.size:  # of a box without area, or beyond its image
        return picture
    width, height = picture.size
    scale = rng.uniform(*_PASTE_SCALES) * min(picture.size) / min(patch.source_size)
    h, w = patch.pixels.shape[:2]
    scale = min(scale, width / w, height / h)
    size = max(1, int(w * scale)), max(1, int(h * scale))
    flipped = rng.random() < 0.5 and mirror
    boxes = patch.boxes * np.tile(np.divide(size, (w, h)), 2)
    if flipped:
        boxes[:, [0, 2]] = size[0] - boxes[:, [2, 0]]
    large = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= SIDE
    if not large[0]:
        return picture
    pixels = Image.fromarray(np.ascontiguousarray(patch.pixels)).resize(size, Image.BILINEAR)
    pixels = np.asarray(pixels)[:, :: -1 if flipped else 1]
    for _ in range(_PLACES):
        x, y = (int(rng.integers(0, room + 1)) for room in (width - size[0], height - size[1]))
        if not (_covered(picture.boxes, (x, y, x + size[0], y + size[1])) > COVERED).any():
            break
    else:
        return picture
    box = boxes[0]
    alpha = np.outer(_fade(size[1], box[1], box[3]), _fade(size[0], box[0], box[2]))[..., None]
    canvas = picture.pixels.copy()
    place = canvas[y : y + size[1], x : x + size[0]]
    place[:] = np.round(alpha * pixels + (1 - alpha) * place)
    pasted = boxes[large] + [x, y, x, y], patch.classes[large]
    return _picture(canvas, [(picture.boxes, picture.classes), pasted])


def visible(boxes: np.ndarray, window: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Cut boxes to a window.

    Args:
        boxes: (n, 4), XYXY.
        window: XYXY.

    Returns:
        (n, 4), the cut boxes, and (n,), bool, whether enough is left of each.
    """
    inside = np.clip(boxes, np.tile(window[:2], 2), np.tile(window[2:], 2))
    sides = inside[:, 2:] - inside[:, :2]
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    enough = (sides.min(axis=1) >= SIDE) & (sides.prod(axis=1) >= VISIBLE * areas)
    return inside, enough


def _scaled(picture: Picture, canvas: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    scale = rng.uniform(*SCALES) * np.divide(canvas, picture.size).min()
    return tuple(max(1, round(side * scale)) for side in picture.size)


def _draw(
    canvas: np.ndarray,
    picture: Picture,
    size: tuple[int, int],
    corner: tuple[int, int],
    window: tuple[int, int, int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a picture of a size at a corner into a window of the canvas; return its boxes there."""
    scale = np.divide(size, picture.size)
    x0, y0 = np.maximum(corner, window[:2])
    x1, y1 = np.minimum(np.add(corner, size), window[2:])
    if x0 >= x1 or y0 >= y1:
        return np.zeros((0, 4)), np.zeros(0, int)
    # Only the part that is seen is scaled.
    part = (np.subtract((x0, y0, x1, y1), np.tile(corner, 2)) / np.tile(scale, 2)).clip(
        0, np.tile(picture.size, 2)
    )
    scaled = Image.fromarray(picture.pixels).resize(
        (int(x1 - x0), int(y1 - y0)), Image.BILINEAR, box=tuple(part)
    )
    canvas[y0:y1, x0:x1] = scaled
    boxes, enough = visible(
        picture.boxes * np.tile(scale, 2) + np.tile(corner, 2), (x0, y0, x1, y1)
    )
    return boxes[enough], picture.classes[enough]


def _picture(pixels: np.ndarray, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> Picture:
    boxes, classes = zip(*parts, strict=True)
    return Picture(pixels, np.concatenate(boxes), np.concatenate(classes))


def _covered(boxes: np.ndarray, by: tuple[int, int, int, int]) -> np.ndarray:
    """Share (n,) of each box that a rectangle covers."""
    overlap = np.minimum(boxes[:, 2:], by[2:]) - np.maximum(boxes[:, :2], by[:2])
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return overlap.clip(min=0).prod(axis=1) / np.maximum(areas, 1e-9)


def _fade(length: int, start: float, end: float) -> np.ndarray:
    """1 between two points of a line of pixels, falling to 0 outside both."""
    at = np.arange(length) + 0.5
    before = at / start if start > 0 else np.ones(length)
    after = (length - at) / (length - end) if length > end else np.ones(length)
    return np.minimum(before, after).clip(0, 1)
