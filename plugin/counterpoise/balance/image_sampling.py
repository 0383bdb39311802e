"""How often each training image is drawn, so that images of rare classes are seen more often.

All functions start from the boxes per image and class, and give the expected number of draws of
each image in an epoch. Classes without a box take no part.
"""

import torch
from torch import Tensor

#: Rules of :func:`image_factors`.
RULES = ("repeat_factor", "irfs", "eirfs", "class_aware")

#: Threshold that stands for the median of the class frequencies.
MEDIAN = -1


def image_factors(
    counts: Tensor, rule: str, threshold: float = MEDIAN, exponent: float = 2.0
) -> Tensor:
    """Expected draws of each image per epoch.

    - ``repeat_factor`` (Gupta et al. 2019, arXiv:1908.03195, appendix B.2): a class in the share f
      of the images has the factor r = max(1, sqrt(t / f)), an image the largest of its classes.
    - ``irfs`` (Yaman et al. 2023, arXiv:2305.08069): the same with f = sqrt(f_image * f_box), where
      f_box is the class's share of all boxes.
    - ``eirfs`` (Ahmed et al. 2025, arXiv:2503.21893): r = exp(a * sqrt(t / f)) with that f. Images
      are drawn in proportion to it, so that as many are drawn as there are.
    - ``class_aware`` (Shen et al. 2016, arXiv:1512.05830): a class is drawn uniformly,
      then one of its images, so that image i has the probability mean over classes of 1 / n_c where
      it holds class c, and 0 elsewhere. Images without boxes are never drawn.

    Args:
        counts: (N, K), boxes of each class in each image, any dtype, at least one box in all.
        rule: one of :data:`RULES`.
        threshold: t > 0, or :data:`MEDIAN` for the median of f over the classes with boxes: half of
            the classes are rare then, on data of any size. ``class_aware`` has none.
        exponent: a >= 0 of ``eirfs``.

    Returns:
        (N,), float64, >= 1 for ``repeat_factor`` and ``irfs``, of mean 1 for the others.

    Raises:
        ValueError: there is no box, or an argument is out of range.
    """
    if rule not in RULES:
        raise ValueError(f"rule is '{rule}', expected one of {', '.join(RULES)}")
    if threshold != MEDIAN and threshold <= 0:
        raise ValueError(f"threshold is {threshold}, expected a number > 0, or {MEDIAN}")
    if exponent < 0:
        raise ValueError(f"exponent is {exponent}, expected a number >= 0")
    counts = counts.double()
    if not (counts > 0).any():
        raise ValueError("there is no box in any image")
    counts = counts[:, (counts > 0).any(dim=0)]
    present = counts > 0
    if rule == "class_aware":
        per_class = present.double() / present.sum(dim=0)
        return per_class.mean(dim=1) * len(counts)
    frequency = present.double().mean(dim=0)
    if rule != "repeat_factor":
        frequency = (frequency * counts.sum(dim=0) / counts.sum()).sqrt()
    if threshold == MEDIAN:
        threshold = float(frequency.quantile(0.5))
    root = (threshold / frequency).sqrt()
    if rule == "eirfs":
        # In logarithms, since the exponential of a long tail has no float.
        return torch.softmax(_largest(exponent * root, present, 0.0), dim=0) * len(counts)
    return _largest(root, present, 1.0).clamp(min=1)


def expected_boxes(counts: Tensor, factors: Tensor) -> Tensor:
    """Boxes of each class that are seen while as many images are drawn as there are.

    Args:
        counts: (N, K), boxes of each class in each image, any dtype.
        factors: (N,), >= 0, draws of each image in proportion, not all 0.

    Returns:
        (K,), float64.
    """
    draws = factors.double() / factors.double().mean()
    return draws @ counts.double()


def _largest(of_classes: Tensor, present: Tensor, empty: float) -> Tensor:
    """The largest value among the classes of each image, or that of an empty one."""
    return torch.where(present, of_classes, empty).amax(dim=1)
