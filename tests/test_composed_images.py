"""Mosaic, mixup, pasted boxes and scale jitter: boxes stay on their pixels, by seed and by key."""

import copy
import itertools

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from detectron2.data.samplers import RandomSubsetTrainingSampler
from PIL import Image

from counterpoise.config.loading import load_config
from counterpoise.config.preparation import prepare
from counterpoise.config.validation import check_config
from counterpoise.datasets import pictures
from counterpoise.datasets.composer import Composer, composer
from counterpoise.datasets.image_sampling import draws_per_epoch
from counterpoise.datasets.last_phase import PLAIN, PlainFrom, TwiceOver
from counterpoise.datasets.mapper import ScaleJitter, training_mapper
from counterpoise.datasets.pictures import (
    COVERED,
    SIDE,
    VISIBLE,
    Picture,
    cut,
    mixup,
    mosaic,
    paste,
    visible,
)
from counterpoise.errors import UserError
from counterpoise.training.trainer import BalancedTrainer
from models import CONFIGS, quick_config
from runs import NO_TEST, SMALL, train_net, write_dataset

RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
COLOURS = (RED, GREEN, BLUE, YELLOW)
KEYS = {
    "mosaic": ("INPUT.MOSAIC.PROB", "1.0"),
    "mixup": ("INPUT.MIXUP.PROB", "1.0"),
    "paste": ("INPUT.COPY_PASTE.PROB", "1.0"),
}
EVERYTHING = tuple(part for pair in KEYS.values() for part in pair)


