"""Figures of an ablation, as data URIs."""

from counterpoise.ablation.summary import DatasetSummary
from counterpoise.pages.figures import WIDE, figure, figure_uri, palette
from counterpoise.pages.labels import short
from counterpoise.pages.plots import legend_above

_NAME_WIDTH = 40


def differences(summary: DatasetSummary) -> str:
    """Draw the difference in AP of every variant but the baseline, with its interval.

    Args:
        summary: of two variants or more.
    """
    others = [variant for variant in summary.variants[1:] if variant.seeds]
    kinds = {"all classes": [variant.AP for variant in others]}
    kinds |= {group: [variant.groups[group] for variant in others] for group in summary.groups}
    colours = palette(len(kinds))
    pitch = 0.7 / len(kinds)
    with figure(WIDE, 1.2 + len(others) * max(0.3, 0.16 * len(kinds))) as drawn:
        axes = drawn.subplots()
        for i, ((name, estimates), colour) in enumerate(zip(kinds.items(), colours, strict=True)):
            for row, own in enumerate(estimates):
                if own.difference is None:
                    continue
                y = row + (i - (len(kinds) - 1) / 2) * pitch
                if own.interval is not None:
                    axes.plot(own.interval, (y, y), color=colour, linewidth=1.6)
                fill = colour if own.excludes_zero else "white"
                axes.plot(own.difference, y, "o", color=colour, markerfacecolor=fill, markersize=6)
            axes.plot([], [], "o", color=colour, label=name)
        axes.axvline(0, color="#444444", linewidth=1)
        axes.set_yticks(range(len(others)), [short(own.name, _NAME_WIDTH) for own in others])
        axes.set_ylim(len(others) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"AP minus that of {summary.baseline.name}, with 95 % interval")
        if len(kinds) > 1:
            legend_above(axes)
        return figure_uri(drawn)
