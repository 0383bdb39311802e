"""The comparison of runs: paired differences, matched recall, cost, refusals, table and page."""

import copy
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from browser import open_page
from counterpoise.balance.class_counts import ClassCounts
from counterpoise.commands.console import main
from counterpoise.comparison import compare, read_runs, score, sides_of, sides_over_seeds
from counterpoise.comparison.sections import as_page, as_text
from counterpoise.config.keys import training_config
from counterpoise.errors import UserError
from counterpoise.evaluation import evaluate_detections
from counterpoise.evaluation.bootstrap import difference_interval, draw_images, mean_of_classes
from counterpoise.evaluation.stored import write_inference
from counterpoise.inference.evaluator import write_evaluations
from counterpoise.training.run_record import RunRecord
from counterpoise.utils.files import write_json
from counterpoise.utils.text import unique_ends
from scenes import crowded_scene, pycocotools_evaluation, scene

COUNTS = ClassCounts(("class 0", "class 1", "class 2"), (50, 5, 20), (500, 50, 200))


def write_run(folder, truth, detections, training=COUNTS, name="mine"):
    """The files of an evaluated run."""
    result = evaluate_detections(truth, detections, training, resamples=10)
    write_inference(folder, name, truth, detections, result, training)
    write_evaluations({name: result}, folder / "evaluation.json")
    return folder


def write_cost(folder, seconds, total, hardware, **settings):
    """What a training leaves beside its evaluation."""
    lines = [{"iteration": 19 + 20 * i, "time": each} for i, each in enumerate(seconds)]
    folder.joinpath("metrics.json").write_text("\n".join(map(json.dumps, lines)))
    RunRecord("python train_net.py", (), 1, training_seconds=total, hardware=hardware).write(
        folder / "run.json"
    )
    cfg = training_config()
    cfg.OUTPUT_DIR = str(folder)
    cfg.merge_from_list([part for pair in settings.items() for part in pair])
    (folder / "config.yaml").write_text(cfg.dump())


def worse(detections, seed=0):
    """Detections with noise in their scores and every third one shifted."""
    rng = np.random.default_rng(seed)
    changed = copy.deepcopy(detections)
    for i, detection in enumerate(changed):
        detection["score"] = float(detection["score"] * rng.uniform(0.5, 1))
        if i % 3 == 0:
            detection["bbox"][0] += 6
    return changed


@pytest.fixture
def runs(tmp_path):
    truth, detections = scene()
    return [
        write_run(tmp_path / "baseline", truth, detections),
        write_run(tmp_path / "other", truth, worse(detections)),
    ]


def comparison_of(folders, resamples=50):
    test_set, compared = read_runs(folders)
    return compare(test_set, sides_of(score(compared, resamples)))


def all_scores(comparison):
    return [*comparison.classes, *comparison.groups, comparison.mean]


def numbers(values):
    return {run: own.value for run, own in values.items()}


def test_a_run_differs_from_its_copy_by_exactly_nothing(tmp_path, runs):
    shutil.copytree(runs[0], tmp_path / "copy")
    comparison = comparison_of([runs[0], tmp_path / "copy"])
    for scores in all_scores(comparison):
        for own in (scores.AP["copy"], scores.AP50["copy"]):
            assert (own.difference, own.interval) == (0, (0, 0))
            assert not own.excludes_zero
    assert "neither gain nor loss is shown" in comparison.findings["copy"][0]
    assert (
        "No class is better or worse: no 95 % CI of a class excludes 0."
        in comparison.findings["copy"]
    )
    assert not any(e.count["copy"].difference for e in comparison.errors.values())


