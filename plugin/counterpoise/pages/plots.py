"""Plots that several pages draw."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from counterpoise.pages.figures import WIDE, figure, figure_uri, palette
from counterpoise.pages.labels import label_points, short

_COLUMNS = 3  # of panels
_MANY = 25  # names that are written in a smaller font
_MOST_NUMBERS = 26  # rows of a heatmap with numbers in its cells

#: Rows of a heatmap whose names fit beside it: COCO's classes and the background.
MOST_NAMES = 81


def ap_against_count(
    names: Sequence[str],
    counts: Sequence[int],
    values: Mapping[str, Sequence[float]],
    bars: np.ndarray,
) -> tuple[str, int]:
    """Draw a point per class and run on a logarithmic axis.

    Args:
        names: n classes, at least one; the first ones have a name in any case.
        counts: n numbers of training boxes.
        values: n APs by run; the runs have a legend where they are several.
        bars: (n, 2), from where to where a line is drawn at each class.

    Returns:
        the figure as a data URI, and the number of classes whose name found no room.
    """
    at, highest = np.array(counts), np.max(list(values.values()), axis=0)
    with figure(WIDE, 4.2) as drawn:
        axes = drawn.subplots()
        axes.vlines(at, *bars.T, color="#b9c0c5", linewidth=1.6, zorder=1)
        for (run, own), colour in zip(values.items(), palette(len(values)), strict=True):
            axes.plot(at, own, "o", color=colour, markersize=5.5, label=short(run))
        if at.min() > 0:
            axes.set_xscale("log")
            plain_log_ticks(axes.xaxis)
        else:  # a class that is in no training image has no place on a logarithmic axis
            axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
        axes.margins(x=0.1)
        axes.set_ylim(0, min(max(1.12 * bars.max(), 10), 104))
        axes.set(xlabel="boxes in the training set (logarithmic)", ylabel="AP")
        if len(values) > 1:
            legend_above(axes)
        fontsize = 9 if len(names) <= _MANY else 8
        unnamed = label_points(axes, np.stack([at, highest], axis=1), names, bars, fontsize)
        return figure_uri(drawn), unnamed


def bars_side_by_side(
    axes: Axes, names: Sequence[str], values: Mapping[str, Sequence[float]]
) -> None:
    """Draw horizontal bars, for each of n names one of each series, from the bottom up.

    Args:
        axes: to draw on.
        names: n labels.
        values: n numbers by name of the series.
    """
    height = 0.8 / len(values)
    for i, ((label, own), colour) in enumerate(
        zip(values.items(), palette(len(values)), strict=True)
    ):
        y = np.arange(len(names)) + (i - (len(values) - 1) / 2) * height
        axes.barh(y, own, height, color=colour, label=short(label))
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=False, axis="y")


def heatmap(
    counts: np.ndarray,
    names: Sequence[str],
    share: np.ndarray,
    label: str = "share of the row",
    **axis_labels: str,
) -> str:
    """Draw counts of pairs of classes, coloured by their share of the row.

    Args:
        counts: (n, n); written into the cells of a small matrix.
        names: n; left out where they are too many.
        share: (n, n) in [0, 1], NaN for cells without a number.
        label: of the colours.
        axis_labels: ``xlabel`` and ``ylabel``.

    Returns:
        the figure as a data URI.
    """
    size, names = len(counts), [short(name) for name in names]
    few = size <= _MOST_NUMBERS
    longest = 0.075 * max(map(len, names))
    side = min(max(0.5 * size, 2.6), 8.0)
    with figure(min(side + 2.2 + longest, WIDE), side + 1.0 + longest) as drawn:
        axes = drawn.subplots()
        image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.set(**axis_labels)
        if size <= MOST_NAMES:
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_ticks(range(size), names, fontsize=9 if few else 5.5)
            if size > 4:
                axes.tick_params(axis="x", rotation=45 if few else 90)
                for tick in axes.get_xticklabels():
                    tick.set(ha="right", rotation_mode="anchor", va="center")
        if few:
            for row, column in np.argwhere(np.isfinite(share)):
                colour = "white" if share[row, column] > 0.55 else "#333333"
                axes.text(
                    column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=8,
                    color=colour,
                )  # fmt: skip
        drawn.colorbar(image, ax=axes, shrink=0.8, label=label)
        return figure_uri(drawn)


@contextlib.contextmanager
def panels(count: int, height: float, margin: float = 0.0) -> Iterator[tuple[Figure, list[Axes]]]:
    """Give a :func:`figure` of the page's width with some panels, three in a row.

    Args:
        count: number of panels, at least one.
        height: of each, in inches.
        margin: height of what is above or below them.
    """
    rows = -(-count // _COLUMNS)
    with figure(WIDE, margin + height * rows) as drawn:
        axes = list(drawn.subplots(rows, _COLUMNS, squeeze=False).flat)
        for surplus in axes[count:]:
            surplus.remove()
        yield drawn, axes[:count]


def legend_above(axes: Axes) -> None:
    """Put the legend of some axes above the whole figure, in as many columns as fit there."""
    handles, labels = axes.get_legend_handles_labels()
    columns = max(1, 110 // (8 + max(map(len, labels))))  # a page is about 110 characters wide
    axes.get_figure().legend(handles, labels, loc="outside upper left", ncols=columns)


def plain_log_ticks(axis: Axis) -> None:
    """Label a logarithmic axis at 1, 2 and 5 times the powers of ten, without exponents."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def thinned(count: int, most: int) -> np.ndarray:
    """Indices of at most `most` of `count` points, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))
