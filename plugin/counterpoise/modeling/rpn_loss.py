"""Classification losses of the RPN that Detectron2 does not have."""

from collections.abc import Callable
from functools import partial

from detectron2.config import CfgNode
from torch import Tensor

from counterpoise.balance.losses import sigmoid_focal_loss
from counterpoise.errors import check_name

NAMES = ("cross_entropy", "focal")

#: From logits (N,) and labels (N,) of the sampled anchors, 1 for positives, to the summed loss.
RPNLoss = Callable[[Tensor, Tensor], Tensor]


def rpn_loss(cfg: CfgNode) -> RPNLoss | None:
    """Build the loss that ``BALANCE.RPN_LOSS`` names; None where it is Detectron2's own.

    Raises:
        UserError: there is no such loss.
    """
    node = cfg.BALANCE.RPN_LOSS
    check_name("BALANCE.RPN_LOSS.NAME", node.NAME, NAMES)
    if node.NAME == "cross_entropy":
        return None
    return partial(
        sigmoid_focal_loss, alpha=float(node.ALPHA), gamma=float(node.GAMMA), reduction="sum"
    )
