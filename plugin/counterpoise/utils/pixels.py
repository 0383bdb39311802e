"""Pixels of more than 8 bits, which Pillow would cut off at 255 instead of scaling them."""

import numpy as np
from PIL import Image

#: Shares of the pixels between which the values are spread: a few dead or hot pixels of a sensor
#: must not make the rest black or white.
LOW, HIGH = 0.001, 0.999
_SAMPLE = 1_000_000  # pixels that suffice for the quantiles


def is_deep(mode: str) -> bool:
    """Whether Pillow's mode is one of 16 or 32 bits a sample, whole numbers or floats."""
    return mode in ("I", "F") or mode.startswith("I;16")


def to_8_bits(image: Image.Image) -> Image.Image:
    """Scale an image of more than 8 bits to grey levels; any other one is returned as it is.

    Its quantiles :data:`LOW` and :data:`HIGH` become 0 and 255, or its smallest and largest value
    where those are equal. No fixed divisor fits: cameras fill 10, 12, 14 or 16 of the 16 bits, and
    floats hold any unit. Values that are not finite become 0.

    Args:
        image: of any mode.
    """
    if not is_deep(image.mode):
        return image
    return Image.fromarray(scaled_to_8_bits(np.asarray(image)))


def scaled_to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Scale samples of more than 8 bits as :func:`to_8_bits` does.

    Args:
        pixels: of any shape, whole numbers or floats.

    Returns:
        uint8.
    """
    values = pixels.astype(np.float64)
    finite = np.isfinite(values)
    known = values[finite]
    if not known.size:
        return np.zeros(values.shape, np.uint8)
    low, high = np.quantile(known[:: -(-known.size // _SAMPLE)], (LOW, HIGH))
    if low == high:
        low, high = known.min(), known.max()
    scaled = (np.where(finite, values, low) - low) * (255 / ((high - low) or 1.0))
    return scaled.clip(0, 255).round().astype(np.uint8)
