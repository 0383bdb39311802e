"""Figures of an inspection, as data URIs."""

import numpy as np
from detectron2.data.detection_utils import read_image
from matplotlib.colors import ListedColormap
from matplotlib.ticker import NullFormatter, StrMethodFormatter
from PIL import Image, ImageDraw

from counterpoise.inspection.results import Anchors, Inspection, Sample
from counterpoise.pages.figures import figure, figure_uri, image_uri, palette
from counterpoise.pages.labels import short

_MOST_LABELS = 40  # classes whose names fit beside a figure
_MOST_NUMBERS = 12  # classes whose numbers fit into the cells of the heatmap
_LABEL = 24  # characters of a class name in a figure
_LOG_BASE = 0.7  # where bars begin on a log axis, so that one box is seen
_SAMPLE_SIDE = 480  # pixels of a sample's long side
_RARE, _OTHER = palette(2)[1], "#9fb4c4"


def draw_counts(inspection: Inspection) -> str:
    """Draw the boxes per class and split on a logarithmic axis."""
    order = inspection.by_boxes
    splits = inspection.splits
    labelled = len(order) <= _MOST_LABELS
    thickness = 0.8 / len(splits)
    height = 0.9 + len(order) * max(0.24, 0.13 * len(splits)) if labelled else 4.0
    with figure(height=height) as drawn:
        axes = drawn.add_subplot()
        rows = np.arange(len(order))
        for k, (split, colour) in enumerate(zip(splits, palette(len(splits)), strict=True)):
            boxes = [split.classes[i].boxes for i in order]
            if labelled:
                at = rows + (k - (len(splits) - 1) / 2) * thickness
                axes.barh(at, boxes, thickness, color=colour, label=split.name)
            else:
                axes.bar(rows, boxes, 1.0, color=colour, alpha=0.6, label=split.name)
        values, ranks = (axes.xaxis, axes.yaxis) if labelled else (axes.yaxis, axes.xaxis)
        if labelled:
            axes.set_xscale("log")
            axes.set_xlim(left=_LOG_BASE)
            axes.set_yticks(rows, _labels(inspection, order))
            axes.invert_yaxis()
        else:
            axes.set_yscale("log")
            axes.set_ylim(bottom=_LOG_BASE)
            ranks.set_label_text("classes by descending number of boxes")
        values.set_label_text("boxes (log scale)")
        values.set_major_formatter(StrMethodFormatter("{x:g}"))
        ranks.grid(False)
        if len(splits) > 1:
            axes.legend()
        return figure_uri(drawn)


def draw_sizes(anchors: Anchors) -> str:
    """Draw the sizes of the boxes, and those of the anchors."""
    with figure(height=3.0) as drawn:
        axes = drawn.add_subplot()
        blue, orange = palette(2)
        axes.stairs(anchors.histogram_counts, anchors.histogram_edges, fill=True, color=blue)
        sizes = sorted({size for level in anchors.sizes for size in level})
        for i, size in enumerate(sizes):
            axes.axvline(size, color=orange, linewidth=1.4, label=None if i else "anchor sizes")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("square root of the area, pixels of the resized image (log scale)")
        axes.set_ylabel("boxes")
        axes.legend()
        return figure_uri(drawn)


def draw_cooccurrence(inspection: Inspection) -> str:
    """Draw how many images hold both classes, coloured by their share of the row."""
    order = inspection.by_boxes
    matrix = np.array(inspection.cooccurrence)[np.ix_(order, order)]
    share = matrix / matrix.diagonal()[:, None].clip(min=1)
    side = min(2.2 + 0.55 * len(order), 8.0)
    with figure(width=side + 1.2, height=side) as drawn:
        axes = drawn.add_subplot()
        image = axes.imshow(share, cmap=_blues(), vmin=0, vmax=1, interpolation="nearest")
        if len(order) <= _MOST_LABELS:
            names = _labels(inspection, order)
            axes.set_xticks(
                range(len(order)), names, rotation=60, ha="right", rotation_mode="anchor"
            )
            axes.set_yticks(range(len(order)), names)
        if len(order) <= _MOST_NUMBERS:
            for (i, j), number in np.ndenumerate(matrix):
                colour = "white" if share[i, j] > 0.5 else "black"
                axes.text(j, i, number, ha="center", va="center", color=colour, fontsize=9)
        axes.grid(False)
        drawn.colorbar(image, label="share of the row's images", shrink=0.8)
        return figure_uri(drawn)


def _labels(inspection: Inspection, order: list[int]) -> list[str]:
    return [short(inspection.class_names[i], _LABEL) for i in order]


def _blues() -> ListedColormap:
    """White to the first colour of the pages."""
    dark = np.array([int(palette(1)[0][i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return ListedColormap([1 - t * (1 - dark) for t in np.linspace(0, 1, 64)])


def draw_sample(sample: Sample) -> str | None:
    """Draw an image with its boxes, the rare class on top; None where it cannot be read."""
    try:
        pixels = read_image(sample.file, "RGB")
    except Exception:  # Pillow's plugins raise anything on broken files
        return None
    picture = Image.fromarray(pixels)
    scale = min(1.0, _SAMPLE_SIDE / max(picture.size))
    picture = picture.resize([max(1, round(side * scale)) for side in picture.size])
    draw = ImageDraw.Draw(picture)
    for found in sorted(sample.boxes, key=lambda found: found.class_name == sample.class_name):
        rare = found.class_name == sample.class_name
        corners = [value * scale for value in found.box]
        draw.rectangle(corners, outline=_RARE if rare else _OTHER, width=3 if rare else 1)
    return image_uri(np.asarray(picture))
