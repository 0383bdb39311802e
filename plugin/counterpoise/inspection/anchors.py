"""How well a model's anchors fit the boxes of a dataset."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.modeling import Backbone
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator

from counterpoise.config.keys import training_config
from counterpoise.errors import UserError
from counterpoise.modeling.architectures import anchor_section
from counterpoise.modeling.features import backbone_with_features

Levels = tuple[tuple[float, ...], ...]

MATCHED = 0.5  # IoU from which an anchor can find a box
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
    section = anchor_section(cfg)
    has_anchors = section != "RPN" or model.PROPOSAL_GENERATOR.NAME in ("RPN", "BalancedRPN")
    if not has_anchors or node.NAME != "DefaultAnchorGenerator":
        return None
    backbone = backbone or backbone_with_features(cfg)
    shapes = backbone.output_shape()
    features = model[section].IN_FEATURES
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


def scaled_boxes(
    boxes: np.ndarray, image_sizes: np.ndarray, setting: AnchorSetting
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes in the resized images.

    Args:
        boxes: (N, 4), XYXY in pixels.
        image_sizes: (N, 2) float64, width and height of the image of each box.
        setting: the resize.

    Returns:
        boxes and image sizes after it, (N, 4) and (N, 2) float64.
    """
    new_sizes = resized(image_sizes, setting.min_size, setting.max_size)
    return boxes * np.tile(new_sizes / image_sizes, 2), new_sizes


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


def is_poor(coverage: Coverage) -> bool:
    """Whether more than :data:`UNMATCHED_CLASS` of the boxes of a class, if enough, are missed."""
    return coverage.boxes >= LEAST_BOXES and 1 - coverage.at_50 > UNMATCHED_CLASS


def measured_fit(classes: np.ndarray, num_classes: int, ious: np.ndarray) -> Fit:
    """Coverage of boxes (N,) of some classes whose best anchors have the IoUs (N,)."""

    def coverage(values: np.ndarray) -> Coverage:
        if not len(values):
            return Coverage(0)
        at_50, at_70 = (float((values >= threshold).mean()) for threshold in (MATCHED, 0.7))
        return Coverage(len(values), at_50, at_70, float(np.median(values)))

    return Fit(coverage(ious), tuple(coverage(ious[classes == k]) for k in range(num_classes)))
