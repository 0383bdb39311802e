"""Classification loss of a box head: a registered loss, class weights and a normaliser."""

from collections.abc import Callable
from functools import partial

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from counterpoise.modeling.class_loss_log import PerClassLoss
from counterpoise.modeling.distributed import mean_over_processes, sum_over_processes
from counterpoise.modeling.interfaces import ROILoss, check_one_each
from counterpoise.modeling.metric_log import MetricLog
from counterpoise.modeling.registry import ROI_LOSS_REGISTRY
from counterpoise.modeling.weight_sources import ClassTable, WeightSource, weight_source

NORMALIZERS = ("weight_sum", "mean", "num_pos", "sum")


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

        Raises:
            UserError: the registered loss gives anything but a loss of each proposal.
        """
        losses, p_t = self.loss.with_p_t(logits, gt_classes)
        check_one_each(losses, gt_classes, ROI_LOSS_REGISTRY.config_key)
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
        """Split :meth:`forward` up into what each proposal (R,) adds to it; logs nothing.

        Raises:
            UserError: as there.
        """
        weights = self._sample_weights(logits, gt_classes)
        background = gt_classes == logits.shape[1] - 1
        divisor = self._divisor(weights, gt_classes, background)
        losses = self.loss(logits, gt_classes)
        check_one_each(losses, gt_classes, ROI_LOSS_REGISTRY.config_key)
        return losses * weights / divisor

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
