"""``counterpoise retrain-classifier``: the last layer alone learns, in a new folder."""

import json
import shutil

import pytest
import torch
from torch import nn

from counterpoise.commands.console import main
from counterpoise.commands.retrain_classifier import _overrides
from counterpoise.training.freezing import freeze_all_but_classifier
from counterpoise.training.learning_watch import SIGNS
from models import build, quick_config
from runs import NO_TEST, SMALL, train_net, write_dataset

#: Of the retraining: the run's own three iterations leave a tenth of one.
SHORT = ["SOLVER.MAX_ITER", "2", *SMALL[:2]]


@pytest.mark.parametrize("balance", ["weights", "images"])
def test_only_the_classifier_changes_and_the_rest_is_bit_identical(run, tmp_path, balance):
    source, out = run[1], tmp_path / "out"
    arguments = ["--run", str(source), "--out", str(out), "--balance", balance]
    # An evaluation in the middle puts the whole model back into training mode.
    arguments += [*SHORT, "TEST.EVAL_PERIOD", "1"]
    assert main(["retrain-classifier", *arguments]) == 0
    before, after = (
        torch.load(folder / "model_final.pth", weights_only=False)["model"]
        for folder in (source, out)
    )
    assert before.keys() == after.keys()
    assert any(name.endswith("running_mean") for name in before)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    predictor = "roi_heads.box_predictor.cls_score"
    assert changed == {f"{predictor}.weight", f"{predictor}.bias"}
    assert (out / "report.html").is_file()
    assert "retrain-classifier" in json.loads((out / "run.json").read_text())["command"]


def test_an_averaged_run_goes_on_from_the_averaged_weights_which_then_stay(tmp_path):
    data, source, out = write_dataset(tmp_path / "shapes"), tmp_path / "run", tmp_path / "out"
    assert train_net(data, source, "MODEL.EMA.ENABLED", "True", *NO_TEST) == 0
    arguments = ["--run", str(source), "--out", str(out), *SHORT, *NO_TEST]
    assert main(["retrain-classifier", *arguments]) == 0
    first, second = (
        torch.load(folder / "model_final.pth", weights_only=False) for folder in (source, out)
    )
    before = first["averaged"]["model"]
    assert any(not torch.equal(before[name], first["model"][name]) for name in before)
    for after in (second["model"], second["averaged"]["model"]):
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert {name.rpartition(".")[0] for name in changed} == {
            "roi_heads.box_predictor.cls_score"
        }


def test_it_is_not_told_to_train_longer(run, tmp_path, capsys, monkeypatch):
    _, *advice = SIGNS["rpn/fg_accuracy"]
    monkeypatch.setitem(SIGNS, "rpn/fg_accuracy", (2.0, *advice))  # which no RPN reaches
    arguments = ["--run", str(run[1]), "--out", str(tmp_path / "out"), *SHORT, *NO_TEST]
    assert main(["retrain-classifier", *arguments, "SOLVER.MAX_ITER", "4"]) == 0
    said = capsys.readouterr().out
    assert "Starting training" in said
    assert "train longer" not in said and "Fewer than three epochs" not in said


@pytest.mark.parametrize("period, tenth", [(0, "0"), (3, "1"), (50, "5")])
def test_a_run_that_was_evaluated_during_its_training_is_so_again(run, period, tenth):
    keys = _overrides(quick_config("TEST.EVAL_PERIOD", str(period)), run[1], run[1])
    assert keys[keys.index("TEST.EVAL_PERIOD") + 1] == tenth


def test_by_default_it_runs_a_tenth_of_the_schedule_beside_the_run(run):
    cfg = quick_config(
        "SOLVER.MAX_ITER", "900", "SOLVER.STEPS", "(600, 800)", "SOLVER.WARMUP_ITERS", "100",
    )  # fmt: skip
    keys = _overrides(cfg, run[1], run[1])
    said = dict(zip(keys[::2], keys[1::2], strict=True))
    assert said["SOLVER.MAX_ITER"] == "90" and said["SOLVER.STEPS"] == "(60, 80)"
    assert said["SOLVER.WARMUP_ITERS"] == "10"


def test_retinanets_classifier_learns_and_nothing_else():
    model = nn.ModuleDict({"cls_score": nn.Conv2d(1, 1, 1), "cls_subnet": nn.Conv2d(1, 1, 1)})
    freeze_all_but_classifier(model)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        "cls_score.weight",
        "cls_score.bias",
    }
    heads = build(quick_config())
    freeze_all_but_classifier(heads)
    learning = {n for n, p in heads.named_parameters() if p.requires_grad}
    assert learning == {
        "roi_heads.box_predictor.cls_score.weight",
        "roi_heads.box_predictor.cls_score.bias",
    }


def test_the_folder_of_the_run_and_a_run_without_end_are_refused(run, tmp_path, capsys):
    source = str(run[1])
    assert main(["retrain-classifier", "--run", source, "--out", source]) == 2
    assert "is the folder of --run: give another one" in capsys.readouterr().err
    assert main(["retrain-classifier", "--run", str(tmp_path)]) == 2
    assert "has no config.yaml: give the OUTPUT_DIR of a finished" in capsys.readouterr().err


def test_layers_that_would_stay_random_are_refused(run, tmp_path, capsys):
    data = tmp_path / "shapes"
    shutil.copytree(run[0].parent, data)
    labels = (data / "labels.json").read_text()
    (data / "labels.json").write_text(labels.replace('"bar"', '"rod"'))
    arguments = ["--run", str(run[1]), "--out", str(tmp_path / "out"), *SHORT, *NO_TEST]
    arguments += ["--config-file", str(data / "data.yaml")]
    assert main(["retrain-classifier", *arguments]) == 2
    said = capsys.readouterr().err
    assert "1 layer such as roi_heads.box_predictor.bbox_pred, which SOLVER.TRAINABLE" in said
    assert "give the checkpoint of a training on the same classes" in said
    assert main(["retrain-classifier", *arguments, "--overwrite", "SOLVER.TRAINABLE", "all"]) == 0
