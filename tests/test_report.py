"""The report of a run: a page that holds the run's numbers, pictures and config, and no script."""

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from browser import open_page
from counterpoise.balance.class_counts import ClassCounts
from counterpoise.commands.console import main
from counterpoise.config.loading import load_config
from counterpoise.errors import UserError
from counterpoise.evaluation import evaluate_detections
from counterpoise.evaluation.error_types import classify_errors
from counterpoise.evaluation.matching import match
from counterpoise.evaluation.stored import write_inference
from counterpoise.inference.evaluator import write_evaluations
from counterpoise.pages.labels import label_points
from counterpoise.pages.rendering import DASH
from counterpoise.reporting import Run, write_report
from counterpoise.reporting.config_difference import from_baseline, from_defaults
from counterpoise.reporting.evaluation_file import read_evaluations
from counterpoise.reporting.gallery import false_positives, misses
from counterpoise.reporting.metrics_file import read_metrics
from counterpoise.reporting.training_figures import class_loss_areas, rolling_median
from counterpoise.training.class_loss_file import ClassLosses, append_class_losses
from counterpoise.training.run_record import RunRecord
from models import CONFIGS

SCRIPT = "<script>alert(1)</script>"
NAMES = (SCRIPT, "$x$", "disc & <b>bar</b>", "never tested")
TRAIN_BOXES = (900, 40, 7, 3)
SIZE = 120


def write_run(folder, names=NAMES, train_boxes=TRAIN_BOXES, images=6, test_sets=("shapes_val",)):
    """A run's files. Of the tested classes' boxes the last image's are not found."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    coco = {
        "images": [],
        "annotations": [],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names)],
    }
    results = []
    for i in range(images):
        path = folder / f"{i} <img src=x> & co.png"
        Image.fromarray(rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)).save(path)
        record = {"id": i, "file_name": str(path), "height": SIZE, "width": SIZE}
        coco["images"].append(record)
        for k in range(len(names) - 1):
            box = [5.0 + 35 * (k % 3), 10.0 + i, 30.0, 20.0 + i]
            coco["annotations"].append(
                {"id": len(coco["annotations"]) + 1, "image_id": i, "category_id": k, "bbox": box}
            )
            if i < images - 1:
                results.append(
                    {"image_id": i, "category_id": k, "bbox": box, "score": 0.9 - 0.1 * i}
                )
        # On the background, surer of itself in later images.
        results.append(
            {"image_id": i, "category_id": 0, "bbox": [60, 80, 40, 30], "score": 0.3 + 0.1 * i}
        )
    training = ClassCounts(
        names=tuple(names), boxes=train_boxes, images=train_boxes, num_images=1000, num_empty=0
    )
    evaluation = evaluate_detections(coco, results, training, resamples=50)
    write_evaluations(dict.fromkeys(test_sets, evaluation), folder / "evaluation.json")
    for test_set in test_sets:
        write_inference(folder, test_set, coco, results)
    with (folder / "metrics.json").open("w") as file:
        for i in range(19, 400, 20):
            record = {"iteration": i, "total_loss": 40 / i, "loss_cls": 1.0, "lr": 0.01}
            file.write(json.dumps(record) + "\n")
    for i in range(19, 400, 20):
        sums = [*range(1, len(names) + 1), 5.0]
        append_class_losses(folder / "class_losses.jsonl", i, names, sums)
    RunRecord("python train_net.py --config-file 'a b.yaml'", ["a b.yaml"], 7).write(
        folder / "run.json"
    )
    cfg = load_config([CONFIGS / "quick" / "focal_weights_ohem.yaml"])
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


@pytest.fixture
def shapes(tmp_path):
    return write_run(tmp_path / "shapes run")


def page_of(folder):
    return re.sub(r"\s+", " ", write_report(folder).read_text())


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Evaluation and the page in a browser."""
    folder = write_run(tmp_path_factory.mktemp("report") / "shapes run")
    return Run(folder).evaluations["shapes_val"], open_page(write_report(folder))


def test_page_opens_without_console_errors_and_all_images_load(opened):
    _, page = opened
    assert page.console_errors == []
    assert page.broken_images == 0
    # AP, curves, confusion, errors, losses, shares; false positives and misses
    assert page.images >= 6 + 6 + 3
    assert not page.scrolls_sideways


