"""Invalid ground truth and predictions are refused in one sentence; no file is left incomplete."""

import json

import pytest

from counterpoise.errors import UserError
from counterpoise.evaluation import evaluate_detections
from counterpoise.evaluation.stored import read_inference, stored_test_sets, write_inference
from counterpoise.utils.files import write_json
from scenes import scene


def change(part, key, value):
    def apply(truth, detections):
        records = detections if part == "detections" else truth[part]
        records[0][key] = value

    return apply


def remove(part, key):
    def apply(truth, detections):
        records = detections if part == "detections" else truth[part]
        del records[0][key]

    return apply


@pytest.mark.parametrize(
    "spoil, sentence",
    [
        (change("detections", "score", float("nan")), "1 of .* scores are NaN.* record 0"),
        (change("detections", "score", "high"), "a score is not a number"),
        (change("detections", "image_id", 999), "image_id 999 is not in the ground truth"),
        (
            change("detections", "category_id", 7),
            "category_id 7 is not in the ground truth, which has 0 class 0, 1 class 1",
        ),
        (change("detections", "bbox", [1, 2, 3]), "every bbox must be four numbers"),
        (
            change("detections", "bbox", [1, 2, -3, 4]),
            "bbox of record 0 is .*width and height >= 0",
        ),
        (remove("detections", "score"), "a record lacks the key 'score'"),
        (remove("annotations", "bbox"), "a record lacks the key 'bbox'"),
        (change("annotations", "bbox", [0, 0, float("inf"), 1]), "bbox of annotation 0 is"),
        (change("annotations", "category_id", 9), "category_id 9 is not in the ground truth"),
        (change("images", "id", 1), "image id 1 appears twice"),
        (change("categories", "name", "class 1"), "category name 'class 1' appears twice"),
        (lambda truth, _: truth.pop("images"), "expected a COCO dataset with a list 'images'"),
        (change("annotations", "area", "x"), "an area is not a number"),
        (change("annotations", "area", float("nan")), "the area of annotation 0 is nan"),
        (change("images", "id", None), "image id None is neither a whole number nor text"),
        (change("categories", "id", [1]), r"category id \[1\] is neither a whole number nor text"),
        (change("annotations", "image_id", {}), "image_id is neither a whole number nor text"),
    ],
)
def test_invalid_input_is_named_in_one_sentence(spoil, sentence):
    truth, detections = scene()
    spoil(truth, detections)
    with pytest.raises(UserError, match=sentence) as caught:
        evaluate_detections(truth, detections)
    assert "\n" not in str(caught.value)


def test_a_bootstrap_without_resamples_is_refused():
    with pytest.raises(UserError, match="resamples is 0, expected a number >= 1"):
        evaluate_detections(*scene(), resamples=0)


def test_predictions_that_are_no_list_are_refused():
    truth, detections = scene()
    with pytest.raises(UserError, match="expected a list of COCO results"):
        evaluate_detections(truth, {"annotations": detections})


def test_a_class_never_predicted_is_named_and_scores_zero():
    truth, detections = scene()
    result = evaluate_detections(truth, [d for d in detections if d["category_id"] != 2])
    assert result.per_class[2].AP == 0
    assert "Never predicted: class 2." in result.notes


def test_what_was_scored_is_read_back_as_it_was(tmp_path):
    truth, detections = scene()
    write_inference(tmp_path, "my set/1", truth, detections, seconds_per_image=0.25)
    assert stored_test_sets(tmp_path) == ["my set/1"]
    stored = read_inference(tmp_path, "my set/1")
    assert stored.ground_truth.class_names == ("class 0", "class 1", "class 2")
    assert stored.detections.scores.tolist() == [d["score"] for d in detections]
    assert stored.seconds_per_image == 0.25
    (tmp_path / "inference" / "my set%2F1" / "time.json").unlink()  # of an earlier version
    assert read_inference(tmp_path, "my set/1").seconds_per_image is None
    with pytest.raises(UserError, match="holds no detections on other"):
        read_inference(tmp_path, "other")


def test_a_truncated_predictions_file_is_named(tmp_path):
    write_inference(tmp_path, "mine", *scene())
    file = tmp_path / "inference" / "mine" / "detections.json"
    file.write_text(file.read_text()[:200])
    with pytest.raises(
        UserError, match=r"detections.json is not a complete JSON file .*interrupted"
    ):
        read_inference(tmp_path, "mine")


def test_a_file_that_cannot_be_written_completely_leaves_the_old_one(tmp_path):
    file = tmp_path / "result.json"
    write_json(file, {"AP": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(file, {"AP": float("nan")})
    assert json.loads(file.read_text()) == {"AP": 1}
    (tmp_path / "folder").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_json(tmp_path / "folder" / "result.json", {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "result.json"]
