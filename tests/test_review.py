"""``counterpoise review``: labels that confident detections contradict."""

import json

import numpy as np
import pytest
from PIL import Image

from browser import open_page
from counterpoise.commands.console import main
from counterpoise.evaluation.inputs import parse_detections, parse_ground_truth
from counterpoise.evaluation.label_issues import find_label_issues, issues_as_coco, with_earlier
from counterpoise.evaluation.stored import write_inference
from runs import SMALL, train_net, write_dataset
from scenes import crowded_scene

NAMES = ("cat", "dog")


def issues_of(labels, detections, min_score=0.5):
    """Issues of one image as (kind, detection, label, score).

    Args:
        labels: class, box XYWH and whether it is ignored.
        detections: class, box XYWH and score.
    """
    coco = {
        "images": [{"id": 7, "width": 200, "height": 200}],
        "categories": [{"id": k, "name": name} for k, name in enumerate(NAMES)],
        "annotations": [
            {"image_id": 7, "category_id": k, "bbox": box, "iscrowd": int(ignored)}
            for k, box, ignored in labels
        ],
    }
    results = [
        {"image_id": 7, "category_id": k, "bbox": box, "score": score}
        for k, box, score in detections
    ]
    truth = parse_ground_truth(coco)
    found = find_label_issues(truth, parse_detections(results, coco, truth), min_score)
    return [(i.kind.value, i.detection, i.gt, pytest.approx(i.score)) for i in found]


PLACE, ELSEWHERE = [10, 10, 40, 40], [120, 120, 40, 40]


def test_a_label_that_a_detection_of_its_class_fits_is_in_order():
    assert issues_of([(0, PLACE, False)], [(0, [12, 10, 40, 40], 0.9)]) == []


def test_a_confident_detection_without_a_label_is_an_overlooked_object():
    detections = [(0, PLACE, 0.9), (1, ELSEWHERE, 0.8), (1, [60, 60, 30, 30], 0.4)]
    assert issues_of([(0, PLACE, False)], detections) == [("overlooked", 1, -1, 0.8)]
    assert issues_of([], [(1, ELSEWHERE, 0.8)]) == [("overlooked", 0, -1, 0.8)]


def test_an_overlooked_object_counts_less_the_more_a_label_overlaps_it():
    # 10 x 40 of 40 x 40 in common with a box that is fitted: IoU 400 / 2800.
    detections = [(0, PLACE, 0.9), (0, [40, 10, 40, 40], 0.7)]
    expected = [("overlooked", 1, -1, 0.7 * (1 - 1 / 7))]
    assert issues_of([(0, PLACE, False)], detections) == expected


def test_of_detections_in_one_place_the_surest_is_the_overlooked_object():
    detections = [(0, ELSEWHERE, 0.7), (1, ELSEWHERE, 0.9), (0, [122, 120, 40, 40], 0.6)]
    assert issues_of([], detections) == [("overlooked", 1, -1, 0.9)]


def test_a_label_with_a_detection_of_its_class_beside_it_is_badly_placed():
    # 20 x 40 in common: IoU 800 / 2400.
    beside = [30, 10, 40, 40]
    assert issues_of([(0, PLACE, False)], [(0, beside, 0.9)]) == [
        ("badly placed", 0, 0, 0.9 * (1 - 1 / 3))
    ]
    # Less sure where a weak detection fits the label, and in order where a confident one does.
    assert issues_of([(0, PLACE, False)], [(0, beside, 0.9), (0, PLACE, 0.2)]) == [
        ("badly placed", 0, 0, 0.9 * (1 - 1 / 3) * 0.8)
    ]
    assert issues_of([(0, PLACE, False)], [(0, beside, 0.9), (0, PLACE, 0.6)]) == []


def test_a_second_loose_box_of_a_labelled_object_is_not_overlooked():
    # IoU 1/3 and 2/5 with the label, and 1/5 with each other.
    loose = [(0, [30, 10, 40, 40], 0.9), (0, [10, 27, 40, 40], 0.8)]
    assert [kind for kind, *_ in issues_of([(0, PLACE, False)], loose)] == ["badly placed"]
    # Of another class it may well be an object of its own.
    kinds = [i[0] for i in issues_of([(0, PLACE, False)], [(1, loose[0][1], 0.9)])]
    assert kinds == ["overlooked"]


def test_a_label_in_whose_place_another_class_is_found_is_swapped():
    label = [(0, PLACE, False)]
    shifted = [14, 10, 40, 40]  # IoU 36 / 44
    assert issues_of(label, [(1, shifted, 0.9)]) == [("swapped", 0, 0, 0.9 * 36 / 44)]
    assert issues_of(label, [(1, PLACE, 0.9), (0, PLACE, 0.3)]) == [("swapped", 0, 0, 0.9 * 0.7)]
    assert issues_of(label, [(1, PLACE, 0.9), (0, PLACE, 0.6)]) == []


