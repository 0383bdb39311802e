"""The ROI heads of C4 and Cascade R-CNN with balanced box predictors."""

from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads
from detectron2.structures import Instances
from torch import Tensor

from counterpoise.roi_heads import BalancedHeads


@ROI_HEADS_REGISTRY.register()
class BalancedRes5ROIHeads(BalancedHeads, Res5ROIHeads):
    """Detectron2's C4 heads (the last ResNet stage per region) with a balanced box predictor."""

    def predict_boxes(
        self, features: dict[str, Tensor], proposals: list[Instances]
    ) -> tuple[Tensor, Tensor]:
        """Logits and box deltas of proposals, see :class:`SampledROIHeads`."""
        pooled = self._shared_roi_transform(
            [features[f] for f in self.in_features], [p.proposal_boxes for p in proposals]
        )
        return self.box_predictor(pooled.mean(dim=[2, 3]))


@ROI_HEADS_REGISTRY.register()
class BalancedCascadeROIHeads(BalancedHeads, CascadeROIHeads):
    """Detectron2's Cascade R-CNN heads with a balanced box predictor in every stage.

    The proposals of the first stage are sampled; ``ohem`` is refused, since a proposal's loss would
    depend on all stages.
    """
