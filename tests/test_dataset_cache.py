"""The cache of what was read: any change is noticed, and nothing that is wrong with it matters."""

import json
import logging
import multiprocessing
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from counterpoise.config.loading import load_config
from counterpoise.datasets import cache_folder, fingerprint, loading, parse_specs
from counterpoise.datasets.files import is_found_by_a_walk
from counterpoise.datasets.loading import Source, read_class_names
from counterpoise.errors import UserError
from interruptions import killed_while_writing
from runs import NO_TEST, train_net, write_dataset

FORMATS = ("coco", "voc", "yolo", "yolo yaml", "yolo list")

XML = """<annotation><filename>{0}.png</filename><size><width>40</width><height>20</height></size>
<object><name>{1}</name><difficult>1</difficult>
<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>30.5</xmax><ymax>18</ymax></bndbox></object>
<object><name>{1}</name>
<bndbox><xmin>9</xmin><ymin>4</ymin><xmax>9</xmax><ymax>4</ymax></bndbox></object></annotation>"""


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """Files of the tests have only just been written."""
    monkeypatch.setattr(fingerprint, "SETTLING_NS", -(10**12))


def make(root: Path, form: str) -> dict:
    """Six images, a box in all but one and an invalid box in some; returns the node of a config."""
    images, labels = root / "images", root / "labels"
    images.mkdir(parents=True)
    labels.mkdir()
    for i in range(6):
        Image.effect_noise((40, 20), 90).save(images / f"{i}.png")
        if form == "voc":
            (labels / f"{i}.xml").write_text(XML.format(i, "ab"[i % 2]))
        elif form != "coco" and i < 5:
            (labels / f"{i}.txt").write_text(f"{i % 2} .5 .5 .4 .4\n1 .5 .5 0 0\n")
    folders = {"IMAGES": str(images), "ANNOTATIONS": str(labels)}
    if form == "coco":
        annotations = [
            {"id": i, "image_id": i, "category_id": i % 2, "bbox": [3.25, 4, 30, w], "area": 100.5,
             "iscrowd": i == 2, "segmentation": [[3, 4, 30, 4, 30, 9.125]]}
            for i, w in enumerate([9, 9, 9, 9, -1])
        ]  # fmt: skip
        content = {
            "images": [{"id": i, "file_name": f"{i}.png"} for i in range(6)],
            "annotations": annotations,
            "categories": [{"id": i, "name": name} for i, name in enumerate("ab")],
        }
        (root / "labels.json").write_text(json.dumps(content))
        return {"FORMAT": "coco", **folders, "ANNOTATIONS": str(root / "labels.json")}
    if form == "voc":
        (root / "split.txt").write_text("".join(f"{i}\n" for i in range(6)))
        return {"FORMAT": "voc", **folders, "SPLIT_FILE": str(root / "split.txt")}
    if form == "yolo":
        (root / "classes.txt").write_text("a\nb\n")
        return {"FORMAT": "yolo", **folders}
    place = "images"
    if form == "yolo list":
        place = "list.txt"
        (root / place).write_text("".join(f"images/{i}.png\n" for i in range(6)))
    (root / "data.yaml").write_text(yaml.safe_dump({"names": ["a", "b"], "train": place}))
    return {"FORMAT": "yolo", "DATA_YAML": str(root / "data.yaml"), "SPLIT": "train"}


class Readings:
    """Reads a dataset with a cache, and tells whether its files were read."""

    def __init__(self, node: dict, folder: Path, monkeypatch) -> None:
        self.node, self.folder, self.count = node, folder, 0
        read = loading._read_anew

        def counted(*arguments):
            self.count += 1
            return read(*arguments)

        monkeypatch.setattr(loading, "_read_anew", counted)

    def parts(self, classes=None, **keys):
        spec = parse_specs({"set": {**self.node, **keys}}, self.folder)["set"]
        return Source(spec, classes, "skip").parts

    def is_fresh(self, classes=None, **keys) -> bool:
        before = self.count
        self.parts(classes, **keys)
        return self.count > before


@pytest.fixture
def readings(tmp_path, monkeypatch, request):
    node = make(tmp_path / "data", getattr(request, "param", "coco"))
    return Readings(node, tmp_path / "cache", monkeypatch)


all_formats = pytest.mark.parametrize("readings", FORMATS, indirect=True)


def content(parts) -> dict:
    return {name: (list(part.dicts), part.report) for name, part in parts.items()}


