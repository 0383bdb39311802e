"""Shifts of the logits in cross-entropy: logit adjustment, Seesaw, equilibrium loss. Pure torch.

Each function returns the shift, to be added to the logits of the cross-entropy in training alone.
Shapes: R proposals, K foreground classes 0..K-1, the background is class K.
"""

import math

import torch
from torch import Tensor


def prior_shift(counts: Tensor, tau: float = 1.0) -> Tensor:
    r"""Shift of the logit-adjusted cross-entropy, ``tau ln(pi_c / (1/K))`` for the foreground.

    Menon et al., "Long-tail learning via logit adjustment" (arXiv:2007.07314, equation 10): the
    loss is cross-entropy of ``z_c + tau ln(pi_c)``. A constant added to all logits changes
    nothing, but here the background has no prior that the data could tell: its share is what
    samples the proposals. So priors are relative to the uniform one and the background stays as it
    is: equal counts give plain cross-entropy, and the foreground's balance with the background is
    kept.

    Args:
        counts: (K,), >= 0, boxes per class; a class without any counts as one.
        tau: >= 0; 1 is the consistent choice for the balanced error, 0 is cross-entropy.

    Returns:
        (K + 1,), float64, 0 for the background.
    """
    logs = counts.double().clamp(min=1).log()
    prior = logs - logs.logsumexp(0) + math.log(len(logs))
    return torch.cat([tau * prior, prior.new_zeros(1)])


def seesaw_shift(
    logits: Tensor, targets: Tensor, counts: Tensor, p: float = 0.8, q: float = 2.0
) -> Tensor:
    r"""Shift ``ln(S_yj) = ln(M_yj) + ln(C_yj)`` of the Seesaw loss.

    Wang et al., "Seesaw Loss for Long-Tailed Instance Segmentation" (CVPR 2021, arXiv:2008.10032):
    cross-entropy of ``z_j + ln(S_yj)`` with, for classes y (the target) and j,

    - mitigation ``M_yj = (N_j / N_y)^p`` where N_j < N_y, else 1: a frequent class pushes rare ones
      down less;
    - compensation ``C_yj = (s_j / s_y)^q`` where s_j > s_y, else 1: unless it is taken for them.

    s is the softmax over the foreground, and not below 0.01 for s_y, as in the authors' code. There
    an objectness of two outputs decides about background, and the softmax has foreground alone. Of
    K + 1 outputs that is kept by S = 1 wherever y or j is the background: it is by far the most
    frequent, so that M would free every class of its negatives, and the likeliest at the start of
    a training, where C would take every foreground proposal for a hard one.

    Args:
        logits: (R, K + 1), float32 or float64; no gradient is taken of the shift.
        targets: (R,), int64, in [0, K].
        counts: (K,), samples seen so far by class.
        p, q: exponents >= 0; 0 turns a factor off.

    Returns:
        (R, K + 1), the dtype of `logits`, without gradient.
    """
    foreground = logits.detach()[:, :-1]
    num_classes = foreground.shape[1]
    own = targets.clamp(max=num_classes - 1)[:, None]
    seen = counts.to(logits).clamp(min=1).log()
    mitigation = p * (seen - seen[own]).clamp(max=0)
    log_s = foreground.log_softmax(dim=1)
    compensation = q * (log_s - log_s.gather(1, own).clamp(min=math.log(0.01))).clamp(min=0)
    shift = (mitigation + compensation).scatter(1, own, 0.0)
    shift = shift.masked_fill((targets == num_classes)[:, None], 0.0)
    return torch.cat([shift, shift.new_zeros(len(shift), 1)], dim=1)


def equilibrium_shift(mean_scores: Tensor, background_score: float = 0.01) -> Tensor:
    r"""Shift ``ln(s_j)`` of the equilibrium loss, s_j the mean score of the samples of class j.

    Feng et al., "Exploring Classification Equilibrium in Long-Tailed Object Detection"
    (ICCV 2021, arXiv:2108.07507): ``-ln(s_y exp(z_y) / sum_j s_j exp(z_j))``. A class that scores
    high competes harder with the others, until all score alike.

    Args:
        mean_scores: (K,), in (0, 1].
        background_score: in (0, 1], stands in for that of the background.

    Returns:
        (K + 1,), the dtype of `mean_scores`.
    """
    background = mean_scores.new_full((1,), background_score)
    return torch.cat([mean_scores, background]).log()
