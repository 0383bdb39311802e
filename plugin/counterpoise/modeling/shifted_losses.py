"""Cross-entropy of shifted logits in the box head: logit adjustment, Seesaw, equilibrium loss."""

from functools import partial

import torch
from detectron2.config import CfgNode
from torch import Tensor

from counterpoise.balance.logit_shifts import equilibrium_shift, prior_shift, seesaw_shift
from counterpoise.balance.losses import at_least_float32, softmax_focal_with_p_t
from counterpoise.modeling.distributed import sum_over_processes
from counterpoise.modeling.interfaces import ROILoss, is_training_step
from counterpoise.modeling.registry import ROI_LOSS_REGISTRY
from counterpoise.modeling.weight_sources import ClassTable, class_table, known_table


class ShiftedCrossEntropy(ROILoss):
    """Cross-entropy of logits plus a shift without gradient; inference has the logits as they are.

    Subclasses give :meth:`shift`, and :meth:`observe` where it depends on earlier steps.
    """

    def observe(self, logits: Tensor, gt_classes: Tensor) -> None:
        """Take in the proposals of a step that trains, before their shift is asked for."""

    def shift(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """Shift (R, K + 1) or (K + 1,) of logits (R, K + 1), float32, of classes (R,) or -1."""
        raise NotImplementedError

    def forward(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """Losses (R,) of logits (R, K + 1) and classes (R,) in [0, K] or -1."""
        logits = at_least_float32(logits)
        kept = (gt_classes >= 0).to(logits.dtype)
        training = is_training_step(self)
        with torch.no_grad():
            if training:
                self.observe(logits.detach(), gt_classes)
            shift = self.shift(logits.detach(), gt_classes)
        return softmax_focal_with_p_t(logits + shift, gt_classes.clamp(min=0), 0.0, kept)[0]


@ROI_LOSS_REGISTRY.register(name="logit_adjusted")
class LogitAdjustedROILoss(ShiftedCrossEntropy):
    """Logit-adjusted cross-entropy, see :func:`prior_shift`, with the boxes of the training set."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.tau = float(cfg.BALANCE.ROI_LOSS.TAU)
        # Read when first needed: a model for inference must not open the training set.
        self._table = partial(class_table, cfg, weighted=False)
        self.register_buffer("prior", None, persistent=False)

    def use_table(self, table: ClassTable) -> None:
        """Take the boxes per class from a table."""
        self._table, self.prior = partial(known_table, table), None

    def shift(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """Shift (K + 1,), the same for all proposals."""
        if self.prior is None:
            boxes = torch.tensor(self._table().counts.boxes)
            self.prior = prior_shift(boxes, self.tau).to(logits)
        return self.prior.to(logits)


@ROI_LOSS_REGISTRY.register(name="seesaw")
class SeesawROILoss(ShiftedCrossEntropy):
    """Seesaw loss, see :func:`seesaw_shift`; `counts` is what it has seen of every class so far."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        node = cfg.BALANCE.ROI_LOSS
        self.p, self.q = float(node.SEESAW_P), float(node.SEESAW_Q)
        counts = torch.zeros(cfg.MODEL.ROI_HEADS.NUM_CLASSES, dtype=torch.int64)
        self.register_buffer("counts", counts)

    def observe(self, logits: Tensor, gt_classes: Tensor) -> None:
        """Count the proposals by class."""
        seen = class_sums(gt_classes, torch.ones_like(logits[:, 0]), len(self.counts))
        self.counts += sum_over_processes(seen).round().long()

    def shift(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """Shift (R, K + 1)."""
        return seesaw_shift(logits, gt_classes.clamp(min=0), self.counts, self.p, self.q)


@ROI_LOSS_REGISTRY.register(name="equilibrium")
class EquilibriumROILoss(ShiftedCrossEntropy):
    """Equilibrium loss, see :func:`equilibrium_shift`; `mean_scores` moves with every step."""

    #: Mean score that every class starts with, and the background keeps.
    START = 0.01

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.momentum = float(cfg.BALANCE.ROI_LOSS.SCORE_MOMENTUM)
        mean_scores = torch.full((cfg.MODEL.ROI_HEADS.NUM_CLASSES,), self.START)
        self.register_buffer("mean_scores", mean_scores)

    def observe(self, logits: Tensor, gt_classes: Tensor) -> None:
        """Move the mean score of every class that the proposals hold towards theirs."""
        num_classes = len(self.mean_scores)
        scores = logits.softmax(dim=1).gather(1, gt_classes.clamp(min=0)[:, None]).squeeze(1)
        sums = torch.stack(
            [
                class_sums(gt_classes, scores, num_classes),
                class_sums(gt_classes, torch.ones_like(scores), num_classes),
            ]
        )
        total, count = sum_over_processes(sums)
        means = (total / count.clamp(min=1)).to(self.mean_scores)
        moved = self.mean_scores.lerp(means, 1 - self.momentum)
        # One NaN that stayed would outlive its step, which SOLVER.NON_FINITE may skip; and a score
        # that has underflowed to 0 would have no logarithm.
        moves = (count > 0) & moved.isfinite()
        self.mean_scores.copy_(torch.where(moves, moved, self.mean_scores).clamp(min=1e-6))

    def shift(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """Shift (K + 1,), the same for all proposals."""
        return equilibrium_shift(self.mean_scores, self.START).to(logits)


def class_sums(gt_classes: Tensor, values: Tensor, num_classes: int) -> Tensor:
    """Sum values (R,) by foreground class, (K,); those of background and -1 are left out."""
    foreground = (gt_classes >= 0) & (gt_classes < num_classes)
    index = gt_classes.clamp(0, num_classes - 1)
    return values.new_zeros(num_classes).index_add_(0, index, values * foreground)