def test_tables_hold_the_numbers_of_the_evaluation(opened):
    evaluation, page = opened
    table = next(t for t in page.tables if "95 % interval" in t[1])
    rows = {row[0]: row[1:] for row in table}
    assert [row[0] for row in table[2:6]] == [*NAMES]  # falling training counts
    for c in evaluation.per_class[:3]:
        assert rows[c.name] == [
            str(c.train_images), str(c.train_boxes), str(c.test_images), str(c.test_boxes),
            f"{c.AP:.1f}", f"{c.AP_interval[0]:.1f} to {c.AP_interval[1]:.1f}", f"{c.AP50:.1f}",
            f"{c.precision:.1f}", f"{c.recall:.1f}", f"{c.threshold:.2f}",
        ]  # fmt: skip
    assert rows["never tested"][4:9] == [DASH] * 5
    assert rows["mean of classes"][1] == f"{evaluation.AP:.1f}"
    errors = {row[0]: row[1:] for t in page.tables if "classification" in t[0] for row in t}
    background = [str(c.errors["background"].count) for c in evaluation.per_class]
    assert [errors[name][8] for name in NAMES] == background
    assert evaluation.per_class[0].errors["background"].count > 0


def test_class_and_file_names_are_shown_and_not_run(opened):
    _, page = opened
    assert "<script>alert" not in page.dom and "<b>bar" not in page.dom
    assert "<img src=x>" not in page.dom
    for text in (*NAMES, "5 <img src=x> & co.png"):
        assert text in page.text


def test_page_of_a_real_run_opens(run):
    page = open_page(write_report(run[1]))
    assert (page.console_errors, page.broken_images) == ([], 0)
    assert "BALANCE.ANCHOR_SAMPLER.NAME" in page.text
    assert "Left out" not in page.text


def test_page_needs_no_network(shapes):
    page = page_of(shapes)
    assert not re.search(r"(src|href)=\"(?!data:)", page)


def test_page_says_which_parts_are_left_out_and_why(shapes, opened):
    left_out = {
        "metrics.json": "has no metrics.json",
        "class_losses.jsonl": "has no class_losses.jsonl",
        "run.json": "has no run.json",
        "config.yaml": "has no config.yaml",
        "inference/shapes_val/detections.json": "keeps no detections on shapes_val",
    }
    for name in left_out:
        (shapes / name).unlink()
    page = page_of(shapes)
    for said in left_out.values():
        assert said in page
        assert said not in opened[1].text


def test_page_says_which_images_are_gone(shapes):
    for path in shapes.glob("*.png"):
        path.unlink()
    page = page_of(shapes)
    assert "6 images that are no longer where the evaluation read them" in page
    assert "image/jpeg" not in page


def test_evaluation_of_an_earlier_version_is_shown_without_what_it_lacks(shapes):
    path = shapes / "evaluation.json"
    new = json.loads(path.read_text())["shapes_val"]
    kept = ("name", "AP", "AP50", "train_images", "train_boxes", "test_images", "test_boxes")
    old = {key: new[key] for key in ("AP", "AP50", "AP75")}
    old["per_class"] = [{key: c[key] for key in kept} for c in new["per_class"]]
    path.write_text(json.dumps({"shapes_val": old}))
    page = page_of(shapes)
    tested = sum(c["AP"] is not None for c in old["per_class"])
    assert f"the mean AP over {tested} classes is {old['AP']:.1f}." in page
    assert "this evaluation has none" in page
    assert "not found" not in page  # without thresholds nobody can say


@pytest.mark.parametrize("file", ["detections.json", "ground_truth.json"])
def test_detections_that_are_not_those_of_the_evaluation_are_refused(shapes, file):
    path = shapes / "inference" / "shapes_val" / file
    content = json.loads(path.read_text())
    if file == "detections.json":
        del content[len(content) // 2 :]
    else:
        content["annotations"] = []
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"not those of evaluation.json .*: evaluate the run again"):
        write_report(shapes)


def test_a_config_that_is_not_whole_is_no_baseline(shapes):
    (shapes / "config.yaml").write_text("")
    with pytest.raises(UserError, match="not the whole config of a run, for it lacks BALANCE"):
        write_report(shapes)


def test_two_test_sets_have_a_section_each_and_share_the_pictures(tmp_path):
    page = page_of(write_run(tmp_path / "run", images=30, test_sets=("one", "two & three")))
    assert "Results on one" in page and "Results on two &amp; three" in page
    assert page.count("image/jpeg") <= 2 * (6 + 6)


