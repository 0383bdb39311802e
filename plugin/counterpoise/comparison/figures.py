"""Figures of a comparison, as data URIs. Each run keeps its colour; the baseline has the first."""

from collections.abc import Sequence

import numpy as np

from counterpoise.comparison.results import ClassComparison, Comparison
from counterpoise.comparison.sides import Side
from counterpoise.evaluation.operating_points import precision_recall_curve
from counterpoise.pages.differences import difference_plot
from counterpoise.pages.figures import WIDE, figure, figure_uri, palette
from counterpoise.pages.labels import short
from counterpoise.pages.plots import (
    ap_against_count,
    bars_side_by_side,
    legend_above,
    panels,
    thinned,
)

_NAME_WIDTH = 28
_MAX_POINTS = 1000


def class_differences(comparison: Comparison, classes: Sequence[ClassComparison]) -> str:
    """Draw the difference in AP of some classes, the groups and the mean, with its interval.

    Args:
        comparison: of two runs or more.
        classes: of it, to be drawn from the top down.
    """
    counts = ["" if c.train_boxes is None else f" ({c.train_boxes})" for c in classes]
    names = [short(c.name, _NAME_WIDTH) + n for c, n in zip(classes, counts, strict=True)]
    names += [f"mean of {group.name}" for group in comparison.groups] + ["mean of classes"]
    rows = [*classes, *comparison.groups, comparison.mean]
    others = comparison.others
    return difference_plot(
        names,
        {run.name: [scores.AP[run.name] for scores in rows] for run in others},
        palette(len(comparison.runs))[1:],
        comparison.baseline.name,
        row_height=max(0.24, 0.14 * len(others)),
        line_after=len(classes),
    )


def ap_against_training_boxes(comparison: Comparison) -> tuple[str, int]:
    """Draw AP in every run against the number of training boxes, of classes with test boxes.

    Returns:
        the figure, and the number of classes whose name found no room.
    """
    tested = comparison.tested
    values = {run.name: [c.AP[run.name].value for c in tested] for run in comparison.runs}
    bars = np.array([(min(own), max(own)) for own in zip(*values.values(), strict=True)])
    return ap_against_count([c.name for c in tested], [c.train_boxes for c in tested], values, bars)


def error_bars(comparison: Comparison) -> str:
    """Draw AP50 lost to each error type, and their counts, as bars side by side."""
    runs, errors = [run.name for run in comparison.runs], comparison.errors
    lost = {run: [own.AP50_lost[run].value or 0.0 for own in errors.values()] for run in runs}
    counts = {run: [own.count[run].value for own in errors.values()] for run in runs}
    with figure(WIDE, 0.9 + len(errors) * max(0.4, 0.17 * len(runs))) as drawn:
        first, second = drawn.subplots(1, 2, sharey=True)
        bars_side_by_side(first, list(errors), lost)
        bars_side_by_side(second, list(errors), counts)
        first.invert_yaxis()
        first.set_xlabel("AP50 lost")
        second.set_xlabel("count")
        legend_above(first)
        return figure_uri(drawn)


def recall_curves(sides: Sequence[Side], classes: Sequence[ClassComparison]) -> str:
    """Draw precision against recall at IoU 0.50, a panel per class with all runs in it.

    Args:
        sides: to draw, all runs of one in its colour.
        classes: of their comparison, at least one.
    """
    class_names = sides[0].runs[0].test_set.ground_truth.class_names
    with panels(len(classes), 2.9, 0.4) as (drawn, all_axes):
        for entry, axes in zip(classes, all_axes, strict=True):
            k = class_names.index(entry.name)
            for side, colour in zip(sides, palette(len(sides)), strict=True):
                for i, run in enumerate(side.runs):
                    curve = precision_recall_curve(run.matches[k])
                    at = thinned(len(curve.recall), _MAX_POINTS)
                    axes.plot(
                        curve.recall[at], curve.precision[at], color=colour,
                        label=short(side.name) if i == 0 else None,
                        linewidth=1.4 if len(side.runs) == 1 else 0.8,
                        marker="o" if len(curve.recall) <= 30 else "", markersize=3,
                    )  # fmt: skip
            title = f"{short(entry.name, _NAME_WIDTH)}, {entry.test_boxes} test boxes"
            axes.set_title(title, fontsize=10, loc="left")
            axes.set(xlim=(0, 1.02), ylim=(0, 1.04), xlabel="recall", ylabel="precision")
        legend_above(all_axes[0])
        return figure_uri(drawn)
