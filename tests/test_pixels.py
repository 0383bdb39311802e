"""Images of every kind reach a model as they look, and a damaged one never stops a training."""

import io
import logging

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper, detection_utils
from PIL import Image

from counterpoise.config.keys import add_counterpoise_config, training_config
from counterpoise.datasets.mapper import (
    MOST_IN_A_ROW,
    UNREADABLE,
    CheckedMapper,
    training_mapper,
)
from counterpoise.datasets.reading import UnusableImageError, read_image
from counterpoise.runtime.images import read_pixels
from counterpoise.utils.images import UnreadableImageError, read_image_header, remarks_on_pixels

RAMP = np.linspace(0, 1, 4000, dtype=np.float32).reshape(40, 100)


def saved(path, pixels, **options):
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["RGB", "L", "I;16"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_tiff_is_turned_once(tmp_path, mode, orientation):
    picture = Image.new(mode, (64, 48))
    path = saved(tmp_path / "a.tif", picture, tiffinfo={274: orientation})
    height, width = read_pixels(path).shape[:2]
    assert (width, height) == ((48, 64) if orientation == 6 else (64, 48))
    assert read_image(str(path), "RGB").shape[:2] == (height, width)
    header = read_image_header(path)
    assert header.size == (width, height) and header.turned == (orientation > 1)


def test_pixels_that_cannot_be_decoded_are_unreadable_whatever_the_decoder_raises(tmp_path):
    path = saved(tmp_path / "a.png", np.zeros((64, 64, 3), np.uint8))
    content = bytearray(path.read_bytes())
    at = content.index(b"IDAT")
    content[at : at + 4] = bytes(4)
    path.write_bytes(content)
    with pytest.raises(UnreadableImageError):
        read_pixels(path)


@pytest.mark.parametrize("size", [(1, 900), (900, 1)])
@pytest.mark.parametrize("jitter", [[], [0.1, 0.2]])
def test_an_image_of_which_the_resize_would_leave_nothing_keeps_a_pixel(tmp_path, size, jitter):
    path = saved(tmp_path / "a.png", np.zeros((*size, 3), np.uint8))
    cfg = training_config()
    cfg.INPUT.MAX_SIZE_TEST = cfg.INPUT.MAX_SIZE_TRAIN = 400
    cfg.INPUT.SCALE_JITTER = jitter
    record = {"file_name": str(path), "height": size[0], "width": size[1], "annotations": []}
    for mapper in (CheckedMapper(cfg, is_train=False), training_mapper(cfg)):
        shape = mapper(dict(record))["image"].shape
        assert min(shape) == 1 and max(shape) <= 400


def config():
    cfg = get_cfg()
    add_counterpoise_config(cfg)
    cfg.INPUT.MIN_SIZE_TEST = 40
    return cfg


@pytest.mark.parametrize(
    "name, values",
    [
        ("full.png", (RAMP * 65535).astype(np.uint16)),
        ("thermal.png", (20000 + RAMP * 4000).astype(np.uint16)),
        ("twelve.tif", (RAMP * 4095).astype(np.uint16)),
        ("whole.tif", (RAMP * 1e6 - 5e5).astype(np.int32)),
        ("unit.tif", RAMP),
        ("kelvin.tif", 280 + RAMP * 30),
    ],
)
def test_an_image_of_many_bits_keeps_its_grey_levels(tmp_path, name, values):
    path = saved(tmp_path / name, values)
    for pixels in (read_image(str(path), "BGR"), read_pixels(path)):
        assert pixels.shape == (40, 100, 3) and pixels.dtype == np.uint8
        assert np.abs(pixels[..., 0] - RAMP * 255).max() < 2
    assert remarks_on_pixels([read_image_header(path)])[0].startswith("1 image of more than 8 bits")


def test_dead_pixels_and_numbers_that_are_not_finite_do_not_flatten_the_others(tmp_path):
    spoilt = RAMP.copy()
    spoilt[0, :2], spoilt[0, 2], spoilt[0, 3] = 1e6, np.nan, np.inf
    pixels = read_pixels(saved(tmp_path / "hot.tif", spoilt))[..., 0]
    assert np.abs(pixels[1:] - RAMP[1:] * 255).max() < 2
    assert not read_pixels(saved(tmp_path / "flat.tif", np.full((4, 4), 7, np.uint16))).any()
    assert not read_pixels(saved(tmp_path / "nan.tif", np.full((4, 4), np.nan, np.float32))).any()


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK"])
def test_an_image_of_8_bits_is_read_bit_for_bit_as_by_detectron2(tmp_path, mode):
    noise = Image.effect_noise((60, 40), 90).convert("RGB").convert(mode)
    path = saved(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"), noise)
    expected = detection_utils.read_image(str(path), "RGB")
    assert np.array_equal(read_image(str(path), "RGB"), expected)
    assert np.array_equal(read_pixels(path), expected)
    record = {"file_name": str(path), "height": 40, "width": 60, "image_id": 1}
    stock = DatasetMapper(config(), is_train=False)(record)["image"]
    assert CheckedMapper(config(), is_train=False)(record)["image"].equal(stock)
    said = " ".join(remarks_on_pixels([read_image_header(path)]))
    assert ("transparency" in said) == (mode in ("LA", "RGBA"))
    assert ("CMYK" in said) == (mode == "CMYK")


def test_a_turned_image_is_named_once_per_kind(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / "a.jpg", Image.new("RGB", (60, 40)), exif=exif)
    assert remarks_on_pixels([read_image_header(path)] * 3) == [
        "3 images turned or mirrored as the EXIF orientation says, which boxes must be stated for"
    ]


def test_an_image_of_many_bits_reaches_the_model_scaled(tmp_path):
    path = saved(tmp_path / "a.png", (RAMP * 4095).astype(np.uint16))
    record = {"file_name": str(path), "height": 40, "width": 100, "image_id": 1}
    image = CheckedMapper(config(), is_train=False)(record)["image"].numpy()
    assert image.min() == 0 and image.max() == 255 and 120 < image.mean() < 135


def damaged(path):
    content = io.BytesIO()
    Image.effect_noise((200, 200), 90).convert("RGB").save(content, "PNG")
    whole = content.getvalue()
    # Header and end are whole, so that only decoding notices.
    data = whole[: len(whole) // 2] + whole[-12:]
    path.write_bytes(data)
    return {"file_name": str(path), "height": 200, "width": 200, "image_id": 1, "annotations": []}


def test_a_damaged_image_is_left_out_of_a_training_and_named_once(tmp_path, caplog):
    record, mapper = damaged(tmp_path / "a.png"), CheckedMapper(config(), is_train=True)
    with pytest.raises(UnusableImageError, match="repair the image"):
        mapper(record)
    mapper.skip_unusable = True
    with caplog.at_level(logging.WARNING, "counterpoise"):
        assert mapper(record) is None and mapper(record) is None
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1 and record["file_name"] in warnings[0]


def test_a_training_without_a_usable_image_ends_in_a_sentence_instead_of_searching_on(tmp_path):
    record, mapper = damaged(tmp_path / "a.png"), CheckedMapper(config(), is_train=True)
    mapper.skip_unusable = True
    with pytest.raises(UnusableImageError, match="repair the image"):
        [mapper(record) for _ in range(MOST_IN_A_ROW)]


def test_a_damaged_image_is_evaluated_as_one_without_detections(tmp_path):
    mapper = CheckedMapper(config(), is_train=False)
    mapper.skip_unusable = True
    mapped = mapper(damaged(tmp_path / "a.png"))
    assert mapped[UNREADABLE] and tuple(mapped["image"].shape) == (3, 40, 40)


@pytest.mark.parametrize("size", [(10000, 1), (1, 10000), (1000, 1), (1, 1)])
def test_an_extreme_shape_is_mapped_or_refused(tmp_path, size):
    path = saved(tmp_path / "a.png", Image.new("RGB", size))
    record = {"file_name": str(path), "height": size[1], "width": size[0], "image_id": 1}
    mapper = CheckedMapper(config(), is_train=False)
    if max(size) > 1000:
        with pytest.raises(UnusableImageError, match="longer than 1000 times"):
            mapper(record)
        with pytest.raises(UnreadableImageError, match="longer than 1000 times"):
            read_image_header(path)
        return
    image = mapper(record)["image"]
    assert min(image.shape[1:]) >= 1 and max(image.shape[1:]) <= 1333
