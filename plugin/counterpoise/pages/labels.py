"""Names in plots: short, and beside points so that none lies over another."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

_GAP = 7.0  # pixels between a point and its name
_REACH = 4.0  # pixels that a marker reaches beyond its point
_SIDES = np.array([(1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1)])


def short(name: str, limit: int = 30) -> str:
    """Cut a long name, and let matplotlib's legends show one that begins with an underscore."""
    name = name if len(name) <= limit else f"{name[: limit - 1]}\N{HORIZONTAL ELLIPSIS}"
    return f" {name}" if name.startswith("_") else name


def label_points(
    axes: Axes, points: np.ndarray, names: Sequence[str], bars: np.ndarray, fontsize: float = 9
) -> int:
    """Write a name beside each point where there is room for it; earlier points come first.

    A name lies over no other name and no point, and over a bar only where it has no better place.

    Args:
        axes: with its limits and scales set.
        points: (n, 2), in data coordinates.
        names: n texts.
        bars: (n, 2), lowest and highest y of what is drawn at each point.
        fontsize: in points.

    Returns:
        how many names found no room and were left out.
    """
    figure = axes.get_figure()
    figure.draw_without_rendering()  # settles the layout, and with it the pixels
    frame = axes.get_window_extent()
    at = axes.transData.transform(points)
    ends = [axes.transData.transform(np.stack([points[:, 0], y], axis=1)) for y in bars.T]
    bar_boxes = np.concatenate([ends[0] - _REACH, ends[1] + _REACH], axis=1)
    taken = np.concatenate([at - _REACH, at + _REACH], axis=1)
    left_out = 0
    for point, (x, y), name in zip(points, at, names, strict=True):
        text = axes.annotate(
            short(name), point, (0, 0), textcoords="offset points", va="bottom", fontsize=fontsize
        )
        size = np.array(text.get_window_extent().size)
        corners = np.array([x, y]) + _SIDES * _GAP - size * (1 - _SIDES) / 2
        boxes = np.concatenate([corners, corners + size], axis=1)
        free = [
            box
            for box in boxes
            if (box[:2] >= frame.min).all()
            and (box[2:] <= frame.max).all()
            and not _overlaps(box, taken)
        ]
        if not free:
            text.remove()
            left_out += 1
            continue
        best = next((box for box in free if not _overlaps(box, bar_boxes)), free[0])
        text.xyann = 72 / figure.dpi * (best[:2] - [x, y])
        taken = np.vstack([taken, best])
    return left_out


def _overlaps(box: np.ndarray, others: np.ndarray) -> bool:
    apart = (others[:, :2] >= box[2:]) | (others[:, 2:] <= box[:2])
    return not apart.any(axis=1).all()
