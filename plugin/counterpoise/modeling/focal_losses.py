"""Cross-entropy and the focal losses of a box head, as registered losses."""

import math

import torch
from detectron2.config import CfgNode
from torch import Tensor

from counterpoise.balance.losses import (
    at_least_float32,
    check_gamma,
    sigmoid_focal_loss,
    softmax_focal_with_p_t,
)
from counterpoise.errors import UserError
from counterpoise.modeling.interfaces import ROILoss
from counterpoise.modeling.registry import ROI_LOSS_REGISTRY


class SoftmaxFocalROILoss(ROILoss):
    """Softmax focal loss. What overrides :meth:`forward` also overrides :meth:`with_p_t`."""

    def __init__(self, gamma: float) -> None:
        """
        Args:
            gamma: focusing parameter >= 0; 0 gives cross-entropy.
        """
        super().__init__()
        check_gamma(gamma)
        self.gamma = gamma

    def forward(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """Losses (R,) of logits (R, K + 1) and classes (R,) in [0, K] or -1."""
        return self.with_p_t(logits, gt_classes)[0]

    def with_p_t(self, logits: Tensor, gt_classes: Tensor) -> tuple[Tensor, Tensor]:
        """Losses and p_t, both (R,), from one pass over the logits."""
        kept = (gt_classes >= 0).to(torch.promote_types(logits.dtype, torch.float32))
        return softmax_focal_with_p_t(logits, gt_classes.clamp(min=0), self.gamma, kept)


@ROI_LOSS_REGISTRY.register(name="softmax_focal")
def build_softmax_focal(cfg: CfgNode) -> ROILoss:
    """Softmax focal loss with ``BALANCE.ROI_LOSS.GAMMA``."""
    return SoftmaxFocalROILoss(float(cfg.BALANCE.ROI_LOSS.GAMMA))


@ROI_LOSS_REGISTRY.register(name="cross_entropy")
class CrossEntropyROILoss(SoftmaxFocalROILoss):
    """Cross-entropy, Detectron2's own loss."""

    is_detectron2s = True

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(gamma=0.0)


class SigmoidsROILoss(ROILoss):
    """Base of losses of one sigmoid per foreground class; a background proposal is all negatives.

    The last of the K + 1 logits is not used.
    """

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities (R, K + 1): a sigmoid per class, and what the likeliest one leaves."""
        # In half precision the scores of good detections would be equal.
        foreground = at_least_float32(logits[:, :-1]).sigmoid()
        return torch.cat([foreground, 1 - foreground.amax(dim=1, keepdim=True)], dim=1)

    def prior_bias(self, num_classes: int, prior_prob: float) -> Tensor:
        """The prior of every sigmoid; the last logit is not used."""
        bias = torch.zeros(num_classes + 1)
        bias[:-1] = -math.log((1 - prior_prob) / prior_prob)
        return bias


@ROI_LOSS_REGISTRY.register(name="sigmoid_focal")
class SigmoidFocalROILoss(SigmoidsROILoss):
    """One binary focal loss per foreground class, summed."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        node, num_classes = cfg.BALANCE.ROI_LOSS, cfg.MODEL.ROI_HEADS.NUM_CLASSES
        if len(node.ALPHA) not in (1, num_classes):
            raise UserError(
                f"BALANCE.ROI_LOSS.ALPHA has {len(node.ALPHA)} numbers, expected 1 or {num_classes}"
            )
        alphas = [float(alpha) for alpha in node.ALPHA]
        if len(alphas) > 1 and not all(0 <= alpha <= 1 for alpha in alphas):
            raise UserError(f"BALANCE.ROI_LOSS.ALPHA is {alphas}, expected numbers in [0, 1]")
        self.alpha: float | None = alphas[0] if len(alphas) == 1 else None
        per_class = None if len(alphas) == 1 else torch.tensor(alphas)
        self.register_buffer("alpha_per_class", per_class, persistent=False)
        self.gamma = float(node.GAMMA)

    def forward(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """Losses (R,) of logits (R, K + 1) and classes (R,) in [0, K] or -1."""
        num_classes = logits.shape[1] - 1
        labels = gt_classes[:, None] == torch.arange(num_classes, device=logits.device)
        alpha = self.alpha_per_class if self.alpha is None else self.alpha
        losses = sigmoid_focal_loss(
            logits[:, :-1], labels, alpha, self.gamma, reduction="none", check_values=False
        )
        return losses.sum(dim=1).masked_fill(gt_classes < 0, 0.0)
