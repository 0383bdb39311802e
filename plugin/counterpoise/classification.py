"""Classification loss of a box head: a registered loss, class weights and a normaliser."""

from collections.abc import Callable
from functools import partial

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from counterpoise.losses import cross_entropy_loss, softmax_focal_loss, target_probability
from counterpoise.parallel import mean_over_processes
from counterpoise.registry import ROI_LOSS_REGISTRY
from counterpoise.weight_sources import class_weight_provider

#: logits (R, K+1), gt_classes (R,) -> unweighted losses (R,), 0 where gt_classes is -1
ROILoss = Callable[[Tensor, Tensor], Tensor]

NORMALIZERS = ("weight_sum", "mean", "num_pos", "sum")


@ROI_LOSS_REGISTRY.register(name="softmax_focal")
def build_softmax_focal(cfg: CfgNode) -> ROILoss:
    """Softmax focal loss with ``BALANCE.ROI_LOSS.GAMMA``."""
    gamma = float(cfg.BALANCE.ROI_LOSS.GAMMA)
    return partial(softmax_focal_loss, gamma=gamma, reduction="none")


@ROI_LOSS_REGISTRY.register(name="cross_entropy")
def build_cross_entropy(cfg: CfgNode) -> ROILoss:
    """Cross-entropy, Detectron2's own loss."""
    return partial(cross_entropy_loss, reduction="none")


class ClassificationLoss(nn.Module):
    """Weighted and normalised classification loss over the proposals of a batch.

    It holds no parameter and no persistent buffer: a model with it has the ``state_dict`` keys of
    a stock model.
    """

    def __init__(
        self,
        loss: ROILoss,
        class_weights: Callable[[], Tensor | None] = lambda: None,
        normalizer: str = "weight_sum",
    ) -> None:
        """
        Args:
            loss: per-proposal loss.
            class_weights: called once, at the first loss; returns (K + 1,) or None for all ones.
            normalizer: divisor of the summed loss: ``weight_sum`` (the class weights of the
                proposals, summed: cancels any common scale of the weights), ``mean`` (proposals),
                ``num_pos`` (foreground proposals) or ``sum`` (1). ``weight_sum`` and ``num_pos``
                are averaged over processes.
        """
        super().__init__()
        if normalizer not in NORMALIZERS:
            raise ValueError(f"normalizer must be in {NORMALIZERS}, got {normalizer!r}")
        self.loss = loss
        self.normalizer = normalizer
        self._class_weights = class_weights
        self._resolved = False
        self.register_buffer("weight", None, persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "ClassificationLoss":
        """Build it from ``BALANCE.ROI_LOSS`` and ``BALANCE.CLASS_WEIGHTS``."""
        node = cfg.BALANCE.ROI_LOSS
        loss = ROI_LOSS_REGISTRY.get(node.NAME)(cfg)
        return cls(loss, class_weight_provider(cfg), node.NORMALIZER)

    @property
    def is_plain_cross_entropy(self) -> bool:
        """Whether the loss is what Detectron2 computes itself, so that its value can stand."""
        return (
            getattr(self.loss, "func", None) is cross_entropy_loss
            and self._weight() is None
            and self.normalizer in ("weight_sum", "mean")
        )

    def forward(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """
        Args:
            logits: (R, K + 1), background last; R may be 0.
            gt_classes: (R,), in [0, K], or -1 to ignore.

        Returns:
            scalar, with a graph also where there is nothing to learn from.
        """
        losses = self.loss(logits, gt_classes)
        weights = self._sample_weights(logits, gt_classes)
        weighted = losses * weights
        background = gt_classes == logits.shape[1] - 1
        self._log(logits, gt_classes, background, weighted.detach())
        return weighted.sum() / self._divisor(weights, gt_classes, background)

    @torch.no_grad()
    def log(self, logits: Tensor, gt_classes: Tensor) -> None:
        """Log what :meth:`forward` logs, for a loss that is computed elsewhere."""
        weighted = self.loss(logits, gt_classes) * self._sample_weights(logits, gt_classes)
        self._log(logits, gt_classes, gt_classes == logits.shape[1] - 1, weighted)

    def _weight(self) -> Tensor | None:
        if not self._resolved:
            self.weight = self._class_weights()
            self._resolved = True
        return self.weight

    def _sample_weights(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """Weight of every proposal, 0 where it is ignored."""
        kept = (gt_classes >= 0).float()
        weight = self._weight()
        if weight is None:
            return kept
        self.weight = weight = weight.to(logits.device)
        return kept * weight[gt_classes.clamp(min=0)]

    def _divisor(self, weights: Tensor, gt_classes: Tensor, background: Tensor) -> Tensor:
        if self.normalizer == "sum":
            return weights.new_tensor(1.0)
        if self.normalizer == "mean":
            return (gt_classes >= 0).sum().clamp(min=1)
        if self.normalizer == "num_pos":
            positives = ((gt_classes >= 0) & ~background).sum().float()
            return mean_over_processes(positives).clamp(min=1)
        total = mean_over_processes(weights.sum())
        return total.clamp(min=torch.finfo(total.dtype).tiny)

    @staticmethod
    def _log(logits: Tensor, gt_classes: Tensor, background: Tensor, weighted: Tensor) -> None:
        storage = get_event_storage()
        p_t = target_probability(logits, gt_classes.clamp(min=0))
        foreground = (gt_classes >= 0) & ~background
        for name, chosen in (("fg", foreground), ("bg", background)):
            if chosen.any():
                storage.put_scalar(f"roi/p_t_{name}", p_t[chosen].mean().item())
        total = weighted.sum()
        if total > 0:
            share = weighted[background].sum() / total
            storage.put_scalar("roi/background_loss_share", share.item())
