"""Which files are images, and what one is as it will be read: its size and kind of pixels."""

import io
import os
from collections import Counter
from collections.abc import Iterable
from typing import BinaryIO, NamedTuple

from PIL import ExifTags, Image, UnidentifiedImageError

from counterpoise.utils.files import check_is_file
from counterpoise.utils.image_headers import plain_size
from counterpoise.utils.pixels import is_deep
from counterpoise.utils.text import counted

#: Bytes of an image file. Of its pixels Pillow reads up to 178,956,970.
MAX_FILE_BYTES = 2_000_000_000

#: Longest side of an image in lengths of the shortest.
MAX_ASPECT = 1000

_HEAD = 4096  # bytes; enough for the headers of most files
_TAIL = 4096  # bytes; cameras and converters pad a file after its end marker
_END_MARKERS = {
    "JPEG": b"\xff\xd9",
    "MPO": b"\xff\xd9",
    "PNG": b"IEND\xaeB`\x82",
}
_TURNED = frozenset({2, 3, 4, 5, 6, 7, 8})
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


def check_shape(width: int, height: int) -> None:
    """Refuse an image so narrow that resizing leaves nothing of its shorter side.

    Raises:
        UnreadableImageError: it is longer than :data:`MAX_ASPECT` times its other side.
    """
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UnreadableImageError(
            f"it is {width} x {height} pixels, longer than {MAX_ASPECT} times its other side"
        )


class ImageHeader(NamedTuple):
    """What is known of an image before its pixels are read.

    Attributes:
        size: (width, height) in pixels with the EXIF orientation applied.
        mode: Pillow's name of the kind of pixels, such as ``RGB`` or ``I;16``.
        turned: whether the EXIF orientation turns or mirrors it.
    """

    size: tuple[int, int]
    mode: str
    turned: bool = False


def remarks_on_pixels(headers: Iterable[ImageHeader]) -> list[str]:
    """Return a sentence for each conversion that the pixels of some images need."""
    kinds = Counter(kind for header in headers for kind in _conversions(header))
    return [f"{counted(kinds[kind], 'image')} {_CONVERSIONS[kind]}" for kind in sorted(kinds)]


_CONVERSIONS = {
    "alpha": "with transparency, of which the colours are taken as stored and the alpha left out",
    "cmyk": "in CMYK, converted to RGB without a colour profile",
    "deep": "of more than 8 bits a sample, each scaled by its own range of values to 0 to 255",
    "turned": "turned or mirrored as the EXIF orientation says, which boxes must be stated for",
}


def _conversions(header: ImageHeader) -> Iterable[str]:
    if is_deep(header.mode):
        yield "deep"
    if header.mode == "CMYK":
        yield "cmyk"
    if header.mode in ("LA", "PA", "La", "RGBA", "RGBa"):
        yield "alpha"
    if header.turned:
        yield "turned"


def read_image_size(path: str | os.PathLike) -> tuple[int, int]:
    """Return (width, height) in pixels with the EXIF orientation applied.

    Raises:
        UnreadableImageError, FileNotFoundError: as :func:`read_image_header`.
    """
    return read_image_header(path).size


def read_image_header(path: str | os.PathLike) -> ImageHeader:
    """Return size, kind of pixels and orientation.

    ``detectron2.data.detection_utils.read_image`` applies the orientation too, so the size is
    that which the data loader sees. JPEG and PNG are not decoded: a file with its end marker near
    its end is complete. Where the marker is not there (an incomplete file, or much data after it),
    and for formats without one, decoding decides.

    Raises:
        UnreadableImageError: no image, or a truncated one.
        FileNotFoundError: there is no such file.
    """
    try:
        check_is_file(path, MAX_FILE_BYTES)
        with open(path, "rb", buffering=0) as file:
            head, tail = file.read(_HEAD), _tail(file)
            found = plain_size(head)
            complete = found is not None and _END_MARKERS[found.format] in tail
            if complete and b"eXIf" not in tail:  # which may turn it, even after its pixels
                check_shape(found.width, found.height)
                return ImageHeader((found.width, found.height), found.mode)
            file.seek(0)
            return _header_by_pillow(io.BufferedReader(file), tail)
    except UnidentifiedImageError as error:  # names the open file by its address
        raise UnreadableImageError("cannot identify it as an image") from error
    except Exception as error:  # Pillow's plugins raise anything on broken files
        if not os.path.isfile(path):
            raise FileNotFoundError(path) from None
        reason = str(error).replace(str(path), "").strip() or type(error).__name__
        raise UnreadableImageError(reason) from error


def _header_by_pillow(file: BinaryIO, tail: bytes) -> ImageHeader:
    with Image.open(file) as image:
        check_shape(*image.size)
        orientation = _orientation(image, tail)
        turned = orientation in _TURNED
        marker = _END_MARKERS.get(image.format or "")
        if marker is None or marker not in tail:
            image.load()
        if image.format == "TIFF":  # which newer versions of Pillow turn themselves
            orientation = _orientation(image, tail)
        width, height = image.size
    size = (height, width) if orientation in _SIDEWAYS else (width, height)
    return ImageHeader(size, image.mode, turned)


def _orientation(image: Image.Image, tail: bytes) -> int | None:
    # PngImageFile.getexif decodes every image to look for EXIF after the pixels. Nearly all
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
