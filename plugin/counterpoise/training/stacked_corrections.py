"""What favours rare classes in a config, and what it comes to where corrections are stacked."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode

from counterpoise.balance.image_sampling import expected_boxes, image_factors
from counterpoise.config.unread_keys import unread_sections
from counterpoise.datasets.counting import training_records
from counterpoise.datasets.image_sampling import boxes_per_image
from counterpoise.modeling.dense_loss import balanced_alpha
from counterpoise.modeling.weight_sources import ClassTable
from counterpoise.utils.table import Table

logger = logging.getLogger(__name__)

#: Names of corrections that helped together, and the largest product that did: docs/results.md.
MEASURED = {("logit_adjusted", "class_aware images"): 300}


@dataclass(frozen=True)
class Correction:
    """One way in which a config favours some classes over others.

    Attributes:
        name: short, heads a column.
        keys: config keys that set it.
        factors: one per class, of any common scale: by how much it raises the odds that the trained
            model gives to the class in the end; of a class without boxes any number. None where
            that is found in training.
    """

    name: str
    keys: str
    factors: tuple[float, ...] | None


def class_weights(cfg: CfgNode, table: ClassTable) -> Correction | None:
    """Class weights, with `SOURCE` `batch` known by the step alone."""
    if "CLASS_WEIGHTS" in unread_sections(cfg) or cfg.BALANCE.DENSE_LOSS.ALPHA_SOURCE != "fixed":
        return None
    keys = "BALANCE.CLASS_WEIGHTS"
    if cfg.BALANCE.CLASS_WEIGHTS.SOURCE == "batch":
        return Correction("class weights", keys, None)
    if table.weights is None:
        return None
    return Correction("class weights", keys, tuple(table.weights[:-1].tolist()))


def dense_alpha(cfg: CfgNode, table: ClassTable) -> Correction | None:
    """Alpha of a one-stage detector by class: its ratio to 1 - alpha."""
    node = cfg.BALANCE.DENSE_LOSS
    if "DENSE_LOSS" in unread_sections(cfg) or node.ALPHA_SOURCE == "fixed":
        return None
    alphas = balanced_alpha(table.weights[:-1], table.counts.boxes, float(node.ALPHA)).tolist()
    odds = tuple(alpha / (1 - alpha) for alpha in alphas)
    return Correction("alpha", "BALANCE.DENSE_LOSS.ALPHA_SOURCE", odds)


def roi_alpha(cfg: CfgNode, table: ClassTable) -> Correction | None:
    """A list of alphas for the sigmoid focal loss of the box head: their ratios to 1 - alpha."""
    node = cfg.BALANCE.ROI_LOSS
    if "ROI_LOSS" in unread_sections(cfg) or node.NAME != "sigmoid_focal" or len(node.ALPHA) == 1:
        return None
    odds = tuple(alpha / max(1 - alpha, 1e-6) for alpha in map(float, node.ALPHA))
    return Correction("alpha", "BALANCE.ROI_LOSS.ALPHA", odds)


def loss_of_its_own(cfg: CfgNode, table: ClassTable) -> Correction | None:
    """A loss that balances the classes: by their counts, or by what it meets in training."""
    for section in ("ROI_LOSS", "DENSE_LOSS"):
        if section in unread_sections(cfg):
            continue
        node, key = cfg.BALANCE[section], f"BALANCE.{section}.NAME"
        if node.NAME in ("eqlv2", "equilibrium"):
            return Correction(node.NAME, key, None)
        exponents = {"logit_adjusted": "TAU", "seesaw": "SEESAW_P"}
        if node.NAME in exponents:
            # Seesaw's mitigation, where no class is taken for another, is logit adjustment by p.
            exponent = float(node[exponents[node.NAME]])
            factors = tuple(max(n, 1) ** -exponent for n in table.counts.boxes)
            return Correction(node.NAME, key, factors) if exponent else None
    return None


def image_sampling(cfg: CfgNode, table: ClassTable) -> Correction | None:
    """Images that are shown more often for the classes in them, by the boxes that are then seen."""
    node = cfg.BALANCE.IMAGE_SAMPLER
    repeats = cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler"
    boxes = table.counts.boxes
    if not any(boxes) or (node.NAME == "none" and not repeats):
        return None
    records = training_records(cfg.DATASETS.TRAIN, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    counts = boxes_per_image(records, len(boxes))
    if node.NAME == "none":
        key, rule = "DATALOADER.SAMPLER_TRAIN", "repeat_factor"
        threshold = cfg.DATALOADER.REPEAT_THRESHOLD
    else:
        key, rule, threshold = "BALANCE.IMAGE_SAMPLER.NAME", node.NAME, node.THRESHOLD
    factors = image_factors(counts, rule, threshold, node.EXPONENT)
    alike = expected_boxes(counts, torch.ones(len(counts)))
    seen = expected_boxes(counts, factors) / alike.clamp(min=1)
    return Correction(f"{rule} images", key, tuple(seen.tolist()))


def calibration(cfg: CfgNode, table: ClassTable) -> Correction | None:
    """Scores that are adjusted by the class counts, whichever method says in what unit."""
    node = cfg.BALANCE.CALIBRATION
    if "CALIBRATION" in unread_sections(cfg) or node.NAME == "none":
        return None
    factors = tuple(max(n, 1) ** -float(node.EXPONENT) for n in table.counts.boxes)
    return Correction("calibration", "BALANCE.CALIBRATION", factors)


#: All that can favour a class; each looks at the config and says what it does, or None.
CORRECTIONS: list[Callable[[CfgNode, ClassTable], Correction | None]] = [
    class_weights,
    dense_alpha,
    roi_alpha,
    loss_of_its_own,
    image_sampling,
    calibration,
]


def active_corrections(cfg: CfgNode, table: ClassTable) -> list[Correction]:
    """Corrections of a config that treat classes with boxes differently, in the list's order."""
    present = [i for i, number in enumerate(table.counts.boxes) if number]
    if not present:
        return []

    def favours_some(factors: tuple[float, ...]) -> bool:
        own = [factors[i] for i in present]
        return max(own) > 1.001 * min(own)

    found = filter(None, (correction(cfg, table) for correction in CORRECTIONS))
    return [c for c in found if c.factors is None or favours_some(c.factors)]