def test_page_of_many_classes_is_small_and_has_their_mean(tmp_path):
    names = [f"class {k}" for k in range(80)]
    folder = write_run(tmp_path / "run", names, tuple(range(1, 81)))
    page = write_report(folder)
    assert page.stat().st_size < 3e6
    assert "Of 80 classes, the rarest in training, and the mean" in re.sub(
        r"\s+", " ", page.read_text()
    )


@pytest.mark.parametrize(
    "content, complaint",
    [
        (None, "has no evaluation.json"),
        ('{"shapes_val": {"AP": 1', "no whole JSON file"),
        ("[]", "is no evaluation"),
        ('{"shapes_val": {"AP": 1.0}}', "no named classes in per_class"),
        ('{"shapes_val": {"AP": "high"}}', "shapes_val.AP is 'high', expected a number"),
        ('{"a": {"per_class": [{"name": "x", "AP_interval": [1]}]}}', "expected 2 numbers"),
        ('{"a": {"per_class": [{"name": "x"}, 3]}}', r"per_class\[1\] is 3, expected keys"),
        (
            '{"a": {"per_class": [{"name": "x"}], "confusion": {"counts": [[1, 2]]}}}',
            "a.confusion.counts is not 2 rows of 2 counts",
        ),
        (
            '{"a": {"per_class": [{"name": "x"}], "errors": {"other": {"count": 1}}}}',
            "has the error types other, expected classification, ",
        ),
    ],
)
def test_broken_evaluation_is_refused_and_the_earlier_page_stays(shapes, content, complaint):
    before = write_report(shapes).read_text()
    path = shapes / "evaluation.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=complaint):
        write_report(shapes)
    assert (shapes / "report.html").read_text() == before


def test_ground_truth_of_other_classes_than_the_evaluation_is_refused(shapes):
    path = shapes / "inference" / "shapes_val" / "ground_truth.json"
    path.write_text(path.read_text().replace("never tested", "renamed"))
    with pytest.raises(UserError, match=r"but evaluation\.json has"):
        write_report(shapes)


