"""Inspection of datasets: every number against another way to get it, and advice that loads."""

import json
import math
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.structures import Boxes, pairwise_iou
from PIL import Image

from counterpoise.commands.console import main
from counterpoise.config.loading import load_config
from counterpoise.config.validation import check_config
from counterpoise.datasets import InvalidKind, count_classes
from counterpoise.errors import UserError
from counterpoise.evaluation import GroundTruth
from counterpoise.inspection import Inspection, find_target, inspect
from counterpoise.inspection.anchor_changes import compare_with_anchors
from counterpoise.inspection.anchors import AnchorSetting, anchor_setting, best_ious, resized
from counterpoise.inspection.balancing import THRESHOLDS, repeat_factors
from counterpoise.inspection.duplicate_files import find_duplicate_files
from counterpoise.inspection.ground_truth import (
    cooccurrence,
    read_ground_truth,
    without_ignored,
)
from counterpoise.inspection.sections import as_page, as_text
from models import CONFIGS
from runs import write_dataset

QUICK = str(CONFIGS / "quick" / "focal_weights.yaml")
RETINANET = str(CONFIGS / "quick_retinanet" / "focal.yaml")


def write_coco(
    folder: Path, split: str, boxes: dict[str, int], per_image=2, empty=0, size=(40, 40), seed=0
) -> Path:
    """A split of a COCO folder: grey noise with `boxes` of each class, in turn over the images."""
    rng = np.random.default_rng([seed, *split.encode()])
    objects = [k for k, n in enumerate(boxes.values()) for _ in range(n)]
    num_images = max(1, math.ceil(len(objects) / per_image)) if objects else 0
    images, annotations = [], []
    (folder / split).mkdir(parents=True, exist_ok=True)
    for i in range(num_images + empty):
        name = f"{split}_{i}.png"
        Image.fromarray(rng.integers(0, 255, (100, 120, 3), dtype=np.uint8)).save(
            folder / split / name
        )
        images.append({"id": i, "file_name": name, "width": 120, "height": 100})
    for i, k in enumerate(objects):
        annotations.append(
            {"id": i, "image_id": i % num_images, "category_id": k, "bbox": [5 + i % 30, 5, *size],
             "area": size[0] * size[1], "iscrowd": 0}
        )  # fmt: skip
    categories = [{"id": k, "name": name} for k, name in enumerate(boxes)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = folder / f"{split}.json"
    path.write_text(json.dumps(content))
    return path


def inspected(name_or_folder: object, *files: object, overrides: tuple[str, ...] = ()):
    cfg = load_config(list(files), overrides)
    return inspect(find_target(str(name_or_folder), cfg), cfg)


def titles(inspection: Inspection) -> list[str]:
    return [advice.title for advice in inspection.recommendations]


def advice(inspection: Inspection, words: str):
    (found,) = [one for one in inspection.recommendations if words in one.title]
    return found


def random_truth(seed: int = 0, num_images: int = 60, num_classes: int = 5, crowd: bool = True):
    """Records as Detectron2 has them; some images are empty."""
    rng = np.random.default_rng(seed)
    dicts = []
    for i in range(num_images):
        annotations = []
        for _ in range(int(rng.integers(0, 5))):
            x, y = rng.uniform(0, 400, 2)
            w, h = rng.uniform(4, 100, 2)
            annotations.append(
                {"bbox": [x, y, w, h], "bbox_mode": 1, "category_id": int(rng.geometric(0.5)) - 1,
                 "iscrowd": int(crowd and rng.random() < 0.2)}
            )  # fmt: skip
        annotations = [a for a in annotations if a["category_id"] < num_classes]
        dicts.append(
            {"file_name": f"{i}.png", "image_id": i, "width": 500, "height": 500,
             "annotations": annotations}
        )  # fmt: skip
    return dicts


@contextmanager
def in_catalog(dicts, num_classes: int = 5):
    """Register records under a name in Detectron2's catalogue."""
    name = "inspection_random"
    DatasetCatalog.register(name, lambda: dicts)
    MetadataCatalog.get(name).thing_classes = [f"c{k}" for k in range(num_classes)]
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def truth_of(dicts):
    with in_catalog(dicts) as name:
        return read_ground_truth(name)


# Anchors


SETTINGS = {
    "fpn": AnchorSetting(min_size=200, max_size=300),
    "retinanet": AnchorSetting(
        sizes=tuple((s, s * 2 ** (1 / 3), s * 2 ** (2 / 3)) for s in (32.0, 64.0, 128.0)),
        aspect_ratios=((0.5, 1.0, 2.0),) * 3, strides=(8, 16, 32), min_size=200, max_size=300,
    ),
    "c4 without padding, anchors between the corners": AnchorSetting(
        sizes=((32.0, 64.0, 100.0),), aspect_ratios=((0.5, 1.0, 3.0),), strides=(16,), offset=0.5,
        size_divisibility=0, min_size=200, max_size=300,
    ),
}  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_best_iou_is_that_of_all_anchors_of_detectron2(setting):
    width, height = 290, 203
    rng = np.random.default_rng(1)
    corners = rng.uniform([0, 0], [width, height], (500, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    boxes[:4] = [[0, 0, 3, 3], [width - 2, height - 2, width, height], [0, 0, width, height],
                 [100, 0, 101, height]]  # fmt: skip
    divisor = max(setting.size_divisibility, 1)
    padded = [math.ceil(side / divisor) * divisor for side in (height, width)]
    generator = DefaultAnchorGenerator(
        sizes=setting.sizes, aspect_ratios=setting.aspect_ratios, strides=setting.strides,
        offset=setting.offset,
    )  # fmt: skip
    maps = [torch.zeros(1, 1, *(math.ceil(p / s) for p in padded)) for s in setting.strides]
    anchors = Boxes.cat(generator(maps))
    expected = pairwise_iou(Boxes(torch.tensor(boxes)), anchors).max(dim=1).values
    found = best_ious(boxes, np.full((len(boxes), 2), (width, height), dtype=float), setting)
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-6)


@pytest.mark.parametrize("limits", [(800, 1333), (240, 400), (600, 600), (0, 100)])
def test_images_are_resized_as_detectron2_does(limits):
    rng = np.random.default_rng(2)
    sizes = np.concatenate([rng.integers(20, 3000, (300, 2)), [[333, 333], [1, 5000], [800, 1333]]])
    expected = [
        ResizeShortestEdge.get_output_shape(h, w, *limits)[::-1] if limits[0] else (w, h)
        for w, h in sizes.tolist()
    ]
    np.testing.assert_array_equal(resized(sizes.astype(float), *limits), expected)


def test_anchors_are_those_of_the_configs_model():
    fpn = anchor_setting(load_config([QUICK]))
    assert (fpn.strides, fpn.size_divisibility) == ((4, 8, 16, 32, 64), 32)
    assert fpn.sizes == ((16,), (32,), (64,), (128,), (256,))
    assert (fpn.min_size, fpn.max_size) == (240, 400)
    retinanet = anchor_setting(load_config([RETINANET]))
    assert retinanet.strides == (8, 16, 32, 64, 128)
    assert retinanet.sizes[0] == (16, 20.159, 25.398)
    assert retinanet.aspect_ratios == ((0.5, 1, 2),) * 5


def test_without_a_model_anchors_are_those_of_r50_fpn_and_it_is_said():
    assumed = anchor_setting(load_config([]))
    named = anchor_setting(load_config([CONFIGS / "r50_fpn" / "baseline.yaml"]))
    assert assumed == replace(named, model=assumed.model)
    assert "R50-FPN" in assumed.model and "no config" in assumed.model


def test_anchors_on_features_that_the_backbone_lacks_are_refused():
    with pytest.raises(UserError, match=r"RPN\.IN_FEATURES names 'p9'.*known: p2"):
        anchor_setting(load_config([QUICK], ["MODEL.RPN.IN_FEATURES", "['p9']"]))


def test_a_model_without_these_anchors_is_inspected_all_the_same(tmp_path):
    write_coco(tmp_path, "train", {"a": 4, "b": 2})
    keys = ("MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals")
    inspection = inspected(tmp_path, QUICK, overrides=keys)
    assert inspection.anchors is None
    assert "not compared with anchors" in " ".join(inspection.notes)
    assert "Boxes against anchors" not in as_text(inspection)


def test_a_hundred_thousand_boxes_are_matched_within_a_second():
    rng = np.random.default_rng(3)
    corners = rng.uniform(0, 800, (100_000, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    start = time.process_time()
    best_ious(boxes, np.full((len(boxes), 2), 800.0), AnchorSetting())
    assert time.process_time() - start < 1  # 0.07 s on an idle core


@pytest.mark.parametrize("size", [(4, 4), (80, 16)])
def test_the_recommended_anchors_cover_what_is_promised(tmp_path, size):
    write_coco(tmp_path / "data", "train", {"a": 40, "b": 20}, size=size)
    inspection = inspected(tmp_path / "data", QUICK)
    before, change = inspection.anchors.overall, inspection.anchors.change
    assert inspection.anchors.poor and change.overall.at_50 > before.at_50 + 0.3
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump(change.settings))
    again = inspected(tmp_path / "data", QUICK, settings)
    assert again.anchors.overall == change.overall and again.anchors.classes == change.classes
    assert not again.anchors.poor
    assert advice(inspection, "Change the").settings == change.settings


def test_boxes_that_fit_lead_to_no_change_of_anchors(tmp_path):
    write_coco(tmp_path, "train", {"a": 4}, size=(30, 30))
    inspection = inspected(tmp_path, QUICK)
    assert not inspection.anchors.poor and inspection.anchors.change is None


def squares(
    low: float, high: float, size: tuple[int, int], num_classes: int = 3, others: int = 0
) -> list[dict]:
    """Records of images of one size with 600 boxes of `low` to `high` pixels, and `others` of 50 in
    a last class."""
    rng = np.random.default_rng(0)
    width, height = size
    dicts = [
        {"file_name": f"{i}.png", "image_id": i, "width": width, "height": height,
         "annotations": []} for i in range(6)
    ]  # fmt: skip
    for i in range(600 + others):
        side = float(rng.uniform(low, high)) if i < 600 else 50.0
        x, y = rng.uniform(0, [width - side, height - side]).tolist()
        dicts[i % 6]["annotations"].append(
            {"bbox": [x, y, side, side], "bbox_mode": 1,
             "category_id": i % num_classes if i < 600 else num_classes}
        )  # fmt: skip
    return dicts


@pytest.mark.parametrize("leaf, sizes", [
    ("quick/baseline", [[8], [16], [32], [64], [128]]),
    ("r50_fpn/baseline", [[8], [16], [32], [64], [128]]),
])  # fmt: skip
def test_tiny_boxes_of_large_images_get_a_larger_input_with_smaller_anchors(tmp_path, leaf, sizes):
    files = [CONFIGS / f"{leaf}.yaml"]
    with in_catalog(squares(6, 9, (2000, 1500)), 3) as name:
        inspection = inspected(name, *files)
        first = inspection.recommendations[0]
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(first.settings))
        again = inspected(name, *files, tmp_path / "mine.yaml").anchors
    assert first.title == "Change the input size and the anchors"
    assert first.settings["MODEL"]["ANCHOR_GENERATOR"]["SIZES"] == sizes
    short = first.settings["INPUT"]["MIN_SIZE_TEST"]
    assert 1400 < short <= 1600
    own = load_config(files).INPUT  # all of its sizes grow alike
    grown = [round(size * short / own.MIN_SIZE_TEST) for size in own.MIN_SIZE_TRAIN]
    assert first.settings["INPUT"]["MIN_SIZE_TRAIN"] == grown
    change = inspection.anchors.change
    assert again.overall == change.overall and change.overall.at_50 > 0.75
    before = inspection.anchors.setting.min_size
    assert change.pixels == pytest.approx((short / before) ** 2, rel=0.01)
    assert f"{change.pixels:.1f} times the pixels" in first.reason
    assert first.optional == ("left to you" in first.reason) == (change.pixels > 4)
    assert "(in 3 of 3 classes more than 10.0 %)" in first.reason


def test_of_boxes_that_no_input_reaches_tiles_are_what_is_left():
    with in_catalog(squares(2, 3, (2000, 1500)), 3) as name:
        inspection = inspected(name, QUICK)
    first = inspection.recommendations[0]
    assert first.title == "Cut the images into tiles before training" and not first.settings
    assert "a short side of up to 1500, covers 5 % more" in first.reason


def test_the_input_is_not_enlarged_to_more_pixels_than_a_step_can_hold():
    with in_catalog(squares(6, 9, (10_000, 8000)), 3) as name:
        anchors = inspected(name, QUICK).anchors
    assert 1500 < anchors.largest_input < 2000 and anchors.change is None


def test_a_class_among_others_that_is_missed_is_named_and_is_no_first_advice():
    with in_catalog(squares(50, 60, (400, 300), num_classes=1, others=30), 2) as name:
        dicts = DatasetCatalog.get(name)
        for annotation in (a for record in dicts for a in record["annotations"]):
            if annotation["category_id"] == 1:
                annotation["bbox"][2:] = [10, 10]
        inspection = inspected(name, QUICK)
    *_, last = inspection.recommendations
    assert last.title.startswith("Change the") and "('c1': 100.0 %)" in last.reason
    assert inspection.anchors.change.classes[1].at_50 >= 0.5


def test_small_boxes_beside_large_ones_get_a_larger_input_with_smaller_anchors_as_well():
    # In the larger image the large ones are missed by anchors that are all half the size.
    dicts = squares(130, 170, (400, 300), num_classes=1, others=30)
    for annotation in (a for record in dicts for a in record["annotations"]):
        if annotation["category_id"] == 1:
            annotation["bbox"][2:] = [5, 5]
    with in_catalog(dicts, 2) as name:
        inspection = inspected(name, QUICK)
    settings = advice(inspection, "Change the input size and the anchors").settings
    assert settings["MODEL"]["ANCHOR_GENERATOR"]["SIZES"][0] == [8, 16]
    assert min(coverage.at_50 for coverage in inspection.anchors.change.classes) > 0.5


def test_every_class_that_is_missed_is_named_before_and_after_a_change():
    dicts = squares(50, 60, (400, 300), num_classes=1, others=60)
    annotations = [a for record in dicts for a in record["annotations"] if a["category_id"] == 1]
    for annotation in annotations[::2]:
        annotation["bbox"][2:] = [10, 10]
    for annotation in annotations[1::2]:
        annotation["bbox"], annotation["category_id"] = [5, 5, 300, 8], 2
    with in_catalog(dicts, 3) as name:
        reason = advice(inspected(name, QUICK), "Change the input size").reason
    before, after = reason.split("With ")
    assert "'c1': 100.0 %" in before and "'c2': 100.0 %" in before
    assert "'c2': 100.0 %" in after and "'c1'" not in after


def test_a_gain_of_a_few_points_is_no_reason_to_change_the_anchors():
    # Every tenth box is so long and thin that no usual anchor fits it, a few more are small.
    dicts = squares(30, 60, (400, 300), num_classes=1)
    annotations = [a for record in dicts for a in record["annotations"]]
    for annotation in annotations[::10]:
        annotation["bbox"] = [5, 5, 300, 8]
    for annotation in annotations[5::40]:
        annotation["bbox"][2:] = [9, 9]
    with in_catalog(dicts, 1) as name:
        inspection = inspected(name, QUICK)
    assert inspection.anchors.poor and inspection.anchors.change is None
    reason = advice(inspection, "Expect missed boxes").reason
    assert "covers 5 % more" in reason and "'c0'" not in reason


def test_the_coverage_of_the_classes_adds_up_to_that_of_all():
    truth = without_ignored(truth_of(random_truth()))
    anchors = compare_with_anchors(truth, AnchorSetting())
    weighted = sum(c.boxes * c.at_50 for c in anchors.classes if c.boxes)
    assert weighted / anchors.overall.boxes == pytest.approx(anchors.overall.at_50)
    assert sum(anchors.histogram_counts) == anchors.overall.boxes == len(truth.boxes)


def test_a_class_of_long_boxes_gets_anchors_of_its_own_elongation():
    rng = np.random.default_rng(0)
    places = rng.uniform(50, 400, (60, 2))
    extents = np.where(np.arange(60)[:, None] < 30, [[130.0, 10.0]], [[60.0, 60.0]])
    truth = GroundTruth(
        class_names=("rod", "disc"), image_ids=tuple(range(60)), file_names=("",) * 60,
        boxes=np.hstack([places, extents]), areas=extents.prod(axis=1),
        classes=np.repeat([0, 1], 30), images=np.arange(60), ignored=np.zeros(60, bool),
        image_sizes=np.full((60, 2), 600.0),
    )  # fmt: skip
    setting = AnchorSetting(min_size=600)
    anchors = compare_with_anchors(truth, setting)
    assert anchors.classes[0].at_50 == 0
    assert "1:13 and 13:1" in anchors.change.what and anchors.change.classes[0].at_50 > 0.8
    ratios = anchors.change.settings["MODEL"]["ANCHOR_GENERATOR"]["ASPECT_RATIOS"]
    assert {0.077, 13} < set(ratios[0])


# Counts, repeat factors, duplicate files


@pytest.fixture
def registered():
    """The name of a dataset in Detectron2's catalogue; its image files do not exist."""
    with in_catalog(random_truth(4)) as name:
        yield name


def test_counts_are_those_of_count_classes_and_crowds_are_left_out(registered):
    counts = count_classes([registered])
    inspection = inspected(registered)
    (split,) = inspection.splits
    assert inspection.class_names == counts.names
    assert tuple(c.boxes for c in split.classes) == counts.boxes
    assert tuple(c.images for c in split.classes) == counts.images
    assert (split.images, split.empty_images) == (counts.num_images, counts.num_empty)
    assert split.boxes == inspection.all_sizes.boxes == sum(counts.boxes)
    assert sum(c.share for c in split.classes) == pytest.approx(1)


def test_difficult_objects_are_boxes_and_crowd_regions_are_none():
    dicts = random_truth(7, crowd=False)
    plain = sum(len(record["annotations"]) for record in dicts)
    first, second = [a for record in dicts for a in record["annotations"]][:2]
    first["difficult"], second["iscrowd"] = 1, 1
    with in_catalog(dicts) as name:
        inspection = inspected(name)
    assert inspection.subject.boxes == inspection.all_sizes.boxes == plain - 1


@pytest.mark.parametrize("key", ["width", "height", "image_id"])
def test_a_dataset_whose_records_lack_a_key_is_refused_by_its_name(key):
    dicts = random_truth(8)
    del dicts[3][key]
    with in_catalog(dicts) as name, pytest.raises(UserError, match=f"a record without '{key}'"):
        inspected(name)


def test_a_dataset_of_detectron2_is_inspected_without_invalid_annotations_and_files(registered):
    inspection = inspected(registered)
    text, page = as_text(inspection), as_page(inspection)
    assert "Not checked: the dataset is not one of" in text and "Not checked" in page
    assert f"{len(inspection.duplicate_files.unreadable)} files could not be read" in text
    assert "the image cannot be read" in page
    assert not advice(inspection, "Set a part aside").settings


def test_cooccurrence_counts_images_that_hold_both():
    dicts = random_truth(5, num_images=300)
    held = [{a["category_id"] for a in d["annotations"] if not a["iscrowd"]} for d in dicts]
    expected = tuple(
        tuple(sum({i, j} <= classes for classes in held) for j in range(5)) for i in range(5)
    )
    assert cooccurrence(without_ignored(truth_of(dicts))) == expected


@pytest.mark.parametrize("filter_empty", [True, False])
def test_repeat_factors_are_those_of_detectron2s_sampler(filter_empty):
    dicts = random_truth(6, num_images=200)
    truth = truth_of(dicts)
    if filter_empty:  # as get_detection_dataset_dicts does
        dicts = [d for d in dicts if any(not a["iscrowd"] for a in d["annotations"])]
    least, results = repeat_factors(truth, filter_empty)
    assert [r.threshold for r in results] == list(THRESHOLDS)
    for result in results:
        expected = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dicts, result.threshold
        ).numpy()
        ours = [
            max((result.factors[a["category_id"]] for a in d["annotations"]), default=1.0)
            for d in dicts
        ]
        np.testing.assert_allclose(ours, expected, rtol=1e-6)
        assert result.epoch_growth == pytest.approx(expected.mean(), rel=1e-6)
        assert (result.epoch_growth > 1) == (result.threshold > least)


def test_files_are_compared_by_content_and_read_only_where_their_sizes_meet(tmp_path):
    def file(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    a, b, c = file("a", b"one"), file("b", b"two"), file("c", b"three")
    a2, b2, other = file("a2", b"one"), file("b2", b"two"), file("other", b"a longer one")
    gone = str(tmp_path / "gone")
    read = []
    duplicates = find_duplicate_files(
        {"train": [a, b, a2, c, gone], "test": [b2, other, c]},
        lambda files: read.extend(files) or files,
    )
    assert sorted(read) == [a, a2, b, b2] and (duplicates.files, duplicates.hashed) == (7, 4)
    pairs = {(s.first, s.second): list(s.pairs) for s in duplicates.shared}
    assert pairs == {("train", "train"): [(a2, a)], ("train", "test"): [(b, b2), (c, c)]}
    assert duplicates.unreadable == (gone,)


# Folders


def test_a_coco_folder_gives_its_splits_and_the_config_that_names_them(tmp_path):
    folder = tmp_path / "my.data"
    for split in ("valid", "train", "test"):
        write_coco(folder, split, {"a": 8, "b": 2})
    (folder / "notes.json").write_text("[1, 2]")
    inspection = inspected(folder)
    roles = {split.name: split.role for split in inspection.splits}
    assert roles == {"my_data_train": "train", "my_data_val": "val", "my_data_test": "test"}
    (tmp_path / "mine.yaml").write_text(inspection.config)
    cfg = load_config([QUICK, tmp_path / "mine.yaml"])
    check_config(cfg)
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (("my_data_train",), ("my_data_test",))
    assert cfg.DATASETS.VAL == ("my_data_val",)
    by_name = inspected("my_data_train", QUICK, tmp_path / "mine.yaml")
    assert by_name.splits == inspection.splits


def test_keypoints_of_the_same_images_are_no_split_of_their_own(tmp_path):
    for split in ("train", "val"):
        path = write_coco(tmp_path, split, {"a": 8, "b": 2})
        (tmp_path / "annotations").mkdir(exist_ok=True)
        for kind in ("instances", "person_keypoints"):
            (tmp_path / "annotations" / f"{kind}_{split}2017.json").write_text(path.read_text())
        path.unlink()
    inspection = inspected(tmp_path)
    assert [split.role for split in inspection.splits] == ["train", "val"]
    assert sum("is left out" in note for note in inspection.notes) == 2
    assert not any("share" in title for title in titles(inspection))


def test_a_folder_of_lvis_is_found_though_its_images_have_no_file_names(tmp_path):
    for split, box_count in (("train", 8), ("val", 4)):
        path = write_coco(tmp_path, split, {"a": box_count})
        content = json.loads(path.read_text())
        path.unlink()
        for image in content["images"]:
            image["coco_url"] = f"http://images.cocodataset.org/{split}/{image.pop('file_name')}"
        (tmp_path / f"lvis_v1_{split}.json").write_text(json.dumps(content))
    inspection = inspected(tmp_path)
    assert [(s.role, s.boxes) for s in inspection.splits] == [("train", 8), ("val", 4)]


def test_coco_images_are_found_though_their_names_are_paths_of_another_machine(tmp_path):
    for split, box_count in (("train", 8), ("val", 4)):
        path = write_coco(tmp_path / "images", split, {"a": box_count}, seed=len(split))
        content = json.loads(path.read_text())
        path.unlink()
        for image in content["images"]:
            file = tmp_path / "images" / split / image["file_name"]
            file.rename(file.with_name(f"{image['id']}.png"))  # the same in both splits
            image["file_name"] = f"/home/me/{split}/{image['id']}.png"
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    inspection = inspected(tmp_path)
    assert [(s.role, s.boxes) for s in inspection.splits] == [("train", 8), ("val", 4)]
    assert not inspection.duplicate_files.shared and not inspection.notes


def test_coco_images_are_found_beside_their_json_though_names_repeat(tmp_path):
    for split in ("train", "valid"):
        path = write_coco(tmp_path, split, {"a": 2, "b": 2}, seed=len(split))
        content = json.loads(path.read_text())
        path.unlink()
        for image in content["images"]:
            file = tmp_path / split / image["file_name"]
            image["file_name"] = f"{image['id']}.png"
            file.rename(tmp_path / split / image["file_name"])
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(content))
    inspection = inspected(tmp_path)
    assert [split.role for split in inspection.splits] == ["train", "val"]
    assert [s.images for s in inspection.splits] == [2, 2] and not inspection.duplicate_files.shared


def datasets_of(inspection: Inspection) -> dict:
    """Parts of the printed DATASETS node that say what is trained, tested and tuned on."""
    node = yaml.safe_load(inspection.config)["DATASETS"]
    return {key: node[key] for key in ("TRAIN", "TEST", "VAL") if key in node}


@pytest.mark.parametrize("train, test, role", [
    ("training", "testing", "test"),
    ("training", "test", "test"),
    ("instances_training", "instances_validation", "val"),
    ("trainset", "eval", "val"),
    ("contest_train", "dev", "val"),
])  # fmt: skip
def test_coco_files_are_trained_and_tested_on_as_their_names_say(tmp_path, train, test, role):
    for stem, box_count in ((train, 12), (test, 4)):
        write_coco(tmp_path / "d", stem, {"a": box_count})
    inspection = inspected(tmp_path / "d")
    assert datasets_of(inspection) == {"TRAIN": ["d_train"], "TEST": [f"d_{role}"]}
    assert [split.boxes for split in inspection.splits] == [12, 4] and not inspection.notes


@pytest.mark.parametrize("stems, trained, tested, said", [
    (("val", "test"), ["d_val"], ["d_test"], "train on, though called val: 'val'"),
    (("batch1", "batch2", "test"), ["d_batch1", "d_batch2"], ["d_test"], "'batch1', 'batch2'"),
    (("fold0", "fold1"), ["d_fold0"], ["d_fold1"], "no name says which split it is: 'fold0'"),
    (("train", "latest"), ["d_train"], ["d_latest"], "no split is called val or test: 'latest'"),
    (("test",), ["d_train"], ["d_val"], "'test' is called test, but is the only split"),
])  # fmt: skip
def test_what_is_trained_on_without_being_called_so_is_said(tmp_path, stems, trained, tested, said):
    for stem in stems:
        write_coco(tmp_path / "d", stem, {"a": 12})
    inspection = inspected(tmp_path / "d")
    assert datasets_of(inspection) == {"TRAIN": trained, "TEST": tested}
    assert said in inspection.notes[0] and len(inspection.notes) == 1


def test_several_files_to_train_on_are_counted_together(tmp_path):
    write_coco(tmp_path / "d", "train_1", {"a": 30, "b": 0})
    write_coco(tmp_path / "d", "train_2", {"a": 4, "b": 12}, empty=1)
    write_coco(tmp_path / "d", "val", {"a": 4, "b": 4})
    (tmp_path / "d" / "train_2" / "train_2_0.png").write_bytes(
        (tmp_path / "d" / "train_1" / "train_1_0.png").read_bytes()
    )
    inspection = inspected(tmp_path / "d")
    assert datasets_of(inspection) == {"TRAIN": ["d_train_1", "d_train_2"], "TEST": ["d_val"]}
    train, _ = inspection.splits
    assert (train.name, train.datasets) == ("d_train", ("d_train_1", "d_train_2"))
    assert ([c.boxes for c in train.classes], train.images) == ([34, 12], 24)
    assert "d_train is d_train_1, d_train_2 together." in as_text(inspection)
    assert advice(inspection, "Remove the copies in d_train")
    assert "Add training boxes for the classes that have none" not in titles(inspection)
    (tmp_path / "mine.yaml").write_text(inspection.config)
    check_config(load_config([QUICK, tmp_path / "mine.yaml"]))


def test_files_to_train_on_without_others_are_each_held_out_from(tmp_path):
    for part in "ab":
        write_coco(tmp_path / "d", f"train_part_{part}", {"a": 12})
    inspection = inspected(tmp_path / "d")
    assert datasets_of(inspection) == {
        "TRAIN": ["d_train_part_a_train", "d_train_part_b_train"],
        "TEST": ["d_train_part_a_val", "d_train_part_b_val"],
    }


def test_a_dot_in_the_name_of_a_coco_file_is_none_in_that_of_the_dataset(tmp_path):
    for stem in ("batch.a", "batch_a"):
        write_coco(tmp_path / "d", stem, {"a": 4})
    assert list(find_target(str(tmp_path / "d"), load_config([])).custom) == [
        "d_batch_a", "d_batch_a_2",
    ]  # fmt: skip


def test_coco_files_of_other_images_of_the_same_names_are_both_taken(tmp_path):
    for part in ("a", "b"):
        path = write_coco(tmp_path / "d" / f"part_{part}", "train", {"a": 4})
        path.rename(tmp_path / "d" / f"part_{part}" / "train" / "labels.json")
    inspection = inspected(tmp_path / "d")
    assert inspection.subject.images == 4 and not inspection.notes


def write_voc(folder: Path, names: list[str], **lists: list[str]) -> None:
    (folder / "Annotations").mkdir(parents=True)
    (folder / "JPEGImages").mkdir()
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    for i, name in enumerate(names):
        Image.new("RGB", (40 + i, 40)).save(folder / "JPEGImages" / f"{name}.jpg")
        box = "<xmin>2</xmin><ymin>2</ymin><xmax>30</xmax><ymax>30</ymax>"
        (folder / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><object><name>cat</name><bndbox>{box}</bndbox></object></annotation>"
        )
    for split, stems in lists.items():
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems))


