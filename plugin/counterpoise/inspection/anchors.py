"""How well a model's anchors fit the boxes of a dataset."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.modeling import Backbone
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator

from counterpoise.config.keys import training_config
from counterpoise.errors import UserError
from counterpoise.evaluation import GroundTruth
from counterpoise.modeling.features import backbone_with_features
from counterpoise.modeling.weight_sources import RETINANETS

Levels = tuple[tuple[float, ...], ...]

MATCHED = 0.5  # IoU from which an anchor can find a box
#: More boxes than this share without an anchor at IoU >= 0.5, overall or in a class of at least
#: LEAST_BOXES boxes, are reason to change the anchors. Judgement, not a published number.
UNMATCHED_OVERALL, UNMATCHED_CLASS, LEAST_BOXES = 0.05, 0.10, 10
#: A change has to reach so many more of all boxes, or half of those that a class misses: other
#: anchors mean that the part of the model that reads them is trained anew.
LEAST_GAIN = 0.05
#: Pixels of a resized image to which a larger input is advised; Detectron2's 1333 x 800 are 1.1
#: million, and the memory of a step grows with them.
MOST_PIXELS = 4_000_000


@dataclass(frozen=True)
class AnchorSetting:
    """Anchors and the resize before them.

    Attributes:
        model: whose anchors these are, for messages.
        sizes: square roots of the anchor areas per feature level, in pixels of the resized image.
        aspect_ratios: height over width, per feature level.
        strides: of the feature levels, in pixels.
        offset: of the first anchor's centre from the corner of the image, in strides.
        size_divisibility: images are padded to a multiple of it; 0 does not pad.
        min_size: short side to which images are resized (``INPUT.MIN_SIZE_TEST``); 0 leaves them.
        max_size: bound of the long side (``INPUT.MAX_SIZE_TEST``).
    """

    model: str = "R50-FPN with Detectron2's anchors (no config names a model)"
    sizes: Levels = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    aspect_ratios: Levels = ((0.5, 1.0, 2.0),) * 5
    strides: tuple[int, ...] = (4, 8, 16, 32, 64)
    offset: float = 0.0
    size_divisibility: int = 32
    min_size: int = 800
    max_size: int = 1333

    def shapes(self) -> list[np.ndarray]:
        """Width and height of the anchors of each level: (A, 2) float64, as Detectron2 has them."""
        generator = DefaultAnchorGenerator(
            sizes=self.sizes, aspect_ratios=self.aspect_ratios, strides=self.strides
        )
        cells = [cell.double().numpy() for cell in generator.cell_anchors]
        return [cell[:, 2:] - cell[:, :2] for cell in cells]


@dataclass(frozen=True)
class Coverage:
    """How well anchors fit boxes.

    Attributes:
        boxes: how many there are.
        at_50: share of them whose best anchor has an IoU >= 0.5; None without boxes.
        at_70: the same for 0.7.
        median_iou: of the best anchors.
    """

    boxes: int
    at_50: float | None = None
    at_70: float | None = None
    median_iou: float | None = None


@dataclass(frozen=True)
class Fit:
    """Coverage of all boxes and of each class, in class order."""

    overall: Coverage
    classes: tuple[Coverage, ...]


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


def anchor_setting(cfg: CfgNode, backbone: Backbone | None = None) -> AnchorSetting | None:
    """Read the anchors of a config's model.

    Args:
        cfg: of :func:`counterpoise.config.loading.load_config`. A config that leaves all of MODEL
            as it is names no model, and gets Detectron2's R50-FPN.
        backbone: of the model; None builds it, without weights.

    Returns:
        the setting, or None for a model without :class:`DefaultAnchorGenerator`.

    Raises:
        UserError: the backbone cannot be built, or lacks the features that the anchors lie on.
    """
    size = {"min_size": cfg.INPUT.MIN_SIZE_TEST, "max_size": cfg.INPUT.MAX_SIZE_TEST}
    if cfg.MODEL == training_config().MODEL:
        return AnchorSetting(**size)
    model, node = cfg.MODEL, cfg.MODEL.ANCHOR_GENERATOR
    one_stage = model.META_ARCHITECTURE in RETINANETS
    has_rpn = one_stage or model.PROPOSAL_GENERATOR.NAME in ("RPN", "BalancedRPN")
    if not has_rpn or node.NAME != "DefaultAnchorGenerator":
        return None
    key = "RETINANET" if one_stage else "RPN"
    backbone = backbone or backbone_with_features(cfg)
    shapes = backbone.output_shape()
    features = model[key].IN_FEATURES
    strides = tuple(shapes[name].stride for name in features)
    return AnchorSetting(
        model=f"{model.BACKBONE.NAME} ({', '.join(features)})",
        sizes=_per_level(node.SIZES, len(strides), "SIZES"),
        aspect_ratios=_per_level(node.ASPECT_RATIOS, len(strides), "ASPECT_RATIOS"),
        strides=strides,
        offset=node.OFFSET,
        size_divisibility=backbone.size_divisibility,
        **size,
    )


def _per_level(values: Any, levels: int, key: str) -> Levels:
    """One list of numbers per level, by Detectron2's rules of repetition."""
    lists = [values] if values and not isinstance(values[0], (list, tuple)) else list(values)
    lists = lists * levels if len(lists) == 1 else lists
    if len(lists) != levels or not all(lists):
        raise UserError(
            f"MODEL.ANCHOR_GENERATOR.{key} is {values}, expected one list for all or one for each "
            f"of the {levels} feature levels"
        )
    return tuple(tuple(map(float, numbers)) for numbers in lists)


