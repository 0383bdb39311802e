"""The warning at the start of a training whose anchors miss most boxes of a class."""

import logging
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.modeling import Backbone
from detectron2.structures import BoxMode

from counterpoise.datasets import load_dataset
from counterpoise.datasets.packed import annotations_of
from counterpoise.inspection.anchors import (
    LEAST_BOXES,
    MATCHED,
    anchor_setting,
    best_ious,
    measured_fit,
    scaled_boxes,
)
from counterpoise.utils.text import percent

#: Images of a dataset that are looked at, evenly spaced: enough to tell whether most boxes fit.
SAMPLED = 1000
#: Share of the boxes of a class without an anchor above which the class is named.
MOST = 0.5

logger = logging.getLogger(__name__)


def warn_of_missed_classes(cfg: CfgNode, backbone: Backbone | None) -> None:
    """Name the classes of the training set of which most boxes fit no anchor.

    Args:
        cfg: prepared for a training.
        backbone: of the model; None for one of another kind, which is not looked at.
    """
    setting = None if backbone is None else anchor_setting(cfg, backbone)
    found = [] if setting is None else list(_boxes(cfg))
    if not found:
        return
    names, boxes, sizes = zip(*found, strict=True)
    index = {name: k for k, name in enumerate(dict.fromkeys(names))}
    scaled = scaled_boxes(np.array(boxes, float), np.array(sizes, float), setting)
    classes = np.array([index[name] for name in names])
    fit = measured_fit(classes, len(index), best_ious(*scaled, setting))
    said = [
        f"{percent(1 - own.at_50, 0)} of {name}"
        for name, own in zip(index, fit.classes, strict=True)
        if own.boxes >= LEAST_BOXES and 1 - own.at_50 > MOST
    ]
    if said:
        logger.warning(
            "No anchor overlaps these boxes with an IoU of %g, so that they are hardly learned: "
            "%s. `counterpoise inspect` with the same config files looks for anchors and "
            "an input size that fit better",
            MATCHED, ", ".join(said),
        )  # fmt: skip


def _boxes(cfg: CfgNode) -> Iterator[tuple[str, list[float], tuple[int, int]]]:
    """Class, corners and image size of boxes; what another program's records lack is left out."""
    for dataset in cfg.DATASETS.TRAIN:
        records, names = load_dataset(dataset)
        for i in range(0, len(records), math.ceil(len(records) / SAMPLED)):
            record: dict[str, Any] = records[i]
            size = record.get("width"), record.get("height")
            for annotation in annotations_of(record) if all(size) else ():
                if len(annotation["bbox"]) != 4:
                    continue
                corners = BoxMode.convert(
                    list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS
                )
                yield names[annotation["category_id"]], corners, size
