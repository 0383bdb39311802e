"""Figures of an inspection, as data URIs."""

import numpy as np
from matplotlib.ticker import NullFormatter
from PIL import Image, ImageDraw

from counterpoise.datasets.reading import read_image
from counterpoise.inspection.anchor_changes import Anchors
from counterpoise.inspection.results import Inspection, Sample
from counterpoise.pages.figures import figure, figure_uri, image_uri, palette
from counterpoise.pages.labels import short
from counterpoise.pages.plots import bars_side_by_side, heatmap
from counterpoise.utils.images import UnreadableImageError

_MOST_LABELS = 40  # classes whose names fit beside a figure
_LABEL = 24  # characters of a class name in a figure
_LOG_BASE = 0.7  # where bars begin on a log axis, so that one box is seen
_SAMPLE_SIDE = 480  # pixels of a sample's long side
_RARE, _OTHER = palette(2)[1], "#9fb4c4"


def draw_counts(inspection: Inspection) -> str:
    """Draw the boxes per class and split on a logarithmic axis."""
    order, splits = inspection.by_boxes, inspection.splits
    boxes = {split.name: [split.classes[i].boxes for i in order] for split in splits}
    labelled = len(order) <= _MOST_LABELS
    height = 0.9 + len(order) * max(0.24, 0.13 * len(splits)) if labelled else 4.0
    with figure(height=height) as drawn:
        axes = drawn.subplots()
        if labelled:
            names = [short(inspection.class_names[i], _LABEL) for i in order]
            bars_side_by_side(axes, names, boxes)
            axes.invert_yaxis()
            axes.set(xscale="log", xlabel="boxes (log scale)")
            axes.set_xlim(left=_LOG_BASE)
            axes.xaxis.set_major_formatter("{x:g}")
        else:
            for (name, own), colour in zip(boxes.items(), palette(len(boxes)), strict=True):
                axes.bar(range(len(own)), own, 1.0, color=colour, alpha=0.6, label=name)
            axes.set(yscale="log", ylabel="boxes (log scale)")
            axes.set_xlabel("classes by descending number of boxes")
            axes.set_ylim(bottom=_LOG_BASE)
            axes.yaxis.set_major_formatter("{x:g}")
            axes.grid(visible=False, axis="x")
        if len(splits) > 1:
            axes.legend()
        return figure_uri(drawn)


def draw_sizes(anchors: Anchors) -> str:
    """Draw the sizes of the boxes, and those of the anchors."""
    with figure(height=3.0) as drawn:
        axes = drawn.subplots()
        blue, orange = palette(2)
        axes.stairs(anchors.histogram_counts, anchors.histogram_edges, fill=True, color=blue)
        sizes = sorted({size for level in anchors.setting.sizes for size in level})
        for i, size in enumerate(sizes):
            axes.axvline(size, color=orange, linewidth=1.4, label=None if i else "anchor sizes")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
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
    names = [inspection.class_names[i] for i in order]
    return heatmap(matrix, names, share, "share of the row's images")


def draw_sample(sample: Sample) -> str | None:
    """Draw an image with its boxes, the rare class on top; None where it cannot be read."""
    try:
        pixels = read_image(sample.file, "RGB")
    except UnreadableImageError:
        return None
    picture = Image.fromarray(pixels)
    scale = min(1.0, _SAMPLE_SIDE / max(picture.size))
    picture = picture.resize([max(1, round(side * scale)) for side in picture.size])
    draw = ImageDraw.Draw(picture)
    for name, box in sorted(sample.boxes, key=lambda found: found[0] == sample.class_name):
        rare = name == sample.class_name
        corners = [value * scale for value in box]
        draw.rectangle(corners, outline=_RARE if rare else _OTHER, width=3 if rare else 1)
    return image_uri(np.asarray(picture))
