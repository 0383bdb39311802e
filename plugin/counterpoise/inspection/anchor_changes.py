"""Anchors against the boxes of a dataset, and the cheapest change that fits more of them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from counterpoise.evaluation import GroundTruth
from counterpoise.evaluation.matching import corners
from counterpoise.inspection.anchors import (
    LEAST_BOXES,
    MATCHED,
    UNMATCHED_OVERALL,
    AnchorSetting,
    Fit,
    Levels,
    best_ious,
    is_poor,
    measured_fit,
    resized,
    scaled_boxes,
)

#: A change has to reach so many more of all boxes, or half of those that a class misses: other
#: anchors mean that the part of the model that reads them is trained anew.
LEAST_GAIN = 0.05
#: Up to this elongation boxes overlap an anchor of 1:3 by half, where size and place are right.
LONGEST_BY_3 = 5
#: More elongated anchors are not tried: no region of a few pixels across is pooled well.
LONGEST = 16
#: Pixels of a resized image to which a larger input is advised; Detectron2's 1333 x 800 are 1.1
#: million, and the memory of a step grows with them.
MOST_PIXELS = 4_000_000


@dataclass(frozen=True)
class AnchorChange(Fit):
    """A change of anchors or input size, with the coverage measured under it.

    Attributes:
        what: the change in words.
        settings: config keys, nested.
        pixels: of the resized images, over those without the change.
        fits_head: the number of anchors per location stays, so that a trained head still fits.
    """

    what: str
    settings: dict[str, Any]
    pixels: float
    fits_head: bool


@dataclass(frozen=True)
class Anchors(Fit):
    """The boxes of a split against a model's anchors, at the size of the test input.

    Attributes:
        setting: the anchors.
        histogram_edges: E + 1 edges of box sizes in pixels of the resized image.
        histogram_counts: E numbers of boxes between them.
        poor: more boxes than :data:`UNMATCHED_OVERALL` or :data:`UNMATCHED_CLASS` have no anchor.
        too_small: most of the boxes without an anchor are smaller than the smallest one.
        largest_input: short side of the largest input that was tried, in pixels; 0 for images as
            they are.
        change: if poor, the cheapest change found that covers more, or None.
    """

    setting: AnchorSetting
    histogram_edges: tuple[float, ...]
    histogram_counts: tuple[int, ...]
    poor: bool
    too_small: bool
    largest_input: int
    change: AnchorChange | None


def compare_with_anchors(truth: GroundTruth, setting: AnchorSetting) -> Anchors:
    """Measure how well the anchors cover the boxes, and look for a change where they do not.

    Args:
        truth: with at least one box, and without ignored regions.
        setting: the anchors.
    """
    boxes, ious = _best_ious(truth, setting)
    sizes = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)).clip(min=1)
    # Half-octave bins, on powers of the square root of 2, so that the usual anchors are on edges.
    first, last = np.floor(2 * np.log2(sizes.min())), np.floor(2 * np.log2(sizes.max())) + 1
    edges = 2 ** (np.arange(first, last + 1) / 2)
    fit = measured_fit(truth.classes, truth.num_classes, ious)
    missed = ious < MATCHED
    poor = 1 - fit.overall.at_50 > UNMATCHED_OVERALL or any(map(is_poor, fit.classes))
    factors = _input_factors(truth, setting)
    elongations = _elongations(boxes[missed], truth.classes[missed])
    return Anchors(
        **vars(fit),
        setting=setting,
        histogram_edges=tuple(edges.tolist()),
        histogram_counts=tuple(np.histogram(sizes.clip(edges[0], edges[-1]), edges)[0].tolist()),
        poor=poor,
        too_small=bool(missed.any() and np.median(sizes[missed]) < min(map(min, setting.sizes))),
        largest_input=round(setting.min_size * max(factors, default=1)),
        change=_best_change(truth, setting, fit, factors, elongations) if poor else None,
    )


def _best_ious(truth: GroundTruth, setting: AnchorSetting) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4), XYXY in the resized images, and the IoU (N,) of each with its best anchor."""
    sizes = truth.image_sizes[truth.images]
    boxes, new_sizes = scaled_boxes(corners(truth.boxes), sizes, setting)
    return boxes, best_ious(boxes, new_sizes, setting)


def _best_change(
    truth: GroundTruth,
    setting: AnchorSetting,
    before: Fit,
    factors: Sequence[float],
    elongations: Sequence[int],
) -> AnchorChange | None:
    """The cheapest change that at least halves the boxes without an anchor, else the best one.

    What costs more than another has to reach :data:`LEAST_GAIN` more than that. A change under
    which a class of at least LEAST_BOXES boxes loses more than a twentieth of its boxes is none.
    """
    per_location = [len(shape) for shape in setting.shapes()]
    pixels = _pixels(truth, setting)
    best: AnchorChange | None = None
    for what, settings, changed in _changes(setting, factors, elongations):
        fit = measured_fit(truth.classes, truth.num_classes, _best_ious(truth, changed)[1])
        if not _is_worth(best or before, fit) or _harms(before, fit):
            continue
        fits_head = [len(shape) for shape in changed.shapes()] == per_location
        grown = _pixels(truth, changed) / pixels
        best = AnchorChange(
            **vars(fit), what=what, settings=settings, pixels=grown, fits_head=fits_head
        )
        if 1 - fit.overall.at_50 <= (1 - before.overall.at_50) / 2:
            break
    return best


