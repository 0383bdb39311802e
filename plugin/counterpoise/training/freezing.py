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


class FrozenStatistics(HookBase):
    """Keeps batch norms in evaluation mode, in which their running statistics stay.

    Before each step, since an evaluation puts the whole model back into training mode.
    """

    def before_step(self) -> None:
        """Put every batch norm of the model into evaluation mode."""
        for module in self.trainer.model.modules():
            if isinstance(module, _NormBase):
                module.eval()
