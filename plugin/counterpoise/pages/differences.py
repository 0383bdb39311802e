"""Differences from a baseline with their intervals: as cells of a table and as a plot."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from matplotlib.axes import Axes

from counterpoise.evaluation.results import Interval
from counterpoise.pages.figures import WIDE, figure, figure_uri
from counterpoise.pages.labels import short
from counterpoise.pages.plots import legend_above
from counterpoise.utils.table import Cell
from counterpoise.utils.text import signed, signed_interval


class Compared(Protocol):
    """A value beside that of a baseline.

    Attributes:
        difference: from the baseline's; None for the baseline itself, or where either is missing.
        interval: of the difference, 95 %, or None.
        excludes_zero: whether the interval does.
    """

    difference: float | None
    interval: Interval | None
    excludes_zero: bool


def tone(own: Compared) -> str:
    """Tone of a :class:`Cell`: a difference whose interval excludes 0 is good or bad."""
    if not own.excludes_zero:
        return ""
    return "good" if own.difference > 0 else "bad"


def difference_cell(own: Compared, digits: int = 1) -> Cell:
    """The difference, its interval in brackets, and its tone."""
    note = "" if own.interval is None else f"({signed_interval(own.interval)})"
    return Cell(signed(own.difference, digits), note, tone(own))


def difference_plot(
    names: Sequence[str],
    series: Mapping[str, Sequence[Compared]],
    colours: Sequence[str],
    baseline: str,
    row_height: float,
    line_after: int | None = None,
) -> str:
    """Draw differences in AP from the top down, filled where the interval excludes 0.

    Args:
        names: of the n rows.
        series: by name, n values each; several have a legend.
        colours: one per series.
        baseline: name of what is compared with.
        row_height: in inches.
        line_after: number of rows after which a line is drawn; None for none.

    Returns:
        the figure as a data URI.
    """
    pitch = 0.7 / len(series)
    with figure(WIDE, 1.2 + len(names) * row_height) as drawn:
        axes = drawn.subplots()
        for i, ((name, values), colour) in enumerate(zip(series.items(), colours, strict=True)):
            shift = (i - (len(series) - 1) / 2) * pitch
            for row, own in enumerate(values):
                _draw(axes, row + shift, own, colour)
            axes.plot([], [], "o", color=colour, label=short(name))
        axes.axvline(0, color="#444444", linewidth=1)
        if line_after is not None:
            axes.axhline(line_after - 0.5, color="#9aa2a8", linewidth=0.8)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"AP minus that of {baseline}, with 95 % interval")
        if len(series) > 1:
            legend_above(axes)
        return figure_uri(drawn)


def _draw(axes: Axes, y: float, own: Compared, colour: str) -> None:
    if own.difference is None:
        return
    if own.interval is not None:
        axes.plot(own.interval, (y, y), color=colour, linewidth=1.6)
    fill = colour if own.excludes_zero else "white"
    axes.plot(own.difference, y, "o", color=colour, markerfacecolor=fill, markersize=6)
