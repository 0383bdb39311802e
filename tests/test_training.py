"""Training, resuming, fine-tuning and evaluating through the command line, on small real files."""

import contextlib
import importlib
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.utils.events import EventStorage

from counterpoise.commands import train
from counterpoise.config.loading import load_config
from counterpoise.datasets.mapper import RandomSaturationBGR, training_mapper
from counterpoise.training.hooks import BalanceMetricPrinter
from models import CONFIGS
from runs import NO_TEST, SMALL, train_net, write_dataset


def metrics(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]


def checkpoint(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def test_a_run_leaves_checkpoints_the_best_one_and_an_evaluation(run):
    _, out = run
    assert {"model_final.pth", "model_0000001.pth", "model_best.pth"} <= {
        p.name for p in out.iterdir()
    }
    evaluation = json.loads((out / "evaluation.json").read_text())["shapes_val"]
    assert [c["name"] for c in evaluation["per_class"]] == ["disc", "bar"]
    assert sum(c["train_boxes"] + c["test_boxes"] for c in evaluation["per_class"]) == 12


def test_this_projects_metrics_are_logged(run):
    logged = set().union(*metrics(run[1]))
    assert {"rpn/bg_accuracy", "roi/p_t_bg", "roi/background_loss_share"} <= logged


@pytest.mark.parametrize("crowds", [False, True])
def test_a_test_set_without_boxes_is_refused_before_the_training(tmp_path, capsys, crowds):
    data = write_dataset(tmp_path / "shapes")
    empty = write_dataset(tmp_path / "empty")
    labels = json.loads((empty.parent / "labels.json").read_text())
    regions = [{**each, "iscrowd": 1} for each in labels["annotations"]] if crowds else []
    (empty.parent / "labels.json").write_text(json.dumps({**labels, "annotations": regions}))
    both = yaml.safe_load(data.read_text())
    entry = {"FORMAT": "coco", "IMAGES": str(empty.parent / "images")}
    entry |= {"ANNOTATIONS": str(empty.parent / "labels.json")}
    both["DATASETS"]["CUSTOM"]["nothing"] = entry
    both["DATASETS"]["TEST"] = ["shapes_val", "nothing"]
    data.write_text(yaml.safe_dump(both))
    assert train_net(data, tmp_path / "out") == 2
    assert "test set nothing has no box" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("model_*.pth"))


def test_a_mistake_in_the_validation_set_does_not_wait_for_the_end(tmp_path, capsys):
    data = write_dataset(tmp_path / "shapes")
    given = yaml.safe_load(data.read_text())
    given["DATASETS"]["CUSTOM"]["later"] = {"FORMAT": "coco", "IMAGES": "images",
                                            "ANNOTATIONS": "lables.json"}  # fmt: skip
    given["DATASETS"]["VAL"] = ["later"]
    data.write_text(yaml.safe_dump(given))
    assert train_net(data, tmp_path / "out") == 2
    assert "lables.json" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("model_*.pth"))


def test_the_terminal_line_shows_every_stage_of_a_cascade(caplog):
    with EventStorage() as storage, caplog.at_level(logging.INFO, "counterpoise.training.hooks"):
        storage.put_scalar("rpn/fg_accuracy", 0.5)
        for stage in range(2):
            with storage.name_scope(f"stage{stage}"):
                storage.put_scalar("roi/p_t_fg", 0.25 + stage)
        BalanceMetricPrinter().write()
    line = "rpn/fg_accuracy: 0.500  stage0/roi/p_t_fg: 0.250  stage1/roi/p_t_fg: 1.250"
    assert caplog.messages == [line]


def test_the_terminal_line_is_not_repeated_after_the_last_evaluation(run):
    lines = [
        line for line in (run[1] / "log.txt").read_text().splitlines() if "fg_accuracy:" in line
    ]
    assert len(lines) == 1  # for three iterations


def test_the_checkpoint_keeps_class_names_counts_and_weights_and_no_foreign_parameter(run):
    content = checkpoint(run[1] / "model_final.pth")
    record = content["counterpoise"]
    assert record["class_names"] == ["disc", "bar"]
    assert len(record["boxes"]) == 2 and len(record["weights"]) == 3
    assert not any("cls_loss" in key for key in content["model"])


