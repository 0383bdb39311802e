"""SSD's loss with hard negative mining (arXiv:1512.02325, section 2.2), as functions. Pure torch.

Shapes: N images, A anchors (default boxes) per image, C classes. The background is class 0 here, as
in SSD and in torchvision; Detectron2, and with it the rest of this package, puts it last. Targets
are > 0 for a positive, 0 for background and -1 for an anchor that is ignored.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from counterpoise.balance.losses import cross_entropy_loss
from counterpoise.balance.sampling import mine_hard_negatives


def mine_batch(
    cls_loss: Tensor, targets: Tensor, ratio: float = 3.0, min_negatives: int = 3
) -> Tensor:
    """Choose the positives and, in each image, the hardest negatives, `ratio` for each positive.

    Only background anchors are ranked, and no more of them are taken than there are: a positive or
    an ignored anchor can never be chosen as a negative.

    Args:
        cls_loss: (N, A), floating point, classification loss of each anchor.
        targets: (N, A), integer, see above.
        ratio: negatives per positive of the same image, > 0; the product is rounded down.
        min_negatives: negatives of an image without positives. SSD takes 0, which lets images that
            show only background go unused.

    Returns:
        (N, A), bool, True for the anchors that train.

    Raises:
        ValueError: shapes that differ, or a ratio that is not positive.
    """
    if cls_loss.dim() != 2 or cls_loss.shape != targets.shape:
        raise ValueError(
            "cls_loss and targets must both have shape (N, A), "
            f"got {tuple(cls_loss.shape)} and {tuple(targets.shape)}"
        )
    chosen = torch.zeros_like(targets, dtype=torch.bool)
    for row, (losses, labels) in enumerate(zip(cls_loss, targets.clamp(max=1), strict=True)):
        mined = mine_hard_negatives(
            labels, losses, ratio, max_positives=-1, min_negatives=min_negatives
        )
        chosen[row] = mined >= 0
    return chosen


def ssd_loss(
    loc_preds: Tensor,
    loc_targets: Tensor,
    cls_preds: Tensor,
    cls_targets: Tensor,
    ratio: float = 3.0,
    min_negatives: int = 3,
) -> tuple[Tensor, Tensor]:
    """Smooth L1 over the positives and cross-entropy over the mined anchors.

    Both are summed and divided by the number of positives in the batch, or by 1 where there is
    none.

    Args:
        loc_preds: (N, A, 4), predicted box offsets.
        loc_targets: (N, A, 4), encoded ground truth; read at the positives only.
        cls_preds: (N, A, C), logits, background first.
        cls_targets: (N, A), integer in [-1, C), see above.
        ratio, min_negatives: see :func:`mine_batch`.

    Returns:
        location loss and classification loss, scalars in float32 (float64 for float64 input), with
        a graph also where there is nothing to learn from.

    Raises:
        ValueError: a shape, target or ratio that is not as described.
    """
    _check_shapes(loc_preds, loc_targets, cls_preds, cls_targets)
    cls_loss = cross_entropy_loss(cls_preds.transpose(1, 2), cls_targets, reduction="none")
    chosen = mine_batch(cls_loss.detach(), cls_targets, ratio, min_negatives)
    positive = cls_targets > 0
    divisor = positive.sum().clamp(min=1)
    # Smooth L1 of half precision would be summed in half precision.
    offsets = loc_preds[positive].to(torch.promote_types(loc_preds.dtype, torch.float32))
    loc_loss = F.smooth_l1_loss(offsets, loc_targets[positive].to(offsets), reduction="sum")
    return loc_loss / divisor, cls_loss[chosen].sum() / divisor


def _check_shapes(
    loc_preds: Tensor, loc_targets: Tensor, cls_preds: Tensor, cls_targets: Tensor
) -> None:
    if cls_preds.dim() != 3 or cls_targets.shape != cls_preds.shape[:2]:
        raise ValueError(
            "cls_preds must have shape (N, A, C) and cls_targets (N, A), "
            f"got {tuple(cls_preds.shape)} and {tuple(cls_targets.shape)}"
        )
    expected = (*cls_targets.shape, 4)
    if tuple(loc_preds.shape) != expected or tuple(loc_targets.shape) != expected:
        raise ValueError(
            f"loc_preds and loc_targets must have shape {expected}, "
            f"got {tuple(loc_preds.shape)} and {tuple(loc_targets.shape)}"
        )