def test_a_voc_folder_is_split_by_its_lists_and_trainval_is_not_a_fourth(tmp_path):
    write_voc(
        tmp_path, [*"abcd"], train=["a", "b"], val=["c"], trainval=["a", "b", "c"], test=["d"]
    )
    inspection = inspected(tmp_path)
    assert inspection.format == "voc"
    assert [(s.role, s.images) for s in inspection.splits] == [
        ("train", 2),
        ("val", 1),
        ("test", 1),
    ]
    assert "trainval.txt is left out" in inspection.notes[0]


def test_the_lists_of_a_voc_folder_may_be_called_as_tools_call_them(tmp_path):
    write_voc(tmp_path / "d", [*"abcd"], Train=["a", "b"], Validation=["c"], testing=["d"])
    inspection = inspected(tmp_path / "d")
    assert [(s.name, s.images) for s in inspection.splits] == [
        ("d_train", 2), ("d_val", 1), ("d_test", 1),
    ]  # fmt: skip


@pytest.mark.parametrize("images_too", [True, False])
def test_a_voc_folder_is_split_by_the_folders_of_its_xml_files(tmp_path, images_too):
    write_voc(tmp_path / "d", [*"abcd"])
    for split, stems in (("train", "abc"), ("valid", "d")):
        kinds = ("Annotations", "JPEGImages") if images_too else ("Annotations",)
        for kind in kinds:
            (tmp_path / "d" / kind / split).mkdir()
            for path in [p for p in (tmp_path / "d" / kind).glob("*.*") if p.stem in stems]:
                path.rename(path.parent / split / path.name)
    inspection = inspected(tmp_path / "d")
    assert [(s.role, s.images) for s in inspection.splits] == [("train", 3), ("val", 1)]
    assert datasets_of(inspection) == {"TRAIN": ["d_train"], "TEST": ["d_val"]}
    (tmp_path / "d" / "Annotations" / "train" / "a.xml").rename(
        tmp_path / "d" / "Annotations" / "a.xml"
    )
    assert [(s.role, s.images) for s in inspected(tmp_path / "d").splits] == [(None, 4)]


