"""Counterpoise: Faster R-CNN that learns from class-imbalanced data, as a Detectron2 plugin.

Importing the package registers its components with Detectron2. A script of your own needs::

    import counterpoise

    counterpoise.add_counterpoise_config(cfg)
    cfg.MODEL.ROI_HEADS.NAME = "BalancedROIHeads"

Where Detectron2 is not installed, the modules `losses`, `class_weights` and `sampling` still work:
they need torch only.
"""

import warnings
from importlib.util import find_spec
from typing import NoReturn

from counterpoise.errors import UserError

__version__ = "0.1.0"
__all__ = [
    "ANCHOR_SAMPLER_REGISTRY",
    "DENSE_LOSS_REGISTRY",
    "ROI_LOSS_REGISTRY",
    "ROI_SAMPLER_REGISTRY",
    "WEIGHT_RULE_REGISTRY",
    "UserError",
    "add_counterpoise_config",
]

if find_spec("detectron2"):
    with warnings.catch_warnings():
        # Detectron2 scripts functions as it is imported, which newer versions of torch deprecate.
        warnings.simplefilter("ignore", FutureWarning)
        from counterpoise import (  # noqa: F401  (register their components)
            backbones,
            c4_cascade,
            classification,
            retinanet,
            roi_heads,
            rpn,
        )
    from counterpoise.config import add_counterpoise_config
    from counterpoise.registry import (
        ANCHOR_SAMPLER_REGISTRY,
        DENSE_LOSS_REGISTRY,
        ROI_LOSS_REGISTRY,
        ROI_SAMPLER_REGISTRY,
        WEIGHT_RULE_REGISTRY,
    )
    from counterpoise.weights import register_weights

    register_weights()
else:

    def __getattr__(name: str) -> NoReturn:
        if name in __all__:
            raise UserError(
                f"counterpoise.{name} needs Detectron2, which is not installed in this "
                "environment: run 'make install' or build Detectron2 from its sources"
            )
        raise AttributeError(f"module 'counterpoise' has no attribute '{name}'")