def resampled(truth, detections, times):
    """A dataset in which each image is there as often as it was drawn."""
    new_truth, new_detections = {**truth, "images": [], "annotations": []}, []
    for image, drawn in zip(truth["images"], times, strict=True):
        for _ in range(drawn):
            i = len(new_truth["images"])
            new_truth["images"].append({**image, "id": i})
            for source, target in (
                (truth["annotations"], new_truth["annotations"]),
                (detections, new_detections),
            ):
                target += [{**a, "image_id": i} for a in source if a["image_id"] == image["id"]]
    new_truth["annotations"] = [{**a, "id": i} for i, a in enumerate(new_truth["annotations"], 1)]
    return new_truth, new_detections


def test_differences_are_those_of_pycocotools_on_the_same_resampled_images(tmp_path):
    truth, detections = crowded_scene(classes=3)
    # Equal scores would be broken by the order of images, which repeated images change.
    for i, detection in enumerate(detections):
        detection["score"] += 1e-6 * i
    other = worse(detections)
    folders = [
        write_run(tmp_path / name, truth, own)
        for name, own in (("first", detections), ("second", other))
    ]
    _, compared = read_runs(folders)
    first, second = score(compared, resamples=4)
    for row, times in enumerate(draw_images(len(truth["images"]), 4)):
        expected = [
            100 * pycocotools_evaluation(*resampled(truth, own, times)).stats[:2]
            for own in (detections, other)
        ]
        for column, metric in enumerate(("AP", "AP50")):
            samples = [mean_of_classes(getattr(s, metric)[1:])[row] for s in (first, second)]
            assert samples[1] - samples[0] == pytest.approx(
                expected[1][column] - expected[0][column], abs=1e-9
            )


def test_intervals_are_of_paired_samples_and_mark_whether_0_is_excluded(runs):
    _, compared = read_runs(runs)
    first, second = scored = score(compared, resamples=200)
    comparison = compare("mine", sides_of(scored))
    paired = (second.AP - first.AP)[1:]
    for k, entry in enumerate(comparison.classes):
        own = entry.AP["other"]
        assert own.interval == difference_interval(paired[:, k], entry.test_images, own.difference)
        low, high = own.interval
        assert own.excludes_zero == (low > 0 or high < 0)
    mean = comparison.mean.AP["other"]
    assert mean.excludes_zero and mean.difference < 0
    assert "excludes 0: a loss" in comparison.findings["other"][0]
    images = [entry.test_images for entry in comparison.classes]
    spread = difference_interval(second.AP[1:], images), difference_interval(first.AP[1:], images)
    assert mean.interval[1] - mean.interval[0] < max(high - low for low, high in spread)


def test_values_are_those_of_the_evaluations(runs):
    comparison = comparison_of(runs)
    for folder in runs:
        stored = json.loads((folder / "evaluation.json").read_text())["mine"]
        for metric in ("AP", "AP50"):
            own = getattr(comparison.mean, metric)[folder.name].value
            assert own == pytest.approx(stored[metric], abs=1e-9)
            for group, expected in zip(comparison.groups, stored["groups"], strict=True):
                value = getattr(group, metric)[folder.name].value
                assert value == pytest.approx(expected[metric], abs=1e-9)
                assert group.classes == tuple(expected["classes"])
        for entry, expected in zip(comparison.classes, stored["per_class"], strict=True):
            assert entry.AP[folder.name].value == pytest.approx(expected["AP"], abs=1e-9)
            assert (entry.train_boxes, entry.test_boxes) == (
                expected["train_boxes"], expected["test_boxes"],
            )  # fmt: skip
            for name, errors in entry.errors.items():
                assert errors.count[folder.name].value == expected["errors"][name]["count"]


def ladder(found, background):
    """One image with ten boxes: `found` of them found, then `background` false positives."""
    boxes = [[20 * i, 0, 10, 10] for i in range(10)]
    placed = boxes[:found] + [[20 * i, 50, 10, 10] for i in range(background)]
    truth = {
        "images": [{"id": 0, "file_name": "0.png", "height": 100, "width": 200}],
        "annotations": [
            {"id": i + 1, "image_id": 0, "category_id": 0, "bbox": b, "iscrowd": 0}
            for i, b in enumerate(boxes)
        ],
        "categories": [{"id": 0, "name": "class 0"}],
    }
    scores = np.linspace(0.9, 0.1, len(placed)).tolist()
    detections = [
        {"image_id": 0, "category_id": 0, "bbox": b, "score": s}
        for b, s in zip(placed, scores, strict=True)
    ]
    return truth, detections


