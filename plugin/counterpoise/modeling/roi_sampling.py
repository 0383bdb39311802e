"""Which proposals train the box head: a registered sampler, and the ROI heads that ask it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, batched_nms, cat
from detectron2.modeling.roi_heads import ROIHeads
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from counterpoise.errors import UserError
from counterpoise.modeling.box_regression import box_loss_per_proposal
from counterpoise.modeling.interfaces import ROISampler
from counterpoise.modeling.metric_log import MetricLog
from counterpoise.modeling.registry import ROI_SAMPLER_REGISTRY


@ROI_SAMPLER_REGISTRY.register(name="random")
def build_random_sampler(cfg: CfgNode) -> None:
    """Detectron2's own sampling by ``BATCH_SIZE_PER_IMAGE`` and ``POSITIVE_FRACTION``."""


@ROI_SAMPLER_REGISTRY.register(name="all")
def build_all_sampler(cfg: CfgNode) -> ROISampler:
    """Every proposal that has a label."""
    return ROISampler(_all_indices)


@ROI_SAMPLER_REGISTRY.register(name="ohem")
def build_ohem_sampler(cfg: CfgNode) -> ROISampler:
    """The proposals with the largest losses, see :class:`OHEMProposalSampler`."""
    node = cfg.BALANCE.ROI_SAMPLER
    return OHEMProposalSampler(node.BUDGET, float(node.NMS_THRESH))


def _all_indices(gt_classes: Tensor, boxes: Boxes, losses: Tensor | None) -> Tensor:
    # By a name, since a model with a lambda cannot be pickled.
    return torch.arange(len(boxes), device=gt_classes.device)


class OHEMProposalSampler(ROISampler):
    """Online hard example mining (arXiv:1604.03540, section 4) over the proposals of an image.

    Proposals are ranked by their loss, foreground and background together: no share of either is
    asked for. Proposals that overlap have nearly the same loss and would count one region several
    times; NMS keeps the hardest of each group with the same label.

    On a GPU the host waits for NMS in every image, and for the foreground of the batch and the box
    coding, whose losses rank the proposals.
    """

    needs_losses = True

    def __init__(self, budget: int = 64, nms_thresh: float = 0.7) -> None:
        """
        Args:
            budget: proposals per image, >= 1; fewer where NMS leaves fewer.
            nms_thresh: IoU above which the proposal with the smaller loss is dropped. Negative:
                off.
        """
        super().__init__()
        self.budget = budget
        self.nms_thresh = nms_thresh

    def __call__(self, gt_classes: Tensor, boxes: Boxes, losses: Tensor) -> Tensor:
        """
        Args:
            gt_classes: (R,), in [0, K], K the background.
            boxes: R proposals.
            losses: (R,), without gradient.

        Returns:
            (S,), indices by descending loss, S <= budget.
        """
        if self.nms_thresh >= 0:
            ranked = batched_nms(boxes.tensor, losses, gt_classes, self.nms_thresh)
        else:
            ranked = losses.argsort(descending=True, stable=True)
        return ranked[: self.budget]


