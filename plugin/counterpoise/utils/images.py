"""Which files are images, and the size of one as Detectron2 will read it, from its header."""

import io
import os
from typing import BinaryIO

from PIL import ExifTags, Image

from counterpoise.utils.image_headers import plain_size

_HEAD = 4096  # bytes; enough for the headers of most files
_TAIL = 4096  # bytes; cameras and converters pad a file behind its end marker
_END_MARKERS = {
    "JPEG": b"\xff\xd9",
    "MPO": b"\xff\xd9",
    "PNG": b"IEND\xaeB`\x82",
}
_SIDEWAYS = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height
# Registered with Pillow, but stubs without a decoder, documents or videos.
_NOT_IMAGES = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})


class UnreadableImageError(Exception):
    """An image that training could not read; the message is the reason."""


def image_suffixes() -> frozenset[str]:
    """Lower-case file name endings that Pillow, and so Detectron2, can read as images."""
    registered = Image.registered_extensions().items()
    readable = {
        suffix for suffix, fmt in registered if fmt in Image.OPEN and fmt not in _NOT_IMAGES
    }
    return frozenset(readable | {".mpo"})  # read by the JPEG plugin, which does not register it


def read_image_size(path: str | os.PathLike) -> tuple[int, int]:
    """Return (width, height) in pixels with the EXIF orientation applied.

    ``detectron2.data.detection_utils.read_image`` applies it too, so this is the size that the
    data loader sees. JPEG and PNG are not decoded: a file with its end marker near its end
    is complete. Where the marker is not there (an incomplete file, or much data behind it), and
    for formats without one, decoding decides.

    Raises:
        UnreadableImageError: no image, or a truncated one.
        FileNotFoundError: there is no such file.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            head, tail = file.read(_HEAD), _tail(file)
            found = plain_size(head)
            complete = found is not None and _END_MARKERS[found.format] in tail
            if complete and b"eXIf" not in tail:  # which may turn the image, also from behind it
                return found.width, found.height
            file.seek(0)
            return _size_by_pillow(io.BufferedReader(file), tail)
    except Exception as error:  # Pillow's plugins raise anything on broken files
        if not os.path.isfile(path):
            raise FileNotFoundError(path) from None
        reason = str(error).replace(str(path), "").strip() or type(error).__name__
        raise UnreadableImageError(reason) from error


def _size_by_pillow(file: BinaryIO, tail: bytes) -> tuple[int, int]:
    with Image.open(file) as image:
        width, height = image.size
        sideways = _orientation(image, tail) in _SIDEWAYS
        marker = _END_MARKERS.get(image.format or "")
        if marker is None or marker not in tail:
            image.load()
    return (height, width) if sideways else (width, height)


def _orientation(image: Image.Image, tail: bytes) -> int | None:
    # PngImageFile.getexif decodes every image to look for EXIF behind the pixels. Nearly all
    # writers put it before them, where the base class finds it without decoding.
    behind_pixels = image.format == "PNG" and b"eXIf" in tail
    try:
        exif = image.getexif() if behind_pixels else Image.Image.getexif(image)
        return exif.get(ExifTags.Base.Orientation)
    except Exception:  # Detectron2 takes broken EXIF data for none
        return None


def _tail(file: BinaryIO) -> bytes:
    file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
    return file.read()
