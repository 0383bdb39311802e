"""Average precision against the number of training boxes."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from counterpoise.pages.figures import WIDE, figure, figure_uri
from counterpoise.pages.labels import label_points

_MANY = 25  # names that are written in a smaller font


def ap_against_count(
    names: Sequence[str],
    counts: Sequence[int],
    values: Mapping[str, Sequence[float]],
    colours: Sequence[str],
    bars: np.ndarray,
) -> tuple[str, int]:
    """Draw a point per class and run on a logarithmic axis.

    Args:
        names: n classes, at least one; the first ones have a name in any case.
        counts: n numbers of training boxes.
        values: n APs by run; the runs have a legend where they are several.
        colours: one per run.
        bars: (n, 2), from where to where a line is drawn at each class.

    Returns:
        the figure as a data URI, and the number of classes whose name found no room.
    """
    at, highest = np.array(counts), np.max(list(values.values()), axis=0)
    with figure(WIDE, 4.2) as drawn:
        axes = drawn.subplots()
        axes.vlines(at, *bars.T, color="#b9c0c5", linewidth=1.6, zorder=1)
        for (run, own), colour in zip(values.items(), colours, strict=True):
            axes.plot(at, own, "o", color=colour, markersize=5.5, label=run)
        if at.min() > 0:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        else:  # a class that is in no training image has no place on a logarithmic axis
            axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.1)
        axes.set_ylim(0, min(max(1.12 * bars.max(), 10), 104))
        axes.set(xlabel="boxes in the training set (logarithmic)", ylabel="AP")
        if len(values) > 1:
            columns = max(1, 110 // (8 + max(map(len, values))))
            drawn.legend(loc="outside upper left", ncols=columns)
        fontsize = 9 if len(names) <= _MANY else 8
        unnamed = label_points(axes, np.stack([at, highest], axis=1), names, bars, fontsize)
        return figure_uri(drawn), unnamed
