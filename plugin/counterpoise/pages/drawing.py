"""Boxes with labels drawn into images."""

from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
from matplotlib.font_manager import findfont, fontManager, get_font
from PIL import Image, ImageDraw, ImageFont


def draw_boxes(
    pixels: np.ndarray, boxes: np.ndarray, labels: Sequence[str], colours: Sequence[str]
) -> np.ndarray:
    """Draw boxes with their labels above them, or inside where there is no room.

    Args:
        pixels: (H, W, 3), uint8, RGB.
        boxes: (n, 4), XYXY in pixels.
        labels: n texts.
        colours: n colours, ``#rrggbb``.

    Returns:
        a new image of the same shape and dtype.
    """
    image = Image.fromarray(pixels)
    canvas = ImageDraw.Draw(image)
    size = max(11, round(max(image.size) / 55))
    for (x0, y0, x1, y1), label, colour in zip(boxes.tolist(), labels, colours, strict=True):
        corners = (max(x0, 0), max(y0, 0), min(x1, image.width - 1), min(y1, image.height - 1))
        if corners[0] > corners[2] or corners[1] > corners[3]:
            continue
        canvas.rectangle(corners, outline=colour, width=max(2, size // 6))
        _, _, width, height = canvas.textbbox((0, 0), label, font=_font(label, size))
        left = max(0, min(corners[0], image.width - width - 6))
        above = corners[1] - height - 4
        top = above if above >= 0 else corners[1]
        canvas.rectangle((left, top, left + width + 6, top + height + 4), fill=colour)
        canvas.text((left + 3, top + 1), label, fill=_ink(colour), font=_font(label, size))
    return np.asarray(image)


def _ink(colour: str) -> str:
    """Black or white, whichever has the higher contrast (WCAG 2.2) on a colour."""
    shares = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    return "white" if 1.05 / (luminance + 0.05) >= (luminance + 0.05) / 0.05 else "black"


def _font(text: str, size: int) -> ImageFont.FreeTypeFont:
    return _opened(font_file(frozenset(text)), size)


@lru_cache(maxsize=16)  # images of other sizes need other ones
def _opened(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


@cache
def font_file(characters: frozenset[str]) -> str:
    """Find a font that has all characters of a text, which may be of any script.

    Returns:
        the file of DejaVu Sans, which ships with matplotlib, or where that lacks a character of the
        first installed font that has them all; DejaVu Sans again where none has.
    """
    default = findfont("DejaVu Sans")
    # The "last resort" font has a box for every character there is.
    installed = sorted(f.fname for f in fontManager.ttflist if "Last Resort" not in f.name)
    return next((f for f in (default, *installed) if characters <= _characters(f)), default)


@cache
def _characters(file: str) -> frozenset[str]:
    return frozenset(map(chr, get_font(file).get_charmap()))