def test_a_voc_folder_without_lists_is_one_split_and_gets_a_holdout(tmp_path):
    write_voc(tmp_path / "voc", [*"abcdef"])
    inspection = inspected(tmp_path / "voc")
    (split,) = inspection.splits
    assert (split.name, split.role, split.images) == ("voc", None, 6)
    (tmp_path / "mine.yaml").write_text(inspection.config)
    cfg = load_config([tmp_path / "mine.yaml"])
    assert cfg.DATASETS.CUSTOM.voc.HOLDOUT == 0.2 and cfg.DATASETS.TEST == ("voc_val",)
    parts = inspected("voc", tmp_path / "mine.yaml").splits
    assert [(s.name, s.role) for s in parts] == [("voc_train", "train"), ("voc_val", "test")]
    assert sum(s.images for s in parts) == 6


def write_voc_beside_images(folder: Path, number: int) -> None:
    write_voc(folder, [f"{folder.name}{i}" for i in range(number)])
    for path in [*folder.glob("Annotations/*"), *folder.glob("JPEGImages/*")]:
        path.rename(folder / path.name)
    for empty in ("Annotations", "JPEGImages", "ImageSets/Main", "ImageSets"):
        (folder / empty).rmdir()


def test_voc_files_beside_their_images_are_one_split(tmp_path):
    write_voc_beside_images(tmp_path / "voc", 6)
    inspection = inspected(tmp_path / "voc")
    assert (inspection.format, inspection.subject.images, inspection.notes) == ("voc", 6, ())
    entry = yaml.safe_load(inspection.config)["DATASETS"]["CUSTOM"]["voc"]
    assert entry["IMAGES"] == entry["ANNOTATIONS"] == str(tmp_path / "voc")


