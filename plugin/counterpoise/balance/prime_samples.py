"""Prime samples: importance of positives by hierarchical IoU rank (PISA). Pure torch."""

import torch
from torch import Tensor


def hierarchical_rank(ious: Tensor, classes: Tensor, objects: Tensor) -> Tensor:
    """IoU-HLR, the hierarchical local rank of positive samples within their class.

    Cao et al., "Prime Sample Attention in Object Detection" (arXiv:1904.04821): samples are ranked
    by IoU within their object; then those of equal rank by IoU within their class, all of rank 0
    first. So the best sample of every object comes before the second best of any.

    Args:
        ious: (P,), floating point, with the objects, after regression.
        classes: (P,), int64, >= 0.
        objects: (P,), int64, >= 0, the object that each sample belongs to; of one class each.

    Returns:
        int64 (P,), rank within the class, 0 the best.
    """
    by_iou = ious.argsort(descending=True, stable=True)
    within_object = _position(by_iou, objects)
    by_rank = by_iou[within_object[by_iou].argsort(stable=True)]
    return _position(by_rank, classes)


def _position(order: Tensor, groups: Tensor) -> Tensor:
    """Position (P,) of each element within its group, elements being taken in an order (P,)."""
    order = order[groups[order].argsort(stable=True)]
    ascending = groups[order]
    # Where each group begins; ``bincount`` would say as much, but waits for a GPU.
    starts = torch.searchsorted(ascending, ascending)
    counted = torch.arange(len(order), device=order.device) - starts
    return torch.empty_like(order).scatter_(0, order, counted)


def importance(ranks: Tensor, classes: Tensor, power: float = 2.0, bias: float = 0.0) -> Tensor:
    r"""Importance of positives, ``((1 - bias) u + bias)^power`` with ``u = (n - rank) / n``.

    ISR-P of arXiv:1904.04821; n is the number of samples of the class that has most, so
    that equal ranks weigh alike in all classes.

    Args:
        ranks: (P,), int64, of :func:`hierarchical_rank`.
        classes: (P,), int64, >= 0.
        power: >= 0; 0 gives all ones.
        bias: in [0, 1), the least importance before the power.

    Returns:
        float32 (P,), in (0, 1].
    """
    if not len(classes):
        return torch.ones(0, device=classes.device)
    most = _position(classes.argsort(), classes).max() + 1
    return (bias + (1 - bias) * (most - ranks) / most).float() ** power