class SampledROIHeads(ROIHeads):
    """Mixin: ROI heads whose proposals a registered sampler chooses; comes before Detectron2's.

    Detectron2 samples proposals before it looks at the features. Here a sampler chooses with both
    at hand, and Detectron2's ``forward`` then trains all heads on what was chosen.
    """

    #: Method ``(features, proposals) -> (logits (R, K + 1), deltas (R, 4K) or (R, 4))`` of heads
    #: with one box predictor, which samplers that look at losses need; None where there is none.
    predict_boxes: Callable[..., tuple[Tensor, Tensor]] | None = None

    @configurable
    def __init__(self, *, roi_sampler: ROISampler | None = None, **kwargs: Any) -> None:
        """
        Args:
            roi_sampler: chooses among all labelled proposals of an image, ground truth included;
                None leaves the choice to Detectron2.
            kwargs: of the ROI heads that this class is mixed into.
        """
        if roi_sampler is not None:
            # Detectron2 labels and samples in one method; so it keeps all that it labels.
            kwargs |= {"batch_size_per_image": sys.maxsize, "positive_fraction": 1.0}
        super().__init__(**kwargs)
        self.roi_sampler = roi_sampler
        self.metric_log = MetricLog()

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Arguments of the ROI heads from a config, with ``BALANCE.ROI_SAMPLER``.

        Raises:
            UserError: the sampler is unknown, or needs losses that these heads do not have.
        """
        name = cfg.BALANCE.ROI_SAMPLER.NAME
        roi_sampler = ROI_SAMPLER_REGISTRY.get(name)(cfg)
        if roi_sampler is not None:
            roi_sampler = ROISampler.of(roi_sampler)
        if roi_sampler and roi_sampler.needs_losses and cls.predict_boxes is None:
            raise UserError(
                f"BALANCE.ROI_SAMPLER.NAME is '{name}', which ranks proposals by their loss, but "
                f"MODEL.ROI_HEADS.NAME '{cfg.MODEL.ROI_HEADS.NAME}' has several box predictors and "
                "no single loss: set the sampler to 'random' or 'all', or the heads to "
                "'BalancedROIHeads'"
            )
        return super().from_config(cfg, input_shape) | {"roi_sampler": roi_sampler}

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Choose the proposals, then do what Detectron2 does; arguments as in :class:`ROIHeads`."""
        if self.training and self.roi_sampler is not None:
            proposals = self._choose(features, proposals, targets)
        return super().forward(images, features, proposals, targets)

    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """Detectron2's labelling; what :meth:`forward` has labelled and chosen stays as it is."""
        if self.roi_sampler is not None and all(p.has("gt_classes") for p in proposals):
            return proposals
        return super().label_and_sample_proposals(proposals, targets)

    @torch.no_grad()
    def _choose(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        with EventStorage():  # Detectron2 logs numbers of samples, which are not chosen yet.
            candidates = self.label_and_sample_proposals(proposals, targets)
        losses = [None] * len(candidates)
        if self.roi_sampler.needs_losses:
            losses = self.losses_per_proposal(features, candidates).split([*map(len, candidates)])
        chosen = [
            candidate[self.roi_sampler(candidate.gt_classes, candidate.proposal_boxes, loss)]
            for candidate, loss in zip(candidates, losses, strict=True)
        ]
        self._log_numbers(chosen)
        return chosen

    def losses_per_proposal(
        self, features: dict[str, Tensor], proposals: list[Instances]
    ) -> Tensor:
        """What each proposal would add to the losses of the box predictor.

        Args:
            features: of the backbone, by level.
            proposals: per image, R together, labelled.

        Returns:
            float32 (R,), without gradient; it sums to the losses of the box predictor.
        """
        predictor = self.box_predictor
        with read_only(self):
            logits, deltas = self.predict_boxes(features, proposals)
        gt_classes = cat([p.gt_classes for p in proposals])
        weight = predictor.cls_loss_weight * predictor.loss_weight.get("loss_cls", 1.0)
        classification = weight * predictor.cls_loss.per_proposal(logits, gt_classes)
        return classification + box_loss_per_proposal(predictor, deltas, proposals)

    def _log_numbers(self, proposals: list[Instances]) -> None:
        background = cat([p.gt_classes for p in proposals]) == self.num_classes
        images = torch.full((), len(proposals), device=background.device)
        self.metric_log.add(
            {
                "roi_head/num_fg_samples": ((~background).sum(), images),
                "roi_head/num_bg_samples": (background.sum(), images),
            }
        )


@contextmanager
def read_only(module: nn.Module) -> Iterator[None]:
    """Run a module for its output alone: no graph, and running statistics stay as they are."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part in training:
            part.training = True
        # Older PyTorch keeps the cast weights, which have no graph, for the pass that trains.
        torch.clear_autocast_cache()
