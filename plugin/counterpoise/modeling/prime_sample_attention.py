"""Prime sample attention (PISA) in the box head: importance of proposals, and CARL."""

from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.layers import cat
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.structures.boxes import matched_pairwise_iou
from torch import Tensor

from counterpoise.balance.prime_samples import hierarchical_rank, importance
from counterpoise.modeling.box_regression import Foreground, box_loss_per_proposal


@dataclass(frozen=True)
class PrimeSampleAttention:
    """Importance-based reweighting and the classification-aware regression loss.

    Cao et al., "Prime Sample Attention in Object Detection" (arXiv:1904.04821): AP asks for one
    accurate box per object, so the proposals that regress best onto theirs matter most. Ranks are
    those among the proposals of one process. On a GPU the host waits for the foreground.

    Attributes:
        power, bias: of the importance, see :func:`importance`.
        carl: whether CARL is added.
        carl_power, carl_bias: of CARL's factors.
    """

    power: float = 2.0
    bias: float = 0.0
    carl: bool = False
    carl_power: float = 1.0
    carl_bias: float = 0.2

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "PrimeSampleAttention | None":
        """Build it from ``BALANCE.PISA``; None where that is off."""
        node = cfg.BALANCE.PISA
        if not node.ENABLED:
            return None
        carl_power, carl_bias = float(node.CARL_POWER), float(node.CARL_BIAS)
        return cls(float(node.POWER), float(node.BIAS), node.CARL, carl_power, carl_bias)

    @torch.no_grad()
    def importance(
        self, predictor: FastRCNNOutputLayers, deltas: Tensor, proposals: list[Instances]
    ) -> Tensor:
        """ISR-P: importance of every proposal by the IoU of its regressed box.

        Args:
            predictor: whose box coding is used.
            deltas: (R, 4K) or (R, 4), predicted.
            proposals: per image, R together, labelled.

        Returns:
            float32 (R,), 1 for background.
        """
        found = Foreground.of(predictor, deltas, proposals)
        factors = torch.ones(len(deltas), device=deltas.device)
        if not len(found.indices):
            return factors
        gt_boxes, classes = found.gt_boxes, found.classes
        regressed = predictor.box2box_transform.apply_deltas(found.deltas, found.boxes)
        ious = matched_pairwise_iou(Boxes(regressed), Boxes(gt_boxes))
        images = cat([torch.full_like(p.gt_classes, i) for i, p in enumerate(proposals)])
        # An object is known by its image, class and box, as proposals do not name it.
        keys = torch.stack([images[found.indices].to(gt_boxes), classes.to(gt_boxes)], dim=1)
        _, objects = torch.cat([keys, gt_boxes], dim=1).unique(dim=0, return_inverse=True)
        ranks = hierarchical_rank(ious, classes, objects)
        factors[found.indices] = importance(ranks, classes, self.power, self.bias)
        return factors

    def carl_loss(
        self,
        predictor: FastRCNNOutputLayers,
        p_t: Tensor,
        deltas: Tensor,
        proposals: list[Instances],
    ) -> Tensor:
        """CARL, ``sum_i v_i L_i`` with ``v_i`` by the score (arXiv:1904.04821).

        ``v_i`` is ``((1 - b) p_i + b)^k``, scaled to a mean of 1 over the foreground, and L_i what
        a proposal adds to the box loss. The gradient with respect to p_i raises the scores of boxes
        that are accurate against those of others.

        Args:
            predictor: whose box loss is used.
            p_t: (R,), with a graph, probability of each proposal's class.
            deltas, proposals: see :meth:`importance`.

        Returns:
            scalar.
        """
        gt_classes = cat([p.gt_classes for p in proposals])
        foreground = (gt_classes >= 0) & (gt_classes < predictor.num_classes)
        # The root of a probability of 0 has no gradient.
        scores = torch.where(foreground, p_t, 1.0).clamp(min=torch.finfo(p_t.dtype).tiny)
        factors = (self.carl_bias + (1 - self.carl_bias) * scores) ** self.carl_power * foreground
        factors = factors * (foreground.sum() / factors.sum().clamp(min=1e-6))
        return (factors * box_loss_per_proposal(predictor, deltas, proposals)).sum()
