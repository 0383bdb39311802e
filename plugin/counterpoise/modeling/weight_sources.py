"""Where a loss gets its class weights: a list, the training set, the batch, or nowhere."""

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from detectron2.config import CfgNode
from detectron2.utils.logger import log_first_n
from torch import Tensor

from counterpoise.balance.class_counts import ClassCounts
from counterpoise.balance.class_weights import (
    RULES,
    WeightRule,
    append_background,
    batch_class_weights,
    class_weights,
)
from counterpoise.datasets.counting import count_classes
from counterpoise.errors import UserError, check_name
from counterpoise.modeling.architectures import head_section
from counterpoise.modeling.registry import WEIGHT_RULE_REGISTRY
from counterpoise.utils.table import Table
from counterpoise.utils.text import percent

SOURCES = ("dataset", "list", "batch", "none")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassTable:
    """Class counts of a training set beside the weights that follow from them."""

    counts: ClassCounts
    weights: Tensor | None
    """float32 (K + 1,), background last; None where no loss has weights of the training set."""
    has_background: bool = True
    """Whether the model has a background class; without one, its weight is not read."""

    def __str__(self) -> str:
        total = max(sum(self.counts.boxes), 1)
        headers = ["class", "images", "boxes", "frequency"]
        rows = [
            [name, images, boxes, percent(boxes / total, 2)]
            for name, images, boxes in zip(
                self.counts.names, self.counts.images, self.counts.boxes, strict=True
            )
        ]
        if self.weights is not None:
            headers.append("weight")
            weights = self.weights.tolist()
            if self.has_background:
                rows.append(["(background)", "", "", ""])
            else:
                weights.pop()
            for row, weight in zip(rows, weights, strict=True):
                row.append(f"{weight:.4g}")
        return Table(headers, rows).as_text()


def class_table(cfg: CfgNode, weighted: bool = True) -> ClassTable:
    """Count the training sets of a config and weigh their classes by ``BALANCE.CLASS_WEIGHTS``.

    Args:
        cfg: with the keys of :func:`counterpoise.add_counterpoise_config`.
        weighted: whether any loss reads the weights; they are not computed where none does.

    Raises:
        UserError: a dataset, a count or a key does not allow it.
    """
    counts = count_classes(cfg.DATASETS.TRAIN)
    head = head_section(cfg)
    num_classes = cfg.MODEL[head].NUM_CLASSES
    if len(counts.names) != num_classes:
        raise UserError(
            f"MODEL.{head}.NUM_CLASSES is {num_classes}, but the training set "
            f"{', '.join(cfg.DATASETS.TRAIN)} has {len(counts.names)} classes "
            f"({', '.join(counts.names)}): set the key to {len(counts.names)}"
        )
    node, has_background = cfg.BALANCE.CLASS_WEIGHTS, head != "RETINANET"
    # The least weight is never so large that a warning would say so.
    background = node.BACKGROUND if has_background else "min"
    weights = _weights(node, counts, background) if weighted else None
    return ClassTable(counts, weights, has_background)


def known_table(table: ClassTable) -> ClassTable:
    """Return a table, in the place of :func:`class_table` where it is known already."""
    return table


class WeightSource:
    """Class weights of a loss; as it stands, none."""

    weighted = False

    def weights(self, counts: Callable[[], Tensor], device: torch.device) -> Tensor | None:
        """Weights of a step.

        Args:
            counts: gives the proposals of the step by class, (K + 1,), background last, over all
                processes.
            device: of the losses.

        Returns:
            (K + 1,), background last; None for all ones.
        """
        return None

    def use_table(self, table: ClassTable) -> None:
        """Take the weights of a table of the training set, where they are to come from there."""


class FixedWeights(WeightSource):
    """Weights that stay the same.

    They are computed at the first loss, since building a model for inference must not open the
    training set.
    """

    weighted = True

    def __init__(self, compute: Callable[[], Tensor | None]) -> None:
        """
        Args:
            compute: gives (K + 1,), background last; None for all ones.
        """
        self._compute: Callable[[], Tensor | None] | None = compute
        self._weights: Tensor | None = None

    def weights(self, counts: Callable[[], Tensor], device: torch.device) -> Tensor | None:
        """The same (K + 1,) for every step."""
        if self._compute is not None:
            self._weights, self._compute = self._compute(), None
        if self._weights is not None:
            self._weights = self._weights.to(device)
        return self._weights