def warn_if_stacked(cfg: CfgNode, table: ClassTable) -> None:
    """Say where more than one correction is on, as a warning unless they are known to go together.

    Each alone is meant to balance the classes.

    Args:
        cfg: prepared by :func:`counterpoise.config.preparation.prepare`.
        table: of the training set.
    """
    corrections = active_corrections(cfg, table)
    if len(corrections) < 2:
        return
    factors = _favours(corrections, table)
    products = {i: math.prod(f for f in row if f is not None) for i, row in factors.items()}
    most = MEASURED.get(tuple(c.name for c in corrections), 0)
    boxes = [table.counts.boxes[i] for i in factors]
    rows = [
        [
            table.counts.names[i],
            table.counts.boxes[i],
            *("in training" if f is None else f"{f:.3g}" for f in row),
            f"{products[i]:.3g}",
        ]
        for i, row in factors.items()
    ]
    shown = Table(["class", "boxes", *(c.name for c in corrections), "all together"], rows)
    known = max(products.values()) <= most
    logger.log(
        logging.INFO if known else logging.WARNING,
        "%d corrections for the frequency of classes are stacked (%s), %s. How much they favour "
        "each class over the most frequent one, which has %.3g times the boxes of the rarest:\n%s",
        len(corrections), ", ".join(c.keys for c in corrections),
        f"as they helped up to {most} to 1 (docs/results.md)" if known
        else "each of which is meant to balance them alone",
        max(boxes) / min(boxes), shown.as_text(),
    )  # fmt: skip


def _favours(corrections: list[Correction], table: ClassTable) -> dict[int, list[float | None]]:
    """By how much each correction favours each class with boxes over the one with most of them."""
    boxes = table.counts.boxes
    reference = max(range(len(boxes)), key=boxes.__getitem__)
    return {
        i: [c.factors and c.factors[i] / max(c.factors[reference], 1e-12) for c in corrections]
        for i, number in enumerate(boxes)
        if number
    }
