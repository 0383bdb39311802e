"""Counterpoise: Faster R-CNN that learns from class-imbalanced data, as a Detectron2 plugin.

A script of your own needs::

    import counterpoise

    counterpoise.add_counterpoise_config(cfg)
    cfg.MODEL.ROI_HEADS.NAME = "BalancedROIHeads"

The first use of any public name registers all components with Detectron2; the import alone costs
nothing. Where Detectron2 is not installed, `counterpoise.balance` (torch only) and
`counterpoise.evaluation` still work.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from counterpoise.errors import UserError

__version__ = "0.1.0"

#: Public name -> the module that defines it.
_LAZY = {
    "ANCHOR_SAMPLER_REGISTRY": "counterpoise.modeling",
    "DENSE_LOSS_REGISTRY": "counterpoise.modeling",
    "ROI_LOSS_REGISTRY": "counterpoise.modeling",
    "ROI_SAMPLER_REGISTRY": "counterpoise.modeling",
    "WEIGHT_RULE_REGISTRY": "counterpoise.modeling",
    "add_counterpoise_config": "counterpoise.config.keys",
}

__all__ = [
    "ANCHOR_SAMPLER_REGISTRY",
    "DENSE_LOSS_REGISTRY",
    "ROI_LOSS_REGISTRY",
    "ROI_SAMPLER_REGISTRY",
    "WEIGHT_RULE_REGISTRY",
    "UserError",
    "add_counterpoise_config",
]


def require_detectron2(what: str) -> None:
    """Refuse to go on without Detectron2, which no package index brings along.

    Args:
        what: needs it, for the message.

    Raises:
        UserError: it is not installed.
    """
    if find_spec("detectron2") is None:
        raise UserError(
            f"{what} needs Detectron2, which is not installed in this environment: run "
            "'make install' or build Detectron2 from its sources"
        )


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'counterpoise' has no attribute '{name}'")
    require_detectron2(f"counterpoise.{name}")
    import_module("counterpoise.modeling")
    return getattr(import_module(_LAZY[name]), name)
