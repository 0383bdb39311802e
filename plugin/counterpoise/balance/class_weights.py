"""Class weights from the number of boxes per class. Pure torch.

Order: foreground classes 0..K-1, then the background, as in Detectron2.
"""

import math
import warnings
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

BACKGROUNDS = ("sum_div3", "mean", "mean_div3", "one", "min", "value", "frequency")
NORMALIZES = ("none", "mean_one")


class ClassWeightWarning(UserWarning):
    """A set of class weights that is legal and probably not what the user wants."""


def log_rule(frequency: Tensor, *, log_offset: float, **_: object) -> Tensor:
    """``1 / ln(log_offset + f)``: bounded, at most 7.8 : 1 for the offset 1.10.

    Source: ENet (arXiv:1606.02147, section 5.2), with ESPNet's offset of 1.10.
    """
    return 1 / torch.log(log_offset + frequency)


def inverse_rule(frequency: Tensor, **_: object) -> Tensor:
    """``1 / f``."""
    return 1 / frequency


def inv_sqrt_rule(frequency: Tensor, **_: object) -> Tensor:
    """``1 / sqrt(f)``."""
    return frequency.rsqrt()


def effective_num_rule(
    frequency: Tensor, *, total: float | Tensor, beta: float, **_: object
) -> Tensor:
    """``(1 - beta) / (1 - beta^n)``, the class-balanced weight of arXiv:1901.05555, equation 2."""
    return (1 - beta) / -torch.expm1(frequency * total * math.log(beta))


def none_rule(frequency: Tensor, **_: object) -> Tensor:
    """One for every class."""
    return torch.ones_like(frequency)


#: A rule maps frequencies (M,), float64, to weights (M,), each weight from its own frequency. It
#: also gets the keywords `total` (number of boxes; a tensor () for a batch), `log_offset` and
#: `beta`, and takes those that it needs.
WeightRule = Callable[..., Tensor]

RULES: dict[str, WeightRule] = {
    "log": log_rule,
    "inverse": inverse_rule,
    "inv_sqrt": inv_sqrt_rule,
    "effective_num": effective_num_rule,
    "none": none_rule,
}


def class_weights(
    counts: Sequence[float] | Tensor,
    rule: str | WeightRule = "log",
    log_offset: float = 1.10,
    background: str = "sum_div3",
    normalize: str = "none",
    beta: float = 0.999,
    background_fraction: float = 0.75,
    background_value: float = 1.0,
) -> Tensor:
    """Weight every class by how rare it is.

    Args:
        counts: (K,), boxes of each foreground class in the training set, K >= 1.
        rule: ``log`` 1/ln(log_offset + f), ``inverse`` 1/f, ``inv_sqrt`` 1/sqrt(f),
            ``effective_num`` (1 - beta)/(1 - beta^n) or ``none``, where n is the count of a class
            and f its share of all boxes; or a function of that kind (:data:`WeightRule`).
        log_offset: > 1, so that every weight of the rule ``log`` is positive.
        background: the background's weight: ``sum_div3`` (sum of the foreground weights / 3; this
            is K/3 times their mean), ``mean``, ``mean_div3``, ``one``, ``min`` (of the foreground
            weights), ``value`` (`background_value`), ``frequency`` (the rule at
            `background_fraction`, as if that share of the samples were background).
        normalize: ``none``, or ``mean_one`` to divide all K + 1 weights by their mean.
        beta: in (0, 1), for ``effective_num``.
        background_fraction: in (0, 1], for the background ``frequency``.
        background_value: > 0, for the background ``value``.

    Returns:
        float32 (K + 1,): foreground classes, then the background.

    Raises:
        ValueError: counts that are empty, negative, not finite or all zero, a class without boxes
            under a rule for which its weight is infinite, or an argument out of its range.

    Warns:
        ClassWeightWarning: a class without boxes under ``log``; a background weight above twice the
            largest foreground weight.
    """
    counts = _checked_counts(counts)
    weigh = _checked_rule(rule)
    _check_choice("background", background, BACKGROUNDS)
    _check_choice("normalize", normalize, NORMALIZES)
    _check_range("log_offset", log_offset, log_offset > 1, "> 1")
    _check_range("beta", beta, 0 < beta < 1, "between 0 and 1")
    _check_range(
        "background_fraction", background_fraction, 0 < background_fraction <= 1, "in (0, 1]"
    )
    _check_range("background_value", background_value, background_value > 0, "> 0")

    total = counts.sum().item()

    def weights_at(frequency: Tensor) -> Tensor:
        return weigh(frequency, total=total, log_offset=log_offset, beta=beta)

    foreground = _checked_foreground(weights_at(counts / total), counts, rule)
    if background == "frequency":
        share = torch.tensor([background_fraction], dtype=torch.float64)
        background, background_value = "value", weights_at(share).item()
    return append_background(foreground, background, normalize, background_value)