def test_a_finished_run_is_not_overwritten_without_a_flag(run, capsys):
    data, out = run
    before = (out / "model_final.pth").stat().st_mtime_ns
    assert train_net(data, out) == 2
    error = capsys.readouterr().err
    assert "already holds a run" in error and "--resume" in error and "Traceback" not in error
    assert (out / "model_final.pth").stat().st_mtime_ns == before


def test_overwrite_starts_anew(tmp_path):
    data = write_dataset(tmp_path / "shapes")
    assert train_net(data, tmp_path / "out") == 0
    (tmp_path / "out" / "notes.txt").write_text("mine")
    (tmp_path / "out" / "review" / "shapes_val").mkdir(parents=True)
    assert train_net(data, tmp_path / "out", "--overwrite", "SOLVER.MAX_ITER", "2", *NO_TEST) == 0
    assert max(m["iteration"] for m in metrics(tmp_path / "out")) <= 2
    assert not (tmp_path / "out" / "model_0000002.pth").exists()
    assert (tmp_path / "out" / "notes.txt").exists()
    assert not (tmp_path / "out" / "review").exists()


@pytest.mark.parametrize(
    "mistake",
    [
        ("SOLVER.MAXITER", "1"),
        ("DATASETS.TRAIN", "nowhere"),
        ("BALANCE.CLASS_WEIGHTS.SOURCE", "list", "BALANCE.CLASS_WEIGHTS.VALUES", "[1]"),
    ],
)
def test_overwrite_keeps_the_earlier_run_where_the_new_one_cannot_begin(run, mistake):
    data, out = run
    before = sorted((p.name, p.stat().st_size) for p in out.iterdir() if p.suffix == ".pth")
    assert train_net(data, out, "--overwrite", *mistake) == 2
    assert sorted((p.name, p.stat().st_size) for p in out.iterdir() if p.suffix == ".pth") == before


def test_resume_continues_where_the_run_stopped(tmp_path):
    data = write_dataset(tmp_path / "shapes")
    assert train_net(data, tmp_path / "out", "SOLVER.MAX_ITER", "2", *NO_TEST) == 0
    assert train_net(data, tmp_path / "out", "--resume", "SOLVER.MAX_ITER", "4", *NO_TEST) == 0
    assert checkpoint(tmp_path / "out" / "model_final.pth")["iteration"] == 3


def test_resume_refuses_other_counts_and_shows_the_difference(tmp_path, capsys):
    data = write_dataset(tmp_path / "shapes")
    assert train_net(data, tmp_path / "out", "SOLVER.MAX_ITER", "2", *NO_TEST) == 0
    labels = json.loads((tmp_path / "shapes" / "labels.json").read_text())
    labels["annotations"].append({**labels["annotations"][0], "id": 99})
    (tmp_path / "shapes" / "labels.json").write_text(json.dumps(labels))
    # With another setting a dataset is read anew in the same process.
    again = ("DATASETS.BAD_RECORDS", "refuse", "SOLVER.MAX_ITER", "4")
    assert train_net(data, tmp_path / "out", "--resume", *again) == 2
    error = capsys.readouterr().err
    assert "another training set" in error and "boxes" in error


def test_evaluation_needs_neither_training_data_nor_class_list(run, tmp_path):
    data, out = run
    content = yaml.safe_load(data.read_text())
    entry = content["DATASETS"]["CUSTOM"]["shapes"]
    test_only = {
        "DATASETS": {
            "CUSTOM": {
                "gone": {"FORMAT": "coco", "IMAGES": "nowhere", "ANNOTATIONS": "nowhere.json"},
                "test": {**entry, "HOLDOUT": 0.0},
            },
            "TRAIN": ["gone"],
            "TEST": ["test"],
        }
    }
    config = data.parent / "test_only.yaml"
    config.write_text(yaml.safe_dump(test_only))
    weights = ["MODEL.WEIGHTS", str(out / "model_final.pth")]
    assert train_net(config, tmp_path / "out", "--eval-only", *weights) == 0
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())["test"]
    assert [c["train_boxes"] for c in result["per_class"]] == checkpoint(out / "model_final.pth")[
        "counterpoise"
    ]["boxes"]


def test_evaluation_reproduces_the_figures_of_the_run(run, tmp_path):
    data, out = run
    weights = ["MODEL.WEIGHTS", str(out / "model_final.pth")]
    assert train_net(data, tmp_path / "out", "--eval-only", *weights) == 0
    again = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert again == json.loads((out / "evaluation.json").read_text())


