"""Per-class average precision: equality with pycocotools, absent classes, id 0, ignored regions."""

import copy
import json
import math
import shutil

import pytest

from counterpoise.balance.class_counts import ClassCounts
from counterpoise.errors import UserError
from counterpoise.evaluation import evaluate_detections
from counterpoise.evaluation.stored import write_inference
from counterpoise.inference.evaluator import write_evaluations
from scenes import assert_equals_pycocotools, crowded_scene, pycocotools_stats, scene, stored


@pytest.mark.parametrize("make", [scene, crowded_scene])
@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools(make, seed):
    truth, detections = make(seed=seed)
    ours = assert_equals_pycocotools(truth, detections)
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


def test_no_detections_score_zero_and_say_so_and_no_ground_truth_is_refused():
    truth, detections = scene()
    result = evaluate_detections(truth, [])
    assert result.AP == 0 and result.per_class[0].recall == 0
    assert "There are no predictions at all" in str(result)
    truth["annotations"] = []
    with pytest.raises(UserError, match=r"no box of the classes \[class 0, class 1, class 2\]"):
        evaluate_detections(truth, detections)


@pytest.mark.parametrize("key", ["difficult", "iscrowd"])
def test_a_detection_of_a_difficult_box_or_crowd_is_neither_a_true_nor_a_false_positive(key):
    truth, _ = scene(images=2, classes=1)
    detections = [{**a, "score": 0.5} for a in truth["annotations"]]
    ignored = truth["annotations"][0]
    ignored[key] = 1
    with_it = evaluate_detections(truth, [*detections, {**detections[0], "score": 0.99}])
    without = evaluate_detections(truth, detections[1:])
    assert with_it.AP == without.AP == pytest.approx(100)
    assert with_it.per_class[0].test_boxes == len(truth["annotations"]) - 1


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
    assert content.keys() >= {"AP", "AP50", "AP75", "per_class"}
    absent = content["per_class"][1]
    nothing = {"AP", "AP50", "VOC07_AP50", "AP_interval", "recall", "train_images", "train_boxes"}
    assert {key: absent[key] for key in nothing} == dict.fromkeys(nothing)
    assert (absent["name"], absent["test_images"], absent["test_boxes"]) == ("class 1", 0, 0)
    assert absent["missing_resamples"] == content["resamples"] == 1000
    assert [p.name for p in tmp_path.iterdir()] == ["e.json"]
    assert not any(isinstance(v, float) and math.isnan(v) for v in content.values())


def test_an_evaluation_on_another_test_set_keeps_the_first_while_its_detections_are_there(tmp_path):
    truth, detections = scene()
    path, result = tmp_path / "evaluation.json", evaluate_detections(truth, detections)

    def evaluated(name: str) -> list[str]:
        write_inference(tmp_path, name, truth, detections, result)
        write_evaluations({name: result}, path)
        return list(json.loads(path.read_text()))

    assert evaluated("first") == ["first"]
    first = json.loads(path.read_text())["first"]
    assert evaluated("second") == ["second", "first"]
    assert json.loads(path.read_text())["first"] == first
    shutil.rmtree(tmp_path / "inference" / "first")
    assert evaluated("third") == ["third", "second"]
    path.write_text('{"second": {"AP"')
    assert evaluated("third") == ["third"]


def test_image_ids_may_be_strings_and_categories_in_any_order():
    truth, detections = scene()
    reference = evaluate_detections(truth, detections)
    for entry in (*truth["annotations"], *detections):
        entry["image_id"] = f"image {entry['image_id']:02d}"
    for image in truth["images"]:
        image["id"] = f"image {image['id']:02d}"
    truth["categories"].reverse()
    shuffled = evaluate_detections(truth, detections)
    assert shuffled.per_class[::-1] == reference.per_class
    assert pytest.approx(reference.AP) == shuffled.AP


def test_equals_pycocotools_on_what_a_model_found(run):
    _, out = run
    assert_equals_pycocotools(*stored(out))


def test_more_detections_than_pycocotools_counts_change_nothing():
    truth, detections = scene(images=2, classes=1)
    spam = [
        {"image_id": 0, "category_id": 0, "bbox": [i / 9, 0, 20, 20], "score": 0.9 - i / 1000}
        for i in range(150)
    ]
    assert_equals_pycocotools(truth, detections + spam)


def test_precision_and_recall_are_measured_at_the_thresholds_given():
    truth, _ = scene(classes=2)
    boxes = truth["annotations"]
    detections = [{**a, "score": 0.9 if i % 2 else 0.1} for i, a in enumerate(boxes)]
    result = evaluate_detections(
        truth, detections, thresholds={"class 0": 0.5, "class 1": 0.05}, thresholds_from="a file"
    )
    own = [i for i, a in enumerate(boxes) if a["category_id"] == 0]
    assert result.per_class[0].recall == pytest.approx(100 * sum(i % 2 for i in own) / len(own))
    assert result.per_class[0].precision == result.per_class[1].recall == 100
    assert result.thresholds_from == "a file"
    with pytest.raises(UserError, match=r"no score threshold for the classes \[class 1\]"):
        evaluate_detections(truth, detections, thresholds={"class 0": 0.5})


def test_a_class_whose_every_detection_is_wrong_is_counted_and_not_hidden():
    truth, _ = scene(images=6, classes=2)
    right = [{**a, "score": 0.9} for a in truth["annotations"] if a["category_id"] == 0]
    wrong = [
        {"image_id": i, "category_id": 1, "bbox": [95, 95, 4, 4], "score": 0.99} for i in range(6)
    ]
    result = evaluate_detections(truth, right + wrong)
    failed = result.per_class[1]
    assert (failed.precision, failed.recall, failed.detections) == (0, 0, 6)
    assert failed.errors["background"].count == 6
    assert result.confusion.counts[-1][1] == 6
