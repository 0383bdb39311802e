"""Figures of a comparison, as data URIs. Each run keeps its colour; the baseline has the first."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from counterpoise.comparison.results import ClassComparison, Comparison, Difference
from counterpoise.comparison.scoring import RunScores
from counterpoise.evaluation.operating_points import precision_recall_curve
from counterpoise.pages.ap_figure import ap_against_count
from counterpoise.pages.figures import WIDE, figure, figure_uri, palette
from counterpoise.pages.labels import short

_COLUMNS = 3
_NAME_WIDTH = 28
_MAX_POINTS = 1000


def class_differences(comparison: Comparison, classes: Sequence[ClassComparison]) -> str:
    """Draw the difference in AP of some classes, the groups and the mean, with its interval.

    Args:
        comparison: of two runs or more.
        classes: of it, to be drawn from the top down.
    """
    rows = [
        (
            short(c.name, _NAME_WIDTH) + ("" if c.train_boxes is None else f" ({c.train_boxes})"),
            c.scores,
        )
        for c in classes
    ]
    rows += [(f"mean of {group.name}", group.scores) for group in comparison.groups]
    rows.append(("mean of classes", comparison.mean))
    others, colours = comparison.others, _colours(comparison)
    pitch = 0.7 / len(others)
    with figure(WIDE, 1.2 + len(rows) * max(0.24, 0.14 * len(others))) as drawn:
        axes = drawn.subplots()
        for i, run in enumerate(others):
            shift = (i - (len(others) - 1) / 2) * pitch
            for y, (_, scores) in enumerate(rows):
                _draw_difference(axes, y + shift, scores.AP_difference[run.name], colours[run.name])
            axes.plot([], [], "o", color=colours[run.name], label=run.name)
        axes.axvline(0, color="#444444", linewidth=1)
        axes.axhline(len(classes) - 0.5, color="#9aa2a8", linewidth=0.8)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"AP minus that of {comparison.baseline.name}, with 95 % interval")
        if len(others) > 1:
            drawn.legend(loc="outside upper left", ncols=_columns(comparison))
        return figure_uri(drawn)


def ap_against_training_boxes(comparison: Comparison) -> tuple[str, int]:
    """Draw AP in every run against the number of training boxes, of classes with test boxes.

    Returns:
        the figure, and the number of classes whose name found no room.
    """
    tested, runs = comparison.tested, [run.name for run in comparison.runs]
    values = {run: [c.scores.AP[run] for c in tested] for run in runs}
    bars = np.array([(min(own), max(own)) for own in zip(*values.values(), strict=True)])
    counts = [c.train_boxes for c in tested]
    return ap_against_count([c.name for c in tested], counts, values, palette(len(runs)), bars)


def error_bars(comparison: Comparison) -> str:
    """Draw AP50 lost to each error type, and their counts, as bars side by side."""
    colours, kinds = _colours(comparison), comparison.errors
    height = 0.8 / len(colours)
    with figure(WIDE, 0.9 + len(kinds) * max(0.4, 0.17 * len(colours))) as drawn:
        panels = drawn.subplots(1, 2, sharey=True)
        for i, (run, colour) in enumerate(colours.items()):
            y = np.arange(len(kinds)) + (i - (len(colours) - 1) / 2) * height
            lost = [kind.AP50_lost[run] or 0.0 for kind in kinds.values()]
            panels[0].barh(y, lost, height, color=colour, label=run)
            panels[1].barh(y, [kind.count[run] for kind in kinds.values()], height, color=colour)
        panels[0].set_yticks(range(len(kinds)), list(kinds))
        panels[0].invert_yaxis()
        panels[0].set_xlabel("AP50 lost")
        panels[1].set_xlabel("count")
        for panel in panels:
            panel.grid(visible=False, axis="y")
        drawn.legend(loc="outside upper left", ncols=_columns(comparison))
        return figure_uri(drawn)


def recall_curves(
    comparison: Comparison, scores: Sequence[RunScores], classes: Sequence[ClassComparison]
) -> str:
    """Draw precision against recall at IoU 0.50, a panel per class with all runs in it.

    Args:
        comparison: of the runs.
        scores: of the runs.
        classes: of the comparison, at least one.
    """
    colours = _colours(comparison)
    rows = -(-len(classes) // _COLUMNS)
    with figure(WIDE, 0.4 + 2.9 * rows) as drawn:
        panels = list(drawn.subplots(rows, _COLUMNS, squeeze=False).flat)
        for entry, panel in zip(classes, panels, strict=False):
            k = comparison.class_names.index(entry.name)
            for own in scores:
                curve = precision_recall_curve(own.matches[k])
                last = len(curve.recall) - 1
                at = np.unique(np.linspace(0, last, min(last + 1, _MAX_POINTS)).astype(int))
                panel.plot(
                    curve.recall[at], curve.precision[at], color=colours[own.name],
                    label=own.name, linewidth=1.4, marker="o" if last < 30 else "", markersize=3,
                )  # fmt: skip
            panel.set_title(
                f"{short(entry.name, _NAME_WIDTH)}, {entry.test_boxes} test boxes",
                fontsize=10,
                loc="left",
            )
            panel.set(xlim=(0, 1.02), ylim=(0, 1.04), xlabel="recall", ylabel="precision")
        for panel in panels[len(classes) :]:
            panel.remove()
        drawn.legend(
            *panels[0].get_legend_handles_labels(),
            loc="outside upper left",
            ncols=_columns(comparison),
        )
        return figure_uri(drawn)


def _colours(comparison: Comparison) -> dict[str, str]:
    names = [run.name for run in comparison.runs]
    return dict(zip(names, palette(len(names)), strict=True))


def _columns(comparison: Comparison) -> int:
    """Columns of a legend that fit on the page, about 110 characters wide."""
    return max(1, 110 // (8 + max(len(run.name) for run in comparison.runs)))


def _draw_difference(axes: Axes, y: float, difference: Difference, colour: str) -> None:
    if difference.value is None:
        return
    if difference.interval is not None:
        axes.plot(difference.interval, (y, y), color=colour, linewidth=1.6)
    fill = colour if difference.excludes_zero else "white"
    axes.plot(difference.value, y, "o", color=colour, markerfacecolor=fill, markersize=6)