def test_evaluating_other_weights_in_the_folder_of_a_run_says_that_its_results_are_replaced(
    run, tmp_path, capsys, monkeypatch
):
    data, out = run
    monkeypatch.setattr(train, "_write_report", lambda *_: None)  # which takes long
    said = "holds a run, whose evaluation and report will be of MODEL.WEIGHTS"
    copied = tmp_path / "copied"
    shutil.copytree(out, copied)
    for weights, replaced in (("model_final.pth", False), ("model_0000001.pth", True)):
        arguments = ["MODEL.WEIGHTS", str(copied / weights)]
        assert train_net(data, copied, "--eval-only", *arguments) == 0
        assert (said in capsys.readouterr().out) == replaced


@pytest.mark.parametrize(
    "weights, said",
    [
        ("", "MODEL.WEIGHTS is empty: give the path of a checkpoint"),
        ("nowhere.pth", "nowhere.pth does not exist"),
        ("{data}", "cannot be read as a checkpoint"),
    ],
)
def test_evaluation_without_a_usable_checkpoint_is_refused(run, tmp_path, capsys, weights, said):
    data, _ = run
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"not a checkpoint")
    weights = weights.replace("{data}", str(broken))
    assert train_net(data, tmp_path / "out", "--eval-only", "MODEL.WEIGHTS", weights) == 2
    assert said in capsys.readouterr().err


def test_evaluation_refuses_a_checkpoint_of_another_model(run, tmp_path, capsys):
    data, out = run
    arguments = ["MODEL.WEIGHTS", str(out / "model_final.pth"), "MODEL.ROI_BOX_HEAD.FC_DIM", "16"]
    assert train_net(data, tmp_path / "out", "--eval-only", *arguments) == 2
    assert "and the config that it was trained with" in capsys.readouterr().err


@pytest.mark.parametrize(
    "classes, said",
    [
        (["disc", "ring"], "MODEL.WEIGHTS was trained on [disc, bar]"),
        ([], "no box of the classes [disc, bar]"),
    ],
)
def test_evaluation_refuses_another_class_list(run, tmp_path, capsys, classes, said):
    _, out = run
    data = write_dataset(tmp_path / "parts", names=("nut", "bolt"))
    arguments = ["--eval-only", "MODEL.WEIGHTS", str(out / "model_final.pth")]
    if classes:
        arguments += ["DATASETS.CUSTOM.parts.CLASSES", str(classes)]
    assert train_net(data, tmp_path / "out", *arguments) == 2
    assert said in capsys.readouterr().err


def test_an_op_of_detectron2s_extension_that_is_missing_is_named_in_a_sentence(
    run, tmp_path, capsys
):
    with contextlib.suppress(ImportError):
        importlib.import_module("detectron2._C")
        pytest.skip("this Detectron2 has its compiled extension")
    data, _ = run
    deformable = [
        "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone",
        "MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3', 'res4', 'res5']",
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE", "[False, True, True, True]",
    ]  # fmt: skip
    assert train_net(data, tmp_path / "out", *deformable, leaf="baseline") == 2
    assert "compiled extension" in capsys.readouterr().err


def test_fine_tuning_for_other_classes_names_the_layers_that_start_fresh(run, tmp_path):
    _, out = run
    data = write_dataset(tmp_path / "parts", names=("nut", "bolt"))
    weights = ["MODEL.WEIGHTS", str(out / "model_final.pth"), "SOLVER.MAX_ITER", "1"]
    assert train_net(data, tmp_path / "out", *weights, *NO_TEST) == 0
    log = (tmp_path / "out" / "log.txt").read_text()
    line = next(line for line in log.splitlines() if "start fresh" in line)
    assert "roi_heads.box_predictor.cls_score" in line
    assert "roi_heads.box_predictor.bbox_pred" in line
    assert "box_head" not in line


