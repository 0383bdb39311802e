"""How well a model's anchors fit the boxes of a dataset."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator

from counterpoise.config.keys import training_config
from counterpoise.errors import UserError, did_you_mean
from counterpoise.evaluation import GroundTruth
from counterpoise.modeling.weight_sources import RETINANETS

Levels = tuple[tuple[float, ...], ...]

#: More boxes than this share without an anchor at IoU >= 0.5, overall or in a class of at least
#: LEAST_BOXES boxes, are reason to change the anchors. Judgement, not a published number.
UNMATCHED_OVERALL, UNMATCHED_CLASS, LEAST_BOXES = 0.05, 0.10, 10


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
        fits_head: the number of anchors per location stays, so that a trained head still fits.
    """

    what: str
    settings: dict[str, Any]
    fits_head: bool


@dataclass(frozen=True)
class Anchors(Fit):
    """The boxes of a split against a model's anchors, at the size of the test input.

    Attributes:
        setting: the anchors.
        histogram_edges: E + 1 edges of box sizes in pixels of the resized image.
        histogram_counts: E numbers of boxes between them.
        poor: more boxes than :data:`UNMATCHED_OVERALL` or :data:`UNMATCHED_CLASS` have no anchor.
        change: if poor, the cheapest change found that covers more, or None.
    """

    setting: AnchorSetting
    histogram_edges: tuple[float, ...]
    histogram_counts: tuple[int, ...]
    poor: bool
    change: AnchorChange | None


def anchor_setting(cfg: CfgNode) -> AnchorSetting | None:
    """Read the anchors of a config's model; its backbone is built, but no weights are loaded.

    Args:
        cfg: of :func:`counterpoise.config.loading.load_config`. A config that leaves all of MODEL
            as it is names no model, and gets Detectron2's R50-FPN.

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
    backbone = build_backbone(cfg)
    shapes = backbone.output_shape()
    features = model[key].IN_FEATURES
    if missing := [name for name in features if name not in shapes]:
        raise UserError(
            f"MODEL.{key}.IN_FEATURES names '{missing[0]}', which the backbone "
            f"{model.BACKBONE.NAME} does not have; {did_you_mean(missing[0], shapes)}"
        )
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
    fit = _fit(truth, setting)
    poor = 1 - fit.overall.at_50 > UNMATCHED_OVERALL or any(
        c.boxes >= LEAST_BOXES and 1 - c.at_50 > UNMATCHED_CLASS for c in fit.classes
    )
    return Anchors(
        **vars(fit),
        setting=setting,
        histogram_edges=tuple(edges.tolist()),
        histogram_counts=tuple(np.histogram(sizes.clip(edges[0], edges[-1]), edges)[0].tolist()),
        poor=poor,
        change=_best_change(truth, setting, fit) if poor else None,
    )


def _fit(truth: GroundTruth, setting: AnchorSetting) -> Fit:
    ious = best_ious(*scaled_boxes(truth, setting), setting)

    def coverage(values: np.ndarray) -> Coverage:
        if not len(values):
            return Coverage(0)
        at_50, at_70 = (float((values >= threshold).mean()) for threshold in (0.5, 0.7))
        return Coverage(len(values), at_50, at_70, float(np.median(values)))

    by_class = (ious[truth.classes == c] for c in range(truth.num_classes))
    return Fit(coverage(ious), tuple(map(coverage, by_class)))


def _best_change(truth: GroundTruth, setting: AnchorSetting, before: Fit) -> AnchorChange | None:
    """The cheapest change that at least halves the boxes without an anchor, else the best one.

    A change under which a class of at least LEAST_BOXES boxes loses more than a twentieth of its
    boxes is none.
    """
    per_location = [len(shape) for shape in setting.shapes()]
    best: AnchorChange | None = None
    for what, settings, changed in _changes(setting):
        fit = _fit(truth, changed)
        harms = any(
            old.boxes >= LEAST_BOXES and new.at_50 < old.at_50 - 0.05
            for old, new in zip(before.classes, fit.classes, strict=True)
        )
        if harms or fit.overall.at_50 <= (best or before).overall.at_50:
            continue
        fits_head = [len(shape) for shape in changed.shapes()] == per_location
        best = AnchorChange(**vars(fit), what=what, settings=settings, fits_head=fits_head)
        if 1 - fit.overall.at_50 <= (1 - before.overall.at_50) / 2:
            break
    return best


def _changes(setting: AnchorSetting) -> Iterator[tuple[str, dict[str, Any], AnchorSetting]]:
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
    for factor in (1.5, 2.0) if setting.min_size else ():
        small, large = round(setting.min_size * factor), round(setting.max_size * factor)
        node = {
            "MIN_SIZE_TRAIN": [small], "MIN_SIZE_TEST": small,
            "MAX_SIZE_TRAIN": large, "MAX_SIZE_TEST": large,
        }  # fmt: skip
        yield (
            f"images {factor:g} times as large",
            {"INPUT": node},
            replace(setting, min_size=small, max_size=large),
        )


def _as_config(levels: Levels) -> list[list[float]]:
    """As people write it: integers without a point, and one list where all are alike."""
    different = levels[:1] if len(set(levels)) == 1 else levels
    return [[int(n) if n.is_integer() else n for n in level] for level in different]