def resized(image_sizes: np.ndarray, min_size: int, max_size: int) -> np.ndarray:
    """Image sizes after Detectron2's ``ResizeShortestEdge``.

    Args:
        image_sizes: (M, 2) float64, width and height.
        min_size: for the short side; 0 leaves the images as they are.
        max_size: bound of the long side.

    Returns:
        (M, 2) float64, integers.
    """
    if min_size == 0 or len(image_sizes) == 0:
        return image_sizes
    short = image_sizes.min(axis=1, keepdims=True)
    # As there, the short side is set and not computed, so that it comes out exact.
    size = np.where(image_sizes == short, float(min_size), min_size / short * image_sizes)
    longest = size.max(axis=1, keepdims=True)
    size = np.where(longest > max_size, size * (max_size / longest), size)
    return np.floor(size + 0.5)


def scaled_boxes(truth: GroundTruth, setting: AnchorSetting) -> tuple[np.ndarray, np.ndarray]:
    """Boxes in the resized images, XYXY, and the size of these: (N, 4) and (N, 2) float64."""
    new_sizes = resized(truth.image_sizes, setting.min_size, setting.max_size)
    scale = (new_sizes / truth.image_sizes)[truth.images]
    low, size = truth.boxes[:, :2], truth.boxes[:, 2:]
    return np.hstack([low * scale, (low + size) * scale]), new_sizes[truth.images]


def best_ious(boxes: np.ndarray, image_sizes: np.ndarray, setting: AnchorSetting) -> np.ndarray:
    """IoU of each box with the best of all anchors of its image.

    The anchors are not built. The IoU with an anchor of a given shape only depends on the overlap
    along x and y, which decreases with the distance of the centres along each; so the best place on
    the grid is the nearest one, and the cost is boxes x shapes.

    Args:
        boxes: (N, 4) float64, x0, y0, x1, y1 in pixels of the resized image.
        image_sizes: (N, 2) float64, width and height of the resized image of each box.
        setting: the anchors.

    Returns:
        (N,) float64 in [0, 1].
    """
    best = np.zeros(len(boxes))
    if len(boxes) == 0:
        return best
    divisor = max(setting.size_divisibility, 1)
    padded = np.ceil(image_sizes / divisor) * divisor
    low, high = boxes[:, :2], boxes[:, 2:]
    centres, area = (low + high) / 2, (high - low).prod(axis=1)
    for stride, shapes in zip(setting.strides, setting.shapes(), strict=True):
        last = np.ceil(padded / stride) - 1
        cells = np.clip(np.rint(centres / stride - setting.offset), 0, last)
        positions = (cells + setting.offset) * stride
        for shape in shapes:
            overlap = np.minimum(high, positions + shape / 2) - np.maximum(
                low, positions - shape / 2
            )
            shared = overlap.clip(min=0).prod(axis=1)
            np.maximum(best, shared / (area + shape.prod() - shared), out=best)
    return best


