"""``counterpoise thresholds``: chosen on validation images, written, applied at inference."""

import json

import pytest

from counterpoise.commands import calibrate, thresholds
from counterpoise.commands.console import main, train_net
from counterpoise.evaluation.stored import read_inference
from counterpoise.inference.calibration_choice import ExponentResult
from counterpoise.inference.threshold_choice import choose
from runs import SMALL
from test_operating_points import matches


@pytest.fixture
def arguments(run):
    """The finished run, with its held-out images as validation set."""
    _, out = run
    return ["--run", str(out), *SMALL[:2], "DATASETS.VAL", "('shapes_val',)"]


def test_the_file_holds_a_threshold_per_class_and_precision_is_as_asked(
    arguments, tmp_path, capsys
):
    file = tmp_path / "t.json"
    assert main(["thresholds", "--recall", "0.5", "--json", "--out", str(file), *arguments]) == 0
    said = json.loads(capsys.readouterr().out)
    written = json.loads(file.read_text())
    assert written["criterion"] == said["criterion"] == "recall of at least 0.5"
    assert list(written["thresholds"]) == ["disc", "bar"]
    for chosen in said["per_class"]:
        assert written["thresholds"][chosen["name"]] == chosen["point"]["threshold"]
        assert chosen["point"]["recall"] >= 50 or not chosen["reached"]


@pytest.mark.parametrize(
    "criterion, expected",
    [
        ({}, {"found": 0.25, "absent": 0.4, "missed": 0.4}),
        ({"recall": 0.9}, {"found": 0.25, "absent": 0.4, "missed": 0.05}),
        ({"precision": 1.0}, {"found": 0.75, "absent": 0.4, "missed": 0.4}),
    ],
)
def test_a_class_of_which_nothing_is_known_takes_the_common_threshold(criterion, expected):
    # Best for all classes is to keep all detections of the one that is found.
    own = {
        "found": matches([0.9, 0.8, 0.7, 0.5], [1, 1, 0, 1], num_gt=3),
        "absent": matches([0.6, 0.3], [0, 0], num_gt=0),
        "missed": matches([0.6, 0.3], [0, 0], num_gt=2),
    }
    wanted = {"precision": None, "recall": None} | criterion
    chosen = choose(list(own.values()), list(own), **wanted, default=0.05)
    assert {c.name: pytest.approx(c.point.threshold) for c in chosen} == expected
    assert [c.reached for c in chosen] == [True, False, False]


def test_no_threshold_is_below_what_the_model_was_asked_for():
    # Halfway from 0.06 to 0 would be 0.03, and let what nobody has looked at pass.
    own = matches([0.9, 0.06], [1, 1], num_gt=2)
    for wanted in ((None, None), (0.9, None), (None, 1.0)):
        (chosen,) = choose([own], ["a"], *wanted, default=0.05)
        assert chosen.point.threshold == 0.05 and chosen.point.recall == 100


def test_a_model_that_finds_nothing_is_said_to(arguments, tmp_path, monkeypatch, capsys):
    nothing = [matches([0.6, 0.3], [0, 0], num_gt=2), matches([], [], num_gt=1)]
    monkeypatch.setattr(thresholds, "detect", lambda cfg: (nothing, ["disc", "bar"]))
    assert main(["thresholds", "--out", str(tmp_path / "t.json"), *arguments]) == 0
    assert "the model finds no box of DATASETS.VAL" in capsys.readouterr().err
    none = [ExponentResult(exponent, 0.0, 0.0, 0.0, None) for exponent in (0.0, 0.5)]
    monkeypatch.setattr(calibrate, "evaluate_exponents", lambda *_: (none, []))
    assert main(["calibrate", *arguments]) == 0
    assert "the model finds no box of DATASETS.VAL" in capsys.readouterr().err


def test_choosing_on_test_images_is_answered_with_a_warning(arguments, tmp_path, capsys):
    assert main(["thresholds", "--out", str(tmp_path / "t.json"), *arguments]) == 0
    said = capsys.readouterr()
    assert "2 of 2 images of DATASETS.VAL are in DATASETS.TEST too" in said.err
    assert "one common threshold" in said.out and "BALANCE.SCORE_THRESHOLDS" in said.out


@pytest.mark.parametrize("command", ["thresholds", "calibrate"])
def test_images_that_the_run_was_trained_on_are_named_though_a_later_config_holds_them_out(
    command, arguments, tmp_path, capsys
):
    # A test set takes the images of the validation set, which takes some of the training.
    split = ["DATASETS.CUSTOM.shapes.HOLDOUT_TEST", "0.25", "DATASETS.TEST", "('shapes_test',)"]
    out = ["--out", str(tmp_path / "t.json")] if command == "thresholds" else []
    assert main([command, *out, *arguments]) == 0
    assert "among those of the training" not in capsys.readouterr().err
    assert main([command, *out, *arguments, *split]) == 0
    said = capsys.readouterr().err
    assert "2 of 2 images of DATASETS.VAL are among those of the training" in said
    assert "DATASETS.TEST too" not in said


def test_the_file_goes_beside_the_checkpoint_unless_told_otherwise(arguments, run):
    assert main(["thresholds", *arguments]) == 0
    file = run[1] / "thresholds.json"
    assert file.is_file()
    file.unlink()


