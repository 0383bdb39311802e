"""Figures of an ablation, as data URIs."""

from counterpoise.ablation.summary import DatasetSummary
from counterpoise.pages.differences import difference_plot
from counterpoise.pages.figures import palette
from counterpoise.pages.labels import short

_NAME_WIDTH = 40


def differences(summary: DatasetSummary) -> str:
    """Draw the difference in AP of every variant but the baseline, with its interval.

    Args:
        summary: of two variants or more.
    """
    others = [variant for variant in summary.variants[1:] if variant.seeds]
    kinds = {"all classes": [variant.AP for variant in others]}
    kinds |= {group: [variant.groups[group] for variant in others] for group in summary.groups}
    return difference_plot(
        [short(variant.name, _NAME_WIDTH) for variant in others],
        kinds,
        palette(len(kinds)),
        summary.baseline.name,
        row_height=max(0.3, 0.16 * len(kinds)),
    )
