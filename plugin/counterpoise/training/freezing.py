"""Training of the last classification layer alone."""

from detectron2.engine import HookBase
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

#: Name of the last classification layer in Detectron2's box predictors and in RetinaNet's head.
CLASSIFIER = "cls_score"


def freeze_all_but_classifier(model: nn.Module) -> None:
    """Let only the parameters of modules called ``cls_score`` learn.

    Args:
        model: before an optimizer or a wrapper for several processes looks at it.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(CLASSIFIER in name.split("."))


def freeze_statistics(model: nn.Module) -> None:
    """Put every batch norm into evaluation mode, in which its running statistics stay."""
    for module in model.modules():
        if isinstance(module, _NormBase):
            module.eval()


class FrozenStatistics(HookBase):
    """Freezes statistics before each step: an evaluation puts the model back into training mode."""

    def before_step(self) -> None:
        """Put every batch norm of the model into evaluation mode."""
        freeze_statistics(self.trainer.model)