@pytest.mark.parametrize("above", [".", "images"])
def test_voc_files_beside_their_images_are_split_by_folder(tmp_path, above):
    for split, number in (("test", 2), ("train", 5), ("valid", 3), ("spare", 1)):
        write_voc_beside_images(tmp_path / "d" / above / split, number)
    inspection = inspected(tmp_path / "d")
    assert [(s.role, s.images) for s in inspection.splits] == [
        ("train", 5), ("val", 3), ("test", 2),
    ]  # fmt: skip
    assert inspection.notes[0].endswith("spare is left out: its name says no split")
    (tmp_path / "mine.yaml").write_text(inspection.config)
    check_config(load_config([QUICK, tmp_path / "mine.yaml"]))


def test_voc_files_beside_their_images_in_folders_by_class_are_one_split(tmp_path):
    for name in ("cats", "dogs"):
        write_voc_beside_images(tmp_path / "d" / name, 3)
    (split,) = inspected(tmp_path / "d").splits
    assert (split.name, split.images) == ("d", 6)


def test_xml_files_of_another_kind_make_no_dataset(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "a.xml").write_text("<svg/>")
    with pytest.raises(UserError, match="XML files in one folder with their images"):
        inspected(tmp_path)


def test_a_split_that_a_yolo_yaml_names_in_vain_is_said(tmp_path):
    for split in ("train", "valid"):
        (tmp_path / split / "images").mkdir(parents=True)
        (tmp_path / split / "labels").mkdir()
        Image.new("RGB", (40, 40), {"train": "red", "valid": "blue"}[split]).save(
            tmp_path / split / "images" / "x.jpg"
        )
        (tmp_path / split / "labels" / "x.txt").write_text("0 0.5 0.5 0.5 0.5")
    (tmp_path / "data.yaml").write_text(
        "names: [cat]\ntrain: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
    )
    inspection = inspected(tmp_path)
    assert [(s.role, s.boxes) for s in inspection.splits] == [("train", 1), ("val", 1)]
    assert "the split 'test' is left out" in inspection.notes[0]


