"""Figures of how a training went."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from counterpoise.pages.figures import COLOURS, WIDE, figure, figure_uri
from counterpoise.pages.labels import short
from counterpoise.pages.plots import panels, plain_log_ticks
from counterpoise.reporting.metrics_file import Series
from counterpoise.training.class_loss_file import ClassLosses

#: Classes with a colour of their own in the shares; all others are one area.
MAX_CLASSES = 7

_MAX_POINTS = 1000
_MAX_RECORDS = 150
_BACKGROUND = "#c9cfd4"


def loss_curves(metrics: Mapping[str, Series], lr_steps: Sequence[int] = ()) -> str | None:
    """Draw every loss, the learning rate and AP on the test sets, one panel each.

    Args:
        metrics: scalars of the training.
        lr_steps: iterations at which the learning rate is lowered, marked in every panel.

    Returns:
        the figure as a data URI; None where no loss was logged.
    """
    losses = sorted(name for name in metrics if name.startswith("loss"))
    losses = [name for name in ("total_loss", *losses) if name in metrics]
    if not losses:
        return None
    evaluated = [
        name for name in metrics if name.endswith("bbox/AP") and len(metrics[name].values) > 1
    ]
    names = [*losses, *(["lr"] if "lr" in metrics else []), *evaluated]
    last = max(metrics[name].iterations[-1] for name in names)
    titles = {"lr": "learning rate", "bbox/AP": "AP on the test set"}
    with panels(len(names), 2.3) as (drawn, all_axes):
        for name, panel in zip(names, all_axes, strict=True):
            if name in losses:
                _draw_loss(panel, metrics[name])
            else:
                mark = "o-" if name in evaluated else "-"
                panel.plot(*metrics[name], mark, color=COLOURS[0], markersize=3, linewidth=1.4)
                panel.set_ylim(bottom=0)
            panel.set_title(titles.get(name, name), fontsize=10, loc="left")
            for step in lr_steps:
                if step <= last:
                    panel.axvline(step, color="#888888", linewidth=0.8, linestyle=(0, (4, 3)))
            panel.set_xlim(0, max(last, 1))
            panel.locator_params(axis="x", nbins=5)
        drawn.supxlabel("iteration", fontsize=10)
        return figure_uri(drawn)


def rolling_median(values: np.ndarray, window: int) -> np.ndarray:
    """Median around each of N values, over the part of the window that lies inside.

    Args:
        values: (N,) float64; NaN is left out.
        window: odd, >= 1.

    Returns:
        (N,) float64; NaN where the window holds nothing else.
    """
    padded = np.pad(values.astype(np.float64), window // 2, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, window)
    known = np.isfinite(windows).any(axis=1)
    medians = np.full(len(values), np.nan)
    medians[known] = np.nanmedian(windows[known], axis=1)
    return medians


def class_loss_areas(shares: ClassLosses) -> str:
    """Draw the share of each class in the classification loss, stacked, the background on top.

    Args:
        shares: at least one record. Above :data:`MAX_CLASSES` classes, those of the smallest shares
            are one area.

    Returns:
        the figure as a data URI.
    """
    iterations, values = _thinned(np.array(shares.iterations), shares.shares)
    *names, background = shares.names
    order = np.argsort(-values[:, :-1].mean(axis=0), kind="stable")
    own = order if len(order) <= MAX_CLASSES else order[: MAX_CLASSES - 1]
    areas = [(names[k], values[:, k], COLOURS[i]) for i, k in enumerate(own)]
    if rest := order[len(own) :].tolist():
        areas.append((f"{len(rest)} other classes", values[:, rest].sum(axis=1), COLOURS[-1]))
    areas.append((background, values[:, -1], _BACKGROUND))
    # A record holds the iterations since the one before it.
    edges = np.r_[0, iterations]
    with figure(WIDE, 3.4) as drawn:
        axes = drawn.subplots()
        stacks = axes.stackplot(
            edges,
            [100 * np.r_[share[0], share] for _, share, _ in areas],
            colors=[colour for *_, colour in areas],
            step="pre",
        )
        axes.set(xlabel="iteration", ylabel="share of the classification loss (%)", ylim=(0, 100))
        axes.set_xlim(0, max(edges[-1], 1))
        axes.legend(
            stacks[::-1],
            [short(name) for name, *_ in areas][::-1],
            loc="center left",
            bbox_to_anchor=(1, 0.5),
        )
        return figure_uri(drawn)


def _draw_loss(panel: Axes, series: Series) -> None:
    iterations = series.iterations
    values = np.where(np.isfinite(series.values), series.values, np.nan)
    smooth = rolling_median(values, 2 * (len(values) // 20) + 1)
    every = -(-len(values) // _MAX_POINTS)
    panel.plot(iterations[::every], values[::every], color=COLOURS[0], linewidth=0.8, alpha=0.35)
    mark = "-" if len(values) > 1 else "o"
    panel.plot(iterations[::every], smooth[::every], mark, color=COLOURS[0], linewidth=1.6)
    known = values[np.isfinite(values)]
    if len(known) and known.min() > 0 and known.max() > 10 * known.min():
        panel.set_yscale("log")
        plain_log_ticks(panel.yaxis)
    else:
        panel.set_ylim(bottom=min(0, known.min(initial=0)))


def _thinned(iterations: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Averages over equal runs of records, so that the figure stays small."""
    parts = np.array_split(np.arange(len(iterations)), min(len(iterations), _MAX_RECORDS))
    return iterations[[p[-1] for p in parts]], np.stack([shares[p].mean(axis=0) for p in parts])
