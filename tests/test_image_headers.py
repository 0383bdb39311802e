"""Sizes from headers are those of Pillow, or none are given."""

import io
import random

import pytest
from PIL import Image

from counterpoise.utils.image_headers import plain_size

SETTINGS = {
    "jpeg": ("JPEG", "RGB", {}),
    "progressive": ("JPEG", "RGB", {"progressive": True}),
    "grey": ("JPEG", "L", {}),
    "cmyk": ("JPEG", "CMYK", {}),
    "comment": ("JPEG", "RGB", {"comment": b"x" * 500}),
    "profile": ("JPEG", "RGB", {"icc_profile": b"profile" * 40}),
    "png": ("PNG", "RGB", {}),
    "palette": ("PNG", "P", {}),
    "bits": ("PNG", "1", {}),
    "grey with alpha": ("PNG", "LA", {}),
    "resolution": ("PNG", "RGBA", {"dpi": (72, 72)}),
}


def encoded(form: str, mode: str, size=(60, 40), **options) -> bytes:
    file = io.BytesIO()
    Image.effect_noise(size, 90).convert("RGB").convert(mode).save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_plain_files_need_no_pillow(setting):
    form, mode, options = setting
    for size in ((60, 40), (1, 1), (300, 7)):
        found = plain_size(encoded(form, mode, size, **options)[:4096])
        assert found == (form, *size, mode)


def exif() -> Image.Exif:
    metadata = Image.Exif()
    metadata[0x0112] = 6
    return metadata


@pytest.mark.parametrize(
    "data",
    [
        encoded("JPEG", "RGB", exif=exif()),
        encoded("JPEG", "RGB", xmp=b'<x tiff:Orientation="6"/>'),
        encoded("PNG", "RGB", exif=exif()),
        encoded("MPO", "RGB", save_all=True, append_images=[Image.new("RGB", (60, 40))]),
        encoded("GIF", "P"),
        encoded("BMP", "RGB"),
        encoded("JPEG", "RGB", comment=b"x" * 9000)[:4096],
        b"",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
    ],
    ids=["exif", "xmp", "png exif", "mpo", "gif", "bmp", "long", "empty", "jpeg head", "png head"],
)
def test_metadata_and_what_is_unusual_are_left_to_pillow(data):
    assert plain_size(data) is None


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_a_damaged_header_never_gives_a_size_that_pillow_does_not_read(setting):
    form, mode, options = setting
    whole = encoded(form, mode, **options)
    rng = random.Random(0)
    for _ in range(300):
        data = bytearray(whole)
        data[rng.randrange(min(len(data), 700))] = rng.randrange(256)
        found = plain_size(bytes(data[:4096]))
        if found is not None:
            with Image.open(io.BytesIO(bytes(data))) as image:
                assert (image.format, *image.size, image.mode) == found