def test_background_is_counted_at_the_recall_that_all_runs_reach(tmp_path):
    truth, at_six = ladder(6, 0)
    false = {"image_id": 0, "category_id": 0, "bbox": [0, 70, 9, 9]}
    # Two false positives above the sixth true positive, one below it.
    first = [{**false, "score": 0.95}, {**false, "score": 0.94}, *at_six, {**false, "score": 0.01}]
    _, second = ladder(9, 5)
    folders = [
        write_run(tmp_path / "first", truth, first), write_run(tmp_path / "second", truth, second)
    ]  # fmt: skip
    comparison = comparison_of(folders)
    matched = comparison.classes[0].matched
    assert matched.recall == 0.6
    assert numbers(matched.background_per_image) == {"first": 2, "second": 0}
    assert matched.background_per_image["second"].difference == -2
    assert numbers(matched.missed) == {"first": 4, "second": 4}
    assert comparison.matched == matched
    assert "(0.60 in each class)" in " ".join(comparison.findings["second"])
    better = comparison_of([write_run(tmp_path / n, *ladder(10, 1)) for n in ("a", "b")])
    assert better.classes[0].matched.recall == 0.8


def test_at_equal_recall_a_badly_placed_box_is_not_missed_and_the_table_says_so(tmp_path):
    truth, at_six = ladder(6, 0)
    # Half beside the four boxes that are not found: an IoU of 1 / 3.
    near = [{**at_six[0], "bbox": [20 * i + 5, 0, 10, 10], "score": 0.99} for i in range(6, 10)]
    runs = {"first": at_six, "near": near + at_six}
    folders = [write_run(tmp_path / name, truth, own) for name, own in runs.items()]
    comparison = comparison_of(folders)
    assert numbers(comparison.matched.missed) == {"first": 4, "near": 0}
    assert "they differ at equal recall" in " ".join(as_text(comparison).split())


def test_a_class_that_a_run_never_finds_has_no_matched_recall(tmp_path):
    truth, detections = scene()
    silent = [d for d in detections if d["category_id"] != 1]
    folders = [
        write_run(tmp_path / "all", truth, detections), write_run(tmp_path / "some", truth, silent)
    ]  # fmt: skip
    comparison = comparison_of(folders)
    assert comparison.classes[1].matched is None and comparison.classes[0].matched is not None
    assert comparison.classes[1].AP["some"].value == 0
    assert "class 1" in as_text(comparison)


def test_a_class_without_test_boxes_has_no_difference_and_is_named(tmp_path, runs):
    truth, detections = scene()
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] != 2]
    folders = [write_run(tmp_path / n, truth, detections) for n in ("x", "y")]
    comparison = comparison_of(folders)
    assert comparison.classes[2].AP["y"].difference is None
    assert any("Without test boxes" in note and "class 2" in note for note in comparison.notes)


def test_time_is_the_median_after_warm_up_and_other_hardware_is_pointed_out(runs):
    write_cost(runs[0], [9.0, 0.5, 0.4, 0.6], 100, "1 x H100")
    write_cost(runs[1], [9.0, 1.0, 1.0, 5.0], 250, "1 x A100", SEED=3)
    for run, seconds in zip(runs, (0.1, 0.3), strict=True):
        (folder,) = (run / "inference").iterdir()
        write_json(folder / "time.json", {"seconds_per_image": seconds})
    comparison = comparison_of(runs)
    first, second = comparison.runs
    assert second.inference_ratio == pytest.approx(3)
    assert (first.seconds_per_iteration, second.seconds_per_iteration) == (0.5, 1.0)
    assert (second.iteration_ratio, second.training_ratio) == (2.0, 2.5)
    assert first.iteration_ratio == first.training_ratio == 1
    assert comparison.settings == {"SEED": {"baseline": "-1", "other": "3"}}
    notes = " ".join(comparison.notes)
    assert "1 x A100; 1 x H100" in notes and "differ in SEED alone" in notes
    assert "2.00 times the time" in " ".join(comparison.findings["other"])