@all_formats
@pytest.mark.parametrize("holdout, test", [(0.0, 0.0), (0.3, 0.0), (0.3, 0.3)])
def test_what_is_kept_equals_what_was_read(readings, holdout, test):
    keys = {"HOLDOUT": holdout, "HOLDOUT_TEST": test}
    fresh = content(readings.parts(**keys))
    assert readings.count == 1
    assert content(readings.parts(**keys)) == fresh and readings.count == 1
    whole, report = fresh["set"]
    assert len(whole) == 6 and report.invalid_annotations
    assert len(fresh) == {(0.0, 0.0): 1, (0.3, 0.0): 3, (0.3, 0.3): 4}[holdout, test]
    uncached = Source(parse_specs({"set": {**readings.node, **keys}})["set"], None, "x")
    assert content(uncached.parts) == fresh


@pytest.mark.parametrize("part", ["bccd", "aquarium", "dental"])
def test_what_is_kept_of_real_data_equals_what_was_read(real_data, part, tmp_path, monkeypatch):
    if not (real_data / part).is_dir():
        pytest.skip(f"{part} is not there")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(real_data))
    config = Path(__file__).parents[1] / "configs" / "datasets" / f"{part}.yaml"
    for name, node in load_config([config]).DATASETS.CUSTOM.items():
        fresh = Source(parse_specs({name: node})[name], None, "skip").parts
        spec = parse_specs({name: node}, tmp_path / "cache")[name]
        Source(spec, None, "skip").parts  # noqa: B018
        with monkeypatch.context() as patch:
            patch.setattr(loading, "_read_anew", None)
            assert content(Source(spec, None, "skip").parts) == content(fresh)