def write_yolo(folder: Path, **images: int) -> None:
    """Splits with as many images, each with a box."""
    for number, (split, count) in enumerate(images.items()):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (40 + i, 40 + number)).save(folder / "images" / split / f"{i}.png")
            (folder / "labels" / split / f"{i}.txt").write_text("0 0.5 0.5 0.5 0.5")
    lines = [f"{split}: images/{split}" for split in images]
    (folder / "data.yaml").write_text("\n".join(["names: [cat]", *lines]))


@pytest.mark.parametrize("name, called", [("data.yaml", "d_train"), ("pets.yaml", "pets_train")])
def test_the_yaml_of_a_yolo_dataset_stands_for_its_folder(tmp_path, name, called):
    write_yolo(tmp_path / "d", train=4, val=2)
    (tmp_path / "d" / "data.yaml").rename(tmp_path / "d" / name)
    inspection = inspected(tmp_path / "d" / name)
    assert (inspection.subject.name, inspection.subject.boxes) == (called, 4)
    assert yaml.safe_load(inspection.config)["DATASETS"]["CUSTOM"][called]["DATA_YAML"] == str(
        tmp_path / "d" / name
    )


@pytest.mark.parametrize("listing", ["classes.txt", "labels/classes.txt"])
@pytest.mark.parametrize("split", [True, False])
def test_yolo_folders_are_found_by_a_classes_txt_in_place_of_a_data_yaml(tmp_path, listing, split):
    write_yolo(tmp_path / "d", train=4, val=2)
    (tmp_path / "d" / "data.yaml").unlink()
    (tmp_path / "d" / listing).write_text("cat\ndog\n")
    if not split:
        for path in [*(tmp_path / "d").glob("*/*/*")]:
            path.rename(path.parent.parent / f"{path.parent.name}{path.name}")
    inspection = inspected(tmp_path / "d")
    found = [("d_train", "train", 4), ("d_val", "val", 2)] if split else [("d", None, 6)]
    assert [(s.name, s.role, s.boxes) for s in inspection.splits] == found
    assert inspection.class_names == ("cat", "dog") and not inspection.notes
    (tmp_path / "mine.yaml").write_text(inspection.config)
    by_name = inspected("d_train", QUICK, tmp_path / "mine.yaml")
    assert sum(s.boxes for s in by_name.splits) == 6


