"""RetinaNet that learns with a registered classification loss."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable, get_cfg
from detectron2.layers import cat
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.structures import Boxes
from detectron2.utils.events import get_event_storage
from torch import Tensor

from counterpoise.errors import UserError
from counterpoise.modeling.dense_loss import DenseClassificationLoss
from counterpoise.modeling.score_thresholds import inference_thresholds, use_score_thresholds


@META_ARCH_REGISTRY.register()
class BalancedRetinaNet(RetinaNet):
    """Detectron2's RetinaNet (arXiv:1708.02002) with its classification loss replaced.

    Anchors are positive at IoU >= 0.5 or as the best of a ground truth, negative below 0.4 and
    ignored between. The loss is divided by what Detectron2 divides it by, a running mean of the
    number of positive anchors per batch.
    """

    @configurable
    def __init__(
        self,
        *,
        dense_loss: DenseClassificationLoss | None = None,
        score_thresholds: Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            dense_loss: classification loss over the anchors; None, or one that `is_detectron2s`,
                keeps the focal loss of :class:`RetinaNet` with its ``focal_loss_alpha`` and
                ``focal_loss_gamma``.
            score_thresholds: (K,), scores above which a detection is kept, before the best
                candidates of each level are taken, by class; None keeps ``test_score_thresh``.
            kwargs: of :class:`detectron2.modeling.RetinaNet`.
        """
        super().__init__(**kwargs)
        self.dense_loss = dense_loss
        if score_thresholds is not None:
            use_score_thresholds(self, score_thresholds)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Arguments of :class:`BalancedRetinaNet` from a config."""
        _refuse_other_parameters(cfg)
        node = cfg.BALANCE.DENSE_LOSS
        return super().from_config(cfg) | {
            "focal_loss_alpha": float(node.ALPHA),
            "focal_loss_gamma": float(node.GAMMA),
            "dense_loss": DenseClassificationLoss.from_config(cfg),
            "score_thresholds": inference_thresholds(cfg, cfg.MODEL.RETINANET.NUM_CLASSES),
        }

    def losses(
        self,
        anchors: list[Boxes],
        pred_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> dict[str, Tensor]:
        """Detectron2's losses with ``loss_cls`` replaced; arguments as in :class:`RetinaNet`."""
        if self.dense_loss is None or self.dense_loss.is_detectron2s:
            losses = super().losses(anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes)
            if self.dense_loss is not None:
                total = losses["loss_cls"] * self.loss_normalizer
                # Detectron2 has just counted the positive anchors, for its own log.
                positives, _ = get_event_storage().latest()["num_pos_anchors"]
                num_foreground = round(positives * len(gt_labels))
                self.dense_loss.log(pred_logits, torch.stack(gt_labels), num_foreground, total)
            return losses
        # Without a graph, and over the few positive anchors, the classification loss that is thrown
        # away costs little; Detectron2 reads nothing else of the labels.
        detached = [logits.detach() for logits in pred_logits]
        positive = [labels.masked_fill(labels == self.num_classes, -1) for labels in gt_labels]
        losses = super().losses(anchors, detached, positive, pred_anchor_deltas, gt_boxes)
        loss_cls = self.dense_loss(cat(pred_logits, dim=1), torch.stack(gt_labels), anchors)
        losses["loss_cls"] = loss_cls / self.loss_normalizer
        return losses


def _refuse_other_parameters(cfg: CfgNode) -> None:
    """Refuse Detectron2's own keys of the focal loss, which would be ignored.

    Raises:
        UserError: one of them was changed.
    """
    defaults = get_cfg().MODEL.RETINANET
    for name in ("ALPHA", "GAMMA"):
        stated, used = cfg.MODEL.RETINANET[f"FOCAL_LOSS_{name}"], cfg.BALANCE.DENSE_LOSS[name]
        if stated not in (used, defaults[f"FOCAL_LOSS_{name}"]):
            raise UserError(
                f"MODEL.RETINANET.FOCAL_LOSS_{name} is {stated}, but BalancedRetinaNet reads "
                f"BALANCE.DENSE_LOSS.{name}, which is {used}: set that key instead"
            )