def test_of_a_checkpoint_at_an_address_the_file_goes_into_the_working_folder(
    arguments, run, tmp_path, monkeypatch, capsys
):
    fetched = tmp_path / "cache" / "of" / "fetched.pth"
    fetched.parent.mkdir(parents=True)
    fetched.symlink_to(run[1] / "model_final.pth")
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    address = ["MODEL.WEIGHTS", "https://weights.invalid/of/fetched.pth"]
    assert main(["thresholds", *arguments, *address]) == 0
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["thresholds.json"]
    assert "BALANCE.SCORE_THRESHOLDS thresholds.json" in capsys.readouterr().out


def test_predict_keeps_the_scores_of_at_least_their_class_threshold(run, tmp_path, capsys):
    data, out = run
    images = sorted((data.parent / "images").glob("*.png"))
    predict = ["predict", *map(str, images), "--run", str(out), "--out", str(tmp_path / "p")]
    predict += ["--no-images", "--json"]
    assert main([*predict, "--min-score", "0"]) == 0
    found = json.loads(capsys.readouterr().out)["annotations"]
    scores = [sorted(a["score"] for a in found if a["category_id"] == k) for k in (0, 1)]
    # Few enough for the bound of 100 detections per image to play no part.
    limits = [scores[0][-8], scores[1][-3]]
    file = tmp_path / "t.json"
    file.write_text(json.dumps({"thresholds": {"bar": limits[1], "disc": limits[0]}}))
    assert main([*predict, "--thresholds", str(file)]) == 0
    kept = json.loads(capsys.readouterr().out)["annotations"]
    expected = [a["score"] for a in found if a["score"] >= limits[a["category_id"]]]
    assert sorted(a["score"] for a in kept) == sorted(expected)
    assert len(expected) >= 11


def test_evaluation_takes_all_detections_and_measures_at_the_thresholds(run, tmp_path, capsys):
    _data, out = run
    file = tmp_path / "t.json"
    file.write_text(json.dumps({"thresholds": {"disc": 0.9, "bar": 0.99}}))
    evaluation = tmp_path / "evaluated"
    arguments = ["--eval-only", "--config-file", str(out / "config.yaml"), *SMALL[:2]]
    arguments += ["MODEL.WEIGHTS", str(out / "model_final.pth"), "OUTPUT_DIR", str(evaluation)]
    assert train_net([*arguments, "BALANCE.SCORE_THRESHOLDS", str(file)]) == 0
    (before,) = json.loads((out / "evaluation.json").read_text()).values()
    (after,) = json.loads((evaluation / "evaluation.json").read_text()).values()
    assert after["AP"] == pytest.approx(before["AP"])
    assert [c["threshold"] for c in after["per_class"]] == [0.9, 0.99]
    assert after["thresholds_from"] == "written by hand"
    scores = read_inference(evaluation, "shapes_val").detections.scores
    assert scores.min() < 0.9


def test_chosen_thresholds_are_refused_for_another_checkpoint(arguments, run, tmp_path, capsys):
    data, out = run
    file = tmp_path / "t.json"
    assert main(["thresholds", "--out", str(file), *arguments]) == 0
    image = str(next((data.parent / "images").glob("*.png")))
    predict = ["predict", image, "--out", str(tmp_path / "p"), "--thresholds", str(file)]
    predict += ["--config-file", str(out / "config.yaml"), "--no-images", "--opts", *SMALL[:2]]
    assert main([*predict, "MODEL.WEIGHTS", str(out / "model_final.pth")]) == 0
    capsys.readouterr()
    assert main([*predict, "MODEL.WEIGHTS", str(out / "model_0000001.pth")]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert f"chosen on the checkpoint {out / 'model_final.pth'}" in said
    # Choosing anew takes no notice of an earlier choice.
    again = [*arguments, "MODEL.WEIGHTS", str(out / "model_0000001.pth")]
    again += ["BALANCE.SCORE_THRESHOLDS", str(file)]
    assert main(["thresholds", "--out", str(file), *again]) == 0


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--recall", "1.5"], "--recall is 1.5, expected a number in (0, 1]"),
        (["DATASETS.VAL", "()"], "DATASETS.VAL is empty"),
        (["DATASETS.VAL", "('shapes_vall',)"], "did you mean"),
        (["MODEL.WEIGHTS", "nowhere.pth"], "nowhere.pth does not exist"),
        (["MODEL.WEIGHTS", ""], "MODEL.WEIGHTS is empty"),
        (["MODEL.ROI_HEADS.NAME", "StandardROIHeads"], "SCORE_THRESHOLDS"),
    ],
)
def test_bad_input_is_one_sentence(arguments, tmp_path, capsys, flags, sentence):
    out = ["--out", str(tmp_path / "t.json")]
    if flags[0].startswith("--"):
        code = main(["thresholds", *flags, *out, *arguments])
    else:
        code = main(["thresholds", *out, *arguments, *flags])
    said = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert said[-1].startswith("counterpoise thresholds: error: ") and sentence in said[-1]
    assert not (tmp_path / "t.json").exists()
