"""Detectron2's model parts, each with the smallest override that balancing needs.

Importing this package registers all of them with Detectron2.
"""

import warnings

with warnings.catch_warnings():
    # Detectron2 scripts functions as it is imported, which newer versions of torch deprecate.
    warnings.simplefilter("ignore", FutureWarning)
    from counterpoise.modeling import (
        backbones,
        focal_losses,
        gradient_losses,
        retinanet,
        roi_heads,
        roi_loss,
        rpn,
        shifted_losses,
    )
    from counterpoise.modeling.interfaces import AnchorSampler, DenseLoss, ROILoss, ROISampler
    from counterpoise.modeling.pretrained import register_weights
    from counterpoise.modeling.registry import (
        ANCHOR_SAMPLER_REGISTRY,
        DENSE_LOSS_REGISTRY,
        ROI_LOSS_REGISTRY,
        ROI_SAMPLER_REGISTRY,
        WEIGHT_RULE_REGISTRY,
    )

register_weights()

__all__ = [
    "ANCHOR_SAMPLER_REGISTRY",
    "DENSE_LOSS_REGISTRY",
    "ROI_LOSS_REGISTRY",
    "ROI_SAMPLER_REGISTRY",
    "WEIGHT_RULE_REGISTRY",
    "AnchorSampler",
    "DenseLoss",
    "ROILoss",
    "ROISampler",
    "backbones",
    "focal_losses",
    "gradient_losses",
    "retinanet",
    "roi_heads",
    "roi_loss",
    "rpn",
    "shifted_losses",
]
