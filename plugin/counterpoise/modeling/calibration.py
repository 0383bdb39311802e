"""Calibration of a box head's logits by the class counts of the training set."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from counterpoise.balance.calibration import METHODS, logit_shift
from counterpoise.balance.class_counts import ClassCounts
from counterpoise.datasets.counting import count_classes
from counterpoise.errors import UserError, check_name
from counterpoise.modeling.training_record import counts_of, read_training_record


class Calibration(nn.Module):
    """Adds :func:`counterpoise.balance.calibration.logit_shift` to logits.

    It holds no parameter and no buffer. The counts are read at the first logits, since a model that
    is built for training or on another machine must not open the training set.
    """

    def __init__(self, method: str, exponent: float, counts: Callable[[], Sequence[int]]) -> None:
        """
        Args:
            method: see :func:`counterpoise.balance.calibration.logit_shift`.
            exponent: >= 0; may be changed later.
            counts: called at most once; returns the boxes of each class in training.
        """
        super().__init__()
        self.method = method
        self.exponent = exponent
        self._count = counts
        self._counts: Tensor | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Calibration | None":
        """Build it from ``BALANCE.CALIBRATION``; None where that is off.

        Raises:
            UserError: there is no such calibration.
        """
        node = cfg.BALANCE.CALIBRATION
        check_name("BALANCE.CALIBRATION.NAME", node.NAME, ("none", *METHODS))
        if node.NAME == "none":
            return None
        return cls(node.NAME, float(node.EXPONENT), partial(_training_boxes, cfg))

    def use_counts(self, boxes: Sequence[int]) -> None:
        """Take the boxes per class (K,) that are known already."""
        self._counts = torch.tensor(boxes)

    def forward(self, logits: Tensor) -> Tensor:
        """Shift logits (R, K + 1), background last."""
        if self.exponent == 0:
            return logits
        if self._counts is None:
            self.use_counts(self._count())
        return logits + logit_shift(self._counts, self.method, self.exponent).to(logits)


def _training_boxes(cfg: CfgNode) -> Sequence[int]:
    return training_counts(cfg).boxes


def training_counts(cfg: CfgNode) -> ClassCounts:
    """Counts of a model's training set: its checkpoint's, or else those of ``DATASETS.TRAIN``.

    Args:
        cfg: with the ``MODEL.WEIGHTS`` of the model.

    Raises:
        UserError: neither is there, or they are of another number of classes than the model.
    """
    num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    record = read_training_record(cfg.MODEL.WEIGHTS)
    if record is None and not cfg.DATASETS.TRAIN:
        raise UserError(
            f"MODEL.WEIGHTS '{cfg.MODEL.WEIGHTS}' has no record of its classes and DATASETS.TRAIN "
            "is empty, so there are no class counts to calibrate with: name the training set"
        )
    counts = count_classes(cfg.DATASETS.TRAIN) if record is None else counts_of(record)
    if len(counts.boxes) != num_classes:
        raise UserError(
            f"the class counts for BALANCE.CALIBRATION are of {len(counts.boxes)} classes "
            f"({', '.join(counts.names)}), but the model has {num_classes}: give MODEL.WEIGHTS "
            "or DATASETS.TRAIN of the same classes"
        )
    return counts