class DatasetWeights(FixedWeights):
    """Weights by the counts of the training set."""

    def use_table(self, table: ClassTable) -> None:
        """Take the weights of a table, in place of counting the training set at the first loss."""
        self._weights, self._compute = table.weights, None


class BatchWeights(WeightSource):
    """Weights by the counts of each step's proposals."""

    weighted = True

    def __init__(self, weigh: Callable[[Tensor], Tensor]) -> None:
        """
        Args:
            weigh: from counts (K + 1,) to weights (K + 1,).
        """
        self._weigh = weigh

    def weights(self, counts: Callable[[], Tensor], device: torch.device) -> Tensor | None:
        """The (K + 1,) of this step."""
        return self._weigh(counts())


def weight_source(cfg: CfgNode) -> WeightSource:
    """Return where ``BALANCE.CLASS_WEIGHTS.SOURCE`` takes the weights from; it reads no data.

    Args:
        cfg: with the keys of :func:`counterpoise.add_counterpoise_config`.

    Raises:
        UserError: there is no such source.
    """
    node = cfg.BALANCE.CLASS_WEIGHTS
    check_name("BALANCE.CLASS_WEIGHTS.SOURCE", node.SOURCE, SOURCES)
    if node.SOURCE == "dataset":
        return DatasetWeights(partial(_weights_of_training_set, cfg))
    if node.SOURCE == "list":
        num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
        return FixedWeights(partial(_weights_from_list, node, num_classes, node.BACKGROUND))
    if node.SOURCE == "batch":
        return BatchWeights(
            partial(
                batch_class_weights,
                rule=_rule(node),
                log_offset=float(node.LOG_OFFSET),
                normalize=node.NORMALIZE,
                beta=float(node.BETA),
            )
        )
    return WeightSource()


def _weights_of_training_set(cfg: CfgNode) -> Tensor | None:
    table = class_table(cfg)
    log_class_table(table)
    return table.weights


def log_class_table(table: ClassTable) -> None:
    """Log a table of classes once, however many parts of the program ask for it."""
    weights = "" if table.weights is None else " and their weights"
    message = f"Classes of the training set{weights}:\n{table}"
    log_first_n(logging.INFO, message, key="message", name=__name__)


def _rule(node: CfgNode) -> str | WeightRule:
    registered = WEIGHT_RULE_REGISTRY.get(node.RULE)
    # The core knows its own rules by name, and says in its messages which one it was.
    return node.RULE if registered is RULES.get(node.RULE) else registered


def _weights(node: CfgNode, counts: ClassCounts, background: str) -> Tensor | None:
    if node.SOURCE in ("batch", "none"):
        return None
    if node.SOURCE == "list":
        return _weights_from_list(node, len(counts.names), background)
    empty = [name for name, boxes in zip(counts.names, counts.boxes, strict=True) if not boxes]
    missing = f" (classes without boxes: {', '.join(empty)})" if empty else ""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            weights = class_weights(
                counts.boxes,
                rule=_rule(node),
                log_offset=float(node.LOG_OFFSET),
                background=background,
                normalize=node.NORMALIZE,
                beta=float(node.BETA),
                background_fraction=float(node.BACKGROUND_FRACTION),
                background_value=float(node.BACKGROUND_VALUE),
            )
    except ValueError as error:
        raise UserError(f"BALANCE.CLASS_WEIGHTS: {error}{missing}") from error
    for warning in caught:
        log_first_n(logging.WARNING, f"{warning.message}{missing}", key="message", name=__name__)
    return weights


def _weights_from_list(node: CfgNode, num_classes: int, background: str) -> Tensor:
    values = [float(v) for v in node.VALUES]
    if len(values) not in (num_classes, num_classes + 1):
        raise UserError(
            f"BALANCE.CLASS_WEIGHTS.VALUES has {len(values)} numbers, expected {num_classes} (one "
            f"per class; the background follows BACKGROUND) or {num_classes + 1} (background last)"
        )
    value = float(node.BACKGROUND_VALUE)
    if len(values) > num_classes:
        background, value = "value", values.pop()
    try:
        return append_background(values, background, node.NORMALIZE, value)
    except ValueError as error:
        raise UserError(f"BALANCE.CLASS_WEIGHTS.VALUES: {error}") from error
