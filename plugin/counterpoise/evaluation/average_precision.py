"""Average precision with COCO's 101-point interpolation, from flags of detections."""

from collections.abc import Iterable

import numpy as np

#: 0.00, 0.01, ... 1.00, bit for bit as pycocotools has them.
RECALLS = np.linspace(0.0, 1.0, 101)


def average_precision(true_positives: np.ndarray, kept: np.ndarray, num_gt: int) -> float:
    """Average the interpolated precision over 101 recalls, as pycocotools' ``accumulate`` does.

    Args:
        true_positives: (D,) bool, true positives, by descending score.
        kept: (D,) bool, False for a detection over an ignored region, which is left out.
        num_gt: boxes that count.

    Returns:
        in [0, 1]; NaN without boxes.
    """
    if num_gt == 0:
        return float("nan")
    true_positives = true_positives[kept]
    found = np.cumsum(true_positives)
    precision = found / np.arange(1, len(true_positives) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(found / num_gt, RECALLS, side="left")
    return float(envelope[at[at < len(envelope)]].sum() / len(RECALLS))


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """Mean over the classes that have a value; None where none has."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
