"""Images of two splits that look alike: found whatever their files are, and nothing else is."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from counterpoise.commands.console import main
from counterpoise.inspection.near_duplicates import find_near_duplicates


def picture(seed: int) -> np.ndarray:
    """Smooth colours, (240, 320, 3) uint8."""
    small = np.random.default_rng(seed).integers(0, 220, (12, 16, 3), dtype=np.uint8)
    return cv2.resize(small, (320, 240), interpolation=cv2.INTER_CUBIC)


def write(path: Path, pixels: np.ndarray, *options: int) -> str:
    path.parent.mkdir(exist_ok=True)
    assert cv2.imwrite(str(path), pixels, options)
    return str(path)


def pairs_of(found):
    return {(s.first, s.second): s.pairs for s in found.similar}


@pytest.fixture
def train(tmp_path):
    return [write(tmp_path / "train" / f"{i}.png", picture(i)) for i in range(30)]


CHANGES = {
    "encoded": lambda p: cv2.imdecode(
        cv2.imencode(".jpg", p, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR
    ),
    "shrunken": lambda p: cv2.resize(p, (150, 110), interpolation=cv2.INTER_AREA),
    "brighter": lambda p: np.clip(p * 1.1 + 10, 0, 255).astype(np.uint8),
    "noisy": lambda p: cv2.add(p, np.random.default_rng(9).integers(0, 9, p.shape, np.uint8)),
    "mirrored": lambda p: cv2.flip(p, 1),
    "upside down": lambda p: cv2.flip(p, 0),
    "turned": lambda p: cv2.rotate(p, cv2.ROTATE_90_CLOCKWISE),
    "mirrored and turned": lambda p: cv2.rotate(cv2.flip(p, 1), cv2.ROTATE_90_CLOCKWISE),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_copy_is_found_beside_its_original_and_nothing_else_is(tmp_path, train, change):
    copy = write(tmp_path / "test" / "a.png", change(picture(17)))
    other = write(tmp_path / "test" / "b.png", picture(99))
    found = find_near_duplicates({"train": train, "test": [other, copy]})
    (((first, second), ((own, original, bits),)),) = pairs_of(found).items()
    assert (first, second, own, original) == ("train", "test", copy, train[17])
    assert bits <= 16
    assert found.images == 32 and found.similar[0].compared == 2


def test_files_with_the_same_bytes_are_left_to_the_other_table(tmp_path, train):
    copy = str(shutil.copy(train[3], tmp_path / "copy.png"))
    assert find_near_duplicates({"train": train, "test": [copy, train[4]]}).similar == ()


def test_mostly_even_images_with_other_objects_do_not_look_alike(tmp_path):
    files = []
    for i, corner in enumerate([(20, 20), (200, 150)]):
        page = np.full((240, 320, 3), 250, dtype=np.uint8)
        cv2.rectangle(page, corner, (corner[0] + 25, corner[1] + 25), (30, 60, 90), -1)
        files.append(write(tmp_path / f"{i}.png", page))
    moved = [[files[0]], [files[1]]]
    # The second is no mirror image of the first either.
    assert find_near_duplicates(dict(zip("ab", moved, strict=True))).similar == ()


@pytest.mark.parametrize("most, kind", [(200, np.uint16), (60_000, np.uint16), (1, np.float32)])
def test_images_of_more_than_8_bits_are_told_apart_whatever_range_they_use(tmp_path, most, kind):
    suffix = ".tiff" if kind == np.float32 else ".png"

    def deep(i: int) -> np.ndarray:
        grey = cv2.cvtColor(picture(i), cv2.COLOR_BGR2GRAY)
        return (grey / 255 * most).astype(kind)

    train = [write(tmp_path / "train" / f"{i}{suffix}", deep(i)) for i in range(4)]
    test = [write(tmp_path / "test" / f"{i}{suffix}", deep(9 + i)) for i in range(3)]
    test.append(write(tmp_path / "test" / f"copy{suffix}", cv2.flip(deep(2), 1)))
    found = find_near_duplicates({"train": train, "test": test})
    assert [pair[:2] for pair in pairs_of(found)["train", "test"]] == [(test[3], train[2])]
    assert found.unreadable == ()


def test_of_a_single_split_nothing_is_read():
    found = find_near_duplicates({"train": ["/nowhere/a.png", "/nowhere/b.png"]})
    assert (found.images, found.unreadable) == (0, ())


def test_what_cannot_be_decoded_is_named(tmp_path, train):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    found = find_near_duplicates({"train": train[:2], "test": [str(broken), "/gone.png"]})
    assert sorted(found.unreadable) == sorted([str(broken), "/gone.png"])
    assert found.images == 2 and found.similar == ()


def test_a_file_name_of_another_encoding_is_read_and_shown(tmp_path, train):
    name = os.fsdecode(b"caf\xe9.png")  # as a zip from Windows leaves it
    copy = tmp_path / "test" / name
    write(tmp_path / "test" / "a.png", cv2.flip(picture(17), 1))
    (tmp_path / "test" / "a.png").rename(copy)
    gone = str(tmp_path / "test" / os.fsdecode(b"gon\xe9.png"))
    found = find_near_duplicates({"train": train, "test": [str(copy), gone]})
    assert pairs_of(found)["train", "test"][0][:2] == (str(copy), train[17])
    assert found.unreadable == (gone,)


def test_of_large_splits_evenly_spaced_images_are_compared(tmp_path, train):
    read = []
    test = [write(tmp_path / "test" / "a.png", picture(0))]
    found = find_near_duplicates(
        {"train": train, "test": test}, lambda files: read.extend(files) or files, most=10
    )
    assert found.sampled == ("train",) and found.images == len(read) == 11
    assert {train[0], train[-1]} <= set(read)


def test_inspect_shows_them_as_a_table_in_the_json_and_as_advice(tmp_path, capsys):
    for split, numbers in (("train", range(6)), ("valid", (2, 50))):
        images, labels = tmp_path / "data" / split / "images", tmp_path / "data" / split / "labels"
        images.mkdir(parents=True)
        labels.mkdir()
        for i in numbers:
            pixels = cv2.flip(picture(i), 1) if split == "valid" else picture(i)
            write(images / f"{i}.png", pixels)
            (labels / f"{i}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "data" / "data.yaml").write_text(
        "train: train/images\nval: valid/images\nnames: [cell]\nnc: 1\n"
    )
    assert main(["inspect", str(tmp_path / "data"), "--out", str(tmp_path / "out")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "data_val data_train 1 2 50.0 %" in said
    assert "1. Keep what looks alike in data_train or data_val, not in both" in said
    found = json.loads((tmp_path / "out" / "inspect.json").read_text())["near_duplicates"]
    (pair,) = found["similar"][0]["pairs"]
    assert [Path(p).parts[-3:] for p in pair[:2]] == [
        ("valid", "images", "2.png"), ("train", "images", "2.png"),
    ]  # fmt: skip
    assert "bits apart, of 256" in (tmp_path / "out" / "inspect.html").read_text()