def test_evaluations_are_read_as_they_were_written(shapes, tmp_path):
    evaluations = read_evaluations(shapes / "evaluation.json")
    write_evaluations(evaluations, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == (shapes / "evaluation.json").read_text()
    assert read_evaluations(tmp_path / "again.json") == evaluations


def test_metrics_of_a_resumed_run_hold_each_iteration_once(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text(
        '{"iteration": 19, "total_loss": 3.0}\n'
        '{"iteration": 39, "total_loss": 2.0}\n'
        '{"iteration": 29, "bbox/AP": 5.0}\n'  # as Detectron2 does with an evaluation
        '{"iteration": 59, "total_loss": 1.0}\n'
        '{"iteration": 39, "total_loss": NaN}\n'
        '{"iteration": 59, "total_l'
    )
    metrics = read_metrics(path)
    assert metrics["total_loss"].iterations.tolist() == [19, 39]
    assert metrics["total_loss"].values[0] == 3 and np.isnan(metrics["total_loss"].values[1])
    assert metrics["bbox/AP"].iterations.tolist() == [29]


def test_broken_line_within_the_metrics_is_refused_by_its_number(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 19, "a": 1}\n{"iterat\n{"iteration": 39, "a": 1}\n')
    with pytest.raises(UserError, match=r"metrics\.json, line 2 is no record"):
        read_metrics(path)


def test_rolling_median_takes_what_lies_inside_and_is_known():
    values = np.array([1.0, 9.0, 2.0, np.nan, np.nan, np.nan])
    expected = [5.0, 2.0, 5.5, 2.0, np.nan, np.nan]
    np.testing.assert_array_equal(rolling_median(values, 3), expected)


@pytest.mark.parametrize("records, classes", [(1, 3), (1000, 40)])
def test_loss_shares_are_drawn_for_any_number_of_records_and_classes(records, classes):
    shares = np.full((records, classes + 1), 1 / (classes + 1))
    names = (*map(str, range(classes)), "background")
    drawn = class_loss_areas(ClassLosses(tuple(range(19, 20 * records, 20)), names, shares))
    assert drawn.startswith("data:image/svg+xml") and len(drawn) < 250_000


def test_names_of_points_do_not_overlap():
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    points = np.random.default_rng(0).normal(size=(60, 2)) * [1, 0.2]
    axes.plot(*points.T, "o")
    names = [f"class {i}" for i in range(len(points))]
    left_out = label_points(axes, points, names, points[:, [1, 1]])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert 10 < len(boxes) == len(points) - left_out < len(points)
    assert axes.texts[0].get_text() == "class 0"
    for i, box in enumerate(boxes):
        assert not any(box.shrunk(0.99, 0.99).overlaps(other) for other in boxes[:i])


def arrays(folder):
    test_set = Run(folder).test_set("shapes_val")
    matches = match(test_set.ground_truth, test_set.detections)
    kinds = classify_errors(test_set.ground_truth, test_set.detections, matches)
    return test_set, matches, kinds, Run(folder).evaluations["shapes_val"].per_class


def test_false_positives_come_by_falling_score_with_their_kind(shapes):
    test_set, _, kinds, _ = arrays(shapes)
    titles = [p.title for p in false_positives(test_set, kinds, 2).pictures]
    assert titles == [f"{SCRIPT} 0.80: background", f"{SCRIPT} 0.70: background"]


def test_misses_are_boxes_that_no_detection_above_the_threshold_finds_rarest_class_first(shapes):
    test_set, matches, _, classes = arrays(shapes)
    classes = [c if c.threshold is None else replace(c, threshold=0.65) for c in classes]
    shown = misses(test_set, matches, classes, 7).pictures
    # Scores are 0.9, 0.8, 0.7, 0.6, 0.5 and none: three of each class are missed.
    assert [p.title.removesuffix(", not found") for p in shown] == [
        NAMES[2], NAMES[2], NAMES[2], NAMES[1], NAMES[1], NAMES[1], NAMES[0],
    ]  # fmt: skip
    assert [p.file_name.rsplit("/")[-1][0] for p in shown] == ["5", "4", "3", "5", "4", "3", "5"]


def test_pictures_show_the_surroundings_of_the_box_with_its_frame_drawn(shapes):
    test_set, matches, _, classes = arrays(shapes)
    picture = misses(test_set, matches, classes, 1).pictures[0]
    data = base64.b64decode(picture.uri.removeprefix("data:image/jpeg;base64,"))
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=float)
    assert pixels.shape == (300, 300, 3)
    # The box of the last image, x 75 to 105 and y 15 to 40, in a crop from (24, 0), 96 wide.
    left = round((75 - 24) / 96 * 300)
    red, _, blue = pixels[60:110, left : left + 2].mean(axis=(0, 1))
    assert blue - red > 60
    red, _, blue = pixels[60:110, left + 10 : left + 30].mean(axis=(0, 1))
    assert abs(blue - red) < 30


def differences(leaf, folder="quick", overrides=()):
    files = [CONFIGS / folder / f"{leaf}.yaml"]
    return {d.key: (d.own, d.other) for d in from_baseline(load_config(files, overrides))}


def test_config_differs_from_its_baseline_in_the_parts_that_are_on():
    assert differences("baseline") == {}
    assert differences("focal_weights_ohem") == {
        "BALANCE.ROI_LOSS.NAME": ("softmax_focal", "cross_entropy"),
        "BALANCE.CLASS_WEIGHTS.SOURCE": ("dataset", "none"),
        "BALANCE.ANCHOR_SAMPLER.NAME": ("ohem", "random"),
    }


def test_parts_that_the_model_does_not_read_set_no_config_apart():
    assert differences("focal", "quick_retinanet") == {}
    stock = ["MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.PROPOSAL_GENERATOR.NAME", "RPN"]
    assert differences("base", "r50_fpn", stock) == {}
    assert differences("ohem", "quick_retinanet")["BALANCE.DENSE_LOSS.NAME"] == (
        "ohem",
        "sigmoid_focal",
    )


def test_config_differs_from_the_defaults_in_what_was_set():
    cfg = load_config([], ["SEED", "3", "OUTPUT_DIR", "there"])
    found = {d.key: (d.own, d.other) for d in from_defaults(cfg)}
    assert found == {"SEED": ("3", "-1"), "OUTPUT_DIR": ("there", "./output")}


def test_command_writes_the_page_and_prints_its_path(shapes, tmp_path, capsys):
    out = tmp_path / "deep" / "page.html"
    assert main(["report", str(shapes), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert "Report of shapes run" in out.read_text()
    assert not (shapes / "report.html").exists()


def test_command_refuses_a_folder_without_a_run(tmp_path, capsys):
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "is no folder: give the OUTPUT_DIR of a run" in capsys.readouterr().err
