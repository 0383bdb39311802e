"""Detectron2's catalogues, the cache, the log, the holdout and the counting."""

import json
import logging
import pickle
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from counterpoise.datasets import (
    count_classes,
    dataset_report,
    parse_specs,
    read_class_names,
    register_datasets,
)
from counterpoise.errors import UserError


@pytest.fixture(autouse=True)
def clean_catalogues(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what Detectron2 itself registers, whatever other tests of the session have added."""
    own = {k: f for k, f in DatasetCatalog.data.items() if f.__module__.startswith("detectron2.")}
    metadata = {name: m for name, m in MetadataCatalog.data.items() if name in own}
    monkeypatch.setattr(DatasetCatalog, "data", own)
    monkeypatch.setattr(MetadataCatalog, "data", metadata)


@pytest.fixture
def custom(tmp_path: Path) -> dict:
    """A YOLO set of twelve images: nine fish, two crabs (one beside a fish), two without boxes."""
    lines = ["0 .5 .5 .2 .2\n"] * 8 + ["0 .5 .5 .2 .2\n1 .2 .2 .2 .2\n", "1 .5 .5 .5 .5\n", "", ""]
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for i, line in enumerate(lines):
        Image.new("RGB", (20, 20)).save(tmp_path / f"images/{i:02}.png")
        (tmp_path / f"labels/{i:02}.txt").write_text(line)
    node = {"FORMAT": "yolo", "IMAGES": str(tmp_path / "images"), "CLASSES": ["fish", "crab"]}
    return {"sea": {**node, "ANNOTATIONS": str(tmp_path / "labels")}}


def register(custom: dict, classes: list | None = None, **kwargs: str) -> None:
    register_datasets(parse_specs(custom), classes=classes, **kwargs)


def test_nothing_is_read_at_registration(custom: dict):
    custom["sea"]["IMAGES"] = custom["sea"]["ANNOTATIONS"] = "/nowhere"
    register(custom, ["fish"])
    assert MetadataCatalog.get("sea").thing_classes == ["fish"]
    with pytest.raises(UserError, match="not there"):
        DatasetCatalog.get("sea")


@pytest.mark.parametrize("classes", [["crab", "fish"], None])
def test_metadata_tells_classes_evaluator_and_format(custom: dict, classes: list | None):
    register(custom, classes)
    DatasetCatalog.get("sea")
    metadata = MetadataCatalog.get("sea")
    assert metadata.thing_classes == (classes or ["fish", "crab"])
    assert metadata.evaluator_type == "counterpoise" and metadata.counterpoise_format == "yolo"


def test_a_dataset_is_read_and_logged_once(custom: dict, caplog: pytest.LogCaptureFixture):
    register(custom)
    with caplog.at_level(logging.INFO, "counterpoise.datasets"):
        first = DatasetCatalog.get("sea")
        Path(custom["sea"]["IMAGES"], "00.png").unlink()
        assert DatasetCatalog.get("sea") == first and dataset_report("sea").images == 12
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert "Dataset 'sea' (yolo): 12 images, 11 boxes" in record.message
    assert "2 images without boxes" in record.message and "no invalid annotations" in record.message


def test_an_invalid_annotation_is_logged_as_a_warning(
    custom: dict, caplog: pytest.LogCaptureFixture
):
    register(custom, ["fish"])
    DatasetCatalog.get("sea")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "labels/08.txt:2: unknown class 'crab'" in record.message


def test_registering_again_with_the_same_settings_keeps_what_was_read(custom: dict):
    register(custom, ["fish", "crab"])
    first = DatasetCatalog.get("sea")
    Path(custom["sea"]["IMAGES"], "00.png").unlink()
    register(custom, ["fish", "crab"])
    assert DatasetCatalog.get("sea") == first


def test_registering_again_with_other_settings_replaces(custom: dict):
    register(custom)
    DatasetCatalog.get("sea")
    register(custom, ["crab", "fish"])
    assert MetadataCatalog.get("sea").thing_classes == ["crab", "fish"]
    assert DatasetCatalog.get("sea")[0]["annotations"][0]["category_id"] == 1
    custom["sea"]["HOLDOUT"] = 0.25
    register(custom)
    register({"sea": {**custom["sea"], "HOLDOUT": 0.0}})
    assert {n for n in DatasetCatalog if n.startswith("sea")} == {"sea"}


def test_a_dataset_of_other_code_is_never_replaced(custom: dict):
    DatasetCatalog.register("sea", list)
    with pytest.raises(UserError, match="'sea' is already taken"):
        register(custom)
    assert DatasetCatalog["sea"] is list
    with pytest.raises(UserError, match="no custom dataset named 'sea'; none is registered"):
        dataset_report("sea")


def test_metadata_of_other_code_is_never_overwritten(custom: dict):
    MetadataCatalog.get("sea").set(thing_classes=["x"])
    with pytest.raises(UserError, match=r"already has thing_classes \['x'\]"):
        register(custom, ["fish"])


@pytest.mark.parametrize(
    "classes, mode, says",
    [
        (["fish"], "skp", r"DATASETS\.BAD_RECORDS is 'skp'; did you mean 'skip'"),
        ([], "skip", "class list is empty"),
        (["fish", "fish"], "skip", "twice"),
    ],
)
def test_bad_arguments_are_refused(custom: dict, classes: list, mode: str, says: str):
    with pytest.raises(UserError, match=says):
        register(custom, classes, bad_records=mode)


def test_a_refused_dataset_is_read_again_once_it_is_fixed(custom: dict):
    label = Path(custom["sea"]["ANNOTATIONS"], "00.txt")
    label.write_text("9 .5 .5 .2 .2")
    register(custom, bad_records="refuse")
    with pytest.raises(UserError, match=r"00\.txt:1"):
        DatasetCatalog.get("sea")
    label.write_text("0 .5 .5 .2 .2")
    assert len(DatasetCatalog.get("sea")) == 12


def test_dicts_survive_pickle_and_a_weights_only_checkpoint(custom: dict, tmp_path: Path):
    register(custom)
    dicts = DatasetCatalog.get("sea")
    assert pickle.loads(pickle.dumps(dicts)) == dicts
    torch.save(dicts, tmp_path / "dicts.pt")
    assert torch.load(tmp_path / "dicts.pt", weights_only=True) == dicts


def test_holdout_splits_one_folder_into_two_datasets(
    custom: dict, caplog: pytest.LogCaptureFixture
):
    custom["sea"]["HOLDOUT"] = 0.25
    register(custom)
    assert "sea" not in DatasetCatalog
    with caplog.at_level(logging.INFO, "counterpoise.datasets"):
        train, val = (DatasetCatalog.get(name) for name in ("sea_train", "sea_val"))
    ids = [{d["image_id"] for d in part} for part in (train, val)]
    assert len(ids[0]) == 9 and len(ids[1]) == 3 and not ids[0] & ids[1]
    for name in ("sea_train", "sea_val"):
        assert min(count_classes([name]).images) >= 1
    (record,) = caplog.records
    assert f"'sea_val' takes 3 images, {dataset_report('sea_val').boxes} boxes" in record.message
    assert dataset_report("sea").images == 12 and dataset_report("sea_train").images == 9
    assert not dataset_report("sea_train").notes and len(dataset_report("sea").notes) == 2


def test_two_holdouts_split_one_folder_into_three_and_the_test_set_stays(custom: dict):
    names = ("sea_train", "sea_val", "sea_test")
    custom["sea"] |= {"HOLDOUT": 0.25, "HOLDOUT_TEST": 0.25}
    register(custom)
    ids = [{d["image_id"] for d in DatasetCatalog.get(name)} for name in names]
    assert [len(part) for part in ids] == [6, 3, 3] and len(set().union(*ids)) == 12
    # Of a class in two images one is trained on and one is tested.
    counts = [
        dict(zip(c.names, c.images, strict=True)) for c in (count_classes([name]) for name in names)
    ]
    assert [count["crab"] for count in counts] == [1, 0, 1]
    assert all(count["fish"] >= 1 for count in counts)
    custom["sea"]["HOLDOUT"] = 0.0
    register(custom)
    assert {d["image_id"] for d in DatasetCatalog.get("sea_test")} == ids[2]
    assert "sea_val" not in DatasetCatalog


def test_a_class_of_one_image_is_told_to_be_on_one_side_only(custom: dict):
    custom["sea"]["HOLDOUT"] = 0.25
    Path(custom["sea"]["ANNOTATIONS"], "09.txt").write_text("")
    register(custom)
    assert "boxes of it, but none of class crab" in dataset_report("sea").summary()


def test_holdout_of_a_single_image_is_refused(custom: dict):
    custom["sea"]["HOLDOUT"] = 0.25
    for path in list(Path(custom["sea"]["IMAGES"]).iterdir())[1:]:
        path.unlink()
    register(custom)
    with pytest.raises(UserError, match=r"DATASETS\.CUSTOM\.sea\.HOLDOUT needs at least two"):
        DatasetCatalog.get("sea_train")
    custom["sea"]["HOLDOUT_TEST"] = 0.25
    register(custom)
    with pytest.raises(UserError, match="HOLDOUT and HOLDOUT_TEST needs at least three usable"):
        DatasetCatalog.get("sea_train")


def test_class_names_and_data_are_parsed_once(tmp_path: Path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    image = {"id": 1, "file_name": "a.png"}
    content = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    node = {"FORMAT": "coco", "IMAGES": str(tmp_path), "ANNOTATIONS": str(tmp_path / "a.json")}
    specs = parse_specs({"pets": node})
    assert read_class_names(specs["pets"]) == ["cat"]
    (tmp_path / "a.json").unlink()
    register_datasets(specs, classes=["cat"])
    assert len(DatasetCatalog.get("pets")) == 1


def plain(name: str, classes: list | None, *images: list[tuple[int, int]]) -> str:
    """Register a dataset as other code would: per image a list of (category id, iscrowd)."""
    dicts = [{"annotations": [{"category_id": c, "iscrowd": i} for c, i in im]} for im in images]
    DatasetCatalog.register(name, lambda: dicts)
    if classes is not None:
        MetadataCatalog.get(name).thing_classes = classes
    return name


def test_boxes_and_images_are_counted_per_class_without_crowds():
    name = plain("a", ["x", "y", "z"], [(0, 0), (0, 0), (1, 0)], [(1, 1), (0, 0)], [])
    counts = count_classes([name])
    assert counts.names == ("x", "y", "z")
    assert counts.boxes == (3, 1, 0) and counts.images == (2, 1, 0)


def test_datasets_are_summed_by_class_name():
    a = plain("a", ["x", "y"], [(0, 0), (1, 0)])
    b = plain("b", ["y", "x"], [(0, 0)], [(0, 0)])
    assert count_classes([a, b]).boxes == (1, 3)


def test_a_record_without_annotations_counts_as_empty():
    DatasetCatalog.register("a", lambda: [{"file_name": "x.jpg"}])
    MetadataCatalog.get("a").thing_classes = ["x"]
    assert count_classes(["a"]).boxes == (0,)


def test_what_cannot_be_counted_is_refused():
    a, b = plain("a", ["x", "y"]), plain("b", ["x", "z"])
    with pytest.raises(UserError, match=r"\['y'\] are only in 'a' and \['z'\] only in 'b'"):
        count_classes([a, b])
    with pytest.raises(UserError, match="no class names"):
        count_classes([plain("c", None)])
    with pytest.raises(UserError, match="category_id 2, but its thing_classes are 2"):
        count_classes([plain("d", ["x", "y"], [(2, 0)])])
    with pytest.raises(UserError, match="no dataset named 'coco_2017_trian'; did you mean"):
        count_classes(["coco_2017_trian"])
    with pytest.raises(UserError, match="no dataset to count"):
        count_classes([])


def test_a_missing_builtin_dataset_is_refused(tmp_path: Path):
    DatasetCatalog.register("gone", lambda: (tmp_path / "gone.json").read_text())
    with pytest.raises(UserError, match=r"'gone' cannot be read"):
        count_classes(["gone"])
