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
        counts: (N, K), boxes of each class in each image, any dtype, dense or sparse COO, at least
            one box in all.
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
    images, classes = counts.shape
    image, category, boxes = _boxes_by_image(counts)
    if not len(image):
        raise ValueError("there is no box in any image")
    in_images = category.bincount(minlength=classes).double()
    present = in_images > 0
    if rule == "class_aware":
        shares = in_images.reciprocal()[category] / present.sum()
        return shares.new_zeros(images).index_add_(0, image, shares) * images
    frequency = in_images / images
    if rule != "repeat_factor":
        share = category.bincount(boxes, minlength=classes) / boxes.sum()
        frequency = (frequency * share).sqrt()
    if threshold == MEDIAN:
        threshold = float(frequency[present].quantile(0.5))
    root = (threshold / frequency).sqrt()[category]
    if rule == "eirfs":
        # In logarithms, since the exponential of a long tail has no float.
        return torch.softmax(_largest(exponent * root, image, images), dim=0) * images
    return _largest(root, image, images).clamp(min=1)


def expected_boxes(counts: Tensor, factors: Tensor) -> Tensor:
    """Boxes of each class that are seen while as many images are drawn as there are.

    Args:
        counts: (N, K), boxes of each class in each image, any dtype, dense or sparse COO.
        factors: (N,), >= 0, draws of each image in proportion, not all 0.

    Returns:
        (K,), float64.
    """
    image, category, boxes = _boxes_by_image(counts)
    draws = factors.double() / factors.double().mean()
    return category.bincount(boxes * draws[image], minlength=counts.shape[1])


def _boxes_by_image(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Image, class and number of boxes, float64, wherever there are any."""
    counts = (counts if counts.is_sparse else counts.to_sparse()).coalesce()
    (image, category), boxes = counts.indices(), counts.values().double()
    some = boxes > 0
    return image[some], category[some], boxes[some]


def _largest(values: Tensor, image: Tensor, images: int) -> Tensor:
    """The largest value of each image, and 0 for an empty one."""
    return values.new_zeros(images).scatter_reduce_(0, image, values, "amax")
