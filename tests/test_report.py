"""The report of a run: a page that holds the run's numbers, pictures and config, and no script."""

import base64
import io
import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

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
from counterpoise.evaluation.inputs import parse_detections, parse_ground_truth
from counterpoise.evaluation.matching import match
from counterpoise.evaluation.stored import TestSet, write_inference
from counterpoise.inference.evaluator import write_evaluations
from counterpoise.pages.labels import label_points
from counterpoise.reporting import Run, result_figures, write_report
from counterpoise.reporting.config_difference import from_baseline, from_defaults
from counterpoise.reporting.gallery import false_positives, missed_boxes
from counterpoise.reporting.metrics_file import read_metrics
from counterpoise.reporting.training_figures import class_loss_areas, rolling_median
from counterpoise.training.class_loss_file import ClassLosses, append_class_losses
from counterpoise.training.run_record import RunRecord
from interruptions import killed_while_writing
from models import CONFIGS
from runs import train_net

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
    evaluation = evaluate_detections(coco, results, training)
    write_evaluations(dict.fromkeys(test_sets, evaluation), folder / "evaluation.json")
    for test_set in test_sets:
        write_inference(folder, test_set, coco, results, evaluation, training)
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
    return Run(folder).test_set("shapes_val").evaluate(), open_page(write_report(folder))


def test_page_opens_without_console_errors_and_all_images_load(opened):
    _, page = opened
    assert page.console_errors == []
    assert page.broken_images == 0
    # AP, curves, confusion, errors, losses, shares; false positives and missed boxes
    assert page.images >= 6 + 6 + 3
    assert not page.scrolls_sideways


def test_tables_hold_the_numbers_of_the_evaluation(opened):
    evaluation, page = opened
    table = next(t for t in page.tables if "95 % interval" in t[1])
    rows = {row[0]: row[1:] for row in table}
    assert [row[0] for row in table[2:6]] == [*NAMES]  # descending training counts
    for c in evaluation.per_class[:3]:
        assert rows[c.name] == [
            str(c.train_images), str(c.train_boxes), str(c.test_images), str(c.test_boxes),
            f"{c.AP:.1f}", f"{c.AP_interval[0]:.1f} to {c.AP_interval[1]:.1f}", f"{c.AP50:.1f}",
            f"{c.precision:.1f}", f"{c.recall:.1f}", f"{c.threshold:.2f}",
        ]  # fmt: skip
    assert rows["never tested"][4:9] == ["\N{EN DASH}"] * 5
    assert rows["mean of classes"][4] == f"{evaluation.AP:.1f}"
    errors = {row[0]: row[1:] for t in page.tables if "classification" in t[0] for row in t}
    for c in evaluation.per_class:
        error = c.errors["background"]
        lost = "\N{EN DASH}" if error.AP50_lost is None else f"{error.AP50_lost:.1f}"
        assert errors[c.name][4] == f"{lost} ({error.count})"
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
        "inference/shapes_val/context.json": "the evaluation does not know the training set",
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


def as_json(evaluation):
    return json.loads(json.dumps(asdict(evaluation)))


def test_what_is_computed_from_the_stored_detections_is_what_the_evaluation_was(run):
    (written,) = json.loads((run[1] / "evaluation.json").read_text()).items()
    name, expected = written
    assert as_json(Run(run[1]).test_set(name).evaluate()) == expected
    assert expected["proposals"] is not None and expected["per_class"][0]["train_boxes"] > 0


def test_thresholds_that_a_run_was_given_are_those_of_its_report(tmp_path, shapes):
    folder = shapes / "inference" / "shapes_val"
    coco, results = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("ground_truth", "detections")
    )
    given = dict(zip(NAMES, (0.55, 0.65, 0.7, 0.1), strict=True))
    evaluation = evaluate_detections(coco, results, None, given, "maximal F1 on shapes_test")
    write_inference(tmp_path, "shapes_val", coco, results, evaluation)
    again = Run(tmp_path).test_set("shapes_val").evaluate()
    assert again == evaluation
    assert "thresholds: maximal F1 on shapes_test" in page_of(tmp_path)