def touch(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def replace_keeping_size_and_time(path: Path) -> None:
    status = path.stat()
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES = {
    "image touched": lambda root: touch(root / "images" / "3.png"),
    "image replaced": lambda root: replace_keeping_size_and_time(root / "images" / "3.png"),
    "image removed": lambda root: (root / "images" / "5.png").unlink(),
    "image added": lambda root: shutil.copy(root / "images" / "5.png", root / "images" / "6.png"),
    "image moved": lambda root: (root / "images" / "5.png").rename(root / "images" / "7.png"),
}


@all_formats
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_of_an_image_is_noticed(readings, change, request):
    root = readings.folder.parent / "data"
    if request.node.callspec.params["readings"] == "yolo list" and change is CHANGES["image added"]:
        pytest.skip("a list does not name it")
    assert readings.is_fresh() and not readings.is_fresh()
    change(root)
    assert readings.is_fresh() and not readings.is_fresh()


@all_formats
@pytest.mark.parametrize("change", [touch, replace_keeping_size_and_time])
def test_a_change_of_any_other_file_is_noticed(readings, change):
    root = readings.folder.parent / "data"
    names = ("labels.json", "labels/2.xml", "split.txt", "labels/2.txt", "classes.txt",
             "data.yaml", "list.txt")  # fmt: skip
    files = [root / name for name in names if (root / name).exists()]
    assert files
    for path in files:
        readings.is_fresh()
        before = path.read_bytes()
        change(path)
        assert _is_noticed(readings), path
        path.write_bytes(before)


def _is_noticed(readings) -> bool:
    try:
        return readings.is_fresh()
    except UserError:  # the changed byte made the file unusable, which reading it tells
        return True


@pytest.mark.parametrize("readings", ["yolo", "yolo yaml", "yolo list"], indirect=True)
def test_a_label_file_for_an_image_without_one_is_noticed(readings):
    assert readings.is_fresh() and not readings.is_fresh()
    (readings.folder.parent / "data" / "labels" / "5.txt").write_text("0 .5 .5 .2 .2\n")
    assert readings.is_fresh()


@pytest.mark.parametrize("readings", ["yolo yaml"], indirect=True)
def test_a_folder_that_data_yaml_means_from_now_on_is_noticed(readings):
    root = readings.folder.parent / "data"
    (root / "data.yaml").write_text("{names: [a, b], train: ../images}")  # taken for images here
    assert readings.is_fresh() and not readings.is_fresh()
    shutil.copytree(root / "images", root.parent / "images")
    shutil.copytree(root / "labels", root.parent / "labels")
    assert readings.is_fresh()
    assert readings.parts()["set"].dicts[0]["file_name"].startswith(str(root.parent / "images"))


def test_options_that_change_the_result_have_files_of_their_own(readings):
    assert readings.is_fresh()
    for options in ({"CLASSES": ["b", "a"]}, {"HOLDOUT": 0.3}, {"HOLDOUT": 0.5}):
        assert readings.is_fresh(**options) and not readings.is_fresh(**options)
    assert not readings.is_fresh()
    assert len(list(readings.folder.iterdir())) == 4


def test_other_code_of_the_readers_reads_anew(readings, monkeypatch):
    readings.is_fresh()
    monkeypatch.setattr(fingerprint, "_reader_digest", lambda: b"another version")
    assert readings.is_fresh()


def test_a_dataset_is_numbered_by_the_classes_of_the_run(readings):
    first = [a["category_id"] for d in readings.parts()["set"].dicts for a in d["annotations"]]
    assert not readings.is_fresh(classes=("c", "b", "a"))
    records = readings.parts(("c", "b", "a"))["set"].dicts
    assert [a["category_id"] for d in records for a in d["annotations"]] == [2 - i for i in first]


def test_boxes_of_a_class_that_the_run_lacks_are_reported_from_the_cache_too(readings):
    fresh = content(readings.parts(("a",)))
    before = readings.count
    assert content(readings.parts(("a",))) == fresh and readings.count == before
    reasons = [str(found) for found in fresh["set"][1].invalid_annotations]
    assert "labels.json, annotation id 1: unknown class 'b', but the class list is [a]" in reasons


@pytest.mark.parametrize("readings", ["coco", "voc"], indirect=True)
def test_class_names_come_from_the_cache(readings):
    readings.parts()
    spec = parse_specs({"set": readings.node}, readings.folder)["set"]
    assert read_class_names(spec) == ["a", "b"] and readings.count == 1
    Source(spec, None, "skip").parts  # noqa: B018


def archive(readings) -> Path:
    (path,) = readings.folder.iterdir()
    return path


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    values = data.find(b"\n", data.find(b"category_ids.npy")) + 1  # the line break ends the header
    data[values] ^= 1
    path.write_bytes(bytes(data))


def store(path: Path, **arrays) -> None:
    with np.load(path) as kept:
        changed = dict(kept) | arrays
    np.savez(path, **changed)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "other text": lambda path: path.write_text("no archive"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "flipped bits": flip_a_byte,
    "ends past the boxes": lambda path: store(path, box_ends=np.full(6, 99)),
    "ends in disorder": lambda path: store(path, box_ends=np.array([9, 1, 2, 3, 4, 4])),
    "a class that is not there": lambda path: store(path, category_ids=np.full(4, 7, np.int32)),
    "a column missing": lambda path: np.savez(path, header=np.load(path)["header"]),
    "pickled objects": lambda path: np.savez(path, header=np.array([{"digest": "x"}], object)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_read_past_and_written_anew(readings, damage, request):
    fresh = content(readings.parts())
    damage(archive(readings))
    assert content(readings.parts()) == fresh and readings.count == 2
    if request.node.callspec.id != "a folder":
        assert not readings.is_fresh()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_process_that_is_killed_while_it_writes_the_cache_leaves_nothing_to_read(readings, share):
    killed_while_writing(readings.parts, share)
    written = list(readings.folder.iterdir())
    assert len(written) == 1 and written[0].name.endswith(".tmp")
    after = content(readings.parts())
    assert readings.count == 1 and not readings.is_fresh()
    uncached = Source(parse_specs({"set": readings.node})["set"], None, "skip")
    assert after == content(uncached.parts)


def test_what_killed_writers_left_is_removed_once_it_is_a_day_old(readings):
    readings.folder.mkdir()
    for name, hours in ((".old-1.npz.7.tmp", 25), (".new-1.npz.8.tmp", 1), (".other.7.tmp", 25)):
        (readings.folder / name).touch()
        stamp = time.time() - hours * 3600
        os.utime(readings.folder / name, (stamp, stamp))
    readings.parts()
    left = {path.name for path in readings.folder.iterdir() if path.suffix == ".tmp"}
    assert left == {".new-1.npz.8.tmp", ".other.7.tmp"}


def test_a_pickle_in_a_cache_file_is_never_run(readings, tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "sprung").mkdir, ()

    readings.parts()
    np.savez(archive(readings), header=np.array([Trap()], object), allow_pickle=True)
    assert readings.is_fresh() and not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("obstacle", ["a file in its place", "read-only"])
def test_without_a_place_for_the_cache_the_dataset_is_read_as_ever(
    readings, obstacle, caplog, monkeypatch
):
    if obstacle == "read-only":  # also for root, who may write anywhere

        def refuse(self, data):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "write_bytes", refuse)
    else:
        readings.folder.write_text("")
    with caplog.at_level(logging.INFO, "counterpoise.datasets"):
        assert readings.is_fresh() and readings.is_fresh()
    assert "read anew at every start" in caplog.text
    assert not list(readings.folder.glob("*")) if readings.folder.is_dir() else True


def test_without_a_folder_nothing_is_kept(readings, tmp_path):
    readings.folder = None
    assert readings.is_fresh() and readings.is_fresh()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_files_that_have_just_changed_are_not_kept_yet(readings, monkeypatch):
    monkeypatch.setattr(fingerprint, "SETTLING_NS", 2 * 10**9)
    assert readings.is_fresh() and readings.is_fresh()
    monkeypatch.setattr(fingerprint, "SETTLING_NS", 0)
    assert readings.is_fresh() and not readings.is_fresh()


def test_a_time_of_modification_that_is_still_to_come_does_not_switch_the_cache_off(
    readings, monkeypatch
):
    monkeypatch.setattr(fingerprint, "SETTLING_NS", 5 * 10**8)
    path = readings.folder.parent / "data" / "images" / "3.png"
    os.utime(path, (4e9, 4e9))
    spec = parse_specs({"set": readings.node}, readings.folder)["set"]
    assert not fingerprint.fingerprint(spec).settled
    time.sleep(0.6)
    assert fingerprint.fingerprint(spec).settled


@pytest.mark.parametrize(
    "path, found",
    [
        ("/d/images/a.jpg", True),
        ("/d/images/sub/a.jpg", True),
        ("/d/images2/a.jpg", False),
        ("/d/images/.hidden/a.jpg", False),
        ("/d/images/.a.jpg", False),
        ("/d/images/__MACOSX/a.jpg", False),
        ("/d/a.jpg", False),
    ],
)
def test_a_walk_finds_what_is_below_its_folder_and_not_hidden(path, found):
    assert is_found_by_a_walk(path, "/d/images") is found


@pytest.mark.parametrize("name", ["../elsewhere/5.png", ".hidden/5.png"])
def test_images_that_no_walk_of_the_folder_finds_are_read_anew(readings, name, caplog):
    root = readings.folder.parent / "data"
    target = root / "images" / name
    target.parent.mkdir(exist_ok=True)
    (root / "images" / "5.png").rename(target)
    labels = root / "labels.json"
    labels.write_text(labels.read_text().replace('"5.png"', json.dumps(name)))
    with caplog.at_level(logging.INFO, "counterpoise.datasets"):
        assert readings.is_fresh() and readings.is_fresh()
    assert "is outside its folder" in caplog.text


def read_at_once(node: dict, folder: str, start, done) -> None:
    fingerprint.SETTLING_NS = -(10**12)
    spec = parse_specs({"set": node}, Path(folder))["set"]
    for _ in range(20):
        start.wait()
        for path in Path(folder).glob("*.npz"):
            path.unlink(missing_ok=True)
        parts = Source(spec, None, "skip").parts
        done.put((len(parts["set"].dicts), parts["set"].report.boxes))


def test_processes_that_write_at_once_all_get_the_dataset(readings):
    expected = readings.parts()["set"].report
    context = multiprocessing.get_context("fork")
    start, done = context.Barrier(2), context.SimpleQueue()
    arguments = (readings.node, str(readings.folder), start, done)
    workers = [context.Process(target=read_at_once, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    results = [done.get() for _ in range(40)]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert set(results) == {(expected.images, expected.boxes)}
    assert not readings.is_fresh() and [p.suffix for p in readings.folder.iterdir()] == [".npz"]


@pytest.mark.parametrize(
    "setting, expected",
    [("none", None), ("", None), ("/some/where", Path("/some/where")),
     ("auto", Path("/xdg/counterpoise"))],
)  # fmt: skip
def test_the_key_names_the_folder(setting, expected, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder(setting) == expected


@pytest.mark.parametrize("value", ["", "relative/path"])
def test_without_an_absolute_xdg_folder_the_cache_is_in_the_home(value, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder("auto") == Path("/home/someone/.cache/counterpoise")


def test_a_relative_folder_is_one_beside_the_file_that_names_it(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("DATASETS: {CACHE: kept}")
    assert tmp_path / "kept" == Path(load_config([config]).DATASETS.CACHE)
    config.write_text("DATASETS: {CACHE: none}")
    assert load_config([config]).DATASETS.CACHE == "none"


def test_a_second_run_reads_no_annotation_and_opens_no_image_at_its_start(tmp_path, monkeypatch):
    data = write_dataset(tmp_path / "shapes")
    arguments = (*NO_TEST, "DATASETS.CACHE", str(tmp_path / "cache"))
    assert train_net(data, tmp_path / "one", *arguments) == 0
    monkeypatch.setattr("counterpoise.datasets.checks.read_image_header", None)
    monkeypatch.setattr("counterpoise.datasets.coco.read_text", None)
    assert train_net(data, tmp_path / "two", *arguments) == 0
    one, two = (json.loads((tmp_path / run / "metrics.json").read_text().splitlines()[-1])
                for run in ("one", "two"))  # fmt: skip
    assert one.keys() == two.keys()


def test_a_spec_is_the_same_dataset_wherever_it_is_kept(tmp_path):
    node = make(tmp_path / "data", "coco")
    one = parse_specs({"set": node}, tmp_path / "one")["set"]
    two = replace(one, cache=tmp_path / "two")
    assert loading.cache.cache_file(one, None).name == loading.cache.cache_file(two, None).name
