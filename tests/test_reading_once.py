"""A dataset is read once in a process, and all parts of a run share what was read."""

import json
import sys
from collections import Counter

import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BoxMode

from counterpoise.datasets import count_classes, load_dataset
from counterpoise.datasets.counting import read_once
from counterpoise.modeling import weight_sources
from runs import train_net, write_dataset

OPENED = Counter()
WATCHED = set()


def watch(event, arguments):
    if WATCHED and event == "open" and str(arguments[0]) in WATCHED:
        OPENED[str(arguments[0])] += 1


sys.addaudithook(watch)


@pytest.fixture
def opened():
    """Counts how often files are opened: a function that names them, and the counts."""
    OPENED.clear()
    yield lambda *paths: WATCHED.update(map(str, paths)), OPENED
    WATCHED.clear()


@pytest.fixture
def registered():
    """Names to take out of Detectron2's catalogues at the end."""
    names = []
    yield names
    for name in names:
        DatasetCatalog.pop(name, None)
        MetadataCatalog.pop(name, None)


def files(tmp_path):
    folders = [write_dataset(tmp_path / part, seed=i).parent for i, part in enumerate("ab")]
    return [folder / "labels.json" for folder in folders]


RUN = ("TEST.EVAL_PERIOD", "2", "SOLVER.MAX_ITER", "4")


@pytest.mark.parametrize("leaf", ["focal_weights_ohem", "baseline"])
def test_a_run_reads_the_coco_files_that_detectron2_registers_once_each(
    tmp_path, opened, registered, leaf, monkeypatch
):
    counted = []
    monkeypatch.setattr(
        weight_sources, "count_classes", lambda names: counted.append(names) or count_classes(names)
    )
    names = [f"builtin_{leaf}_train", f"builtin_{leaf}_test"]
    paths = files(tmp_path)
    for name, path in zip(names, paths, strict=True):
        register_coco_instances(name, {}, str(path), str(path.parent / "images"))
    registered += names
    config = tmp_path / "data.yaml"
    config.write_text(yaml.safe_dump({"DATASETS": {"TRAIN": names[:1], "TEST": names[1:]}}))
    watch_files, counts = opened
    watch_files(*paths)
    assert train_net(config, tmp_path / "out", *RUN, leaf=leaf) == 0
    assert counts == {str(path): 1 for path in paths}
    assert len(counted) == 1  # the trainer hands its table to the loss


def test_a_run_reads_custom_datasets_once_each(tmp_path, opened):
    paths = files(tmp_path)
    custom = {
        f"{path.parent.name}_own": {
            "FORMAT": "coco", "IMAGES": str(path.parent / "images"), "ANNOTATIONS": str(path),
        }
        for path in paths
    }  # fmt: skip
    datasets = {"CUSTOM": custom, "TRAIN": ["a_own"], "TEST": ["b_own"]}
    config = tmp_path / "data.yaml"
    config.write_text(yaml.safe_dump({"DATASETS": datasets}))
    watch_files, counts = opened
    watch_files(*paths)
    assert train_net(config, tmp_path / "out", *RUN) == 0
    assert counts == {str(path): 1 for path in paths}
    evaluation = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert sum(c["train_boxes"] + c["test_boxes"] for c in evaluation["b_own"]["per_class"]) == 24


def records(number=3):
    box = {"bbox": [0, 0, 5, 5], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    return [
        {"file_name": f"{i}", "image_id": i, "height": 9, "width": 9, "annotations": [box][:i]}
        for i in range(number)
    ]


def register(name, number, reads, registered):
    DatasetCatalog.register(name, lambda: reads.append(number) or records(number))
    MetadataCatalog.get(name).thing_classes = ["x"]
    registered.append(name)


def test_a_name_that_is_registered_anew_is_read_anew(registered):
    reads = []
    register("once", 3, reads, registered)
    first, _ = load_dataset("once")
    assert load_dataset("once")[0] is first and count_classes(["once"]).num_images == 3
    DatasetCatalog.remove("once")
    register("once", 5, reads, registered)
    assert count_classes(["once"]).num_images == len(load_dataset("once")[0]) == 5
    assert reads == [3, 5]


def test_detectron2_filters_what_was_read_and_changes_nothing_in_it(registered):
    reads = []
    register("once", 3, reads, registered)
    own, _ = load_dataset("once")
    loader = DatasetCatalog["once"]
    with read_once(["once"]):
        found = get_detection_dataset_dicts(["once"], filter_empty=True)
        found[0]["proposal_boxes"] = []
    assert [record["image_id"] for record in found] == [1, 2]
    assert own == records() and reads == [3]
    assert DatasetCatalog["once"] is loader


def test_the_catalogue_is_restored_where_a_loader_fails(registered):
    register("once", 3, [], registered)
    loader = DatasetCatalog["once"]
    with pytest.raises(ZeroDivisionError), read_once(["once"]):
        1 / 0  # noqa: B018
    assert DatasetCatalog["once"] is loader