def test_the_page_follows_the_detections_and_not_the_file_of_the_evaluation(shapes):
    path = shapes / "inference" / "shapes_val" / "detections.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content[: len(content) // 2]))
    (shapes / "evaluation.json").write_text("{}")
    expected = Run(shapes).test_set("shapes_val").evaluate()
    assert f"is {expected.AP:.1f} (95" in page_of(shapes)


def test_results_that_the_evaluation_hands_over_are_not_computed_again(shapes, monkeypatch):
    expected = write_report(shapes).read_text()
    known = {"shapes_val": Run(shapes).test_set("shapes_val").evaluate()}
    monkeypatch.setattr(TestSet, "evaluate", lambda self: pytest.fail("computed again"))
    assert write_report(shapes, known=known).read_text() == expected


def test_a_training_does_not_compute_its_results_again_for_the_page(run, tmp_path, monkeypatch):
    monkeypatch.setattr(TestSet, "evaluate", lambda self: pytest.fail("computed again"))
    assert train_net(run[0], tmp_path / "out", "SOLVER.MAX_ITER", "1") == 0
    weights = ("MODEL.WEIGHTS", str(tmp_path / "out" / "model_final.pth"))
    assert train_net(run[0], tmp_path / "out", "--eval-only", *weights) == 0


def test_a_config_that_is_not_whole_is_no_baseline(shapes):
    (shapes / "config.yaml").write_text("")
    with pytest.raises(UserError, match="not the complete config of a run, for it lacks BALANCE"):
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
    assert "Of 80 classes, the rarest in training that are found, and the mean" in re.sub(
        r"\s+", " ", page.read_text()
    )


def changed(change):
    """Change the content of a JSON file."""

    def apply(path):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return apply


def cut(path):
    path.write_text(path.read_text()[:-30])


@pytest.mark.parametrize(
    "file, damage, complaint",
    [
        ("ground_truth", Path.unlink, "does not exist"),
        ("ground_truth", cut, "not a complete JSON file"),
        ("ground_truth", changed(lambda c: c["annotations"].clear()), "no box that counts"),
        ("ground_truth", changed(lambda c: c["categories"][0].update(name="new")), "context.json"),
        ("detections", Path.unlink, "does not exist"),
        ("detections", cut, "not a complete JSON file"),
        ("detections", changed(lambda c: c[0].update(image_id=77)), "image_id 77"),
        ("context", cut, "not a complete JSON file"),
        ("context", changed(lambda c: c.update(thresholds=[1])), r"context.json.thresholds: exp"),
        ("context", changed(lambda c: c["thresholds"].popitem()), "thresholds for the classes"),
        ("context", changed(lambda c: c["training"]["boxes"].pop()), "not as many counts"),
        ("context", changed(lambda c: c["training"].update(images=["x"])), r"training.images\[0\]"),
        ("time", changed(lambda c: c.update(seconds_per_image="1")), "seconds_per_image"),
    ],
)  # fmt: skip
def test_a_file_that_is_missing_or_wrong_is_named_and_the_earlier_page_stays(
    shapes, file, damage, complaint
):
    before = write_report(shapes).read_text()
    path = shapes / "inference" / "shapes_val" / f"{file}.json"
    damage(path)
    with pytest.raises(UserError, match=complaint) as error:
        write_report(shapes)
    assert file in str(error.value)
    assert str(error.value).endswith("evaluate the run again with train_net.py --eval-only")
    assert (shapes / "report.html").read_text() == before


def test_a_run_that_has_not_evaluated_is_refused(shapes):
    shutil.rmtree(shapes / "inference")
    with pytest.raises(UserError, match="has kept no detections in inference/: give the OUTPUT"):
        write_report(shapes)


def test_bars_of_the_error_types_stand_side_by_side_because_they_do_not_add_up(monkeypatch):
    drawn = []
    monkeypatch.setattr(result_figures, "figure_uri", drawn.append)
    lost = {
        "fish": {"background": 4.0, "missed": 30.0},
        "shark": {"background": 9.5, "missed": 0.5},
    }
    result_figures.error_bars(lost)
    bars = [bar for panel in drawn[0].axes for bar in panel.patches]
    assert [bar.get_x() for bar in bars] == [0] * 4
    assert [bar.get_width() for bar in bars] == [4.0, 9.5, 30.0, 0.5]