def test_what_a_run_has_not_kept_is_left_open(runs):
    comparison = comparison_of(runs)
    assert {run.seconds_per_iteration for run in comparison.runs} == {None}
    assert {run.training_seconds for run in comparison.runs} == {None}
    assert comparison.settings == {}


def test_runs_whose_names_begin_with_an_underscore_have_a_legend(tmp_path, capsys):
    truth, detections = scene()
    folders = [
        write_run(tmp_path / "_a", truth, detections),
        write_run(tmp_path / "_b", truth, worse(detections)),
    ]
    out = tmp_path / "out"
    assert main(["compare", *map(str, folders), "--out", str(out)]) == 0
    assert (out / "compare.html").is_file()


def test_runs_are_named_by_as_much_of_their_path_as_tells_them_apart():
    folders = [Path(p).parts for p in ("/a/x/run", "/a/y/run", "/b/y/run", "/a/z")]
    assert list(map("/".join, unique_ends(folders))) == ["x/run", "a/y/run", "b/y/run", "z"]


def _other_box(truth, detections):
    truth["annotations"][0]["bbox"] = [1.0, 2.0, 3.0, 4.0]


def _other_count(truth, detections):
    del truth["annotations"][0]


def _other_class(truth, detections):
    truth["categories"][0]["name"] = "class X"


def _other_images(truth, detections):
    truth["images"].append({"id": 99, "height": 10, "width": 10})


@pytest.mark.parametrize(
    "change, said",
    [
        (_other_box, r"different boxes \(. of"),
        (_other_count, "different boxes"),
        (_other_class, "different classes .*class X"),
        (_other_images, "different images .*99"),
    ],
)
def test_runs_with_other_ground_truth_are_refused(tmp_path, runs, change, said):
    truth, detections = scene()
    change(truth, detections)
    with pytest.raises(UserError, match=said):
        read_runs([runs[0], write_run(tmp_path / "odd", truth, detections)])


def test_the_order_of_annotations_is_no_difference(tmp_path, runs):
    truth, detections = scene()
    truth["annotations"].reverse()
    _, compared = read_runs([runs[0], write_run(tmp_path / "turned", truth, detections)])
    assert len(compared) == 2


def test_error_types_are_those_of_the_run_in_whatever_order_its_file_lists_the_boxes(
    tmp_path, runs
):
    truth, detections = scene()
    reordered = {**truth, "annotations": truth["annotations"][::-1]}
    turned = write_run(tmp_path / "turned", reordered, worse(detections))
    compared = comparison_of([*runs, turned])
    kept = [compared.matched.missed]
    for error in compared.errors.values():
        kept += [error.count, error.AP50_lost]
    for of_run in map(numbers, kept):
        assert of_run["turned"] == of_run["other"]


def _empty_folder(first, second):
    shutil.rmtree(second)
    second.mkdir()


def _incomplete(first, second):
    file = second / "inference/mine/detections.json"
    file.write_text(file.read_text()[:-40])


def _other_test_set(first, second):
    (second / "inference/mine").rename(second / "inference/yours")


def _two_test_sets(first, second):
    for folder in (first, second):
        shutil.copytree(folder / "inference/mine", folder / "inference/yours")


