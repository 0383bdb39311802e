"""Losses weighted by gradients, EQL v2 and GHM-C, in the box head and in one-stage detectors."""

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.structures import Boxes
from torch import Tensor, nn

from counterpoise.balance.gradient_balance import (
    eqlv2_weights,
    ghm_weights,
    gradient_histogram,
    gradient_norm,
    moving_histogram,
    weighted_bce,
)
from counterpoise.balance.losses import at_least_float32
from counterpoise.modeling.distributed import mean_over_processes, sum_over_processes
from counterpoise.modeling.focal_losses import SigmoidsROILoss
from counterpoise.modeling.interfaces import DenseLoss, ROILoss, is_training_step
from counterpoise.modeling.registry import DENSE_LOSS_REGISTRY, ROI_LOSS_REGISTRY


class EqualizationLossV2(nn.Module):
    """EQL v2, see :func:`eqlv2_weights`; `positive` and `negative` are the gradients so far."""

    def __init__(self, num_classes: int, gamma: float, mu: float, alpha: float) -> None:
        super().__init__()
        self.gamma, self.mu, self.alpha = gamma, mu, alpha
        self.register_buffer("positive", torch.zeros(num_classes))
        self.register_buffer("negative", torch.zeros(num_classes))

    def forward(self, logits: Tensor, targets: Tensor, kept: Tensor) -> Tensor:
        """Losses (N, C) of logits (N, C), bool targets (N, C) and bool (N,), which are not ignored.

        C is K, or K + 1 with the background last, whose weights are 1.
        """
        logits, num_classes = at_least_float32(logits), len(self.positive)
        weights = eqlv2_weights(self.positive, self.negative, self.gamma, self.mu, self.alpha)
        further = logits.shape[1] - num_classes
        positive, negative = (F.pad(w, (0, further), value=1.0).to(logits) for w in weights)
        weight = torch.where(targets, positive, negative)
        if is_training_step(self):
            norms = (gradient_norm(logits, targets) * weight).masked_fill(~kept[:, None], 0.0)
            sums = torch.stack([(norms * targets).sum(0), (norms * ~targets).sum(0)])
            # One NaN that stayed would outlive its step, which SOLVER.NON_FINITE may skip.
            sums = sum_over_processes(sums[:, :num_classes]).nan_to_num(nan=0.0)
            self.positive += sums[0]
            self.negative += sums[1]
        return weighted_bce(logits, targets, weight).masked_fill(~kept[:, None], 0.0)