def test_curves_of_many_classes_leave_out_those_that_are_never_found(monkeypatch):
    drawn, names = [], [f"class {k}" for k in range(12)]
    monkeypatch.setattr(result_figures, "figure_uri", drawn.append)
    coco = {
        "images": [{"id": 0, "file_name": "", "height": 9, "width": 9}],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names)],
        "annotations": [
            {"id": k + 1, "image_id": 0, "category_id": k, "bbox": [0, 0, 5, 5]} for k in range(12)
        ],
    }
    found = [
        {"image_id": 0, "category_id": k, "bbox": [0, 0, 5, 5], "score": 0.5} for k in range(4, 12)
    ]
    boxes = tuple(range(1, 13))
    training = ClassCounts(names, boxes, boxes, num_images=12, num_empty=0)
    result = evaluate_detections(coco, found, training)
    truth = parse_ground_truth(coco)
    matches = match(truth, parse_detections(found, coco, truth))
    result_figures.precision_recall_curves(result.per_class, matches)
    (axes,) = drawn[0].axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [*(f"class {k} (AP50 100.0)" for k in range(4, 11)), "mean of 12 classes"]


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
    with pytest.raises(UserError, match=r"metrics\.json, line 2 is not a record"):
        read_metrics(path)


def test_rolling_median_takes_what_lies_inside_and_is_known():
    values = np.array([1.0, 9.0, 2.0, np.nan, np.nan, np.nan])
    expected = [5.0, 2.0, 5.5, 2.0, np.nan, np.nan]
    np.testing.assert_array_equal(rolling_median(values, 3), expected)


@pytest.mark.parametrize("records, classes", [(1, 3), (1000, 40)])
def test_per_class_losses_are_drawn_for_any_number_of_records_and_classes(records, classes):
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
    errors = classify_errors(test_set.ground_truth, test_set.detections, matches)
    return test_set, matches, errors, test_set.evaluate().per_class


def test_false_positives_come_by_descending_score_with_their_type(shapes):
    test_set, _, errors, _ = arrays(shapes)
    titles = [p.title for p in false_positives(test_set, errors, 2)[0]]
    assert titles == [f"{SCRIPT} 0.80: background", f"{SCRIPT} 0.70: background"]


def test_missed_boxes_are_those_that_no_detection_above_the_threshold_finds_rarest_class_first(
    shapes,
):
    test_set, matches, _, classes = arrays(shapes)
    classes = [replace(c, threshold=0.65) for c in classes]
    shown, _ = missed_boxes(test_set, matches, classes, 7)
    # Scores are 0.9, 0.8, 0.7, 0.6, 0.5 and none: three of each class are missed.
    assert [p.title.removesuffix(", missed") for p in shown] == [
        NAMES[2], NAMES[2], NAMES[2], NAMES[1], NAMES[1], NAMES[1], NAMES[0],
    ]  # fmt: skip
    assert [p.file_name.rsplit("/")[-1][0] for p in shown] == ["5", "4", "3", "5", "4", "3", "5"]


def test_pictures_show_the_surroundings_of_the_box_with_its_frame_drawn(shapes):
    test_set, matches, _, classes = arrays(shapes)
    (picture,), _ = missed_boxes(test_set, matches, classes, 1)
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
    return {key: values for key, *values in from_baseline(load_config(files, overrides))}


def test_config_differs_from_its_baseline_in_the_parts_that_are_on():
    assert differences("baseline") == {}
    assert differences("focal_weights_ohem") == {
        "BALANCE.ROI_LOSS.NAME": ["softmax_focal", "cross_entropy"],
        "BALANCE.CLASS_WEIGHTS.SOURCE": ["dataset", "none"],
        "BALANCE.ANCHOR_SAMPLER.NAME": ["ohem", "random"],
    }


def test_every_config_but_the_baseline_differs_from_its_baseline():
    leaves = {path.stem for path in (CONFIGS / "quick").glob("*.yaml")} - {"base"}
    assert {leaf for leaf in leaves if not differences(leaf)} == {"baseline"}
    assert set(differences("recommended")) == {
        "BALANCE.ROI_LOSS.NAME", "BALANCE.IMAGE_SAMPLER.NAME", "BALANCE.PISA.ENABLED",
    }  # fmt: skip


