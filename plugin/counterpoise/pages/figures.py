"""Plots and pictures as data URIs, so that a page needs no file beside it."""

import base64
import contextlib
import io
import warnings
from collections.abc import Iterator

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

#: Colours that remain apart for colour-blind readers (Okabe and Ito, 2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#666666")

#: Inches of the page's whole width.
WIDE = 10.6

_STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "font.size": 10,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text, so that the reader's fonts show any script
    "svg.hashsalt": "counterpoise",
    "text.parse_math": False,  # a class name may hold dollar signs
}


@contextlib.contextmanager
def figure(width: float = 7.0, height: float = 3.6) -> Iterator[Figure]:
    """Give a figure in the style of the pages; draw on it inside the ``with`` block.

    The style is in force inside the block only, so :func:`figure_uri` is to be called there too.

    Args:
        width, height: in inches.
    """
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # The font that measures the text lacks some scripts; the one that shows it need not.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        drawn = Figure(figsize=(width, height), layout="constrained")
        # A browser sets text up to a tenth wider than it was measured.
        drawn.get_layout_engine().set(w_pad=0.12)
        yield drawn


def palette(n: int) -> list[str]:
    """Return n colours; they repeat after eight."""
    return [COLOURS[i % len(COLOURS)] for i in range(n)]


def figure_uri(drawn: Figure) -> str:
    """Render a figure as an SVG data URI."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def image_uri(pixels: np.ndarray, quality: int = 80) -> str:
    """Encode an image as a JPEG data URI.

    Args:
        pixels: (H, W, 3), uint8, RGB.
        quality: of the JPEG, 1-95.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