@pytest.mark.parametrize("leaf", ["baseline", "documents"])
def test_weights_of_another_backbone_never_lead_to_a_silent_random_start(
    run, tmp_path, capsys, leaf
):
    data, out = run
    arguments = [
        "MODEL.WEIGHTS", str(out / "model_final.pth"), "MODEL.TORCHVISION.NAME", "resnet18",
    ]  # fmt: skip
    assert train_net(data, tmp_path / "out", *arguments, leaf=leaf) == 2
    assert "does not fit the backbone" in capsys.readouterr().err


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["DATASETS.TRAIN", "shape_train"], "did you mean 'shapes_train'"),
        (["MODEL.ROI_HEADS.NUM_CLASSES", "3"], "NUM_CLASSES is 3, but the data has 2 classes"),
        (["TEST.EVAL_PERIOD", "1", "TEST.BEST_METRIC", "AP-disk"], "did you mean 'AP-disc'"),
        (["BALANCE.CLASS_WEIGHTS.SOURCE", "list", "BALANCE.CLASS_WEIGHTS.VALUES", "[1]"],
         "VALUES has 1 numbers, expected 2"),
        (["DATASETS.CUSTOM.shapes.IMAGES", "nowhere"], "nowhere"),
        (["--num-gpus=64"], "--num-gpus is 64"),
    ],
)  # fmt: skip
def test_bad_input_ends_with_one_sentence_and_code_2(run, tmp_path, capsys, overrides, said):
    data, _ = run
    assert train_net(data, tmp_path / "out", *overrides) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert len(error.strip().splitlines()) == 1


def test_an_image_that_goes_missing_while_training_is_named_also_from_a_worker(tmp_path, capsys):
    data = write_dataset(tmp_path / "shapes")
    assert train_net(data, tmp_path / "out", "SOLVER.MAX_ITER", "1", *NO_TEST) == 0
    for path in (tmp_path / "shapes" / "images").iterdir():
        path.unlink()
    assert train_net(data, tmp_path / "again", "DATALOADER.NUM_WORKERS", "1", *NO_TEST) == 2
    error = capsys.readouterr().err
    assert ".png cannot be used" in error and len(error.strip().splitlines()) == 1


def test_colour_jitter_is_switched_by_its_key(run):
    data, _ = run
    saturations = {"RGB": "RandomSaturation", "BGR": "RandomSaturationBGR"}
    for jitter, order in ((0.0, "RGB"), (0.5, "RGB"), (0.5, "BGR")):
        cfg = load_config(
            [CONFIGS / "quick" / "baseline.yaml", data],
            [*SMALL, "INPUT.COLOR_JITTER", str(jitter), "INPUT.FORMAT", order],
        )
        augmentations = [type(a).__name__ for a in training_mapper(cfg).augmentations.augs]
        colour = ["RandomBrightness", "RandomContrast", saturations[order]]
        colour = colour if jitter else []
        assert augmentations == ["ResizeToAPixel", *colour, "RandomFlip"]


def test_saturation_keeps_the_brightness_that_a_colour_has_for_the_eye():
    blue = np.full((1, 1, 3), (200, 0, 0), np.uint8)  # BGR
    grey = RandomSaturationBGR(0, 0).get_transform(blue).apply_image(blue)
    assert grey.tolist() == [[[22, 22, 22]]]  # 0.114 x 200


OWN_LOSS = """
import torch.nn.functional as F
from counterpoise import ROI_LOSS_REGISTRY

@ROI_LOSS_REGISTRY.register(name="smooth_for_test")
def build_smooth(cfg):
    return lambda logits, gt_classes: F.cross_entropy(
        logits, gt_classes, ignore_index=-1, label_smoothing=0.1, reduction="none"
    )
"""


def test_a_loss_from_a_file_of_the_users_own_trains(run, tmp_path):
    data, _ = run
    (tmp_path / "my_losses.py").write_text(OWN_LOSS)
    flags = [f"--import={tmp_path / 'my_losses.py'}"]
    own = ("BALANCE.ROI_LOSS.NAME", "smooth_for_test", *NO_TEST)
    assert train_net(data, tmp_path / "out", *flags, *own) == 0


@pytest.mark.parametrize(
    "content, said",
    [(None, "mine.py does not exist"), ("x = 1\n1 / 0\n", "line 2: ZeroDivisionError")],
)
def test_a_file_that_cannot_be_imported_is_refused(run, tmp_path, capsys, content, said):
    data, _ = run
    if content:
        (tmp_path / "mine.py").write_text(content)
    assert train_net(data, tmp_path / "out", f"--import={tmp_path / 'mine.py'}") == 2
    assert said in capsys.readouterr().err
