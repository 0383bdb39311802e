"""Registries of the parts that a config chooses by name; users add their own from outside.

=======================  =======================================================================
registry                 what an entry is
=======================  =======================================================================
ROI_LOSS_REGISTRY        builder ``(cfg) -> loss``, see :class:`.interfaces.ROILoss`
DENSE_LOSS_REGISTRY      builder ``(cfg) -> loss``, see :class:`.interfaces.DenseLoss`
ANCHOR_SAMPLER_REGISTRY  builder ``(cfg) -> sampler``, see :class:`.interfaces.AnchorSampler`
ROI_SAMPLER_REGISTRY     builder ``(cfg) -> sampler``, see :class:`.interfaces.ROISampler`, or None
                         where Detectron2 is to sample
WEIGHT_RULE_REGISTRY     function ``(frequency, *, total, log_offset, beta) -> weights``, see
                         :data:`counterpoise.balance.class_weights.WeightRule`
=======================  =======================================================================

A builder may also return a plain function of the arguments of the class it is to give.
"""

from collections.abc import Callable
from typing import Any

from fvcore.common.registry import Registry as _Registry

from counterpoise.balance.class_weights import RULES
from counterpoise.errors import OF_ONES_OWN, check_name


class Registry(_Registry):
    """Detectron2's registry, with entries of any name and hints for a mistyped one."""

    def __init__(self, name: str, config_key: str) -> None:
        """
        Args:
            name: of the registry.
            config_key: the config key that holds an entry's name, for messages.
        """
        super().__init__(name)
        self.config_key = config_key

    def register(self, obj: Any = None, *, name: str | None = None) -> Any:
        """Register `obj` as `name` (default: its ``__name__``); also a decorator."""
        if obj is None:
            return lambda decorated: self.register(decorated, name=name)
        self._do_register(name or obj.__name__, obj)
        return obj

    def get(self, name: str) -> Callable[..., Any]:
        """Return the entry called `name`.

        Raises:
            UserError: there is none; the message holds the known and the nearest name.
        """
        check_name(self.config_key, name, [known for known, _ in self], OF_ONES_OWN)
        return super().get(name)


ROI_LOSS_REGISTRY = Registry("ROI_LOSS", "BALANCE.ROI_LOSS.NAME")
DENSE_LOSS_REGISTRY = Registry("DENSE_LOSS", "BALANCE.DENSE_LOSS.NAME")
WEIGHT_RULE_REGISTRY = Registry("WEIGHT_RULE", "BALANCE.CLASS_WEIGHTS.RULE")
ANCHOR_SAMPLER_REGISTRY = Registry("ANCHOR_SAMPLER", "BALANCE.ANCHOR_SAMPLER.NAME")
ROI_SAMPLER_REGISTRY = Registry("ROI_SAMPLER", "BALANCE.ROI_SAMPLER.NAME")

for _name, _rule in RULES.items():
    WEIGHT_RULE_REGISTRY.register(_rule, name=_name)
