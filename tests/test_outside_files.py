"""Files of a dataset lie in its folders once links are followed, unless OUTSIDE_FILES is set."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from counterpoise.datasets import InvalidKind as Kind
from counterpoise.datasets import parse_specs
from counterpoise.datasets.files import Boundary
from counterpoise.datasets.loading import Source

XML = (
    "<annotation><object><name>cat</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>10</xmax>"
    "<ymax>12</ymax></bndbox></object></annotation>"
)
FORMS = ("coco", "voc", "yolo", "data.yaml", "list")
WITH_LABELS = FORMS[1:]


class Data:
    """A dataset of the images a to d in the folder ``data``, and a place beside it."""

    def __init__(self, folder: Path, form: str) -> None:
        self.form = form
        self.root, self.beside = folder / "data", folder / "secret"
        self.images, self.labels = self.root / "images", self.root / "labels"
        for path in (self.images / "deep", self.labels / "deep", self.beside):
            path.mkdir(parents=True)
        self.names = ["a", "b", "c", "deep/d"]
        for name in self.names:
            Image.new("RGB", (40, 20)).save(self.images / f"{name}.png")
            self.label(name).write_text(XML if form == "voc" else "0 0.5 0.5 0.2 0.2\n")
        (self.root / "data.yaml").write_text(
            f"names: [cat]\ntrain: {'train.txt' if form == 'list' else 'images'}\n"
        )

    def label(self, name: str) -> Path:
        return self.labels / f"{name}.{'xml' if self.form == 'voc' else 'txt'}"

    def load(self, **keys):
        """Names of the images that are used, and what is invalid."""
        files = [f"{name}.png" for name in self.names]
        content = {
            "images": [{"id": i, "file_name": name} for i, name in enumerate(files)],
            "annotations": [
                {"id": i, "image_id": i, "category_id": 0, "bbox": [2, 2, 5, 5]}
                for i in range(len(files))
            ],
            "categories": [{"id": 0, "name": "cat"}],
        }
        (self.root / "labels.json").write_text(json.dumps(content))
        (self.root / "train.txt").write_text("".join(f"images/{name}\n" for name in files))
        folders = {"IMAGES": str(self.images), "ANNOTATIONS": str(self.labels)}
        node = {
            "coco": {**folders, "ANNOTATIONS": str(self.root / "labels.json"), "FORMAT": "coco"},
            "voc": {**folders, "FORMAT": "voc"},
            "yolo": {**folders, "FORMAT": "yolo", "CLASSES": ["cat"]},
        }.get(
            self.form,
            {"FORMAT": "yolo", "DATA_YAML": str(self.root / "data.yaml"), "SPLIT": "train"},
        )
        part = Source(parse_specs({"pets": node | keys})["pets"], None, "skip").parts["pets"]
        used = sorted(Path(record["file_name"]).stem for record in part.dicts)
        return used, part.report.invalid_annotations


@pytest.fixture
def data(request, tmp_path):
    return Data(tmp_path, request.param)


def moved(path: Path, target: Path) -> None:
    """Put what is at a path elsewhere, and a link in its place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)
    path.symlink_to(target)


def assert_only_d_is_left_out(data: Data, leads_to: Path) -> None:
    used, invalid = data.load()
    assert used == ["a", "b", "c"]
    (found,) = [found for found in invalid if found.kind is not Kind.LABEL_WITHOUT_IMAGE]
    assert found.kind is Kind.OUTSIDE_FILE
    assert f"leads by a link to {leads_to}, which is outside of" in str(found)
    assert "set OUTSIDE_FILES True" in str(found)
    assert data.load(OUTSIDE_FILES=True) == (["a", "b", "c", "d"], [])


@pytest.mark.parametrize("data", FORMS, indirect=True)
def test_an_image_that_is_a_link_out_of_the_dataset_is_left_out(data):
    moved(data.images / "deep" / "d.png", data.beside / "d.png")
    assert_only_d_is_left_out(data, data.beside / "d.png")


@pytest.mark.parametrize("data", FORMS, indirect=True)
def test_a_folder_that_is_a_link_out_of_the_dataset_is_left_out(data):
    moved(data.images / "deep", data.beside / "deep")
    assert_only_d_is_left_out(data, data.beside / "deep" / "d.png")


@pytest.mark.parametrize("data", WITH_LABELS, indirect=True)
def test_a_label_file_that_is_a_link_out_of_the_dataset_is_not_read(data):
    label = data.label("deep/d")
    moved(label, data.beside / label.name)
    assert_only_d_is_left_out(data, data.beside / label.name)
    (data.beside / label.name).write_text("root:x:0:0")
    assert not any("root:x" in str(found) for found in data.load()[1])


@pytest.mark.parametrize(
    "data, absolute", [("coco", False), ("coco", True), ("list", False)], indirect=["data"]
)
def test_a_name_that_leads_out_of_the_dataset_is_left_out(data, absolute):
    moved_to = data.beside / "d.png"
    (data.images / "deep" / "d.png").rename(moved_to)
    data.label("deep/d").rename(data.beside / "d.txt")
    data.names[-1] = str(moved_to.with_suffix("")) if absolute else "../../secret/d"
    used, (found,) = data.load()
    assert used == ["a", "b", "c"] and found.kind is Kind.OUTSIDE_FILE
    assert f"{moved_to} is outside of {data.root}" in str(found)
    assert data.load(OUTSIDE_FILES=True)[0] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("data", FORMS, indirect=True)
def test_links_within_the_dataset_are_followed(data):
    moved(data.images / "a.png", data.images / "deep" / "e.bin")
    data.images.joinpath("b.png").unlink()
    data.images.joinpath("b.png").symlink_to("deep/../c.png")
    assert data.load() == (["a", "b", "c", "d"], [])


@pytest.mark.parametrize("data", FORMS, indirect=True)
def test_folders_that_the_config_names_may_be_links(data, tmp_path):
    named = () if data.form == "list" else (data.images, data.labels)
    for folder in (*named, data.root):
        moved(folder, tmp_path / "elsewhere" / folder.name)
    assert data.load() == (["a", "b", "c", "d"], [])


def test_a_boundary_knows_whole_names_and_follows_what_a_path_does(tmp_path):
    (tmp_path / "data" / "in").mkdir(parents=True)
    (tmp_path / "data2").mkdir()
    (tmp_path / "data" / "out").symlink_to("../data2")
    boundary = Boundary([tmp_path / "data"])
    inside = ["a.png", "in/a.png", "in/../a.png", "not/there.png"]
    outside = ["../data2/a.png", "out/a.png", "in/../../data2/a.png", "..", "out/../b.png"]
    assert not any(boundary.why_outside(os.path.join(tmp_path, "data", p)) for p in inside)
    assert all(boundary.why_outside(os.path.join(tmp_path, "data", p)) for p in outside)
    assert Boundary([]).why_outside("/etc/passwd") == ""
    assert Boundary([Path("/")]).why_outside("/etc/passwd") == ""
