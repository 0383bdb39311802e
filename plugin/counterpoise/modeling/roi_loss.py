"""Classification loss of a box head: a registered loss, class weights and a normaliser."""

import math
from collections.abc import Callable
from functools import partial

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from counterpoise.balance.losses import (
    at_least_float32,
    check_gamma,
    sigmoid_focal_loss,
    softmax_focal_with_p_t,
)
from counterpoise.errors import UserError
from counterpoise.modeling.class_loss_log import PerClassLoss
from counterpoise.modeling.distributed import mean_over_processes, sum_over_processes
from counterpoise.modeling.interfaces import ROILoss
from counterpoise.modeling.metric_log import MetricLog
from counterpoise.modeling.registry import ROI_LOSS_REGISTRY
from counterpoise.modeling.weight_sources import ClassTable, WeightSource, weight_source

NORMALIZERS = ("weight_sum", "mean", "num_pos", "sum")


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


class ClassificationLoss(nn.Module):
    """Weighted and normalised classification loss over the proposals that a box predictor sees.

    It holds no parameter and no persistent buffer of its own: unless the loss keeps state, a model
    with it has the ``state_dict`` keys of a stock model.
    """

    def __init__(
        self,
        loss: ROILoss | Callable[[Tensor, Tensor], Tensor],
        weight_source: WeightSource | None = None,
        normalizer: str = "weight_sum",
    ) -> None:
        """
        Args:
            loss: per-proposal loss, an :class:`ROILoss` or a function of its arguments.
            weight_source: of the class weights; None for all ones.
            normalizer: divisor of the summed loss: ``weight_sum`` (the class weights of the
                proposals, summed: cancels any common scale of the weights), ``mean`` (proposals),
                ``num_pos`` (foreground proposals) or ``sum`` (1). ``weight_sum`` and ``num_pos``
                are averaged over processes.
        """
        super().__init__()
        if normalizer not in NORMALIZERS:
            raise ValueError(f"normalizer must be in {NORMALIZERS}, got {normalizer!r}")
        self.loss = ROILoss.of(loss)
        self.weight_source = weight_source or WeightSource()
        self.normalizer = normalizer
        self.per_class_loss = PerClassLoss()
        self.metric_log = MetricLog()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "ClassificationLoss":
        """Build it from ``BALANCE.ROI_LOSS`` and ``BALANCE.CLASS_WEIGHTS``."""
        node = cfg.BALANCE.ROI_LOSS
        loss = ROI_LOSS_REGISTRY.get(node.NAME)(cfg)
        return cls(loss, weight_source(cfg), node.NORMALIZER)

    def use_table(self, table: ClassTable) -> None:
        """Hand a table of the training set to the loss and to the source of the weights."""
        self.loss.use_table(table)
        self.weight_source.use_table(table)

    @property
    def is_plain_cross_entropy(self) -> bool:
        """Whether the loss is what Detectron2 computes itself, so that its value can stand."""
        return (
            self.loss.is_detectron2s
            and not self.weight_source.weighted
            and self.normalizer in ("weight_sum", "mean")
        )

    def forward(
        self, logits: Tensor, gt_classes: Tensor, importance: Tensor | None = None
    ) -> Tensor:
        """
        Args:
            logits: (R, K + 1), background last; R may be 0.
            gt_classes: (R,), in [0, K], or -1 to ignore.
            importance: (R,), >= 0, without gradient, factors of the foreground's losses, scaled
                here so that their sum stays what it is. None means 1.

        Returns:
            scalar, with a graph also where there is nothing to learn from.
        """
        losses, p_t = self.loss.with_p_t(logits, gt_classes)
        weights = self._sample_weights(logits, gt_classes)
        weighted = losses * weights
        background = gt_classes == logits.shape[1] - 1
        if importance is not None:
            foreground = (gt_classes >= 0) & ~background
            weighted = weighted * rescaled(importance, weighted.detach(), foreground)
        self._log(p_t, gt_classes, background, weighted.detach(), logits.shape[1] - 1)
        return weighted.sum() / self._divisor(weights, gt_classes, background)

    @torch.no_grad()
    def log(self, logits: Tensor, gt_classes: Tensor) -> None:
        """Log what :meth:`forward` logs, for a loss that is computed elsewhere."""
        losses, p_t = self.loss.with_p_t(logits, gt_classes)
        weighted = losses * self._sample_weights(logits, gt_classes)
        num_classes = logits.shape[1] - 1
        self._log(p_t, gt_classes, gt_classes == num_classes, weighted, num_classes)

    @torch.no_grad()
    def per_proposal(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """Split :meth:`forward` up into what each proposal (R,) adds to it; logs nothing."""
        weights = self._sample_weights(logits, gt_classes)
        background = gt_classes == logits.shape[1] - 1
        divisor = self._divisor(weights, gt_classes, background)
        return self.loss(logits, gt_classes) * weights / divisor

    def _sample_weights(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """Weight of every proposal, 0 where it is ignored."""
        kept, classes = (gt_classes >= 0).float(), gt_classes.clamp(min=0)
        counts = partial(_counts, classes, kept, logits.shape[1])
        weights = self.weight_source.weights(counts, logits.device)
        return kept if weights is None else kept * weights[classes]

    def _divisor(self, weights: Tensor, gt_classes: Tensor, background: Tensor) -> Tensor:
        if self.normalizer == "sum":
            return weights.new_ones(())
        if self.normalizer == "mean":
            return (gt_classes >= 0).sum().clamp(min=1)
        if self.normalizer == "num_pos":
            positives = ((gt_classes >= 0) & ~background).sum().float()
            return mean_over_processes(positives, min_total=1)
        total = mean_over_processes(weights.sum())
        return total.clamp(min=torch.finfo(total.dtype).tiny)

    @torch.no_grad()
    def _log(
        self,
        p_t: Tensor,
        gt_classes: Tensor,
        background: Tensor,
        weighted: Tensor,
        num_classes: int,
    ) -> None:
        self.per_class_loss.add(gt_classes, weighted, num_classes)
        foreground = (gt_classes >= 0) & ~background
        self.metric_log.add(
            {
                "roi/p_t_fg": ((p_t * foreground).sum(), foreground.sum()),
                "roi/p_t_bg": ((p_t * background).sum(), background.sum()),
                "roi/background_loss_share": ((weighted * background).sum(), weighted.sum()),
            }
        )


def _counts(classes: Tensor, kept: Tensor, num_classes: int) -> Tensor:
    """Proposals (num_classes,) by class, over all processes."""
    return sum_over_processes(kept.new_zeros(num_classes).index_add_(0, classes, kept))


def rescaled(factors: Tensor, losses: Tensor, chosen: Tensor) -> Tensor:
    """Scale the factors of some losses so that their sum stays what it was without the factors.

    Args:
        factors: (R,), >= 0.
        losses: (R,), >= 0, without gradient.
        chosen: bool (R,), which of them have a factor.

    Returns:
        (R,), 1 where not chosen.
    """
    losses = losses * chosen
    before, after = losses.sum(), (losses * factors).sum()
    ratio = torch.where(after > 0, before / after.clamp(min=torch.finfo(after.dtype).tiny), 1.0)
    return torch.where(chosen, factors * ratio, 1.0)
