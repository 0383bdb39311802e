"""Region proposal network whose anchors are sampled by a registered sampler."""

import math
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from counterpoise.modeling.anchor_labelling import label_anchors
from counterpoise.modeling.anchor_sampling import OHEMAnchorSampler
from counterpoise.modeling.distributed import mean_over_processes
from counterpoise.modeling.interfaces import AnchorSampler
from counterpoise.modeling.metric_log import MetricLog
from counterpoise.modeling.proposals import find_top_proposals
from counterpoise.modeling.registry import ANCHOR_SAMPLER_REGISTRY
from counterpoise.modeling.rpn_loss import RPNLoss, rpn_loss

NORMALIZERS = ("batch", "num_sampled", "num_pos")


@PROPOSAL_GENERATOR_REGISTRY.register()
class BalancedRPN(RPN):
    """RPN with Detectron2's labelling and a sampler that may see the predictions.

    The labelling is that of Faster R-CNN (arXiv:1506.01497, section 3.1.2): positive at IoU >= 0.7
    or as the best anchor of a ground truth, negative below 0.3, ignored between.
    """

    #: Device types on which :func:`label_anchors` and :func:`find_top_proposals` work; on others
    #: Detectron2's own code does, since a GPU would make the host wait for every box.
    sparse_devices: tuple[str, ...] = ("cpu",)

    @configurable
    def __init__(
        self,
        *,
        anchor_sampler: AnchorSampler,
        loss_normalizer: str = "batch",
        cls_loss: RPNLoss | None = None,
        prior_prob: float = 0.0,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            anchor_sampler: chooses the anchors of one image that train the network; an
                :class:`AnchorSampler` or a function of its arguments.
            loss_normalizer: ``batch`` divides both losses by ``batch_size_per_image`` times the
                number of images, as Detectron2 does; ``num_sampled`` divides the classification
                loss by the number of sampled anchors; ``num_pos`` both losses by the number of
                sampled positives, as SSD does.
            cls_loss: summed loss of the sampled anchors' logits (N,) and labels (N,); None keeps
                Detectron2's cross-entropy.
            prior_prob: objectness in (0, 1) that all anchors start with; 0 leaves it at 0.5.
            kwargs: of :class:`detectron2.modeling.proposal_generator.RPN`.
        """
        super().__init__(**kwargs)
        if loss_normalizer not in NORMALIZERS:
            raise ValueError(f"loss_normalizer must be in {NORMALIZERS}, got {loss_normalizer!r}")
        self.anchor_sampler = AnchorSampler.of(anchor_sampler)
        self.loss_normalizer = loss_normalizer
        self.cls_loss = cls_loss
        if prior_prob > 0:
            nn.init.constant_(
                self.rpn_head.objectness_logits.bias, math.log(prior_prob / (1 - prior_prob))
            )
        self.metric_log = MetricLog()

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Arguments of :class:`BalancedRPN` from a config."""
        node = cfg.BALANCE.ANCHOR_SAMPLER
        sampler = ANCHOR_SAMPLER_REGISTRY.get(node.NAME)(cfg)
        normalizer = node.NORMALIZER
        if normalizer == "auto":
            normalizer = "num_sampled" if isinstance(sampler, OHEMAnchorSampler) else "batch"
        return super().from_config(cfg, input_shape) | {
            "anchor_sampler": sampler,
            "loss_normalizer": normalizer,
            "cls_loss": rpn_loss(cfg),
            "prior_prob": float(cfg.BALANCE.RPN_LOSS.PRIOR_PROB),
        }

    @torch.jit.unused
    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Labels (A,) and matched boxes (A, 4) per image, equal to those of :class:`RPN`."""
        matcher = self.anchor_matcher
        sparse = anchors[0].device.type in self.sparse_devices
        if not sparse or type(matcher) is not Matcher:
            return super().label_and_sample_anchors(anchors, gt_instances)
        boxes = [instances.gt_boxes.tensor for instances in gt_instances]
        labelled = label_anchors([level.tensor for level in anchors], boxes, matcher)
        if self.anchor_boundary_thresh >= 0:
            for instances, (labels, _) in zip(gt_instances, labelled, strict=True):
                within = instances.image_size, self.anchor_boundary_thresh
                inside = torch.cat([level.inside_box(*within) for level in anchors])
                labels.masked_fill_(~inside, -1)
        sampled = [self._subsample_labels(labels) for labels, _ in labelled]
        return sampled, [matched for _, matched in labelled]

    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """Proposals per image, equal to those of :class:`RPN`; arguments as there."""
        if anchors[0].device.type not in self.sparse_devices:
            return super().predict_proposals(
                anchors, pred_objectness_logits, pred_anchor_deltas, image_sizes
            )
        return find_top_proposals(
            anchors,
            pred_objectness_logits,
            pred_anchor_deltas,
            self.box2box_transform,
            image_sizes,
            self.nms_thresh,
            self.pre_nms_topk[self.training],
            self.post_nms_topk[self.training],
            self.min_box_size,
            self.training,
        )

    def _subsample_labels(self, label: Tensor) -> Tensor:
        # Deferred to losses(), the first place that holds both the labels and the logits.
        return label

    @torch.jit.unused
    def losses(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> dict[str, Tensor]:
        """Sample the anchors, then compute Detectron2's losses; arguments as in :class:`RPN`."""
        logits = cat(pred_objectness_logits, dim=1).detach().float()
        self._log_accuracy(logits, torch.stack(gt_labels))
        sampled = [
            self.anchor_sampler(labels, scores, anchors)
            for labels, scores in zip(gt_labels, logits, strict=True)
        ]
        # Without a graph, the classification loss that is thrown away costs little.
        stock_logits = pred_objectness_logits
        if self.cls_loss is not None:
            stock_logits = [level.detach() for level in stock_logits]
        losses = super().losses(anchors, stock_logits, sampled, pred_anchor_deltas, gt_boxes)
        labels = torch.stack(sampled)
        if self.cls_loss is not None:
            chosen = (labels >= 0).flatten().nonzero().squeeze(1)
            kept = cat(pred_objectness_logits, dim=1).flatten()[chosen]
            loss = self.cls_loss(kept, labels.flatten()[chosen])
            weight = self.loss_weight.get("loss_rpn_cls", 1.0)
            losses["loss_rpn_cls"] = weight * loss / (self.batch_size_per_image * len(labels))
        return self._normalized(losses, labels)

    def _normalized(self, losses: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        if self.loss_normalizer == "batch":
            return losses
        if self.loss_normalizer == "num_sampled":
            counted, rescaled = labels >= 0, {"loss_rpn_cls"}
        else:
            counted, rescaled = labels == 1, losses.keys()
        divisor = mean_over_processes(counted.sum().float(), min_total=1)
        scale = self.batch_size_per_image * len(labels) / divisor
        return {k: v * scale if k in rescaled else v for k, v in losses.items()}

    def _log_accuracy(self, logits: Tensor, labels: Tensor) -> None:
        """Log accuracy over all labelled anchors: a hard sample makes its own accuracy look bad."""
        foreground, background = labels == 1, labels == 0
        self.metric_log.add(
            {
                "rpn/fg_accuracy": ((foreground & (logits > 0)).sum(), foreground.sum()),
                "rpn/bg_accuracy": ((background & (logits <= 0)).sum(), background.sum()),
            }
        )
