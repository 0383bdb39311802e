"""Images that turn out to be damaged when they are read in full are known at the next start."""

import json
import os

import pytest
from detectron2.data import DatasetCatalog
from detectron2.utils.file_io import PathManager
from PIL import Image

from counterpoise.datasets.damaged import FILE_NAME, damaged_images, remember_damaged
from counterpoise.datasets.mapper import CheckedMapper
from counterpoise.errors import UserError
from models import quick_config
from runs import NO_TEST, train_net, write_dataset


def test_a_damaged_image_is_known_until_it_changes(tmp_path):
    cache, image, other = tmp_path / "cache", tmp_path / "a.png", tmp_path / "b.png"
    image.write_bytes(b"torn")
    other.write_bytes(b"whole")
    files = [str(image), str(other)]
    assert damaged_images(cache, files) == {}
    for _ in range(2):
        remember_damaged(cache, str(image), "truncated\x1b[31m")
    assert len((cache / FILE_NAME).read_text().splitlines()) == 1
    (reason,) = damaged_images(cache, files).values()
    assert reason.startswith("truncated") and "\x1b" not in reason
    os.utime(image, ns=(1, 1))
    assert damaged_images(cache, files) == {}
    remember_damaged(cache, str(image), "still torn")
    assert damaged_images(cache, files) == {str(image): "still torn"}
    image.unlink()
    assert damaged_images(cache, files) == {}


@pytest.mark.parametrize("line", ["", "{", "[]", "7", '{"file": 3}', '{"file": "a"}', "\x00é"])
def test_lines_that_are_torn_or_foreign_cost_nothing(tmp_path, line):
    image = tmp_path / "a.png"
    image.write_bytes(b"torn")
    (tmp_path / FILE_NAME).write_text(line + "\n", encoding="utf-8")
    remember_damaged(tmp_path, str(image), "truncated")
    assert damaged_images(tmp_path, [str(image)]) == {str(image): "truncated"}


def test_where_nothing_can_be_kept_nothing_fails(tmp_path):
    image = tmp_path / "a.png"
    image.write_bytes(b"torn")
    remember_damaged(None, str(image), "truncated")
    remember_damaged(image / "no folder", str(image), "truncated")
    remember_damaged(tmp_path, str(tmp_path / "gone.png"), "truncated")
    assert damaged_images(None, [str(image)]) == {}
    assert not (tmp_path / FILE_NAME).exists()


@pytest.mark.parametrize(
    "error", [OSError(24, "Too many open files"), OSError(116, "Stale handle"), MemoryError()]
)
def test_an_error_of_the_system_is_not_taken_for_a_damaged_image(tmp_path, monkeypatch, error):
    image = tmp_path / "a.png"
    Image.new("RGB", (8, 6)).save(image)
    record = {"file_name": str(image), "height": 6, "width": 8, "annotations": []}
    cfg = quick_config("DATASETS.CACHE", str(tmp_path / "cache"))
    mappers = [CheckedMapper(cfg, is_train) for is_train in (True, False)]

    def fails(*_, **__):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(PathManager, "open", fails)
        for mapper in mappers:
            mapper.skip_unusable = True
            with pytest.raises(UserError, match=r"a\.png cannot be read now"):
                mapper(dict(record))
    assert damaged_images(tmp_path / "cache", [str(image)]) == {}
    assert mappers[0](dict(record))["image"].shape[0] == 3
    image.write_bytes(b"torn")
    assert mappers[0](dict(record)) is None
    assert damaged_images(tmp_path / "cache", [str(image)])


def test_the_next_start_names_what_a_training_has_found(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = write_dataset(tmp_path / "shapes")
    torn = sorted((tmp_path / "shapes" / "images").iterdir())[1:4]
    for path in torn:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] + whole[-12:])
    settings = ["SOLVER.MAX_ITER", "3", *NO_TEST]
    said = "cannot be used, as was found when"
    for run in ("first", "second"):
        assert train_net(data, tmp_path / run, *settings) == 0
        assert (said in (tmp_path / run / "log.txt").read_text()) == (run == "second")
        for name in ("shapes_train", "shapes_val"):
            DatasetCatalog[name].unregister()  # as in a process that starts
    found = (tmp_path / "cache" / "counterpoise" / FILE_NAME).read_text().splitlines()
    named = {json.loads(line)["file"] for line in found}
    assert named and named <= {str(path) for path in torn}
    capsys.readouterr()
    assert train_net(data, tmp_path / "third", *settings, "DATASETS.BAD_RECORDS", "refuse") == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1
    assert train_net(data, tmp_path / "fourth", *settings, "DATASETS.CACHE", "none") == 0
