"""``counterpoise predict``: images in, drawn images and a COCO dataset with scores out."""

import json
import os
import shutil

import numpy as np
import pytest
from matplotlib.font_manager import findfont, get_font
from PIL import Image, ImageFont

from counterpoise.commands.console import main
from counterpoise.errors import UserError
from counterpoise.pages.drawing import draw_boxes, font_file
from counterpoise.pages.figures import COLOURS
from counterpoise.runtime.images import find_images
from counterpoise.runtime.results import Predictions, save_drawn
from runs import SMALL


@pytest.fixture
def images(run, tmp_path):
    """Folder with a sub-folder of three images."""
    data, _ = run
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    for i, place in enumerate(("a.png", "b.png", "deeper/a.png")):
        shutil.copy(data.parent / "images" / f"{i}.png", folder / place)
    return folder


def predict(run, *arguments):
    return main(["predict", *map(str, arguments), "--run", str(run[1]), "--opts", *SMALL[:2]])


def test_every_image_is_drawn_and_the_json_is_a_coco_dataset(run, images, tmp_path, capsys):
    out = tmp_path / "out"
    assert predict(run, images, "--min-score", "0.2", "--out", out) == 0
    drawn = sorted(p.relative_to(out).as_posix() for p in out.rglob("*.jpg"))
    assert drawn == ["images/a.jpg", "images/b.jpg", "images/deeper/a.jpg"]
    coco = json.loads((out / "predictions.json").read_text())
    assert [c["name"] for c in coco["categories"]] == ["disc", "bar"]
    assert [(i["width"], i["height"]) for i in coco["images"]] == [(80, 64)] * 3
    assert coco["annotations"]
    assert {a["image_id"] for a in coco["annotations"]} <= {i["id"] for i in coco["images"]}
    assert all(a["score"] >= 0.2 for a in coco["annotations"])
    assert "3 images" in capsys.readouterr().out


def test_a_score_below_what_the_model_keeps_is_pointed_out(run, images, tmp_path, capsys):
    out = ["--no-images", "--out", tmp_path / "out"]
    said = "--min-score is 0.01, but the model itself keeps no detection below 0.05"
    for score, pointed_out in (("0.01", True), ("0.05", False)):
        assert predict(run, images, "--min-score", score, *out) == 0
        assert (said in capsys.readouterr().err) == pointed_out


def test_images_to_look_at_are_never_drawn_over(run, images, tmp_path, capsys):
    folder = tmp_path / "data" / "images"
    shutil.copytree(images, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*.png")}
    assert predict(run, folder, "--out", tmp_path / "data") == 2
    assert "choose another --out, or add --no-images" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert predict(run, folder, "--out", tmp_path / "data", "--no-images") == 0


def test_drawn_images_of_an_earlier_prediction_are_pointed_out(run, images, tmp_path, capsys):
    out = tmp_path / "out"
    for given, said in (
        (images, False),
        (images, False),
        (images / "a.png", "also holds 2 drawn images of an earlier prediction"),
    ):
        assert predict(run, given, "--out", out) == 0
        err = capsys.readouterr().err
        assert said in err if said else "earlier" not in err


def test_hidden_files_are_not_looked_at(images):
    (images / "._a.png").write_bytes(b"not an image")
    assert len(find_images([images])) == 3


def test_a_folder_behind_a_link_is_searched_and_one_that_cannot_be_read_is_named(
    images, tmp_path, monkeypatch
):
    folder = tmp_path / "linked"
    folder.mkdir()
    (folder / "cameras").symlink_to(images)
    found = find_images([folder])
    assert [str(each.name) for each in found] == ["cameras/a", "cameras/b", "cameras/deeper/a"]

    scan = os.scandir

    def refused(path):
        if str(path).endswith("deeper"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)  # root may read any folder
    with pytest.raises(UserError, match=r"deeper cannot be read: Permission denied"):
        find_images([folder])


def test_no_dataset_is_needed(run, images, tmp_path, capsys):
    run_dir = tmp_path / "moved"
    run_dir.mkdir()
    shutil.copy(run[1] / "model_final.pth", run_dir)
    config = (run[1] / "config.yaml").read_text()
    (run_dir / "config.yaml").write_text(config.replace(str(run[0].parent), "/not/there"))
    assert predict((None, run_dir), images, "--no-images", "--json", "--out", tmp_path / "o") == 0
    assert len(json.loads(capsys.readouterr().out)["images"]) == 3
    assert not (tmp_path / "o" / "images").exists()


def test_an_unreadable_image_is_left_out_and_named(run, images, tmp_path, capsys):
    whole = (images / "a.png").read_bytes()
    (images / "cut.png").write_bytes(whole[: len(whole) // 2])
    assert predict(run, images, "--no-images", "--out", tmp_path / "o") == 0
    said = capsys.readouterr()
    assert "warning: left out" in said.err and "cut.png" in said.err
    assert len(json.loads((tmp_path / "o" / "predictions.json").read_text())["images"]) == 3


def test_an_image_that_fails_to_decode_does_not_take_the_others_along(
    run, images, tmp_path, capsys
):
    noise = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(images / "broken.png")
    whole = (images / "broken.png").read_bytes()
    # The header and the end are in order.
    (images / "broken.png").write_bytes(whole[:3000] + whole[-12:])
    assert predict(run, images, "--no-images", "--out", tmp_path / "o") == 0
    assert "broken.png" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "o" / "predictions.json").read_text())["images"]) == 3