def _is_worth(before: Fit, after: Fit) -> bool:
    if after.overall.at_50 - before.overall.at_50 >= LEAST_GAIN:
        return True
    return after.overall.at_50 > before.overall.at_50 and any(
        is_poor(old) and 1 - new.at_50 <= (1 - old.at_50) / 2
        for old, new in zip(before.classes, after.classes, strict=True)
    )


def _harms(before: Fit, after: Fit) -> bool:
    return any(
        old.boxes >= LEAST_BOXES and new.at_50 < old.at_50 - 0.05
        for old, new in zip(before.classes, after.classes, strict=True)
    )


def _pixels(truth: GroundTruth, setting: AnchorSetting) -> float:
    """Mean number of pixels of a resized image."""
    return float(resized(truth.image_sizes, setting.min_size, setting.max_size).prod(1).mean())


def _input_factors(truth: GroundTruth, setting: AnchorSetting) -> list[float]:
    """Factors to enlarge the input by: up to 2, and beyond up to the images' own size.

    Beyond 2 the resized images stay within :data:`MOST_PIXELS`.
    """
    if not setting.min_size:
        return []
    own = float(np.median(truth.image_sizes.min(axis=1))) / setting.min_size
    most = min(own, math.sqrt(MOST_PIXELS / _pixels(truth, setting)))
    beyond = [factor for factor in (3.0, 4.0, 6.0) if factor < 0.8 * most]
    return [1.5, 2.0, *beyond, *([most] if most > 2 else [])]


def _elongations(boxes: np.ndarray, classes: np.ndarray) -> list[int]:
    """Aspect ratios n to try, as 1:n and n:1: 3, and what is typical of each class beyond.

    Args:
        boxes: (M, 4), XYXY, those without an anchor.
        classes: (M,), of these.
    """
    extents = boxes[:, 2:] - boxes[:, :2]
    elongation = extents.max(axis=1) / extents.min(axis=1).clip(min=1e-6)
    typical = (
        np.median(own)
        for k in np.unique(classes)
        if len(own := elongation[classes == k]) >= LEAST_BOXES
    )
    return [3, *sorted({round(ratio) for ratio in typical if LONGEST_BY_3 < ratio <= LONGEST})]


def _changes(
    setting: AnchorSetting, factors: Sequence[float], elongations: Sequence[int]
) -> Iterator[tuple[str, dict[str, Any], AnchorSetting]]:
    """Changes from the cheapest to the most expensive: in words, as config keys, and applied."""

    def anchors(**changed: Levels) -> tuple[dict[str, Any], AnchorSetting]:
        node = {key.upper(): _as_config(levels) for key, levels in changed.items()}
        return {"MODEL": {"ANCHOR_GENERATOR": node}}, replace(setting, **changed)

    def scaled(factor: float) -> Levels:
        return tuple(tuple(round(s * factor, 2) for s in level) for level in setting.sizes)

    def added(factor: float) -> Levels:
        pairs = zip(setting.sizes, scaled(factor), strict=True)
        return tuple(tuple(sorted({*own, *other})) for own, other in pairs)

    def elongated(n: int) -> Levels:
        own = (sorted({1 / n, float(n), *level}) for level in setting.aspect_ratios)
        return tuple(tuple(round(ratio, 3) for ratio in level) for level in own)

    for factor, words in ((0.5, "half"), (2.0, "twice"), (0.25, "a quarter of"), (4.0, "4 times")):
        yield f"anchors of {words} the size", *anchors(sizes=scaled(factor))
    for n in elongations:
        yield f"the aspect ratios 1:{n} and {n}:1 as well", *anchors(aspect_ratios=elongated(n))
    for factor, words in ((0.5, "half"), (2.0, "twice")):
        what = f"anchors of {words} the size"
        yield f"{what} as well", *anchors(sizes=added(factor))
        for n in elongations:
            yield (
                f"{what} and the aspect ratios 1:{n} and {n}:1 as well",
                *anchors(sizes=added(factor), aspect_ratios=elongated(n)),
            )
    for factor in factors:
        small, large = round(setting.min_size * factor), round(setting.max_size * factor)
        node = {
            "MIN_SIZE_TRAIN": [small], "MIN_SIZE_TEST": small,
            "MAX_SIZE_TRAIN": large, "MAX_SIZE_TEST": large,
        }  # fmt: skip
        size = {"min_size": small, "max_size": large}
        what = f"images {factor:.3g} times as large (a short side of {small})"
        yield what, {"INPUT": node}, replace(setting, **size)
        for words, sizes in (
            ("half the size", scaled(0.5)),
            ("a quarter of the size", scaled(0.25)),
            ("half the size as well", added(0.5)),
        ):
            settings, changed = anchors(sizes=sizes)
            yield (
                f"{what} and anchors of {words}",
                {"INPUT": node} | settings,
                replace(changed, **size),
            )


def _as_config(levels: Levels) -> list[list[float]]:
    """As people write it: integers without a point, and one list where all are alike."""
    different = levels[:1] if len(set(levels)) == 1 else levels
    return [[int(n) if n.is_integer() else n for n in level] for level in different]