def batch_class_weights(
    counts: Tensor,
    rule: str | WeightRule = "log",
    log_offset: float = 1.10,
    normalize: str = "none",
    beta: float = 0.999,
) -> Tensor:
    """Weight the classes of one batch by how rare they are in it.

    The background is counted as a class of its own, so its weight needs no policy. A class that is
    not in the batch has weight 1 and no part in the normalisation; a batch without foreground has
    weights of 1 throughout.

    Args:
        counts: (K + 1,), samples per class in the batch, background last; on any device.
        rule, log_offset, normalize, beta: as for :func:`class_weights`.

    Returns:
        float32 (K + 1,), on the device of `counts`.

    Raises:
        ValueError: an argument that is not as described.
    """
    weigh = _checked_rule(rule)
    _check_choice("normalize", normalize, NORMALIZES)
    # Masks in place of indexing and branches: on a GPU, both of these wait for the counts.
    counts = counts.double()
    present, total = counts > 0, counts.sum()
    frequency = torch.where(present, counts / total, 1.0)
    weights = weigh(frequency, total=total, log_offset=log_offset, beta=beta)
    if normalize == "mean_one":
        weights = weights * present.sum() / (weights * present).sum()
    has_foreground = counts[:-1].sum() > 0
    return torch.where(present & has_foreground, weights, 1.0).float()


def append_background(
    foreground: Sequence[float] | Tensor,
    background: str = "sum_div3",
    normalize: str = "none",
    background_value: float = 1.0,
) -> Tensor:
    """Append the background's weight to the foreground weights and normalise them.

    Args:
        foreground: (K,), finite and >= 0, K >= 1.
        background, normalize, background_value: as for :func:`class_weights`; a background by
            ``frequency`` needs counts and is not available here.

    Returns:
        float32 (K + 1,).

    Raises:
        ValueError: weights or an argument that are not as described.

    Warns:
        ClassWeightWarning: a background weight above twice the largest foreground weight.
    """
    foreground = torch.as_tensor(foreground, dtype=torch.float64, device="cpu")
    if foreground.dim() != 1 or len(foreground) == 0:
        raise ValueError(f"expected a vector of weights, got shape {tuple(foreground.shape)}")
    if not (foreground.isfinite() & (foreground >= 0)).all():
        raise ValueError(f"weights must be finite and >= 0, got {foreground.tolist()}")
    _check_range("background_value", background_value, background_value >= 0, "finite and >= 0")
    policies = {
        "sum_div3": foreground.sum() / 3,
        "mean": foreground.mean(),
        "mean_div3": foreground.mean() / 3,
        "one": foreground.new_tensor(1.0),
        "min": foreground.min(),
        "value": foreground.new_tensor(background_value),
    }
    _check_choice("background", background, policies)
    _check_choice("normalize", normalize, NORMALIZES)
    weight = policies[background]
    if weight > 2 * foreground.max():
        warnings.warn(
            f"the background weight {weight:.4g} is more than twice the largest foreground weight "
            f"{foreground.max():.4g} (background '{background}', {len(foreground)} classes), so "
            "the background will dominate the loss: consider the normaliser 'weight_sum' with a "
            "background of 'mean_div3', 'mean' or 'one'",
            ClassWeightWarning,
            stacklevel=2,
        )
    weights = torch.cat([foreground, weight.reshape(1)])
    if normalize == "mean_one":
        if not weights.any():
            raise ValueError("weights that are all 0 have no mean of 1: give one above 0")
        weights = weights / weights.mean()
    return weights.float()


def _checked_counts(counts: Sequence[float] | Tensor) -> Tensor:
    counts = torch.as_tensor(counts, dtype=torch.float64, device="cpu")
    if counts.dim() != 1 or len(counts) == 0:
        raise ValueError(
            f"counts must be a vector of K >= 1 counts, got shape {tuple(counts.shape)}"
        )
    if not (counts.isfinite() & (counts >= 0)).all():
        raise ValueError(f"counts must be finite and >= 0, got {counts.tolist()}")
    if counts.sum() == 0:
        raise ValueError("counts are all zero: the training set has no boxes to weigh classes by")
    return counts


def _checked_rule(rule: str | WeightRule) -> WeightRule:
    if callable(rule):
        return rule
    _check_choice("rule", rule, RULES)
    return RULES[rule]


def _checked_foreground(foreground: Tensor, counts: Tensor, rule: str | WeightRule) -> Tensor:
    if tuple(foreground.shape) != tuple(counts.shape):
        raise ValueError(
            f"rule {rule!r} must return {len(counts)} weights, got shape {tuple(foreground.shape)}"
        )
    empty = (counts == 0).nonzero().flatten().tolist()
    if empty and rule == "log":
        warnings.warn(
            f"classes {empty} have no boxes: they get the largest weight of all "
            f"({foreground.max():.4g}) and raise a background weight that sums over the classes; "
            "leave them out of the class list if they stay empty",
            ClassWeightWarning,
            stacklevel=3,
        )
    elif empty and not foreground.isfinite().all():
        raise ValueError(
            f"classes {empty} have no boxes, and the rule {rule!r} needs at least one of each: "
            "leave them out of the class list or use the rule 'log'"
        )
    return foreground


def _check_choice(name: str, value: object, known: Collection[str]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def _check_range(name: str, value: float, holds: bool, wanted: str) -> None:
    if not (holds and math.isfinite(value)):
        raise ValueError(f"{name} must be {wanted}, got {value}")
