"""Per-class average precision: equality with pycocotools, absent classes, id 0, ignored regions."""

import contextlib
import copy
import json
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from counterpoise.datasets import ClassCounts
from counterpoise.evaluator import evaluate_detections, write_evaluations


def scene(images=20, classes=3, seed=0, first_id=1):
    """Ground truth and detections that are partly right, in COCO form."""
    rng = np.random.default_rng(seed)
    annotations, detections = [], []
    for image in range(images):
        for _ in range(rng.integers(1, 6)):
            x, y, w, h = rng.uniform(0, 60), rng.uniform(0, 60), *rng.uniform(8, 30, 2)
            category = int(rng.integers(classes))
            annotations.append(
                {"image_id": image, "category_id": category, "bbox": [x, y, w, h], "iscrowd": 0}
            )
            jitter = rng.normal(0, 2, 4)
            detections.append(
                {
                    "image_id": image,
                    "category_id": category if rng.random() < 0.8 else int(rng.integers(classes)),
                    "bbox": [x + jitter[0], y + jitter[1], w + abs(jitter[2]), h + abs(jitter[3])],
                    "score": float(rng.random()),
                }
            )
    for number, annotation in enumerate(annotations, start=first_id):
        annotation["id"] = number
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    truth = {
        "info": {},
        "images": [{"id": i, "height": 100, "width": 100} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"class {i}"} for i in range(classes)],
    }
    return truth, detections


def pycocotools_stats(truth, detections):
    with contextlib.redirect_stdout(None):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(detections)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * evaluation.stats


@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools(seed):
    truth, detections = scene(seed=seed)
    ours, stats = evaluate_detections(truth, detections), pycocotools_stats(truth, detections)
    assert pytest.approx(tuple(stats[:3]), abs=1e-9) == (ours.AP, ours.AP50, ours.AP75)
    for k, result in enumerate(ours.per_class):
        alone = copy.deepcopy(truth)
        alone["annotations"] = [a for a in truth["annotations"] if a["category_id"] == k]
        alone["categories"] = [truth["categories"][k]]
        own = [d for d in detections if d["category_id"] == k]
        assert pytest.approx(tuple(pycocotools_stats(alone, own)[:2]), abs=1e-9) == (
            result.AP,
            result.AP50,
        )


def test_annotation_ids_from_zero_score_the_same_where_pycocotools_loses_a_match():
    from_one, detections = scene(images=1)
    from_zero, _ = scene(images=1, first_id=0)
    perfect = [{**a, "score": 0.9} for a in from_one["annotations"]]
    assert pycocotools_stats(from_zero, perfect)[0] < pycocotools_stats(from_one, perfect)[0]
    assert pytest.approx(100) == evaluate_detections(from_zero, perfect).AP
    assert evaluate_detections(from_zero, detections) == evaluate_detections(from_one, detections)


def test_a_class_without_test_boxes_is_absent_and_not_averaged_as_zero():
    truth, detections = scene()
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] != 1]
    result = evaluate_detections(truth, detections)
    assert result.per_class[1].AP is None and result.per_class[1].AP50 is None
    present = [c.AP for c in result.per_class if c.AP is not None]
    assert pytest.approx(sum(present) / 2) == result.AP
    assert "Without test boxes" in str(result) and "class 1" in str(result)


def test_no_detections_score_zero_and_no_ground_truth_scores_nothing():
    truth, detections = scene()
    assert evaluate_detections(truth, []).AP == 0
    truth["annotations"] = []
    assert evaluate_detections(truth, detections).AP is None


@pytest.mark.parametrize("key", ["difficult", "iscrowd"])
def test_difficult_boxes_and_crowds_are_neither_hit_nor_miss(key):
    truth, _ = scene(images=2, classes=1)
    detections = [{**a, "score": 0.5} for a in truth["annotations"]]
    ignored = truth["annotations"][0]
    ignored[key] = 1
    with_hit = evaluate_detections(truth, [*detections, {**detections[0], "score": 0.99}])
    without = evaluate_detections(truth, detections[1:])
    assert with_hit.AP == without.AP == pytest.approx(100)
    assert with_hit.per_class[0].test_boxes == len(truth["annotations"]) - 1


def test_counts_are_matched_by_name():
    truth, detections = scene()
    training = ClassCounts(("class 2", "class 0"), (5, 7), (50, 70))
    per_class = evaluate_detections(truth, detections, training).per_class
    assert [(c.train_images, c.train_boxes) for c in per_class] == [(7, 70), (None, None), (5, 50)]
    for k, result in enumerate(per_class):
        own = [a for a in truth["annotations"] if a["category_id"] == k]
        assert result.test_boxes == len(own)
        assert result.test_images == len({a["image_id"] for a in own})


def test_the_json_holds_the_documented_keys_and_null_for_what_is_absent(tmp_path):
    truth, detections = scene()
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] != 1]
    write_evaluations({"mine": evaluate_detections(truth, detections)}, tmp_path / "e.json")
    content = json.loads((tmp_path / "e.json").read_text())["mine"]
    assert content.keys() == {"AP", "AP50", "AP75", "per_class"}
    assert content["per_class"][1] == {
        "name": "class 1", "AP": None, "AP50": None, "train_images": None, "train_boxes": None,
        "test_images": 0, "test_boxes": 0,
    }  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["e.json"]
    assert not any(isinstance(v, float) and math.isnan(v) for v in content.values())


def test_image_ids_may_be_strings_and_categories_in_any_order():
    truth, detections = scene()
    reference = evaluate_detections(truth, detections)
    for entry in (*truth["annotations"], *detections):
        entry["image_id"] = f"image {entry['image_id']}"
    for image in truth["images"]:
        image["id"] = f"image {image['id']}"
    truth["categories"].reverse()
    shuffled = evaluate_detections(truth, detections)
    assert shuffled.per_class[::-1] == reference.per_class
    assert pytest.approx(reference.AP) == shuffled.AP
