"""Sizes of plain JPEG and PNG files from their first bytes, ten times as fast as opening them.

Only what is certain is answered: a header with metadata, which may turn the image, or with anything
unusual is left to Pillow.
"""

import zlib
from typing import NamedTuple

_LARGEST = 50_000_000  # pixels; Pillow warns of, and then refuses, what is much larger

# ITU-T T.81, table B.1. Frames that every decoder reads: baseline, extended and progressive.
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
# Tables, restart interval, comment, JFIF, ICC profiles (APP2, unless it is an MPO index) and
# Adobe's colour transform.
_PLAIN_SEGMENTS = frozenset({0xC4, 0xDB, 0xDD, 0xE0, 0xE2, 0xEE, 0xFE})
_QUANTIZATION, _SCAN = 0xDB, 0xDA
_JPEG_MODES = {1: "L", 3: "RGB", 4: "CMYK"}  # by the number of components

_PNG = b"\x89PNG\r\n\x1a\n"
# Chunks before the pixels that hold neither EXIF nor XMP (PNG, third edition, section 11).
_PLAIN_CHUNKS = frozenset(b"PLTE bKGD cHRM gAMA hIST iCCP pHYs sBIT sRGB tIME tRNS".split())
# Bit depth and colour type: all that the standard allows (section 11.2.1).
_PNG_MODES = {
    **{(bits, 0): "L" for bits in (2, 4, 8)},
    **{(bits, 3): "P" for bits in (1, 2, 4, 8)},
    **dict.fromkeys([(8, 2), (16, 2)], "RGB"),
    **dict.fromkeys([(8, 4), (16, 4)], "LA"),
    **dict.fromkeys([(8, 6), (16, 6)], "RGBA"),
    (1, 0): "1",
    (16, 0): "I;16",
}


class PlainSize(NamedTuple):
    """Format and mode by Pillow's names, and the size in pixels."""

    format: str
    width: int
    height: int
    mode: str


def plain_size(head: bytes) -> PlainSize | None:
    """Return the size that a header states; None where Pillow has to look.

    Args:
        head: the first bytes of a file.
    """
    if head.startswith(b"\xff\xd8\xff"):
        size = _jpeg_size(head)
    elif head.startswith(_PNG):
        size = _png_size(head)
    else:
        return None
    return size if size is not None and 0 < size.width * size.height < _LARGEST else None


def _jpeg_size(head: bytes) -> PlainSize | None:
    at, size = 2, None
    while at + 10 <= len(head) and head[at] == 0xFF:
        marker, length = head[at + 1], int.from_bytes(head[at + 2 : at + 4], "big")
        body = head[at + 4 : at + 2 + length]
        if len(body) != length - 2:
            return None
        if marker == _SCAN:
            return size
        if marker in _FRAMES and size is None and _is_frame(body):
            height, width = (int.from_bytes(head[i : i + 2], "big") for i in (at + 5, at + 7))
            size = PlainSize("JPEG", width, height, _JPEG_MODES[body[5]])
        elif marker not in _PLAIN_SEGMENTS or body.startswith(b"MPF\0"):
            return None
        elif marker == _QUANTIZATION and (len(body) % 65 or any(v >> 4 for v in body[::65])):
            return None  # not tables of 64 bytes
        at += 2 + length
    return None


def _is_frame(body: bytes) -> bool:
    """Whether a frame header has 8 bits a sample, and 1, 3 or 4 components of three bytes each."""
    components = body[5:6]
    return (
        body[:1] == b"\x08"
        and components in (b"\1", b"\3", b"\4")
        and len(body) == 6 + 3 * components[0]
    )


def _png_size(head: bytes) -> PlainSize | None:
    at, size = len(_PNG), None
    while at + 8 <= len(head):
        length, kind = int.from_bytes(head[at : at + 4], "big"), head[at + 4 : at + 8]
        if kind == b"IDAT":
            return size
        end = at + 12 + length
        if zlib.crc32(head[at + 4 : end - 4]).to_bytes(4, "big") != head[end - 4 : end]:
            return None
        if kind == b"IHDR" and length == 13 and (head[at + 16], head[at + 17]) in _PNG_MODES:
            width, height = (int.from_bytes(head[i : i + 4], "big") for i in (at + 8, at + 12))
            size = PlainSize("PNG", width, height, _PNG_MODES[head[at + 16], head[at + 17]])
        elif kind not in _PLAIN_CHUNKS:
            return None
        at = end
    return None