def test_yolo_labels_beside_their_images_are_found_by_their_classes_txt(tmp_path):
    """As LabelImg writes them."""
    for name in "abcd":
        Image.new("RGB", (40, 40)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5")
    with pytest.raises(UserError, match="holds no dataset"):
        inspected(tmp_path)
    (tmp_path / "classes.txt").write_text("cat\n")
    inspection = inspected(tmp_path)
    assert (inspection.subject.boxes, inspection.invalid_annotations[0].annotations) == (4, ())


def test_a_linked_data_yaml_stands_for_the_folder_of_the_link(tmp_path):
    """As the snapshots of model hubs and data version control have it."""
    write_yolo(tmp_path / "d", train=4, val=2)
    (tmp_path / "blobs").mkdir()
    (tmp_path / "d" / "data.yaml").rename(tmp_path / "blobs" / "abc")
    (tmp_path / "d" / "data.yaml").symlink_to(tmp_path / "blobs" / "abc")
    inspection = inspected(tmp_path / "d" / "data.yaml")
    assert (inspection.subject.name, inspection.subject.boxes) == ("d_train", 4)


def test_a_yolo_split_without_labels_or_images_is_left_out_and_said(tmp_path):
    write_yolo(tmp_path / "d", train=4, val=0, test=2)
    for label in (tmp_path / "d" / "labels" / "test").iterdir():
        label.unlink()
    (tmp_path / "d" / "labels" / "test").rmdir()
    inspection = inspected(tmp_path / "d")
    assert inspection.subject.images == 4 and len(inspection.splits) == 1
    first, second = inspection.notes
    assert "'val' is left out: there is no image in" in first
    assert "'test' is left out" in second and "has no labels" in second


def test_a_yolo_split_that_only_its_folder_or_another_word_names_is_left_out_and_said(tmp_path):
    write_yolo(tmp_path / "d", train=4, val=0)
    (tmp_path / "d" / "data.yaml").write_text("names: [cat]\ntrain: images/train\ntesting: gone")
    first, second = inspected(tmp_path / "d").notes
    assert "'val' is left out: there is no image in" in first
    assert "'test' is left out" in second and "gone" in second


def test_a_yolo_split_to_train_on_without_labels_is_refused(tmp_path):
    write_yolo(tmp_path, train=0, val=2)
    Image.new("RGB", (40, 40)).save(tmp_path / "images" / "train" / "a.png")
    (tmp_path / "labels" / "train").rmdir()
    with pytest.raises(UserError, match="has no labels"):
        inspected(tmp_path)


def test_a_split_without_boxes_is_not_tested_on(tmp_path):
    write_yolo(tmp_path / "d", train=4, val=3, test=2)
    for label in (tmp_path / "d" / "labels" / "test").iterdir():
        label.write_text("")
    inspection = inspected(tmp_path / "d")
    assert datasets_of(inspection) == {"TRAIN": ["d_train"], "TEST": ["d_val"]}
    assert inspection.notes == ("d_test has no boxes, so that nothing can be measured on it",)


def test_a_part_is_set_aside_where_no_other_split_has_boxes(tmp_path):
    write_coco(tmp_path / "d", "train", {"a": 12})
    write_coco(tmp_path / "d", "test", {"a": 0}, empty=3)
    inspection = inspected(tmp_path / "d")
    assert datasets_of(inspection) == {"TRAIN": ["d_train_train"], "TEST": ["d_train_val"]}
    assert "the only split with boxes" in advice(inspection, "Set a part aside").reason
    (tmp_path / "mine.yaml").write_text(inspection.config)
    check_config(load_config([QUICK, tmp_path / "mine.yaml"]))


@pytest.mark.parametrize("with_boxes", [1, 2])
def test_a_part_is_set_aside_only_of_two_images_with_boxes(tmp_path, with_boxes):
    write_coco(tmp_path / "d", "labels", {"a": with_boxes}, per_image=1, empty=9)
    inspection = inspected(tmp_path / "d")
    found = advice(inspection, "Set a part aside")
    assert bool(found.settings) == ("HOLDOUT" in inspection.config) == (with_boxes == 2)
    assert ("Its images with boxes: 1." in found.reason) == (with_boxes == 1)


def test_a_counterpoise_config_called_data_yaml_is_no_yolo_dataset(tmp_path):
    write_coco(tmp_path, "train", {"a": 2})
    (tmp_path / "data.yaml").write_text("DATASETS: {TRAIN: [x]}")
    assert inspected(tmp_path).format == "coco"


# Recommendations


BALANCED = {"a": 30, "b": 20}
SKEWED = {"a": 40, "b": 10}
TAIL = {"a": 244, "b": 60, "c": 4}


def loss_of(inspection: Inspection) -> dict:
    return yaml.safe_load(inspection.config)["BALANCE"]


def test_balanced_data_gets_the_baseline(tmp_path):
    write_coco(tmp_path, "train", BALANCED)
    balance = loss_of(inspected(tmp_path))
    assert balance == {"ROI_LOSS": {"NAME": "cross_entropy"}, "CLASS_WEIGHTS": {"SOURCE": "none"}}


def test_a_schedule_that_shows_images_too_seldom_is_told_in_epochs(tmp_path):
    write_coco(tmp_path, "train", BALANCED, empty=2)
    write_coco(tmp_path, "val", BALANCED, seed=1)
    images = len(list((tmp_path / "train").glob("*.png")))
    kept = ("DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False")
    length = ("SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER")
    short = inspected(tmp_path, QUICK, overrides=(*kept, *length, str(images)))
    found = advice(short, "Train longer")
    assert f"shows each of the {images} images 2.0 times" in found.reason
    assert found.settings == {"SOLVER": {"EPOCHS": 8.0}}
    filtered = inspected(tmp_path, QUICK, overrides=(*kept[:1], "True", *length, str(images)))
    assert f"the {images - 2} images" in advice(filtered, "Train longer").reason
    for enough in ((*length, str(2 * images)), ("SOLVER.EPOCHS", "1")):
        assert "Train longer" not in titles(inspected(tmp_path, QUICK, overrides=enough))


def test_skewed_data_gets_what_the_results_recommend(tmp_path):
    write_coco(tmp_path, "train", SKEWED)
    inspection = inspected(tmp_path)
    found = advice(inspection, "Sample images by class")
    assert "4.0 to 1" in found.reason and "docs/results.md" in found.reason
    recommended = load_config(["quick/recommended.yaml"])
    cfg = load_config(["quick/base.yaml"])
    cfg.merge_from_other_cfg(type(cfg)(yaml.safe_load(inspection.config)))
    assert cfg.BALANCE == recommended.BALANCE


@pytest.mark.parametrize("most, said", [(118, False), (124, True)])
def test_data_more_skewed_than_what_was_measured_is_told_so(tmp_path, most, said):
    write_coco(tmp_path, "train", {"many": most, "few": 2}, per_image=50)
    found = advice(inspected(tmp_path), "Sample images by class")
    assert ("measured up to 60 boxes to 1" in found.reason) == said


def test_a_long_tail_gets_repeat_factors_as_an_alternative(tmp_path):
    write_coco(tmp_path, "train", TAIL, per_image=3)
    inspection = inspected(tmp_path)
    repeat = advice(inspection, "repeat the images")
    assert repeat.optional and "SAMPLER_TRAIN" not in inspection.config
    threshold = repeat.settings["DATALOADER"]["REPEAT_THRESHOLD"]
    (result,) = [r for r in inspection.repeat_factors if r.threshold == threshold]
    assert result.imbalance < inspection.subject.imbalance and 1 < result.epoch_growth <= 2
    assert repeat.settings["BALANCE"] == {
        "ROI_LOSS": {"NAME": "cross_entropy"},
        "CLASS_WEIGHTS": {"SOURCE": "none"},
    }


def test_one_stage_detectors_get_an_alpha_per_class(tmp_path):
    write_coco(tmp_path, "train", SKEWED)
    inspection = inspected(tmp_path, RETINANET)
    balance = loss_of(inspection)
    assert balance["DENSE_LOSS"] == {"NAME": "sigmoid_focal", "ALPHA_SOURCE": "dataset"}
    assert balance["CLASS_WEIGHTS"] == {"SOURCE": "dataset", "RULE": "log"}
    assert "span 2." in advice(inspection, "an alpha per class").reason


@pytest.mark.parametrize("untrained, in_test, rule", [
    (False, 0, "inv_sqrt"), (True, 0, "inv_sqrt"), (True, 5, "log"),
])  # fmt: skip
def test_a_long_tail_gets_a_rule_that_can_weigh_every_class(tmp_path, untrained, in_test, rule):
    none = {"none": 0} if untrained else {}
    write_coco(tmp_path, "train", {**TAIL, **none})
    write_coco(tmp_path, "test", {**TAIL, **dict.fromkeys(none, in_test)})
    assert loss_of(inspected(tmp_path, RETINANET))["CLASS_WEIGHTS"]["RULE"] == rule


@pytest.mark.parametrize("empty, filtered", [(2, False), (40, True)])
def test_images_without_boxes_stay_unless_they_are_the_majority(tmp_path, empty, filtered):
    write_coco(tmp_path, "train", BALANCED, empty=empty)
    inspection = inspected(tmp_path)
    assert inspection.subject.empty_images == empty
    found = yaml.safe_load(inspection.config)["DATALOADER"]["FILTER_EMPTY_ANNOTATIONS"]
    assert found is filtered


def test_shared_files_and_copies_are_to_be_removed(tmp_path):
    write_coco(tmp_path, "train", BALANCED)
    write_coco(tmp_path, "test", SKEWED)
    source = (tmp_path / "train" / "train_0.png").read_bytes()
    (tmp_path / "test" / "test_3.png").write_bytes(source)
    (tmp_path / "train" / "train_1.png").write_bytes(source)
    inspection = inspected(tmp_path)
    first, second = inspection.duplicate_files.shared
    assert (first.first, first.second, first.images) == (*[inspection.subject.name] * 2, 1)
    assert first.pairs[0][0].endswith("train_1.png")
    assert second.images == 2
    assert {Path(b).name for _, b in second.pairs} == {"test_3.png"}
    assert advice(inspection, "Remove") and advice(inspection, "Take the files")


def test_classes_without_enough_boxes_are_named(tmp_path):
    write_coco(tmp_path, "train", {"many": 30, "few": 9, "enough": 10, "none": 0, "nowhere": 0})
    write_coco(tmp_path, "test", {"many": 5, "few": 5, "enough": 0, "none": 2, "nowhere": 0})
    inspection = inspected(tmp_path)
    assert advice(inspection, "Do not trust").reason.startswith("'few': fewer than 10")
    assert advice(inspection, "lacks").reason.startswith("'enough': no box")
    assert advice(inspection, "Add training boxes").reason.startswith("'none':")
    removal = advice(inspection, "class list")
    assert removal.reason.startswith("'nowhere':")
    for entry in removal.settings["DATASETS"]["CUSTOM"].values():
        assert entry["CLASSES"] == ["many", "few", "enough", "none"]
    problems = {w.rule: w.problem for w in inspection.weights}
    assert problems["log"] is None and "every class" in problems["inverse"]


def test_a_class_of_crowd_regions_only_stays_in_the_class_list(tmp_path):
    path = write_coco(tmp_path / "d", "train", {"a": 30, "crowds": 3, "nowhere": 0})
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["iscrowd"] = int(annotation["category_id"] == 1)
    path.write_text(json.dumps(content))
    inspection = inspected(tmp_path / "d")
    removal = advice(inspection, "class list")
    assert removal.reason.startswith("'nowhere': no box")
    (entry,) = removal.settings["DATASETS"]["CUSTOM"].values()
    assert entry["CLASSES"] == ["a", "crowds"]
    assert advice(inspection, "crowd regions only").reason.startswith("'crowds':")
    assert "Add training boxes for the classes that have none" not in titles(inspection)


def test_crowd_regions_are_counted_beside_the_boxes(tmp_path):
    path = write_coco(tmp_path, "train", {"a": 30, "b": 30})
    content = json.loads(path.read_text())
    for annotation in content["annotations"][:8]:
        annotation["iscrowd"] = 1
    path.write_text(json.dumps(content))
    inspection = inspected(tmp_path)
    assert (inspection.subject.boxes, inspection.subject.crowds) == (52, 8)
    text = as_text(inspection)
    assert "52 boxes, 8 crowd regions beside them, 2 classes" in text
    assert ["crowd", "regions", "8"] in [line.split() for line in text.splitlines()]
    assert "crowd regions beside them" in as_page(inspection)


def test_invalid_annotations_are_all_listed_and_to_be_fixed(tmp_path):
    path = write_coco(tmp_path, "train", SKEWED)
    content = json.loads(path.read_text())
    for annotation in content["annotations"][:5]:
        annotation["bbox"][2] = 0
    (tmp_path / "train" / "train_7.png").write_bytes(b"no image")
    path.write_text(json.dumps(content))
    inspection = inspected(tmp_path)
    (source,) = inspection.invalid_annotations
    kinds = [entry.kind for entry in source.annotations]
    assert kinds.count(InvalidKind.ZERO_SIZE) == 5
    assert kinds.count(InvalidKind.UNREADABLE_IMAGE) == 1
    assert advice(inspection, "Fix").settings == {"DATASETS": {"BAD_RECORDS": "skip"}}
    text, page = as_text(inspection), as_page(inspection)
    assert "5 x zero-size" in text and "... and 2 more" in text
    assert page.count("zero-size or inverted box</td>") == 5


def test_the_invalid_annotations_of_a_held_out_set_are_listed_once(tmp_path):
    path = write_coco(tmp_path, "labels", SKEWED)
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"][2] = 0
    path.write_text(json.dumps(content))
    config = tmp_path / "config.yaml"
    entry = {"FORMAT": "coco", "IMAGES": "labels", "ANNOTATIONS": "labels.json", "HOLDOUT": 0.2}
    config.write_text(yaml.safe_dump({"DATASETS": {"CUSTOM": {"held": entry}}}))
    (source,) = inspected("held", config).invalid_annotations
    assert source.splits == ("held_train", "held_val") and len(source.annotations) == 1


def test_a_note_on_several_splits_is_made_once_and_says_what_it_counts_over(tmp_path):
    path = write_coco(tmp_path, "labels", SKEWED)
    content = json.loads(path.read_text())
    content["annotations"].append(content["annotations"][0] | {"id": 10**6})
    path.write_text(json.dumps(content))
    config = tmp_path / "config.yaml"
    entry = {"FORMAT": "coco", "IMAGES": "labels", "ANNOTATIONS": "labels.json", "HOLDOUT": 0.2}
    config.write_text(yaml.safe_dump({"DATASETS": {"CUSTOM": {"held": entry}}}))
    lines = [line for line in as_text(inspected("held", config)).splitlines() if "Note" in line]
    assert len(lines) == 1
    assert lines[0].startswith(
        "Note on each of held_train, held_val: in all of 'held': 1 box repeats"
    )


def test_a_set_of_detectron2s_that_the_config_names_and_that_is_not_here_is_noted(
    tmp_path, monkeypatch
):
    """As those of the model zoo's configs."""
    monkeypatch.setitem(MetadataCatalog.get("coco_2017_val").__dict__, "json_file", "gone.json")
    write_coco(tmp_path, "labels", SKEWED)
    config = tmp_path / "config.yaml"
    entry = {"FORMAT": "coco", "IMAGES": "labels", "ANNOTATIONS": "labels.json"}
    datasets = {"CUSTOM": {"mine": entry}, "TRAIN": ["mine"], "TEST": ["coco_2017_val"]}
    config.write_text(yaml.safe_dump({"DATASETS": datasets}))
    inspection = inspected("mine", config)
    assert [(split.name, split.role) for split in inspection.splits] == [("mine", "train")]
    assert "the config names coco_2017_val, too, but gone.json does not exist" in inspection.notes


LEAVES = [
    f"{path.parent.name}/{path.stem}"
    for path in sorted(CONFIGS.glob("*/*.yaml"))
    if path.parent.name not in ("datasets", "large")
]
REPEATING = """
BALANCE: {IMAGE_SAMPLER: {NAME: none}}
DATALOADER: {SAMPLER_TRAIN: RepeatFactorTrainingSampler, REPEAT_THRESHOLD: 0.1}
"""


@pytest.mark.parametrize(
    "boxes", [TAIL, pytest.param({"one": 12}, marks=pytest.mark.slow)], ids=["several", "one"]
)
def test_every_recommended_line_loads_beside_every_config(tmp_path, boxes):
    write_coco(tmp_path / "data", "train", boxes, size=(80, 16), empty=2, per_image=20)
    (tmp_path / "own.yaml").write_text(REPEATING)
    for leaf, *own in [*((leaf,) for leaf in LEAVES), ("quick/recommended", tmp_path / "own.yaml")]:
        files = [CONFIGS / f"{leaf}.yaml", *own]
        inspection = inspected(tmp_path / "data", *files)
        assert "the anchors" in " ".join(titles(inspection))
        lines = [yaml.safe_dump(one.settings) for one in inspection.recommendations if one.settings]
        for i, text in enumerate([*lines, inspection.config]):
            (tmp_path / f"{i}.yaml").write_text(text)
            check_config(load_config([*files, tmp_path / f"{i}.yaml"]))


@pytest.mark.parametrize("leaf", ["quick/recommended", "quick/pisa", "quick/repeat_factors"])
@pytest.mark.parametrize("own", [None, REPEATING])
def test_the_baseline_is_one_whatever_config_was_given(tmp_path, leaf, own):
    write_coco(tmp_path / "data", "train", BALANCED)
    (tmp_path / "own.yaml").write_text(own or "")
    files = [CONFIGS / f"{leaf}.yaml", tmp_path / "own.yaml"]
    inspection = inspected(tmp_path / "data", *files)
    assert "Train the baseline" in titles(inspection)
    (tmp_path / "mine.yaml").write_text(inspection.config)
    cfg = load_config([*files, tmp_path / "mine.yaml"])
    assert cfg.BALANCE == load_config([CONFIGS / "quick" / "baseline.yaml"]).BALANCE
    assert cfg.DATALOADER.SAMPLER_TRAIN == "TrainingSampler"


@pytest.mark.parametrize(
    "leaf, own, boxes",
    [
        ("quick/pisa", "BALANCE: {PISA: {CARL: true}}", "balanced"),
        ("quick/documents", "", "balanced"),
        ("quick_retinanet/focal_frequency", "BALANCE: {CLASS_WEIGHTS: {RULE: inv_sqrt}}",
         "balanced"),
        ("quick/documents", "", "tail"),
        ("quick/base", "INPUT: {MIN_SIZE_TRAIN: [240, 320], MIN_SIZE_TRAIN_SAMPLING: range}",
         "tail"),
    ],
)  # fmt: skip
def test_lines_fit_what_the_config_had_changed(tmp_path, leaf, own, boxes):
    counts = BALANCED if boxes == "balanced" else TAIL
    write_coco(tmp_path / "data", "train", counts, size=(12, 12), per_image=20)
    (tmp_path / "own.yaml").write_text(own)
    files = [CONFIGS / f"{leaf}.yaml", tmp_path / "own.yaml"]
    inspection = inspected(tmp_path / "data", *files)
    (tmp_path / "mine.yaml").write_text(inspection.config)
    cfg = load_config([*files, tmp_path / "mine.yaml"])
    check_config(cfg)
    assert cfg.BALANCE.ANCHOR_SAMPLER.NAME == cfg.BALANCE.ROI_SAMPLER.NAME == "random"
    assert cfg.BALANCE.ROI_LOSS.NORMALIZER == "weight_sum"
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range":
        low, high = cfg.INPUT.MIN_SIZE_TRAIN
        assert high / low == pytest.approx(320 / 240, abs=0.01)


def test_repeating_images_of_a_stock_model_loads(tmp_path):
    write_coco(tmp_path / "data", "train", TAIL, per_image=3)
    (tmp_path / "stock.yaml").write_text("MODEL: {ROI_HEADS: {NAME: StandardROIHeads}}")
    files = [CONFIGS / "quick" / "base.yaml", tmp_path / "stock.yaml"]
    repeat = advice(inspected(tmp_path / "data", *files), "repeat the images")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(repeat.settings))
    check_config(load_config([*files, tmp_path / "mine.yaml"]))


