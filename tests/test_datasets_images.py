"""Image headers: the size that the data loader will see, and files that are incomplete."""

import struct
import zlib
from pathlib import Path

import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from counterpoise.utils.images import UnreadableImageError, image_suffixes, read_image_size

FORMATS = [".jpg", ".png", ".bmp", ".gif", ".tif", ".webp", ".ppm", ".jp2"]


def picture(path: Path, **save: object) -> Path:
    Image.effect_noise((60, 40), 90).save(path, **save)
    return path


def oriented(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_complete_image_gives_its_size(tmp_path: Path, suffix: str):
    assert read_image_size(picture(tmp_path / f"a{suffix}")) == (60, 40)
    assert suffix in image_suffixes()


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.9])
@pytest.mark.parametrize("suffix", FORMATS)
def test_an_incomplete_image_is_unreadable(tmp_path: Path, suffix: str, share: float):
    path = picture(tmp_path / f"a{suffix}")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the data loader would meet
        read_image(str(path), "BGR")
    with pytest.raises(UnreadableImageError) as error:
        read_image_size(path)
    assert str(error.value) and str(tmp_path) not in str(error.value)


@pytest.mark.parametrize("padding", [b"\0" * 3, b"\n", b"\xff" * 500, b"trailer" * 3000])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_data_behind_the_end_is_allowed(tmp_path: Path, suffix: str, padding: bytes):
    path = picture(tmp_path / f"a{suffix}")
    path.write_bytes(path.read_bytes() + padding)
    assert read_image_size(path) == (60, 40)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_size_is_that_which_detectron2_reads(tmp_path: Path, suffix: str, orientation: int):
    path = picture(tmp_path / f"a{suffix}", exif=oriented(orientation))
    height, width, _ = read_image(str(path), "BGR").shape
    assert read_image_size(path) == (width, height) == ((40, 60) if orientation > 4 else (60, 40))


def test_orientation_behind_the_pixels_of_a_png_counts(tmp_path: Path):
    path = picture(tmp_path / "a.png")
    body = b"eXIf" + oriented(6).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    whole = path.read_bytes()
    path.write_bytes(whole[:-12] + chunk + whole[-12:])  # the last 12 bytes are IEND
    height, width, _ = read_image(str(path), "BGR").shape
    assert read_image_size(path) == (width, height) == (40, 60)


def test_jpeg_and_png_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths = [picture(tmp_path / name) for name in ("a.jpg", "a.png")]
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("decoded"))
    assert [read_image_size(path) for path in paths] == [(60, 40)] * 2


def test_no_image_at_all_is_told_from_a_missing_one(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        read_image_size(tmp_path / "gone.jpg")
    for content in ("hello", ""):
        (tmp_path / "text.jpg").write_text(content)
        with pytest.raises(UnreadableImageError, match=r"^cannot identify it as an image$"):
            read_image_size(tmp_path / "text.jpg")
