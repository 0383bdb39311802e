"""Variances of estimates, and the 95 % interval that several sources of variance give together."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

_STEPS = 4000  # of the integral below; the quantile is right to 0.01 %


class Variance(NamedTuple):
    """An estimated variance.

    Attributes:
        value: >= 0.
        freedom: its degrees of freedom, >= 1.
    """

    value: float
    freedom: float


def sum_of(parts: Sequence[Variance]) -> Variance:
    """Sum of independent variances, its degrees of freedom by Welch and Satterthwaite.

    Args:
        parts: at least one; those that vary most count most.
    """
    total = sum(part.value for part in parts)
    if not total:
        return Variance(0.0, sum(part.freedom for part in parts))
    # As shares, since squares of small variances would vanish.
    freedom = 1 / sum((part.value / total) ** 2 / part.freedom for part in parts)
    return Variance(total, freedom)


def half_width(variance: Variance) -> float:
    """Half of a 95 % interval: Student's t times the standard deviation."""
    return student_t(variance.freedom) * math.sqrt(variance.value)


def differing_by_chance(intervals: int) -> int:
    """How many of some 95 % intervals to expect to exclude 0 though nothing differs.

    Args:
        intervals: their number; fewer than 20, of which less than one is to be expected, give 0.
    """
    return round(intervals / 20) if intervals >= 20 else 0


@lru_cache(maxsize=4096)
def student_t(freedom: float) -> float:
    """97.5 % quantile of Student's t, from its density.

    With t = sqrt(n) tan(u) the density is in proportion to cos(u)^(n - 1), over a finite range.

    Args:
        freedom: degrees of freedom n, >= 1, not necessarily whole.
    """
    # Beyond ten standard deviations of u there is nothing left to integrate.
    ends = np.linspace(0, min(math.pi / 2, 10 / math.sqrt(freedom)), _STEPS + 1)
    middles = (ends[1:] + ends[:-1]) / 2
    mass = np.r_[0.0, np.cumsum(np.cos(middles) ** (freedom - 1))]
    return math.sqrt(freedom) * math.tan(np.interp(0.95 * mass[-1], mass, ends))
