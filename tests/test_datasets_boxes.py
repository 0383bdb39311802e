"""Boxes checked all at once, against the same rules written out for one box."""

import math
import random

import numpy as np
import pytest

from counterpoise.datasets import InvalidKind, boxes
from counterpoise.datasets.boxes import Problem, clip_boxes, describe, repeated
from counterpoise.datasets.records import Coordinates

WIDTH, HEIGHT = 40, 30


def one_box(box, coordinates):
    """The clipped box and whether it was outside, or the kind of what is wrong with it."""
    if not all(map(math.isfinite, box)):
        return InvalidKind.NOT_FINITE
    x0, y0, x1, y1 = box
    inclusive = coordinates is Coordinates.PIXELS_FROM_1
    if x1 < x0 or y1 < y0 or (x0 == x1 and y0 == y1):
        return InvalidKind.ZERO_SIZE
    if not inclusive and (x0 == x1 or y0 == y1):
        return InvalidKind.ZERO_SIZE
    if inclusive:
        x0, y0 = x0 - 1, y0 - 1
    if coordinates is Coordinates.FRACTIONS:
        x0, x1, y0, y1 = x0 * WIDTH, x1 * WIDTH, y0 * HEIGHT, y1 * HEIGHT
    clipped = [max(x0, 0), max(y0, 0), min(x1, WIDTH), min(y1, HEIGHT)]
    if clipped[2] - clipped[0] <= 0.01 or clipped[3] - clipped[1] <= 0.01:
        inside = clipped == [x0, y0, x1, y1]
        return InvalidKind.ZERO_SIZE if inside else InvalidKind.OUTSIDE
    overhang = max(abs(a - b) for a, b in zip(clipped, (x0, y0, x1, y1), strict=True))
    return clipped, overhang > 0.01


def random_box(rng, scale):
    values = [rng.choice([0, 1, rng.uniform(-0.3, 1.3)]) * scale for _ in range(4)]
    box = [*values[:2], *(max(a, b) for a, b in zip(values[:2], values[2:], strict=True))]
    if rng.random() < 0.2:
        box[rng.randrange(4)] = rng.choice([math.nan, math.inf, -math.inf, 1e300, -5, 0.005])
    if rng.random() < 0.2:
        box[2 + rng.randrange(2)] = box[rng.randrange(2)]
    return box


@pytest.mark.parametrize("block", [1 << 18, 100])
@pytest.mark.parametrize("coordinates", Coordinates)
def test_boxes_are_treated_like_one_at_a_time(coordinates, block, monkeypatch):
    monkeypatch.setattr(boxes, "_BLOCK", block)
    rng = random.Random(1)
    scale = 1 if coordinates is Coordinates.FRACTIONS else WIDTH
    written = np.array([random_box(rng, scale) for _ in range(3000)])
    result = clip_boxes(written, coordinates, np.array([[WIDTH, HEIGHT]] * len(written)))
    kinds = set()
    for i, box in enumerate(written.tolist()):
        if result.problem[i] == Problem.NONE:
            found = result.boxes[i].tolist(), result.outside[i]
        else:
            found, _ = describe(result.problem[i], written[i], np.array([WIDTH, HEIGHT]))
            kinds.add(found)
        assert found == one_box(box, coordinates), box
    assert kinds == {InvalidKind.NOT_FINITE, InvalidKind.ZERO_SIZE, InvalidKind.OUTSIDE}


def test_no_boxes_are_no_problem():
    result = clip_boxes(np.zeros((0, 4)), Coordinates.PIXELS, np.zeros((0, 2), np.int64))
    assert result.boxes.shape == (0, 4) and len(result.problem) == len(result.outside) == 0


def test_a_box_that_is_there_again_is_found_by_image_class_and_corners():
    box = [1.5, 2, 30, 40]
    boxes = np.array([box, box, [1.5, 2, 30, 41], box, box, box])
    images, classes = np.array([0, 0, 0, 0, 0, 1]), np.array([3, 3, 3, 2, 3, 3], np.int32)
    assert repeated(images, classes, boxes).tolist() == [1, 4]
    rng = np.random.default_rng(0)
    boxes = rng.integers(0, 3, (400, 4)).astype(float)
    images, classes = rng.integers(0, 3, (2, 400))
    seen, expected = set(), []
    for i, row in enumerate(zip(images, classes, *boxes.T, strict=True)):
        if row in seen:
            expected.append(i)
        seen.add(row)
    assert repeated(images, classes, boxes).tolist() == expected
    assert repeated(images[:0], classes[:0], boxes[:0]).tolist() == []