class GradientHarmonizing(nn.Module):
    """GHM-C, see :func:`ghm_weights`; `histogram` moves with every step."""

    def __init__(self, bins: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("histogram", torch.zeros(bins))

    def forward(self, logits: Tensor, targets: Tensor, kept: Tensor) -> Tensor:
        """Losses (N, C) of logits (N, C), bool targets (N, C) and bool (N,), which are not ignored.

        The weights have a mean of 1 while the histogram is that of the step.
        """
        logits = at_least_float32(logits)
        norms = gradient_norm(logits, targets)
        counts = gradient_histogram(norms, kept[:, None], len(self.histogram))
        counts = sum_over_processes(counts)
        histogram = moving_histogram(self.histogram, counts, self.momentum)
        if is_training_step(self):
            self.histogram.copy_(histogram)
        weight = ghm_weights(norms, histogram, counts)
        return weighted_bce(logits, targets, weight).masked_fill(~kept[:, None], 0.0)


@ROI_LOSS_REGISTRY.register(name="eqlv2")
class EQLv2ROILoss(ROILoss):
    """EQL v2 over K + 1 sigmoids. As in the authors' code the last one is that of the background.

    Its weights are 1, and a class is as likely as its sigmoid says times that nothing is there.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.balanced = equalization_loss(cfg.BALANCE.ROI_LOSS, cfg.MODEL.ROI_HEADS.NUM_CLASSES)

    def forward(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """Losses (R,) of logits (R, K + 1) and classes (R,) in [0, K] or -1."""
        return per_sample(self.balanced, logits, gt_classes)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities (R, K + 1): of a class p_c (1 - p_background), and p_background."""
        sigmoids = at_least_float32(logits).sigmoid()
        background = sigmoids[:, -1:]
        return torch.cat([sigmoids[:, :-1] * (1 - background), background], dim=1)

    def prior_bias(self, num_classes: int, prior_prob: float) -> Tensor:
        """The prior of every sigmoid, and for the background's what it leaves."""
        prior = torch.full((num_classes + 1,), prior_prob)
        prior[-1] = 1 - prior_prob
        return prior.logit()


@ROI_LOSS_REGISTRY.register(name="ghmc")
class GHMCROILoss(SigmoidsROILoss):
    """GHM-C over a sigmoid per foreground class, summed."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.balanced = gradient_harmonizing(cfg.BALANCE.ROI_LOSS)

    def forward(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """Losses (R,) of logits (R, K + 1) and classes (R,) in [0, K] or -1."""
        return per_sample(self.balanced, logits[:, :-1], gt_classes)


@DENSE_LOSS_REGISTRY.register(name="eqlv2")
class EQLv2DenseLoss(DenseLoss):
    """EQL v2 over all anchors that are not ignored; alpha is not used."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.balanced = equalization_loss(cfg.BALANCE.DENSE_LOSS, cfg.MODEL.RETINANET.NUM_CLASSES)

    def per_anchor(
        self, logits: Tensor, labels: Tensor, anchors: list[Boxes], alpha: float | Tensor = -1.0
    ) -> Tensor:
        """Losses (N, R); arguments as for :class:`DenseLoss`."""
        return per_sample(self.balanced, logits.flatten(0, -2), labels.flatten()).view_as(labels)


@DENSE_LOSS_REGISTRY.register(name="ghmc")
class GHMCDenseLoss(DenseLoss):
    """GHM-C over all anchors that are not ignored; alpha is not used.

    The loss of the paper is a mean over anchors and classes, while a one-stage detector divides by
    its running mean of the positive anchors. Multiplied by those of the batch, at least one, the
    mean stays one in a batch with as many positives as usual.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.balanced = gradient_harmonizing(cfg.BALANCE.DENSE_LOSS)

    def per_anchor(
        self, logits: Tensor, labels: Tensor, anchors: list[Boxes], alpha: float | Tensor = -1.0
    ) -> Tensor:
        """Losses (N, R); arguments as for :class:`DenseLoss`."""
        losses = per_sample(self.balanced, logits.flatten(0, -2), labels.flatten())
        num_classes = logits.shape[-1]
        positives = ((labels >= 0) & (labels < num_classes)).sum().float()
        elements = (labels >= 0).sum().float() * num_classes
        positives, elements = mean_over_processes(torch.stack([positives, elements]), min_total=1)
        return losses.view_as(labels) * (positives / elements).to(losses)


def equalization_loss(node: CfgNode, num_classes: int) -> EqualizationLossV2:
    """Build EQL v2 from the keys of a section."""
    constants = (float(node[f"EQL_{name}"]) for name in ("GAMMA", "MU", "ALPHA"))
    return EqualizationLossV2(num_classes, *constants)


def gradient_harmonizing(node: CfgNode) -> GradientHarmonizing:
    """Build GHM-C from the keys of a section."""
    return GradientHarmonizing(node.GHM_BINS, float(node.GHM_MOMENTUM))


def per_sample(loss: nn.Module, logits: Tensor, classes: Tensor) -> Tensor:
    """Sum the losses of one sigmoid per column over the columns.

    Args:
        loss: with the arguments of :class:`EqualizationLossV2`.
        logits: (N, C).
        classes: (N,), column of the positive; none where it is C, and -1 to ignore.

    Returns:
        (N,), float32 or float64.
    """
    targets = classes[:, None] == torch.arange(logits.shape[1], device=logits.device)
    return loss(logits, targets, classes >= 0).sum(dim=1)