def test_a_detection_that_fits_a_label_of_its_class_swaps_no_other():
    labels = [(0, PLACE, False), (1, [12, 10, 40, 40], False)]
    assert issues_of(labels, [(1, PLACE, 0.9)]) == []


def test_ignored_regions_are_in_order_with_all_that_lies_in_them():
    crowd = [(0, [0, 0, 100, 100], True)]
    assert issues_of(crowd, [(0, PLACE, 0.9), (1, [20, 20, 10, 10], 0.8)]) == []


def test_every_detection_and_label_is_in_one_issue_at_most():
    kinds = set()
    for seed in range(5):
        coco, results = crowded_scene(seed)
        truth = parse_ground_truth(coco)
        found = parse_detections(results, coco, truth)
        issues = find_label_issues(truth, found, 0.3)
        kinds |= {i.kind for i in issues}
        scores = [i.score for i in issues]
        assert scores == sorted(scores, reverse=True) and min(scores) >= 0 and max(scores) <= 1
        labels = [i.gt for i in issues if i.gt >= 0]
        assert len(set(labels)) == len(labels)
        assert len({i.detection for i in issues}) == len(issues)
        assert not truth.ignored[labels].any()
        assert all(found.scores[i.detection] >= 0.3 for i in issues)
        assert all(truth.images[i.gt] == found.images[i.detection] for i in issues if i.gt >= 0)
    assert len(kinds) == 3


def test_what_earlier_models_contradict_in_the_same_way_comes_first():
    coco = {
        "images": [{"id": 7, "width": 200, "height": 200}],
        "categories": [{"id": k, "name": name} for k, name in enumerate(NAMES)],
        "annotations": [],
    }

    def detected(*boxes):
        results = [
            {"image_id": 7, "category_id": k, "bbox": box, "score": score}
            for k, box, score in boxes
        ]
        return parse_detections(results, coco, truth)

    truth = parse_ground_truth(coco)
    final = detected((0, PLACE, 0.9), (1, ELSEWHERE, 0.7))
    earlier = [
        detected((1, [122, 120, 40, 40], 0.6), (1, PLACE, 0.9)),  # of another class in the place
        detected((1, ELSEWHERE, 0.5), (0, [40, 10, 40, 40], 0.9)),  # IoU 1/7 with the place
        detected((1, ELSEWHERE, 0.4), (0, PLACE, 0.8)),  # the first one is not confident
    ]
    issues = with_earlier(truth, final, earlier)
    assert [(i.detection, i.earlier) for i in issues] == [(1, 2), (0, 1)]
    assert with_earlier(truth, final, []) == find_label_issues(truth, final)


@pytest.fixture
def kept(tmp_path):
    """A run that keeps an evaluation with one issue of each kind; the last image is gone."""
    folder = tmp_path / "a run"
    places = [[10.0 + 50 * n, 20.0, 40.0, 40.0] for n in range(4)]
    images, annotations, results = [], [], []
    for i in range(3):
        path = tmp_path / f"{i} <b>.png"
        images.append({"id": f"image-{i}", "file_name": str(path), "width": 220, "height": 90})
        if i < 2:
            Image.fromarray(np.full((90, 220, 3), 90 * i, dtype=np.uint8)).save(path)
    for k, box in ((0, places[0]), (0, [80.0, 20.0, 40.0, 40.0]), (1, places[2])):
        annotations.append({"id": len(annotations), "image_id": "image-0", "category_id": k})
        annotations[-1]["bbox"] = box
    for image, k, box, score in (
        ("image-0", 0, places[0], 0.9), ("image-0", 0, places[1], 0.95),
        ("image-0", 0, places[2], 0.85), ("image-0", 1, places[3], 0.8),
        ("image-1", 0, places[0], 0.6), ("image-2", 0, places[0], 0.7),
    ):  # fmt: skip
        results.append({"image_id": image, "category_id": k, "bbox": box, "score": score})
    categories = [{"id": k, "name": name} for k, name in enumerate(("<i>cat</i>", "dog"))]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    folder.mkdir()
    write_inference(folder, "pets val", coco, results)
    return folder


