"""The ROI heads of C4 and Cascade R-CNN with balanced box predictors."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads

from counterpoise.roi_heads import balanced_predictor, refuse_other_losses


@ROI_HEADS_REGISTRY.register()
class BalancedRes5ROIHeads(Res5ROIHeads):
    """Detectron2's C4 heads (the last ResNet stage per region) with a balanced box predictor."""

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Arguments of :class:`Res5ROIHeads` from a config, the box predictor replaced."""
        refuse_other_losses(cfg)
        arguments = super().from_config(cfg, input_shape)
        arguments["box_predictor"] = balanced_predictor(cfg, arguments["box_predictor"])
        return arguments


@ROI_HEADS_REGISTRY.register()
class BalancedCascadeROIHeads(CascadeROIHeads):
    """Detectron2's Cascade R-CNN heads with a balanced box predictor in every stage."""

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Arguments of :class:`CascadeROIHeads` from a config, the box predictors replaced."""
        refuse_other_losses(cfg)
        arguments = super().from_config(cfg, input_shape)
        arguments["box_predictors"] = [
            balanced_predictor(cfg, stock) for stock in arguments["box_predictors"]
        ]
        return arguments
