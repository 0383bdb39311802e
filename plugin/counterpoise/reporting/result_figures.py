"""Figures of what an evaluation found."""

from collections.abc import Mapping, Sequence

import numpy as np

from counterpoise.evaluation import ClassResult
from counterpoise.evaluation.average_precision import RECALLS
from counterpoise.evaluation.matching import ClassMatches
from counterpoise.evaluation.operating_points import Curve, precision_recall_curve
from counterpoise.evaluation.results import training_count
from counterpoise.pages.figures import COLOURS, WIDE, figure, figure_uri, palette
from counterpoise.pages.labels import short
from counterpoise.pages.plots import ap_against_count, heatmap, thinned

#: Curves with a line of their own; above that the rarest classes that are
#: found at all have one, and the mean.
MAX_CURVES = 10
#: Classes with a bar of their own in the error types.
MAX_BARS = 20

_CURVES_BESIDE_MEAN = 7
_POINTS_PER_CURVE = 400


def ap_against_training_boxes(classes: Sequence[ClassResult]) -> tuple[str, int] | None:
    """Draw AP with its interval against the number of training boxes.

    Args:
        classes: of an evaluation.

    Returns:
        the figure as a data URI and the number of classes whose name found no room; None where no
        class has both numbers.
    """
    known = [c for c in classes if c.AP is not None and c.train_boxes is not None]
    if not known:
        return None
    known.sort(key=lambda c: c.train_boxes)
    bars = np.array([c.AP_interval or (c.AP, c.AP) for c in known])
    counts, values = [c.train_boxes for c in known], {"": [c.AP for c in known]}
    return ap_against_count([c.name for c in known], counts, values, bars)


def precision_recall_curves(classes: Sequence[ClassResult], matches: Sequence[ClassMatches]) -> str:
    """Draw precision against recall at IoU 0.50, and where the thresholds cut.

    Args:
        classes: of an evaluation, at least one with test boxes.
        matches: of the same classes.

    Returns:
        the figure as a data URI.
    """
    known = [k for k, c in enumerate(classes) if matches[k].num_gt]
    curves = {k: precision_recall_curve(matches[k]) for k in known}
    shown = known
    if len(known) > MAX_CURVES:
        found = [k for k in known if classes[k].AP50]  # a curve along the axis says nothing
        rarest = sorted(found, key=lambda k: (training_count(classes[k]), k))
        shown = rarest[:_CURVES_BESIDE_MEAN]
    with figure(WIDE, 4.6) as drawn:
        axes = drawn.subplots()
        for i, (k, colour) in enumerate(zip(shown, palette(len(shown)), strict=True)):
            result, curve = classes[k], curves[k]
            dash = "-" if i < len(COLOURS) else "--"  # tells apart the colours which repeat
            at = thinned(len(curve.scores), _POINTS_PER_CURVE)
            axes.plot(
                curve.recall[at], curve.precision[at], dash,
                color=colour, linewidth=1.6, label=f"{short(result.name)} (AP50 {result.AP50:.1f})",
            )  # fmt: skip
            if result.precision is not None:
                axes.plot(
                    result.recall / 100, result.precision / 100, "o", color=colour,
                    markeredgecolor="white", markersize=8,
                )  # fmt: skip
        if shown is not known:
            mean = np.mean([_interpolated(curve) for curve in curves.values()], axis=0)
            axes.plot(
                RECALLS, mean, color="black", linewidth=2, label=f"mean of {len(known)} classes"
            )
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02))
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        return figure_uri(drawn)


def confusion_heatmap(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Draw a confusion matrix, coloured by the share of its row.

    Args:
        names: K classes.
        counts: (K + 1, K + 1), the background last.

    Returns:
        the figure as a data URI.
    """
    counts = np.asarray(counts)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    share[-1, -1] = np.nan  # background found as background is nothing that can be counted
    labels = {"xlabel": "predicted class", "ylabel": "true class"}
    return heatmap(counts, [*names, "background"], share, **labels)


def error_bars(lost: Mapping[str, Mapping[str, float]]) -> str:
    """Draw the AP50 that each error type costs, a panel per type with a bar per class.

    The bars are not stacked, because what the types cost does not add up.

    Args:
        lost: AP50 by error type, by class name; at least one class. Above :data:`MAX_BARS` classes,
            those that lose most to a single type are shown.

    Returns:
        the figure as a data URI.
    """
    names = list(lost)
    if len(names) > MAX_BARS:
        names = sorted(names, key=lambda name: -max(lost[name].values()))[:MAX_BARS]
    types = list(lost[names[0]])
    values = np.array([[lost[name][each] for each in types] for name in names])
    low, high = min(values.min(), 0), max(values.max(), 1)
    with figure(WIDE, 0.9 + 0.28 * len(names)) as drawn:
        panels = drawn.subplots(1, len(types), sharex=True, sharey=True)
        for panel, own, each, colour in zip(
            panels, values.T, types, palette(len(types)), strict=True
        ):
            bars = panel.barh(range(len(names)), own, height=0.7, color=colour)
            panel.bar_label(bars, [f"{value:.1f}" for value in own], padding=2, fontsize=8)
            panel.set_title(each, fontsize=10, loc="left")
            panel.grid(axis="y", visible=False)
        panels[0].set_yticks(range(len(names)), map(short, names))
        panels[0].set_ylim(len(names) - 0.5, -0.5)
        # Fixing an error may cost a little: it moves a detection to another class.
        margin = 0.35 * (high - low)
        panels[0].set_xlim(low - margin if low < 0 else 0, high + margin)
        drawn.supxlabel("AP50 lost", fontsize=10)
        return figure_uri(drawn)


def _interpolated(curve: Curve) -> np.ndarray:
    """Highest precision at each of 101 recalls or above it."""
    envelope = np.r_[np.maximum.accumulate(curve.precision[::-1])[::-1], 0.0]
    return envelope[np.searchsorted(curve.recall, RECALLS, side="left")]
