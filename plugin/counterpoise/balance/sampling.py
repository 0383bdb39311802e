"""Choosing which anchors train the RPN. Pure torch.

A label vector holds one value per anchor of one image: 1 positive, 0 negative, -1 ignored. Every
sampler takes such a vector and returns a new one in which the anchors that it did not choose are
-1. An ignored anchor stays ignored.

A number of anchors that the host has to know makes it wait for a GPU; it needs to know as few as it
does in Detectron2's sampling, which are the positives and the negatives of each image.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

TIE_BREAKS = ("index", "random")


def sample_random(
    labels: Tensor,
    num_samples: int,
    positive_fraction: float,
    max_negatives_per_positive: float = math.inf,
) -> Tensor:
    """Choose anchors at random, by Detectron2's rule (and with its random draws).

    At most ``num_samples * positive_fraction`` positives, the rest of the budget negatives.

    Args:
        labels: (A,), integer, in {-1, 0, 1}.
        num_samples: budget of the image.
        positive_fraction: in [0, 1], upper bound of the positives' share.
        max_negatives_per_positive: > 0; bounds the negatives where positives are few, those of an
            image without positives as if it had one: ``neg_pos_ub`` of MMDetection's samplers.

    Returns:
        (A,), the dtype of `labels`, in {-1, 0, 1}.
    """
    positives = _random_subset(labels == 1, int(num_samples * positive_fraction))
    bound = max_negatives_per_positive * max(len(positives), 1)
    negatives = _random_subset(labels == 0, int(min(num_samples - len(positives), bound)))
    # index_fill, since `sampled[positives] = 1` copies the 1 to the device and waits for it.
    sampled = torch.full_like(labels, -1)
    return sampled.index_fill_(0, positives, 1).index_fill_(0, negatives, 0)


def mine_hard_negatives(
    labels: Tensor,
    hardness: Tensor,
    ratio: float = 3.0,
    max_positives: int = 128,
    min_negatives: int = 3,
    tie_break: str = "index",
    rank: Callable[[int], Tensor] | None = None,
    random_fraction: float = 0.0,
) -> Tensor:
    """Keep the positives and the hardest negatives, `ratio` of them for each positive.

    The hard-negative mining of SSD (arXiv:1512.02325, section 2.2) per image, for anchors that
    may also be ignored.

    Args:
        labels: (A,), integer, in {-1, 0, 1}.
        hardness: (A,), any value that grows with the classification loss of a negative. For a
            binary classifier the logit itself is best: the loss grows with it and, unlike the
            loss, it does not underflow to ties.
        ratio: negatives per chosen positive, > 0; the product is rounded down.
        max_positives: positives kept, a random subset where there are more; -1 keeps all. A bound
            matters: Detectron2's matcher calls every anchor positive for a ground truth that
            overlaps none.
        min_negatives: negatives for an image without positives. Zero would leave the images that
            show only background without any effect.
        tie_break: which negatives of equal hardness come first, see :func:`hardest`.
        rank: called with the number of negatives that are wanted; returns values (A,) to rank by in
            place of `hardness`.
        random_fraction: in [0, 1], share of the negatives, rounded down, that is drawn at random
            among those that are not the hardest.

    Returns:
        (A,), the dtype of `labels`, in {-1, 0, 1}.

    Raises:
        ValueError: shapes that differ, a number out of its range, or an unknown `tie_break`.
    """
    if hardness.shape != labels.shape:
        raise ValueError(
            f"hardness must have the shape of labels, {tuple(labels.shape)}, "
            f"got {tuple(hardness.shape)}"
        )
    if not ratio > 0:
        raise ValueError(f"ratio must be > 0, got {ratio}")
    if ratio == math.inf:
        raise ValueError("ratio must be finite: give a large one to keep all negatives")
    if min_negatives < 0:
        raise ValueError(f"min_negatives must be >= 0, got {min_negatives}")
    if not 0 <= random_fraction <= 1:
        raise ValueError(f"random_fraction must be in [0, 1], got {random_fraction}")
    if max_positives >= 0:
        positives = _random_subset(labels == 1, max_positives)
    else:
        positives = (labels == 1).nonzero().flatten()
    wanted = _whole(ratio * len(positives)) if len(positives) else min_negatives
    if rank is not None:
        hardness = rank(wanted)
    at_random = _whole(random_fraction * wanted)
    negatives = hardest(hardness.detach(), wanted - at_random, tie_break, labels == 0)
    if at_random:
        draw = torch.rand(len(labels), device=labels.device)
        negatives |= hardest(draw, at_random, tie_break, (labels == 0) & ~negatives)
    sampled = torch.full_like(labels, -1).masked_fill_(negatives, 0)
    return sampled.index_fill_(0, positives, 1)


def hardest(
    values: Tensor, k: int, tie_break: str = "index", among: Tensor | None = None
) -> Tensor:
    """Choose the k largest values, with a rule for ties, which :func:`torch.topk` does not have.

    Args:
        values: (N,), floating point; NaN counts as the largest, so that what is chosen shows it.
        k: >= 0; all are chosen where there are fewer.
        tie_break: of equal values ``index`` takes the lowest indices, ``random`` any, drawn from
            torch's generator. Anchors are in the order of the pixels, so that the lowest index
            prefers the top left corner of the finest level.
        among: (N,), bool, those that can be chosen; None for all.

    Returns:
        (N,), bool.

    Raises:
        ValueError: an unknown `tie_break`.
    """
    if tie_break not in TIE_BREAKS:
        raise ValueError(f"tie_break must be in {TIE_BREAKS}, got {tie_break!r}")
    if among is None:
        among = torch.ones_like(values, dtype=torch.bool)
    k = min(k, len(values))
    if k == 0:
        return torch.zeros_like(among)
    values = values.nan_to_num(math.inf, math.inf, -math.inf)
    values = torch.where(among, values, -math.inf)
    threshold = values.topk(k).values[-1]
    above = values > threshold
    tied = (values == threshold) & among
    missing = k - above.sum()
    if tie_break == "random":
        order = torch.randperm(len(values), device=values.device)
        first = tied[order].cumsum(0) <= missing
        tied &= torch.empty_like(first).scatter_(0, order, first)
    else:
        tied &= tied.cumsum(0) <= missing
    return above | tied


def _whole(number: float) -> int:
    """A product rounded down, but not one that floating point alone keeps below a whole number."""
    return math.floor(round(number, 6))


def _random_subset(mask: Tensor, size: int) -> Tensor:
    """Indices of at most `size` elements that are True, in the order of the draw."""
    # The permutation is drawn even when all are kept: so draws Detectron2's subsample_labels, and
    # equal draws make equal samples under one seed.
    order = torch.randperm(int(mask.sum()), device=mask.device)[:size]
    # The n-th True is where the count reaches n: cheaper than the indices of all of them.
    return torch.searchsorted(mask.cumsum(0), order + 1)