@pytest.mark.parametrize(
    "prepare, arguments, said",
    [
        (None, ["{0}"], "two runs or more"),
        (None, ["{0}", "{1}", "{1}/../other"], "given twice"),
        (None, ["{0}", "{0}/nowhere"], "is not a folder"),
        (_empty_folder, ["{0}", "{1}"], "kept no detections"),
        (lambda _, b: shutil.rmtree(b / "inference"), ["{0}", "{1}"], "kept no detections"),
        (_incomplete, ["{0}", "{1}"], "not a complete JSON file"),
        (_other_test_set, ["{0}", "{1}"], "no test set in common"),
        (_two_test_sets, ["{0}", "{1}"], "choose one of [mine, yours] with --test-set"),
        (None, ["{0}", "{1}", "--test-set", "mien"], "did you mean 'mine'"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_sentence(
    tmp_path, capsys, runs, prepare, arguments, said
):
    if prepare:
        prepare(*runs)
    out = tmp_path / "out"
    assert main(["compare", *(a.format(*runs) for a in arguments), "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert said in message and "Traceback" not in message
    assert not out.exists()


def test_one_of_several_test_sets_can_be_named(tmp_path, runs, capsys):
    _two_test_sets(*runs)
    arguments = [*map(str, runs), "--test-set", "yours", "--out", str(tmp_path / "out"), "--json"]
    assert main(["compare", *arguments]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["test_set"] == "yours"
    assert content == json.loads((tmp_path / "out/compare.json").read_text())


def test_the_table_fits_into_120_columns(tmp_path):
    truth, detections = scene(images=40, classes=3)
    names = ["an object of a kind that needs many words", "x" * 60, "b"]
    for category, name in zip(truth["categories"], names, strict=True):
        category["name"] = name
    counts = ClassCounts(tuple(names), (5000, 50, 20), (123456, 50, 20))
    folders = [
        write_run(tmp_path / "bccd-baseline-run", truth, worse(detections, 3), counts),
        write_run(tmp_path / "bccd-focal_weights_ohem-run", truth, [], counts),
        write_run(tmp_path / "third", truth, detections, counts),
    ]
    text = as_text(comparison_of(folders))
    assert max(map(len, text.splitlines())) <= 120
    assert ") *" in text and "not the training seed" in text


def test_the_page_holds_the_numbers_of_the_json_and_shows_markup_as_text(tmp_path, capsys):
    truth, detections = scene(classes=3)
    name = "<script>alert(1)</script>"
    truth["categories"][1]["name"] = name
    counts = dataclasses.replace(COUNTS, names=("class 0", name, "class 2"))
    folders = [
        write_run(tmp_path / "<b>bold", truth, detections, counts),
        write_run(tmp_path / "other", truth, worse(detections), counts),
        write_run(tmp_path / "third", truth, [], counts),
    ]
    write_cost(folders[0], [1.0, 0.25], 100, "<i>CPU</i>")
    out = tmp_path / "out"
    assert main(["compare", *map(str, folders), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert name in printed and str(out / "compare.html") in printed
    content = json.loads((out / "compare.json").read_text())
    page = open_page(out / "compare.html")
    assert not page.console_errors
    assert page.images == 4 and page.broken_images == 0 and not page.scrolls_sideways
    assert name in page.text and "<b>bold" in page.text and "<i>CPU</i>" in page.text
    headline, classes = page.tables[:2]
    mean = content["mean"]
    shown = mean["AP"]["other"]
    low, high = shown["interval"]
    spread = f"{shown['difference']:+.1f} ({low:+.1f} to {high:+.1f})".replace(
        "-", "\N{MINUS SIGN}"
    )
    assert headline[1][:4] == [
        "AP, mean of classes", f"{mean['AP']['<b>bold']['value']:.1f}", f"{shown['value']:.1f}",
        spread.replace("-", "\N{MINUS SIGN}"),
    ]  # fmt: skip
    rows = {row[0]: row for row in classes}
    assert rows.keys() >= {name, "mean of head (1)", "mean of tail (2)", "mean of classes"}
    for entry in content["classes"]:
        row = rows[entry["name"]]
        assert row[1:4] == [
            str(entry["train_boxes"]), str(entry["test_boxes"]),
            f"{entry['AP']['<b>bold']['value']:.1f}",
        ]  # fmt: skip
    order = [row[0] for row in classes if row[0] in {c["name"] for c in content["classes"]}]
    assert order == [name, "class 2", "class 0"]  # the rarest first
    assert any("0.250" in row for table in page.tables for row in table)


@pytest.mark.parametrize(
    "training, images", [(None, 3), (dataclasses.replace(COUNTS, boxes=(9, 0, 3)), 4)]
)
def test_the_page_does_without_training_counts_and_with_a_class_that_has_none(
    tmp_path, training, images
):
    truth, detections = scene()
    folders = [write_run(tmp_path / n, truth, detections, training) for n in ("x", "y")]
    test_set, compared = read_runs(folders)
    sides = sides_of(score(compared, resamples=10))
    page = as_page(compare(test_set, sides), sides)
    assert page.count("data:image/svg+xml") == images


def test_runs_of_different_training_sets_are_pointed_out(tmp_path, runs):
    truth, detections = scene()
    other = dataclasses.replace(COUNTS, boxes=(9, 9, 9))
    comparison = comparison_of([runs[0], write_run(tmp_path / "few", truth, detections, other)])
    assert any("different numbers of boxes" in note for note in comparison.notes)
    assert [c.train_boxes for c in comparison.classes] == list(COUNTS.boxes)
    assert comparison_of(runs).same_training_data


def test_a_training_is_compared_with_its_copy(run, tmp_path, capsys):
    _, trained = run
    shutil.copytree(trained, tmp_path / "copy", ignore=shutil.ignore_patterns("*.pth"))
    folders = [str(trained), str(tmp_path / "copy")]
    assert main(["compare", *folders, "--out", str(tmp_path / "out"), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [r["training_ratio"] for r in content["runs"]] == [1, 1]
    assert content["mean"]["AP"]["copy"]["interval"] == [0, 0]
    assert content["settings"] == {}


def test_a_change_of_a_class_in_a_single_image_never_excludes_0(tmp_path):
    truth, detections = scene()
    rare = next(a for a in truth["annotations"] if a["category_id"] == 2)
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] != 2] + [rare]
    found = {**rare, "score": 0.9}
    folders = [
        write_run(tmp_path / "x", truth, [d for d in detections if d["category_id"] != 2]),
        write_run(tmp_path / "y", truth, [*detections, found]),
    ]
    own = comparison_of(folders).classes[2].AP["y"]
    assert own.difference > 0
    assert own.interval is None and not own.excludes_zero


def seeded(folder, detections, seed, **settings):
    write_run(folder, scene()[0], detections)
    write_cost(folder, [1.0, 1.0], 100 + seed, "1 x CPU", SEED=seed, **settings)
    return folder


GAMMA = {"BALANCE.ROI_LOSS.GAMMA": 1.0}


def over_seeds(folders):
    _, compared = read_runs(folders)
    sides = sides_over_seeds(score(compared, resamples=100))
    return compare("mine", sides), sides


def test_runs_that_differ_in_their_seed_alone_are_one_side_with_the_mean_of_them(tmp_path):
    _, detections = scene()
    folders = [seeded(tmp_path / f"base-seed{i}", detections, i) for i in (1, 2)]
    folders += [seeded(tmp_path / f"other_{i}", worse(detections, i), i, **GAMMA) for i in (1, 2)]
    comparison, sides = over_seeds(folders)
    assert [side.name for side in sides] == ["base", "other"]
    assert [run.seeds for run in comparison.runs] == [(1, 2), (1, 2)]
    singles = [
        comparison_of([folders[i], folders[i + 2]], 100).mean.AP[f"other_{i + 1}"] for i in (0, 1)
    ]
    own = comparison.mean.AP["other"]
    assert own.value == pytest.approx(np.mean([each.value for each in singles]))
    assert own.std == pytest.approx(np.std([each.value for each in singles], ddof=1))
    assert own.difference == pytest.approx(np.mean([each.difference for each in singles]))
    assert comparison.settings == {"BALANCE.ROI_LOSS.GAMMA": {"base": "2.0", "other": "1.0"}}
    assert comparison.runs[0].training_seconds == 101.5
    missed = comparison.errors["missed"].count["other"]
    assert missed.value == np.mean([r.errors.overall["missed"].count for r in sides[1].runs])
    text = as_text(comparison)
    assert "+-" in text and "covers the training seed too" in text
    assert as_page(comparison, sides).count("data:image/svg+xml") == 4


def test_equal_trainings_of_several_seeds_give_the_interval_of_one(tmp_path):
    _, detections = scene()
    folders = [seeded(tmp_path / f"a{i}", detections, i) for i in (1, 2, 3)]
    folders += [seeded(tmp_path / f"b{i}", worse(detections), i, **GAMMA) for i in (1, 2, 3)]
    comparison, _ = over_seeds(folders)
    single = comparison_of([folders[0], folders[3]], 100)
    for own, one in zip(all_scores(comparison), all_scores(single), strict=True):
        assert own.AP["b"].interval == pytest.approx(one.AP["b1"].interval)
        assert own.AP["b"].std == pytest.approx(0)


def test_seeds_that_a_difference_leaves_out_are_pointed_out(tmp_path):
    _, detections = scene()
    folders = [seeded(tmp_path / f"a{i}", detections, i) for i in (1, 2)]
    folders += [seeded(tmp_path / f"b{i}", worse(detections, i), i, **GAMMA) for i in (1, 2, 3)]
    said = "Sides have different seeds: a difference is of the seeds that both have"
    comparison, _ = over_seeds(folders)
    assert comparison.mean.AP["b"].difference != pytest.approx(
        comparison.mean.AP["b"].value - comparison.mean.AP["a"].value
    )
    assert any(note.startswith(said) for note in comparison.notes)
    comparison, _ = over_seeds(folders[:-1])
    assert not any(note.startswith(said) for note in comparison.notes)


def test_runs_that_started_from_runs_of_several_seeds_are_one_side(tmp_path):
    _, detections = scene()
    folders, sources = [], {}
    for name, settings in (("base", {}), ("other", GAMMA)):
        for seed in (1, 2):
            source = tmp_path / f"{name}-seed{seed}"
            folders.append(seeded(source, worse(detections, seed), seed, **settings))
            sources[source] = seed
    for source, seed in sources.items():
        # As after `counterpoise retrain-classifier`, whose keys may be all that two runs differ in.
        weights = {"MODEL.WEIGHTS": str(source / "model_final.pth")}
        folders.append(seeded(Path(f"{source}_classifier"), detections, seed, **weights))
    comparison, sides = over_seeds(folders)
    assert [side.name for side in sides] == [
        "base", "other", "base_classifier", "other_classifier"
    ]  # fmt: skip
    assert [run.seeds for run in comparison.runs] == [(1, 2)] * 4


@pytest.mark.parametrize(
    "seeds, settings, said",
    [
        ((1, 2), ({}, {}), "all runs differ in SEED alone"),
        ((1, 1), ({}, {}), "the same config with the same SEED 1"),
        ((1, None), ({}, {}), "kept no config.yaml"),
    ],
)
def test_sides_that_cannot_be_made_are_refused(tmp_path, capsys, seeds, settings, said):
    _, detections = scene()
    folders = [
        write_run(tmp_path / str(i), scene()[0], detections)
        if seed is None
        else seeded(tmp_path / str(i), detections, seed, **own)
        for i, (seed, own) in enumerate(zip(seeds, settings, strict=True))
    ]
    arguments = ["--over-seeds", *map(str, folders), "--out", str(tmp_path / "out")]
    assert main(["compare", *arguments]) == 2
    assert said in capsys.readouterr().err