def compare_with_anchors(truth: GroundTruth, setting: AnchorSetting) -> Anchors:
    """Measure how well the anchors cover the boxes, and look for a change where they do not.

    Args:
        truth: with at least one box, and without ignored regions.
        setting: the anchors.
    """
    boxes, _ = scaled_boxes(truth, setting)
    sizes = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)).clip(min=1)
    # Half-octave bins, on powers of the square root of 2, so that the usual anchors are on edges.
    first, last = np.floor(2 * np.log2(sizes.min())), np.floor(2 * np.log2(sizes.max())) + 1
    edges = 2 ** (np.arange(first, last + 1) / 2)
    ious = best_ious(*scaled_boxes(truth, setting), setting)
    fit = _fit(truth, ious)
    missed = sizes[ious < MATCHED]
    poor = 1 - fit.overall.at_50 > UNMATCHED_OVERALL or any(map(is_poor, fit.classes))
    factors = _input_factors(truth, setting)
    return Anchors(
        **vars(fit),
        setting=setting,
        histogram_edges=tuple(edges.tolist()),
        histogram_counts=tuple(np.histogram(sizes.clip(edges[0], edges[-1]), edges)[0].tolist()),
        poor=poor,
        too_small=len(missed) > 0 and bool(np.median(missed) < min(map(min, setting.sizes))),
        largest_input=round(setting.min_size * max(factors, default=1)),
        change=_best_change(truth, setting, fit, factors) if poor else None,
    )


def is_poor(coverage: Coverage) -> bool:
    """Whether more than :data:`UNMATCHED_CLASS` of the boxes of a class, if enough, are missed."""
    return coverage.boxes >= LEAST_BOXES and 1 - coverage.at_50 > UNMATCHED_CLASS


def _fit(truth: GroundTruth, ious: np.ndarray) -> Fit:
    def coverage(values: np.ndarray) -> Coverage:
        if not len(values):
            return Coverage(0)
        at_50, at_70 = (float((values >= threshold).mean()) for threshold in (MATCHED, 0.7))
        return Coverage(len(values), at_50, at_70, float(np.median(values)))

    by_class = (ious[truth.classes == c] for c in range(truth.num_classes))
    return Fit(coverage(ious), tuple(map(coverage, by_class)))


def _best_change(
    truth: GroundTruth, setting: AnchorSetting, before: Fit, factors: Sequence[float]
) -> AnchorChange | None:
    """The cheapest change that at least halves the boxes without an anchor, else the best one.

    What costs more than another has to reach :data:`LEAST_GAIN` more than that. A change under
    which a class of at least LEAST_BOXES boxes loses more than a twentieth of its boxes is none.
    """
    per_location = [len(shape) for shape in setting.shapes()]
    pixels = _pixels(truth, setting)
    best: AnchorChange | None = None
    for what, settings, changed in _changes(setting, factors):
        fit = _fit(truth, best_ious(*scaled_boxes(truth, changed), changed))
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


def _changes(
    setting: AnchorSetting, factors: Sequence[float]
) -> Iterator[tuple[str, dict[str, Any], AnchorSetting]]:
    """Changes from the cheapest to the most expensive: in words, as config keys, and applied."""

    def anchors(**changed: Levels) -> tuple[dict[str, Any], AnchorSetting]:
        node = {key.upper(): _as_config(levels) for key, levels in changed.items()}
        return {"MODEL": {"ANCHOR_GENERATOR": node}}, replace(setting, **changed)

    def scaled(factor: float) -> Levels:
        return tuple(tuple(round(s * factor, 2) for s in level) for level in setting.sizes)

    ratios = tuple(tuple(sorted({1 / 3, 3.0, *level})) for level in setting.aspect_ratios)
    ratios = tuple(tuple(round(ratio, 3) for ratio in level) for level in ratios)
    for factor, words in ((0.5, "half"), (2.0, "twice"), (0.25, "a quarter of"), (4.0, "4 times")):
        yield f"anchors of {words} the size", *anchors(sizes=scaled(factor))
    yield "the aspect ratios 1:3 and 3:1 as well", *anchors(aspect_ratios=ratios)
    for factor, words in ((0.5, "half"), (2.0, "twice")):
        pairs = zip(setting.sizes, scaled(factor), strict=True)
        both = tuple(tuple(sorted({*own, *other})) for own, other in pairs)
        what = f"anchors of {words} the size"
        yield f"{what} as well", *anchors(sizes=both)
        yield (
            f"{what} and the aspect ratios 1:3 and 3:1 as well",
            *anchors(sizes=both, aspect_ratios=ratios),
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
        for anchor_factor, words in ((0.5, "half"), (0.25, "a quarter of")):
            settings, changed = anchors(sizes=scaled(anchor_factor))
            yield (
                f"{what} and anchors of {words} the size",
                {"INPUT": node} | settings,
                replace(changed, **size),
            )


def _as_config(levels: Levels) -> list[list[float]]:
    """As people write it: integers without a point, and one list where all are alike."""
    different = levels[:1] if len(set(levels)) == 1 else levels
    return [[int(n) if n.is_integer() else n for n in level] for level in different]
