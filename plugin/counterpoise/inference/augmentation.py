"""Test-time augmentation: an image is seen at several sizes and mirrored."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNNWithTTA
from torch import nn


def with_augmentation(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """Wrap a model for inference where ``TEST.AUG.ENABLED`` asks for it.

    Args:
        cfg: prepared, so that :func:`counterpoise.config.validation.check_config` has passed it.
        model: a ``GeneralizedRCNN``, possibly in ``DistributedDataParallel``.

    Returns:
        a model of the same input and output that detects at every size of ``TEST.AUG.MIN_SIZES``,
        and mirrored with ``TEST.AUG.FLIP``, and merges the detections by NMS; or `model` itself.
    """
    return AugmentedModel(cfg, model) if cfg.TEST.AUG.ENABLED else model


class AugmentedModel(nn.Module):
    """Detectron2's augmented inference as a module, whose hooks work and which is in eval mode."""

    def __init__(self, cfg: CfgNode, model: nn.Module) -> None:
        """
        Args:
            cfg: of the model.
            model: shares its parameters and its mode.
        """
        super().__init__()
        self.augmented = GeneralizedRCNNWithTTA(cfg, model)
        # Whoever evaluates in a training turns the mode of this module off and on again.
        self.training = model.training

    def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Detect in a batch, in Detectron2's formats of inputs and outputs."""
        merged = [output["instances"] for output in self.augmented(batch)]
        # As after plain inference: clipped to the image, a box may have no area.
        return [{"instances": found[found.pred_boxes.nonempty()]} for found in merged]