def test_images_that_differ_in_their_ending_alone_are_drawn_apart(run, images, tmp_path):
    with Image.open(images / "a.png") as image:
        image.save(images / "a.jpg")
    assert predict(run, images, "--out", tmp_path / "o") == 0
    drawn = {p.relative_to(tmp_path / "o/images").as_posix() for p in tmp_path.rglob("o/**/*.jpg")}
    assert drawn == {"a.jpg", "a~2.jpg", "b.jpg", "deeper/a.jpg"}


def test_a_single_image_is_counted_as_one(run, images, tmp_path, capsys):
    arguments = ["--no-images", "--out", tmp_path / "o"]
    assert predict(run, images / "a.png", *arguments) == 0
    assert "\n1 image, " in capsys.readouterr().out


def test_a_folder_called_as_an_image_is_none(images):
    (images / "deeper").rename(images / "album.jpg")
    assert [i.path.name for i in find_images([images])] == ["a.png", "a.png", "b.png"]


def test_an_image_too_long_for_jpeg_is_drawn_smaller(tmp_path):
    Image.new("RGB", (70_000, 100)).save(tmp_path / "wide.png")
    (image,) = find_images([tmp_path / "wide.png"])
    path = save_drawn(Predictions(image, (70_000, 100), ()), ("cat",), tmp_path / "drawn")
    with Image.open(path) as drawn:
        assert drawn.width == 65_500


def test_files_of_equal_name_keep_apart(images):
    names = [i.name.as_posix() for i in find_images([images / "a.png", images / "deeper/a.png"])]
    assert names == ["a", "a~2"]
    assert len(find_images([images, images / "b.png"])) == 3


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda folder: folder / "none", "does not exist"),
        (lambda folder: folder / ("x" * 300), "does not exist"),
        (
            lambda folder: (folder / "text.txt", (folder / "text.txt").write_text("x"))[0],
            "does not have the suffix of an image",
        ),
        (lambda folder: ((folder / "empty").mkdir(), folder / "empty")[1], "holds no image"),
    ],
)
def test_a_wrong_input_is_one_sentence(run, tmp_path, capsys, make, sentence):
    assert predict(run, make(tmp_path), "--out", tmp_path / "o") == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("counterpoise predict: error: ") and sentence in error
    assert "\n" not in error


def test_a_folder_of_broken_images_is_refused(run, tmp_path, capsys):
    (tmp_path / "x.png").write_bytes(b"no image")
    assert predict(run, tmp_path, "--out", tmp_path / "o") == 2
    assert "none of the 1 images could be read" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_boxes_are_drawn_in_their_colour_on_a_copy_even_beyond_the_image():
    pixels = np.zeros((60, 80, 3), dtype=np.uint8)
    boxes = np.array([[10, 20, 40, 50], [-20, -20, 200, 200], [90, 90, 99, 99]], dtype=float)
    drawn = draw_boxes(pixels, boxes, ["a", "b", "c"], ["#ff0000", "#00ff00", "#0000ff"])
    assert not pixels.any()
    assert drawn[35, 10].tolist() == [255, 0, 0]
    assert drawn[59, 79].tolist() == [0, 255, 0]
    with Image.fromarray(drawn) as image:
        assert image.size == (80, 60)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_label_can_be_read_on_its_colour(colour):
    box = np.array([[5, 30, 90, 90]], dtype=float)
    drawn = draw_boxes(np.zeros((100, 100, 3), np.uint8), box, ["HHHH"], [colour])
    label = drawn[15:29, 6:40].reshape(-1, 3)
    linear = np.where(label <= 10, label / 3295, ((label / 255 + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722) + 0.05
    # WCAG 2.2 asks for 4.5 to 1; anti-aliased text of this size hardly has a full stroke.
    assert luminance.max() / luminance.min() > 4.5


def test_a_font_is_opened_once_however_many_labels_are_drawn(monkeypatch):
    opened, truetype = [], ImageFont.truetype
    monkeypatch.setattr(ImageFont, "truetype", lambda *args: opened.append(args) or truetype(*args))
    box = np.array([[5, 30, 90, 90]], dtype=float)
    for i in range(50):
        draw_boxes(np.zeros((123, 2345, 3), np.uint8), box, [f"cell {i}"], ["#ff0000"])
    assert len(opened) == 1


def test_a_label_gets_a_font_that_has_its_characters_where_one_is_installed():
    default = findfont("DejaVu Sans")
    assert font_file(frozenset("starfish 0.93 é")) == default
    # STIX ships with matplotlib too, and has characters that DejaVu Sans lacks.
    other = set(get_font(findfont("STIXGeneral")).get_charmap())
    only_there = chr(min(other - set(get_font(default).get_charmap())))
    chosen = font_file(frozenset(only_there))
    assert ord(only_there) in get_font(chosen).get_charmap()
    assert font_file(frozenset("\U0010fffd")) == default