def picture(category, box=(40, 30, 90, 80), size=(160, 120)):
    """Black, with a rectangle in the colour of its class."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    x0, y0, x1, y1 = box
    pixels[y0:y1, x0:x1] = COLOURS[category]
    return Picture(pixels, np.array([box], float), np.array([category]))


def empty():
    return Picture(np.zeros((120, 160, 3), np.uint8), np.zeros((0, 4)), np.zeros(0, int))


def bounds_of(pixels, colour, strength=128):
    """Box of the pixels that have a colour, at some strength; None where there are none."""
    channels = np.array(colour) > 0
    found = (pixels[..., channels] >= strength).all(-1) & (pixels[..., ~channels] < strength).all(
        -1
    )
    ys, xs = np.nonzero(found)
    return (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(xs) else None


def generators(number=40):
    return (np.random.default_rng(seed) for seed in range(number))


def test_boxes_follow_their_pixels_through_a_mosaic():
    seen = 0
    for rng in generators():
        result = mosaic([picture(c) for c in range(4)], rng, (0, 0, 0))
        assert result.pixels.shape == (120, 160, 3)
        assert len(set(result.classes)) == len(result.classes)
        for box, category in zip(result.boxes, result.classes, strict=True):
            np.testing.assert_allclose(bounds_of(result.pixels, COLOURS[category]), box, atol=1.01)
            seen += 1
    assert seen > 40


def test_a_mosaic_drops_a_box_of_which_little_is_left():
    for rng in generators():
        result = mosaic([picture(c) for c in range(4)], rng, (0, 0, 0))
        for category in {*range(4)} - {*result.classes.tolist()}:
            bounds = bounds_of(result.pixels, COLOURS[category])
            if bounds is not None:
                left = (bounds[2] - bounds[0]) * (bounds[3] - bounds[1])
                # The smallest scale halves the 50 x 50 pixels of the box; the largest is 1.5.
                assert left < VISIBLE * (1.5 * 50 + 2) ** 2


def test_a_mosaic_takes_pictures_of_any_size_and_fills_the_rest():
    sizes = [(160, 120), (24, 12), (160, 120), (90, 400)]
    pictures = [
        Picture(np.full((h, w, 3), 255, np.uint8), np.array([[1.0, 2, w, h]]), np.array([i]))
        for i, (w, h) in enumerate(sizes)
    ]
    filled = 0
    for rng in generators():
        result = mosaic(pictures, rng, (10.2, 20, 30))
        assert result.pixels.shape == (120, 160, 3)
        white, rest = ((result.pixels == colour).all(-1) for colour in ((255,) * 3, (10, 20, 30)))
        assert (white | rest).all()
        filled += rest.any()
        assert (result.boxes[:, 2:] - result.boxes[:, :2] >= SIDE).all()
        assert (result.boxes >= 0).all()
        assert (result.boxes <= [160, 120, 160, 120]).all()
    assert filled > 0


def test_boxes_follow_their_pixels_through_mixup_at_half_their_contrast():
    for rng in generators():
        result = mixup(picture(0), picture(2), rng)
        assert result.classes[0] == 0
        np.testing.assert_array_equal(result.boxes[0], picture(0).boxes[0])
        for box, category in zip(result.boxes[1:], result.classes[1:], strict=True):
            channel = result.pixels[..., COLOURS[category].index(255)]
            assert channel.max() in (127, 128)
            ys, xs = np.nonzero(channel > 63)
            found = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
            np.testing.assert_allclose(found, box, atol=1.01)


def test_mixup_leaves_the_first_picture_where_the_second_does_not_reach():
    first = empty()
    first.pixels[:] = 101
    second = Picture(np.full((120, 160, 3), 200, np.uint8), *(np.zeros((0, 4)), np.zeros(0, int)))
    for rng in generators():
        assert set(np.unique(mixup(first, second, rng).pixels)) <= {101, 151}


@pytest.mark.parametrize("scale, places", [(1.1, (-2, -1, 0)), (0.9, (0, 1, 2))])
def test_the_second_picture_of_a_mixup_lies_at_every_place_as_often(monkeypatch, scale, places):
    monkeypatch.setattr(pictures, "SCALES", (scale, scale))
    second = picture(2, box=(5, 5, 15, 15), size=(20, 20))
    boxes = [mixup(second, second, rng).boxes[1] for rng in generators(600)]
    corners = np.round([box[0] - 5 * scale for box in boxes]).astype(int)
    assert {*corners.tolist()} == {*places}
    assert all(150 < (corners == place).sum() < 250 for place in places)


def test_a_pasted_box_is_on_its_pixels():
    pasted = 0
    for rng in generators():
        result = paste(empty(), cut(picture(1), 0), rng)
        assert result.classes.tolist() == [1]
        # The picture around the box is black, as the canvas, so that fading changes nothing.
        np.testing.assert_allclose(bounds_of(result.pixels, GREEN), result.boxes[0], atol=1.01)
        pasted += 1
    assert pasted == 40


def test_what_lies_on_a_pasted_box_is_labelled_too_and_what_is_hardly_seen_is_not():
    source = picture(1, (20, 20, 120, 100))
    source.pixels[40:60, 50:80] = BLUE
    others = np.array([[50, 40, 80, 60], [125, 20, 159, 60.0]])  # the second one only touches it
    whole = Picture(source.pixels, np.concatenate([source.boxes, others]), np.array([1, 2, 0]))
    for rng in generators():
        result = paste(empty(), cut(whole, 0), rng)
        assert result.classes.tolist() == [1, 2]
        np.testing.assert_allclose(bounds_of(result.pixels, BLUE), result.boxes[1], atol=1.01)


def test_a_paste_fades_around_the_box_and_leaves_it_whole():
    source = picture(1)
    source.pixels[source.pixels[..., 1] == 0] = 200
    result = paste(empty(), cut(source, 0), np.random.default_rng(0))
    x0, y0, x1, y1 = np.round(result.boxes[0]).astype(int)
    assert (result.pixels[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2] == GREEN).all()
    beside = result.pixels[(y0 + y1) // 2, :, 0]
    assert 0 < beside[x1 + 1 : x1 + 4].max() < 200


def test_a_paste_covers_little_of_other_boxes():
    base = picture(0, (20, 20, 140, 100))
    for rng in generators():
        result = paste(base, cut(picture(1, (70, 50, 90, 70)), 0), rng)
        _, inside = visible(base.boxes, (0, 0, 160, 120))
        assert inside.all()
        if len(result.boxes) == 2:
            red = (result.pixels == RED).all(-1).sum()
            assert red >= (1 - COVERED) * 120 * 80 - 250  # the margin of the patch has no edge


def test_without_a_place_nothing_is_pasted():
    base = Picture(
        np.zeros((120, 160, 3), np.uint8),
        np.array([[x, y, x + 8, y + 8] for x in range(0, 160, 8) for y in range(0, 120, 8)], float),
        np.zeros(300, int),
    )
    assert paste(base, cut(picture(1), 0), np.random.default_rng(0)) is base


def test_no_pasted_box_is_mirrored_where_images_are_not(tmp_path):
    """A left arrow must not become one of the class of right arrows."""
    source = picture(1)
    source.pixels[30:80, 40:65] = RED
    mirrored = {True: 0, False: 0}
    for mirror in mirrored:
        for rng in generators():
            pixels = paste(empty(), cut(source, 0), rng, mirror).pixels
            red, green = (bounds_of(pixels, colour)[0] for colour in (RED, GREEN))
            mirrored[mirror] += red > green
    assert mirrored[False] == 0 and 10 < mirrored[True] < 30
    for flip in ("horizontal", "vertical", "none"):
        cfg = quick_config(*KEYS["paste"], "INPUT.RANDOM_FLIP", flip)
        assert Composer(cfg, written(tmp_path, [[]]), torch.ones(1)).mirror == (
            flip == "horizontal"
        )


@pytest.mark.parametrize("box", [(10, 5, 10, 20), (310, 5, 330, 20), (-9, 5, -3, 20)])
def test_a_box_without_area_in_its_image_is_not_pasted(box):
    source = Picture(np.zeros((300, 300, 3), np.uint8), np.array([box], float), np.array([0]))
    base = empty()
    assert paste(base, cut(source, 0), np.random.default_rng(0)) is base


def test_a_cut_stays_within_the_picture():
    patch = cut(picture(0, (0, 0, 160, 120)), 0)
    assert patch.pixels.shape == (120, 160, 3)
    assert patch.boxes.tolist() == [[0, 0, 160, 120]]


@pytest.mark.parametrize(
    "box, kept",
    [
        ((10, 10, 30, 30), True),
        ((-10, 0, 10, 20), True),  # a half
        ((-16, 0, 4, 20), False),  # a fifth
        ((5, 5, 5, 20), False),  # no width
        ((-30, -30, -10, -10), False),
        ((98.5, 0, 99.9, 50), False),  # thinner than a pixel and a half
    ],
)
def test_visible_boxes_have_a_quarter_of_their_area_and_two_pixels(box, kept):
    inside, enough = visible(np.array([box], float), (0, 0, 100, 60))
    assert enough.tolist() == [kept]
    assert (inside >= 0).all() and (inside <= [100, 60, 100, 60]).all()


def test_no_boxes_have_no_visible_ones():
    inside, enough = visible(np.zeros((0, 4)), (0, 0, 9, 9))
    assert inside.shape == (0, 4) and enough.shape == (0,)


@pytest.mark.parametrize("size", [(160, 120), (120, 160)])
def test_boxes_follow_their_pixels_through_scale_jitter(size):
    jitter = ScaleJitter(0.5, 2.0, T.ResizeShortestEdge((96,), 128, "choice"))
    shapes = set()
    for seed in range(40):
        np.random.seed(seed)
        source = picture(1, size=size)
        given = T.AugInput(source.pixels)
        transforms = jitter(given)
        height, width = given.image.shape[:2]
        assert min(height, width) <= 96 and max(height, width) <= 128
        shapes.add((height, width))
        boxes, enough = visible(transforms.apply_box(source.boxes), (0, 0, width, height))
        if enough.all():
            np.testing.assert_allclose(bounds_of(given.image, GREEN), boxes[0], atol=1.01)
    assert len(shapes) > 10


def dataset(tmp_path, *overrides, **arguments):
    """Config of a small dataset whose names are registered."""
    data = write_dataset(tmp_path / "composed", **arguments)
    files = [CONFIGS / "quick" / "baseline.yaml", data]
    cfg = load_config(files, [*SMALL, "SEED", "3", *overrides])
    prepare(cfg)
    return cfg


def first_batches(cfg, number=3):
    np.random.seed(5)
    torch.manual_seed(5)
    loader = iter(BalancedTrainer.build_train_loader(cfg))
    return [image for _ in range(number) for image in next(loader)]


@pytest.mark.parametrize("keys", [*KEYS.values(), EVERYTHING, ("INPUT.SCALE_JITTER", "[0.5,2.0]")])
def test_a_key_changes_what_a_model_sees_and_a_seed_repeats_it(tmp_path, keys):
    cfg = dataset(tmp_path, *keys)
    once, again = first_batches(cfg), first_batches(cfg)
    for first, second in zip(once, again, strict=True):
        assert torch.equal(first["image"], second["image"])
        assert torch.equal(first["instances"].gt_boxes.tensor, second["instances"].gt_boxes.tensor)
    plain = cfg.clone()
    plain.INPUT = load_config([CONFIGS / "quick" / "baseline.yaml"], SMALL).INPUT
    usual = first_batches(plain)
    assert any(
        a["image"].shape != b["image"].shape or not torch.equal(a["image"], b["image"])
        for a, b in zip(once, usual, strict=True)
    )


def test_after_its_share_of_the_schedule_no_image_is_composed(tmp_path):
    # Two images of each of three iterations; the schedule's share of 0.5 ends within the second.
    cfg = dataset(tmp_path, *KEYS["mosaic"], "INPUT.COMPOSE_UNTIL", "0.5")
    composed = [PLAIN not in image for image in first_batches(cfg)]
    assert composed == [True] * 3 + [False] * 3
    last = first_batches(cfg)[-1]
    pixels = read_image(last["file_name"], "RGB")
    whole = np.asarray(Image.fromarray(pixels).resize(last["image"].shape[:0:-1], Image.BILINEAR))
    seen = last["image"].numpy().transpose(1, 2, 0)
    assert np.array_equal(seen, whole) or np.array_equal(seen, whole[:, ::-1])


def test_the_last_phase_stands_for_the_same_records_in_any_part_of_the_order():
    records = TwiceOver([{"image_id": i} for i in range(3)])
    order = PlainFrom([2, 0, 1, 2], 3, 2)
    assert list(order) == list(order) == [2, 0, 4, 5]
    assert [records[i] for i in order] == [
        {"image_id": 2}, {"image_id": 0}, {"image_id": 1, PLAIN: True}, {"image_id": 2, PLAIN: True}
    ]  # fmt: skip
    assert len(list(records)) == len(records) == 6


def test_a_last_phase_without_a_first_one_is_refused():
    with pytest.raises(
        UserError, match=r"COMPOSE_UNTIL is 0.9, but no image is composed: set PROB"
    ):
        check_config(quick_config("INPUT.COMPOSE_UNTIL", "0.9"))


def test_every_box_of_a_composed_batch_is_within_its_image(tmp_path):
    cfg = dataset(tmp_path, *EVERYTHING, "INPUT.SCALE_JITTER", "[0.5,2.0]")
    for image in first_batches(cfg, 10):
        height, width = image["image"].shape[1:]
        boxes = image["instances"].gt_boxes.tensor
        assert image["instances"].image_size == (height, width)
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height, width, height])).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= SIDE - 1e-3).all()
        assert image["instances"].gt_classes.max() < 2


def written(tmp_path, annotations):
    """Records of grey images with these annotations."""
    records = []
    for number, own in enumerate(annotations):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (80, 60), (90, 90, 90)).save(path)
        records.append(
            {"file_name": str(path), "width": 80, "height": 60, "annotations": own, "image_id": 0}
        )
    return records


def test_images_without_boxes_are_composed_too(tmp_path):
    records = written(tmp_path, [[], [], []])
    cfg = quick_config(*EVERYTHING)
    mapper = training_mapper(cfg)
    mapper.compose = Composer(cfg, records, torch.ones(3))
    np.random.seed(0)
    mapped = mapper(records[0])
    assert len(mapped["instances"]) == 0
    assert mapped["instances"].gt_boxes.tensor.shape == (0, 4)


@pytest.mark.parametrize("annotated", [False, True])
def test_an_image_of_which_no_mask_is_left_is_one_without_boxes(tmp_path, annotated):
    corner = {"bbox": [0, 0, 4, 4], "bbox_mode": 0, "category_id": 0,
              "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]}  # fmt: skip
    (record,) = written(tmp_path, [[corner] if annotated else []])
    mapper = training_mapper(quick_config("INPUT.SCALE_JITTER", "[3, 4]", "MODEL.MASK_ON", "True"))
    left = set()
    for seed in range(20):
        np.random.seed(seed)
        left.add(len(mapper(copy.deepcopy(record))["instances"]))
    assert 0 in left and mapper.recompute_boxes


def test_crowd_regions_are_neither_trained_nor_pasted(tmp_path):
    crowd = {"bbox": [5, 5, 40, 40], "bbox_mode": 0, "category_id": 0, "iscrowd": 1}
    plain = {"bbox": [10, 10, 30, 30], "bbox_mode": 0, "category_id": 1}
    records = written(tmp_path, [[crowd, plain], []])
    before = copy.deepcopy(records)
    cfg = quick_config(*EVERYTHING)
    compose = Composer(cfg, records, torch.ones(2))
    for seed in range(10):
        np.random.seed(seed)
        assert 0 not in compose(records[seed % 2]).classes
    assert records == before


def test_every_class_is_pasted_equally_often(tmp_path):
    boxes = [
        {"bbox": [4 * i, 10, 4 * i + 20, 30], "bbox_mode": 0, "category_id": 1 if i == 9 else 0}
        for i in range(10)
    ]
    records = written(tmp_path, [boxes, []])
    compose = Composer(quick_config(*KEYS["paste"]), records, torch.ones(2))
    rng = np.random.default_rng(0)
    classes = [int(compose._patch(rng).classes[0]) for _ in range(400)]
    assert abs(np.mean(classes) - 0.5) < 5 * 0.5 / 20


def test_other_images_are_drawn_as_often_as_the_sampler_shows_them(tmp_path):
    records = written(tmp_path, [[], [], []])
    compose = Composer(quick_config(*KEYS["mixup"]), records, torch.tensor([1.0, 0.0, 3.0]))
    drawn = []
    compose.records = _Spy(records, drawn)
    rng = np.random.default_rng(0)
    for _ in range(400):
        compose._other(rng)
    shares = np.bincount(drawn, minlength=3) / 400
    assert shares[1] == 0
    assert abs(shares[2] - 0.75) < 5 * (0.75 * 0.25 / 400) ** 0.5


def test_what_the_sampler_leaves_out_is_no_part_of_any_image(tmp_path):
    sampler = RandomSubsetTrainingSampler(10, 0.2, seed_subset=1)
    draws = draws_per_epoch(sampler, 10)
    chosen = set(itertools.islice(iter(sampler), 4))
    assert set(draws.nonzero().flatten().tolist()) == chosen
    box = {"bbox": [10, 10, 30, 30], "bbox_mode": 0, "category_id": 0}
    compose = Composer(quick_config(*EVERYTHING), written(tmp_path, [[box]] * 10), draws)
    drawn = []
    compose.records = _Spy(compose.records, drawn)
    rng = np.random.default_rng(0)
    for _ in range(40):
        compose._other(rng)
        compose._patch(rng)
    assert set(drawn) == chosen


class _Spy(list):
    def __init__(self, items, drawn):
        super().__init__(items)
        self.drawn = drawn

    def __getitem__(self, index):
        self.drawn.append(index)
        return super().__getitem__(index)


def test_without_the_keys_nothing_is_composed():
    assert composer(quick_config(), [], torch.ones(0)) is None


@pytest.mark.parametrize("section", ["MOSAIC", "MIXUP", "COPY_PASTE"])
@pytest.mark.parametrize("key", ["MASK_ON", "KEYPOINT_ON", "LOAD_PROPOSALS"])
def test_what_cannot_be_composed_is_refused(section, key):
    cfg = quick_config(f"INPUT.{section}.PROB", "0.5", f"MODEL.{key}", "True")
    cfg.defrost()
    if key == "LOAD_PROPOSALS":
        cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    with pytest.raises(UserError, match=rf"INPUT.{section}.PROB is 0.5.*MODEL.{key} is True"):
        check_config(cfg)


@pytest.mark.parametrize("value", ["[0.5]", "[1.5, 0.5]", "[0.0, 1.0]", "['a', 2]"])
def test_a_scale_jitter_that_is_no_range_is_refused(value):
    with pytest.raises(UserError, match=r"INPUT.SCALE_JITTER is"):
        check_config(quick_config("INPUT.SCALE_JITTER", value))


@pytest.mark.parametrize("workers", ["0", "1"])
def test_an_unusable_image_is_named_whichever_picture_it_is_for(tmp_path, capsys, workers):
    data = write_dataset(tmp_path / "cut")
    for number in range(1, 8):
        path = data.parent / "images" / f"{number}.png"
        path.write_bytes(path.read_bytes()[:200] + b"IEND\xaeB`\x82")
    arguments = ["DATASETS.BAD_RECORDS", "refuse", "DATALOADER.NUM_WORKERS", workers, *NO_TEST]
    assert train_net(data, tmp_path / "out", *KEYS["mosaic"], *arguments) == 2
    error = capsys.readouterr().err
    assert ".png cannot be used" in error and len(error.strip().splitlines()) == 1
    assert "Error" not in error and ": error: /" in error


def test_a_training_runs_on_composed_images(tmp_path):
    data = write_dataset(tmp_path / "shapes")
    arguments = [*EVERYTHING, "INPUT.SCALE_JITTER", "[0.5,1.5]", "DATALOADER.NUM_WORKERS", "1"]
    assert train_net(data, tmp_path / "out", *arguments, *NO_TEST) == 0


@pytest.mark.parametrize("name", ["bccd", "aquarium"])
def test_real_images_are_composed(real_data, monkeypatch, name):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(real_data))
    files = [CONFIGS / "quick" / "baseline.yaml", CONFIGS / "datasets" / f"{name}.yaml"]
    cfg = load_config(files, [*SMALL, *EVERYTHING])
    prepare(cfg)
    images = first_batches(cfg, 5)
    assert sum(len(image["instances"]) for image in images) > 10