def test_parts_that_the_model_does_not_read_set_no_config_apart():
    assert differences("focal", "quick_retinanet") == {}
    stock = ["MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.PROPOSAL_GENERATOR.NAME", "RPN"]
    assert differences("base", "r50_fpn", stock) == {}
    assert differences("ohem", "quick_retinanet")["BALANCE.DENSE_LOSS.NAME"] == [
        "ohem",
        "sigmoid_focal",
    ]


def test_config_differs_from_the_defaults_in_what_was_set():
    cfg = load_config([], ["SEED", "3", "OUTPUT_DIR", "there"])
    found = {key: values for key, *values in from_defaults(cfg)}
    assert found == {"SEED": ["3", "-1"], "OUTPUT_DIR": ["there", "./output"]}


def test_a_config_that_was_written_and_read_differs_in_no_more_than_before(tmp_path):
    cfg = load_config([], ["SEED", "3"])
    (tmp_path / "config.yaml").write_text(cfg.dump())  # of a tuple in a tuple it makes a list
    assert from_defaults(load_config([tmp_path / "config.yaml"])) == from_defaults(cfg)


@pytest.mark.parametrize(
    "command, shown, again",
    [
        ("python ../a/train_net.py --resume --force SEED 1", "python ../a/train_net.py SEED 1",
         "python ../a/train_net.py --config-file"),
        ("counterpoise train SEED 1", "counterpoise train SEED 1", "counterpoise train --config"),
        ("counterpoise train --overwrite SEED 1", "counterpoise train SEED 1",
         "counterpoise train --config"),
        ("python mine.py", "python mine.py", "counterpoise train --config-file"),
        ("torchrun --nproc-per-node 2 train_net.py --resume SEED 1",
         "torchrun --nproc-per-node 2 train_net.py SEED 1",
         "torchrun --nproc-per-node 2 train_net.py --config-file"),
        ("torchrun --nproc-per-node 2 -m counterpoise retrain-classifier --run a",
         "torchrun --nproc-per-node 2 -m counterpoise retrain-classifier --run a",
         "torchrun --nproc-per-node 2 -m counterpoise train --config-file"),
        ("counterpoise train --import a.py --import=b.py SEED 1",
         "counterpoise train --import a.py --import=b.py SEED 1",
         "counterpoise train --import a.py --import=b.py --config-file"),
    ],
)  # fmt: skip
def test_commands_that_repeat_a_run_begin_it_anew_by_the_same_program(
    run, tmp_path, command, shown, again
):
    folder = tmp_path / "run"
    shutil.copytree(run[1], folder, ignore=shutil.ignore_patterns("*.pth"))
    RunRecord(command, [], 7).write(folder / "run.json")
    page = write_report(folder).read_text()
    assert f">{shown}<" in page and f">{again}" in page


def test_an_evaluation_alone_is_repeated_without_training_its_config(run, tmp_path):
    folder, alone = tmp_path / "run", ("*.pth", "run.json", "metrics.json")
    shutil.copytree(run[1], folder, ignore=shutil.ignore_patterns(*alone))
    again = f"counterpoise train --eval-only --config-file {folder / 'config.yaml'} OUTPUT_DIR "
    assert f">{again}" in write_report(folder).read_text()


def test_command_writes_the_page_and_prints_its_path(shapes, tmp_path, capsys):
    out = tmp_path / "deep" / "page.html"
    assert main(["report", str(shapes), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert "Report of shapes run" in out.read_text()
    assert not (shapes / "report.html").exists()


def test_a_process_that_is_killed_while_it_writes_the_page_leaves_the_earlier_one(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run[1], folder, ignore=shutil.ignore_patterns("*.pth"))
    page = folder / "report.html"
    page.write_text("earlier")
    killed_while_writing(lambda: write_report(folder), share=0.5)
    assert page.read_text() == "earlier"
    write_report(folder)
    assert page.read_text().rstrip().endswith("</html>")


def test_command_refuses_a_folder_without_a_run(tmp_path, capsys):
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "is not a folder: give the OUTPUT_DIR of a run" in capsys.readouterr().err