def test_the_numbers_of_plain_yolo_labels_are_never_relisted(tmp_path):
    """Without the first class the second one's labels would be of the third."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for i in range(45):
        Image.new("RGB", (40 + i, 40)).save(tmp_path / "images" / f"{i}.png")
        (tmp_path / "labels" / f"{i}.txt").write_text(f"{1 if i < 40 else 2} .5 .5 .5 .5\n")
    entry = {"FORMAT": "yolo", "IMAGES": "images", "ANNOTATIONS": "labels",
             "CLASSES": ["unused", "cat", "dog"]}  # fmt: skip
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"DATASETS": {"CUSTOM": {"pets": entry}}}))
    inspection = inspected("pets", config)
    found = advice(inspection, "Leave the classes without boxes out")
    assert found.settings == {} and "CLASSES" not in inspection.config
    assert "Numbers in label files count the classes" in found.reason


def several(tmp_path, **splits):
    """Config of COCO sets, each with its boxes by class and whether it is trained on or tested."""
    node = {"CUSTOM": {}, "TRAIN": [], "TEST": []}
    for name, (role, boxes) in splits.items():
        write_coco(tmp_path, name, boxes, seed=len(node["CUSTOM"]))
        entry = {"FORMAT": "coco", "IMAGES": name, "ANNOTATIONS": f"{name}.json"}
        node["CUSTOM"][name] = entry
        node[role].append(name)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"DATASETS": node}))
    return tmp_path / "config.yaml"


@pytest.mark.parametrize("name", ["cats", "tested"])
def test_of_a_part_of_the_training_or_a_test_set_nothing_follows_for_the_loss(tmp_path, name):
    config = several(
        tmp_path,
        cats=("TRAIN", {"cat": 30, "dog": 0}),
        dogs=("TRAIN", {"cat": 0, "dog": 30}),
        tested=("TEST", {"cat": 40, "dog": 2}),
    )
    found = titles(inspected(name, CONFIGS / "quick" / "base.yaml", config))
    assert "Inspect what is trained on for advice on the training" in found
    assert not any("baseline" in title or "Add training boxes" in title for title in found)


def test_a_length_counts_the_images_that_the_other_advice_leaves(tmp_path):
    write_coco(tmp_path / "data", "train", {"a": 100, "b": 20}, per_image=2, empty=240)
    files = [CONFIGS / "quick" / "baseline.yaml"]
    short = inspected(tmp_path / "data", *files, overrides=("SOLVER.MAX_ITER", "250"))
    assert "Leave most images without boxes out" in titles(short)
    assert "Train longer" not in titles(short)  # 10 epochs of 48 images, and not 1.7 of 300


def test_sampling_that_raises_the_imbalance_is_not_advised(tmp_path):
    images = [{"a": 1, "b": int(i < 30), "c": 3000 if i == 0 else 0} for i in range(100)]
    dicts = [
        {"file_name": f"{i}.png", "image_id": i, "width": 500, "height": 500, "annotations": [
            {"bbox": [9, 9, 90, 90], "bbox_mode": 0, "category_id": k, "iscrowd": 0}
            for k, number in enumerate(counts.values()) for _ in range(number)
        ]}
        for i, counts in enumerate(images)
    ]  # fmt: skip
    with in_catalog(dicts, 3) as name:
        inspection = inspected(name, CONFIGS / "quick" / "base.yaml")
    assert not any("repeat the images" in title for title in titles(inspection))


def test_a_folder_called_as_a_dataset_of_detectron2_gets_another_name(tmp_path):
    write_coco(tmp_path / "coco_2017", "train", BALANCED)
    write_coco(tmp_path / "coco_2017", "val", BALANCED, seed=1)
    inspection = inspected(tmp_path / "coco_2017")
    assert inspection.subject.name == "my_coco_2017_train" in inspection.config


def test_repeating_images_switches_another_choice_of_images_off(tmp_path):
    write_coco(tmp_path / "data", "train", TAIL, per_image=3)
    files = [CONFIGS / "quick" / "recommended.yaml"]
    repeat = advice(inspected(tmp_path / "data", *files), "repeat the images")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(repeat.settings))
    cfg = load_config([*files, tmp_path / "mine.yaml"])
    check_config(cfg)
    assert (cfg.BALANCE.IMAGE_SAMPLER.NAME, cfg.BALANCE.PISA.ENABLED) == ("none", False)
    assert cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler"


@pytest.mark.parametrize(
    "leaf, stock, component",
    [
        ("quick/base", {"ROI_HEADS": {"NAME": "StandardROIHeads"}}, "BalancedROIHeads"),
        ("quick_retinanet/base", {"META_ARCHITECTURE": "RetinaNet"}, "BalancedRetinaNet"),
    ],
)
def test_a_stock_model_gets_the_component_that_reads_the_lines(tmp_path, leaf, stock, component):
    write_coco(tmp_path / "data", "train", SKEWED)
    (tmp_path / "stock.yaml").write_text(yaml.safe_dump({"MODEL": stock}))
    files = [CONFIGS / f"{leaf}.yaml", tmp_path / "stock.yaml"]
    inspection = inspected(tmp_path / "data", *files)
    (tmp_path / "mine.yaml").write_text(inspection.config)
    assert component in inspection.config
    check_config(load_config([*files, tmp_path / "mine.yaml"]))


# Odd data


def test_a_dataset_without_boxes_is_shown_as_such(tmp_path):
    write_coco(tmp_path, "train", {"a": 0, "b": 0}, empty=3)
    inspection = inspected(tmp_path)
    assert inspection.subject.imbalance is None and inspection.anchors is None
    assert (inspection.weights, inspection.repeat_factors, inspection.samples) == ((), (), ())
    assert "Add boxes" in titles(inspection)
    json.dumps(asdict(inspection), allow_nan=False)
    assert "0 boxes" in as_text(inspection) and "0 boxes" in as_page(inspection)


def test_a_single_class_has_nothing_to_balance(tmp_path):
    write_coco(tmp_path, "train", {"a": 12})
    inspection = inspected(tmp_path)
    assert "one class" in advice(inspection, "baseline").reason
    assert inspection.subject.imbalance == 1 and as_text(inspection) and as_page(inspection)


def test_many_classes_stay_readable_in_the_terminal(tmp_path):
    write_coco(tmp_path, "train", {f"class{k}": 1 + k % 7 for k in range(60)}, per_image=8)
    inspection = inspected(tmp_path)
    text, page = as_text(inspection), as_page(inspection)
    assert "20 classes between are left out" in text and "see the matrix" in text
    assert all(f"<td>class{k}</td>" in page for k in range(60))


def test_names_are_shown_and_never_run(tmp_path):
    folder = tmp_path / "data"
    evil = "<script>alert(1)</script>"
    path = write_coco(folder, "train", {evil: 3, "$x_1^{$": 12, "a & b": 12})
    content = json.loads(path.read_text())
    for image in content["images"]:
        name = f"<img src=x onerror=alert(2)>{image['id']}.png"
        (folder / "train" / image["file_name"]).rename(folder / "train" / name)
        image["file_name"] = name
    content["annotations"][0]["bbox"][2] = 0
    content["annotations"][0]["id"] = "<b>bold</b>"
    path.write_text(json.dumps(content))
    inspection = inspected(folder)
    page = as_page(inspection)
    assert "<script" not in page and "<img src=x" not in page and "<b>" not in page
    for shown in ("&lt;script&gt;alert(1)", "&lt;img src=x onerror", "$x_1^{$", "a &amp; b"):
        assert shown in page
    assert "&lt;b&gt;bold" in page and evil in as_text(inspection)


def test_an_image_lost_after_reading_is_said_on_the_page(tmp_path):
    write_coco(tmp_path, "train", {"a": 2, "b": 2})
    inspection = inspected(tmp_path)
    for file in (tmp_path / "train").iterdir():
        file.write_bytes(b"")
    assert "the image cannot be read" in as_page(inspection)


# Command line


def test_the_command_prints_tables_and_writes_both_files(tmp_path, capsys):
    write_coco(tmp_path / "data", "train", SKEWED)
    out = tmp_path / "out"
    assert main(["inspect", str(tmp_path / "data"), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "imbalance 4.0 to 1" in said.out and said.err == ""
    assert said.out.split()[-2:] == [str(out / "inspect.json"), str(out / "inspect.html")]
    stored = json.loads((out / "inspect.json").read_text())
    assert stored["splits"][0]["classes"][1] == {
        "images": 10, "boxes": 10, "share": 0.2, "crowds": 0,
    }  # fmt: skip


def test_json_is_the_only_thing_on_standard_output(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_coco(tmp_path / "data", "train", SKEWED)
    overrides = ["INPUT.MIN_SIZE_TEST", "320"]
    assert main(["inspect", "data", "--json", "--config-file", QUICK, *overrides]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["anchors"]["setting"]["min_size"] == 320
    assert printed == json.loads(Path("output/inspect/data/inspect.json").read_text())


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["bccd_trian"], "no dataset and no folder called 'bccd_trian'"),
        (["shapes_trian", "--config-file", "config.yaml"], "did you mean 'shapes_train'?"),
        (["empty"], "holds no dataset: looked for a data.yaml"),
        (["config.yaml"], "config.yaml is a file without the 'names' of a YOLO dataset"),
        (["empty", "--config-file", "missing.yaml"], "config file missing.yaml cannot be read"),
        (["broken"], "is not readable YAML"),
        (["impossible"], "month must be in 1..12"),
        (["~nobody-of-this-name/data"], "no dataset and no folder called '~nobody"),
        (["x" * 300], "no dataset and no folder called 'xxx"),
        (["broken_images"], "has no usable image"),
        (["empty", "MODEL.BACKBONE.NAME", "resnet"], "MODEL.BACKBONE.NAME is 'resnet'"),
    ],
)
def test_bad_input_is_answered_in_one_sentence(tmp_path, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken/data.yaml").write_text("names: [")
    Path("impossible").mkdir()
    Path("impossible/data.yaml").write_text("names: [cat]\nexported: 2024-13-45")
    write_coco(Path("broken_images"), "train", {"a": 2})
    Path("broken_images/train/train_0.png").write_bytes(b"")
    Path("config.yaml").write_text(
        "DATASETS: {CUSTOM: {shapes_train: {FORMAT: coco, IMAGES: i, ANNOTATIONS: a.json}}}"
    )
    assert main(["inspect", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1
    assert not Path("output").exists()


# Real data


@pytest.fixture
def datasets_folder(real_data, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(real_data))
    return CONFIGS / "datasets"


def test_bccd_is_inspected_in_seconds_with_its_known_counts(datasets_folder, real_data):
    start = time.process_time()
    inspection = inspected("bccd_train", QUICK, datasets_folder / "bccd.yaml")
    assert time.process_time() - start < 10
    counts = dict(zip(inspection.class_names, inspection.subject.classes, strict=True))
    assert {name: c.boxes for name, c in counts.items()} == {
        "Platelets": 292, "RBC": 3348, "WBC": 301,
    }  # fmt: skip
    wheres = [f.where.split(",")[0] for s in inspection.invalid_annotations for f in s.annotations]
    assert wheres == ["BloodImage_00338.xml", "BloodImage_00343.xml"]
    assert not inspection.duplicate_files.shared
    folder = inspected(real_data / "bccd")
    assert [(s.role, s.images) for s in folder.splits] == [
        ("train", 205),
        ("val", 87),
        ("test", 72),
    ]


def test_the_aquarium_folder_gives_its_three_splits_and_known_invalid_annotations(real_data):
    inspection = inspected(real_data / "aquarium")
    assert [s.images for s in inspection.splits] == [448, 127, 63]
    assert [s.boxes for s in inspection.splits] == [3324, 909, 582]
    assert sum(s.empty_images for s in inspection.splits) == 1
    assert [len(s.annotations) for s in inspection.invalid_annotations] == [0, 0, 2]
    assert inspection.subject.imbalance == pytest.approx(1961 / 78)
    assert not inspection.duplicate_files.shared and inspection.duplicate_files.hashed < 100
    assert [r.epoch_growth > 1 for r in inspection.repeat_factors] == [False] * 2 + [True] * 4
    assert {sample.class_name for sample in inspection.samples} == {
        "starfish",
        "stingray",
        "puffin",
    }
    assert as_page(inspection).count("data:image/jpeg") == 6


@pytest.mark.parametrize("outside_files", [False, True])
def test_files_that_lie_outside_of_a_folder_are_invalid_unless_they_are_allowed(
    tmp_path, outside_files
):
    write_dataset(tmp_path / "shapes")
    image = tmp_path / "shapes" / "images" / "0.png"
    image.rename(tmp_path / "elsewhere.png")
    image.symlink_to(tmp_path / "elsewhere.png")
    cfg = load_config([])
    target = find_target(str(tmp_path / "shapes"), cfg, outside_files)
    (entry,) = target.custom.values()
    assert entry.get("OUTSIDE_FILES", False) == outside_files
    (invalid,) = inspect(target, cfg).invalid_annotations
    assert bool(invalid.annotations) != outside_files
