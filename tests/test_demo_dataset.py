"""The synthetic long-tailed dataset of the demo."""

import importlib.util
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from counterpoise.errors import UserError

spec = importlib.util.spec_from_file_location(
    "make_dataset", Path(__file__).resolve().parents[1] / "demo" / "make_dataset.py"
)
demo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(demo)

SMALL = {
    "train": demo.Split(6, {"washer": 20, "bolt": 5, "split_washer": 1}),
    "test": demo.Split(4, {"washer": 3, "square_nut": 2}),
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return demo.make_dataset(tmp_path_factory.mktemp("demo") / "new" / "parts", splits=SMALL)


def content(paths):
    files = [paths.train_json, paths.test_json]
    files += sorted(paths.train_images.iterdir()) + sorted(paths.test_images.iterdir())
    return [file.read_bytes() for file in files]


def test_training_is_long_tailed_and_the_test_set_measures_every_class():
    train, test = demo.SPLITS["train"], demo.SPLITS["test"]
    assert list(train.boxes) == list(test.boxes) == list(demo.CLASSES)
    assert max(train.boxes.values()) >= 50 * min(train.boxes.values())
    assert min(test.boxes.values()) >= 25
    assert (train.images, test.images) == (300, 120)


@pytest.mark.parametrize("name", ["train", "test"])
def test_images_and_boxes_are_as_many_as_asked_for_and_read_as_coco(drawn, name):
    folder = getattr(drawn, f"{name}_images")
    coco = COCO(str(getattr(drawn, f"{name}_json")))
    assert tuple(category["name"] for category in coco.cats.values()) == demo.CLASSES
    counts = Counter(coco.cats[a["category_id"]]["name"] for a in coco.anns.values())
    assert counts == SMALL[name].boxes
    assert len(coco.imgs) == len(list(folder.iterdir())) == SMALL[name].images
    assert set(coco.imgToAnns) == set(coco.imgs)  # no image without an object
    for image in coco.imgs.values():
        assert cv2.imread(str(folder / image["file_name"])).shape == (240, 320, 3)
    for annotation in coco.anns.values():
        x, y, w, h = annotation["bbox"]
        assert 0 <= x < x + w <= 320
        assert 0 <= y < y + h <= 240
        assert min(w, h) >= 2
        assert max(w, h) >= 10


@pytest.mark.parametrize("class_name", demo.CLASSES)
def test_boxes_are_tight_around_the_visible_part(class_name, monkeypatch):
    # On a bench without green every greenish pixel shows a part; shadows only darken.
    monkeypatch.setattr(
        demo, "draw_bench", lambda rng: np.tile(np.float32([255, 0, 255]), (480, 640, 1))
    )
    monkeypatch.setattr(demo, "photograph", lambda canvas, rng: canvas)
    monkeypatch.setattr(demo, "choose_look_alikes", lambda rng: [])
    for seed in range(8):
        canvas, [(name, box)] = demo.draw_scene([class_name], np.random.default_rng(seed))
        shown = cv2.boundingRect((canvas[..., 1] > 25).astype(np.uint8))
        assert name == class_name
        np.testing.assert_allclose(np.array(box) * demo.SUPERSAMPLING, shown, atol=2)


def test_every_object_stays_visible_under_the_others():
    shape = demo.PARTS["washer"](np.random.default_rng(0))
    rng, owner, areas = np.random.default_rng(0), np.full((480, 640), -1, np.int16), []
    for number in range(30):
        sprite, area = demo.place_part(shape, owner, areas, rng)
        inside, on_patch = demo.overlap(sprite, owner.shape)
        owner[inside][sprite.solid[on_patch] > 0.5] = number
        areas.append(area)
        visible = np.bincount(owner[owner >= 0], minlength=len(areas))
        assert np.all(visible >= demo.MIN_VISIBLE * np.array(areas))


def test_the_seed_decides_every_byte(drawn, tmp_path):
    again = demo.make_dataset(tmp_path / "again", splits=SMALL)
    assert content(again) == content(drawn)
    other = demo.make_dataset(tmp_path / "other", seed=1, splits=SMALL)
    assert not set(content(other)) & set(content(drawn))


def test_a_complete_set_is_reused_and_another_or_broken_one_is_drawn_anew(tmp_path):
    paths = demo.make_dataset(tmp_path, splits=SMALL)  # an empty folder is taken
    before = content(paths)
    written = paths.train_json.stat().st_mtime_ns
    assert demo.make_dataset(tmp_path, splits=SMALL) == paths
    assert paths.train_json.stat().st_mtime_ns == written
    (paths.train_images / "0003.jpg").unlink()
    demo.make_dataset(tmp_path, splits=SMALL)
    assert content(paths) == before
    demo.make_dataset(tmp_path, seed=1, splits=SMALL)
    assert content(paths) != before


def test_an_interrupted_run_leaves_nothing_behind(tmp_path, monkeypatch):
    draw_scene, calls = demo.draw_scene, []

    def fails_at_third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw_scene(*arguments)

    monkeypatch.setattr(demo, "draw_scene", fails_at_third)
    with pytest.raises(KeyboardInterrupt):
        demo.make_dataset(tmp_path / "parts", splits=SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("after_drawing", [False, True])
def test_files_of_someone_else_are_never_replaced(tmp_path, after_drawing):
    if after_drawing:
        demo.make_dataset(tmp_path, splits=SMALL)
    (tmp_path / "train").mkdir(exist_ok=True)
    (tmp_path / "train" / "mine.jpg").write_text("precious")
    with pytest.raises(UserError, match=r"mine\.jpg is not part of this dataset"):
        demo.make_dataset(tmp_path, seed=1, splits=SMALL)
    assert (tmp_path / "train" / "mine.jpg").read_text() == "precious"
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is not part"):
        demo.make_dataset(tmp_path / "file", splits=SMALL)


@pytest.mark.parametrize(
    "boxes, seed, message",
    [
        ({"washer": 2}, 0, "'train' asks for 2 boxes on 3 images"),
        ({"washer": 37}, 0, "'train' asks for 37 boxes on 3 images"),
        ({"washers": 5}, 0, "unknown class 'washers': did you mean 'washer'"),
        ({"washer": 5}, -1, "seed is -1"),
    ],
)
def test_requests_that_cannot_be_drawn_are_refused(tmp_path, boxes, seed, message):
    splits = {"train": demo.Split(3, boxes), "test": SMALL["test"]}
    with pytest.raises(UserError, match=message):
        demo.make_dataset(tmp_path / "parts", seed, splits)
    assert list(tmp_path.iterdir()) == []
