"""Adjustment of a trained classifier's logits by the class counts of its training set."""

import torch
from torch import Tensor

METHODS = ("norcal", "logit_adjustment")


def logit_shift(counts: Tensor, method: str, exponent: float) -> Tensor:
    r"""What to add to the logits of K classes and the background.

    ``norcal`` divides ``exp(z_c)`` of a foreground class by ``n_c^g`` (Pan et al., "On Model
    Calibration for Long-Tailed Object Detection and Instance Segmentation", arXiv:2107.02170).
    ``logit_adjustment`` subtracts ``g ln pi_c`` with the class's share ``pi_c`` of all
    counts (Menon et al., "Long-tail learning via logit adjustment", arXiv:2007.07314, equation 9).
    Either leaves the background as it is.

    The unit of ``n_c`` decides how the foreground as a whole stands against the background. The
    first paper counts single objects. Here the unit is the geometric mean of the counts, with which
    the mean logit of the foreground stays and so does the meaning of a score threshold, below which
    raw counts in the thousands would push all scores. Shares, below 1, raise the foreground.

    A class without boxes counts as one with a single box.

    Args:
        counts: (K,), boxes per class, >= 0.
        method: one of :data:`METHODS`.
        exponent: g >= 0; 0 changes nothing.

    Returns:
        float32 (K + 1,), background last and 0.

    Raises:
        ValueError: another method, or an exponent below 0.
    """
    if method not in METHODS:
        raise ValueError(f"method must be in {METHODS}, got {method!r}")
    if not exponent >= 0:
        raise ValueError(f"exponent must be >= 0, got {exponent}")
    logs = counts.double().clamp(min=1).log()
    unit = logs.mean() if method == "norcal" else logs.logsumexp(dim=0)
    shift = torch.zeros(len(counts) + 1)
    shift[:-1] = -exponent * (logs - unit)
    return shift
