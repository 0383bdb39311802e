"""Binary cross-entropy weighted by gradients: EQL v2 and GHM-C. Pure torch.

Shapes: N samples, C sigmoids, one per class.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def gradient_norm(logits: Tensor, targets: Tensor) -> Tensor:
    """``|sigmoid(z) - t|``, the norm of the gradient of binary cross-entropy, without gradient.

    Args:
        logits: any shape, floating point.
        targets: the shape of `logits`, bool.

    Returns:
        the shape and dtype of `logits`, in [0, 1].
    """
    # Not 1 - sigmoid(z): that would have no digits left for large z.
    return torch.where(targets, -logits.detach(), logits.detach()).sigmoid()


def weighted_bce(logits: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """Binary cross-entropy of every logit times a weight, the shape of `logits`."""
    return weight * F.binary_cross_entropy_with_logits(
        logits, targets.to(logits.dtype), reduction="none"
    )


def eqlv2_weights(
    positive: Tensor, negative: Tensor, gamma: float = 12.0, mu: float = 0.8, alpha: float = 4.0
) -> tuple[Tensor, Tensor]:
    r"""Weights of the positives and negatives of each class in the equalization loss v2.

    Tan et al., "Equalization Loss v2: A New Gradient Balance Approach for Long-tailed Object
    Detection" (CVPR 2021, arXiv:2012.08548): with g the ratio of the gradients that the positives
    and the negatives of a class have had so far, and
    ``f(g) = 1 / (1 + exp(-gamma (g - mu)))``, negatives weigh ``f(g)`` and positives
    ``1 + alpha (1 - f(g))``. A class drowned in negatives has fewer of them, and more of its own.

    Args:
        positive, negative: (C,), >= 0, accumulated weighted gradients. A class without any negative
            gradient has the ratio 100, as in the authors' code: all weights are 1.
        gamma, mu, alpha: see above.

    Returns:
        weights (C,) of positives, in [1, 1 + alpha], and (C,) of negatives, in [0, 1].
    """
    ratio = torch.where(negative > 0, positive / negative.clamp(min=1e-10), 100.0)
    of_negatives = torch.sigmoid(gamma * (ratio - mu))
    return 1 + alpha * (1 - of_negatives), of_negatives


def gradient_histogram(norms: Tensor, counted: Tensor, bins: int) -> Tensor:
    """Count gradient norms in equal bins of [0, 1].

    Args:
        norms: any shape, in [0, 1]; NaN is not counted.
        counted: bool, broadcastable to `norms`: which of them count.
        bins: >= 1.

    Returns:
        int64 (bins,).
    """
    index = bin_of(norms, bins).flatten()
    ones = (counted & ~norms.isnan()).flatten().long()
    return torch.zeros(bins, dtype=torch.long, device=norms.device).index_add_(0, index, ones)


def bin_of(norms: Tensor, bins: int) -> Tensor:
    """Index in [0, bins) of the bin that each gradient norm falls into; any for NaN."""
    return (norms * bins).long().clamp(0, bins - 1)


def moving_histogram(before: Tensor, counts: Tensor, momentum: float = 0.75) -> Tensor:
    """Moving average of the numbers of gradient norms by bin, see :func:`ghm_weights`.

    As in the authors' code, a bin that a step leaves empty stays as it is. A bin's first number is
    taken whole: an average that starts at 0 would weigh the first samples 1 / (1 - momentum) times.

    Args:
        before: (B,), float, 0 where nothing was counted yet.
        counts: (B,), of this step.
        momentum: in [0, 1).

    Returns:
        (B,), the dtype of `before`.
    """
    counts = counts.to(before)
    moved = torch.where(before > 0, momentum * before + (1 - momentum) * counts, counts)
    return torch.where(counts > 0, moved, before)


def ghm_weights(norms: Tensor, histogram: Tensor, counts: Tensor) -> Tensor:
    r"""Weights of GHM-C, the inverse of the density of gradient norms.

    Li et al., "Gradient Harmonized Single-stage Detector" (AAAI 2019, arXiv:1811.05181): the
    harmonizing parameter is ``beta_i = N / GD(g_i)``, ``GD(g) = S_bin(g) * B``, with S the moving
    average over the B bins. As in the authors' code, the number of bins that hold anything stands
    for B, so that the mean of beta is 1 without momentum. Many easy samples, and many outliers of
    gradient 1, together count as little as few others.

    Args:
        norms: any shape, in [0, 1].
        histogram: (B,), moving average, > 0 in the bins of all counted norms.
        counts: (B,), of this step; their sum is N.

    Returns:
        the shape of `norms`, float.
    """
    occupied = (counts > 0).sum().clamp(min=1)
    of_bin = counts.sum() / (histogram * occupied).clamp(min=1e-10)
    return of_bin.to(norms)[bin_of(norms, len(histogram))]