def test_the_suggestions_are_a_coco_dataset_with_kind_score_and_the_label_as_it_stands(
    kept, capsys
):
    assert main(["review", str(kept)]) == 0
    assert "5 places in 3 images of pets val where its 3 labels" in capsys.readouterr().out
    coco = json.loads((kept / "review" / "pets val" / "review.json").read_text())
    assert [c["name"] for c in coco["categories"]] == ["<i>cat</i>", "dog"]
    assert [i["id"] for i in coco["images"]] == ["image-0", "image-1", "image-2"]
    assert coco["images"][0]["file_name"].endswith("0 <b>.png")
    assert coco["images"][0]["width"] == 220
    found = {a["kind"]: a for a in reversed(coco["annotations"])}
    assert set(found) == {"overlooked", "badly placed", "swapped"}
    assert found["overlooked"]["bbox"] == [160.0, 20.0, 40.0, 40.0]
    assert found["overlooked"]["label"] is None
    assert found["swapped"]["category_id"] == 0
    assert found["swapped"]["label"] == {"bbox": [110.0, 20.0, 40.0, 40.0], "category_id": 1}
    assert found["badly placed"]["label"]["bbox"] == [80.0, 20.0, 40.0, 40.0]
    assert parse_ground_truth(coco).num_classes == 2


def test_data_without_any_label_is_all_suggestions():
    coco = {
        "images": [{"id": 7, "width": 200, "height": 200, "file_name": "a.png"}],
        "categories": [{"id": 0, "name": "cat"}],
        "annotations": [],
    }
    truth = parse_ground_truth(coco)
    results = [{"image_id": 7, "category_id": 0, "bbox": [10, 10, 40, 40], "score": 0.9}]
    found = parse_detections(results, coco, truth)
    issues = find_label_issues(truth, found, 0.5)
    (suggested,) = issues_as_coco(truth, found, issues)["annotations"]
    assert suggested["kind"] == "overlooked" and suggested["label"] is None


def test_the_page_shows_each_kind_up_to_a_bound_and_says_which_images_are_gone(kept, tmp_path):
    out = tmp_path / "out"
    assert main(["review", str(kept), "--out", str(out), "--pictures", "2"]) == 0
    path = out / "pets val" / "review.html"
    page = open_page(path)
    assert page.console_errors == [] and page.broken_images == 0 and page.images == 1 + 1 + 1
    text = path.read_text()
    assert "Left out: 1 image that cannot be read" in text and "of 3, the others" in text
    assert "The first 1 of 1. Labels are blue" in text
    overlooked, badly_placed, swapped = (
        text[text.index(title) :].partition("</section>")[0]
        for title in ("Overlooked objects:", "Badly placed boxes:", "Swapped classes:")
    )
    assert "green" in badly_placed and "green" in swapped and "green" not in overlooked
    assert "<i>cat" not in text and "&lt;i&gt;cat" in text


def test_without_an_issue_the_page_says_so(kept, capsys):
    assert main(["review", str(kept), "--min-score", "0.99"]) == 0
    assert "0 places" in capsys.readouterr().out
    assert "There are none." in (kept / "review" / "pets val" / "review.html").read_text()


def test_the_model_runs_over_a_dataset_that_the_run_was_not_evaluated_on(run, tmp_path):
    _, out = run
    arguments = ["review", str(out), "--out", str(tmp_path), "--min-score", "0.01", *SMALL[:2]]
    assert main([*arguments, "--dataset", "shapes_train"]) == 0
    coco = json.loads((tmp_path / "shapes_train" / "review.json").read_text())
    assert coco["annotations"] and {a["category_id"] for a in coco["annotations"]} <= {0, 1}
    assert all(i["file_name"].endswith(".png") for i in coco["images"])


def test_the_earlier_checkpoints_of_a_run_are_asked_too(tmp_path, capsys):
    data = write_dataset(tmp_path / "shapes")
    out = tmp_path / "out"
    assert train_net(data, out, "SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2") == 0
    names = sorted(path.name for path in out.glob("model_0*.pth"))
    assert names == ["model_0000001.pth", "model_0000003.pth"]  # the second is the final one
    arguments = ["review", str(out), "--dataset", "shapes_train", "--min-score", "0.01"]
    assert main([*arguments, "--through-training"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "the earlier checkpoints of the training (1) disagree, too" in said
    coco = json.loads((out / "review" / "shapes_train" / "review.json").read_text())
    counts = [a["earlier_models"] for a in coco["annotations"]]
    assert set(counts) <= {0, 1} and counts == sorted(counts, reverse=True)
    (out / names[0]).unlink()
    assert main([*arguments, "--through-training"]) == 2
    assert "has no earlier checkpoints for --through-training" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--through-training"], "--through-training runs the earlier checkpoints over a dataset"),
        (["--min-score", "1.5"], "--min-score is 1.5, expected a number in (0, 1]"),
        (["--dataset", "pets_train"], "has no config.yaml: give the OUTPUT_DIR of a finished"),
    ],
)
def test_bad_arguments_are_answered_in_one_sentence(kept, capsys, arguments, said):
    assert main(["review", str(kept), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_an_unknown_dataset_is_answered_with_those_that_there_are(run, capsys):
    assert main(["review", str(run[1]), "--dataset", "shapes_trian", *SMALL[:2]]) == 2
    assert "--dataset shapes_trian is no dataset of the config, did you mean 'shapes_train'?" in (
        capsys.readouterr().err
    )
