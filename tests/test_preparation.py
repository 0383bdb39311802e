"""Which datasets a command needs, and where it takes the classes from."""

import logging

import pytest
import torch
import yaml

from counterpoise.config.loading import load_config
from counterpoise.config.preparation import prepare
from counterpoise.errors import UserError
from counterpoise.modeling.score_thresholds import ScoreThresholds
from models import CONFIGS
from runs import SMALL, write_dataset


def config(data, *overrides):
    return load_config([CONFIGS / "quick" / "baseline.yaml", *data], [*SMALL, *overrides])


@pytest.fixture
def weights(run):
    return ("MODEL.WEIGHTS", str(run[1] / "model_final.pth"))


@pytest.fixture
def bare(run, tmp_path):
    """The checkpoint of the run without its record of classes."""
    path = tmp_path / "bare.pth"
    torch.save({"model": torch.load(run[1] / "model_final.pth")["model"]}, path)
    return ("MODEL.WEIGHTS", str(path))


def test_the_class_names_are_returned_in_order(run, weights):
    assert prepare(config([run[0]])) == ("disc", "bar")
    assert prepare(config([run[0]], *weights), eval_only=True) == ("disc", "bar")


def test_no_dataset_is_needed_where_none_is_asked_for(weights):
    cfg = config([], *weights)
    assert prepare(cfg, eval_only=True, splits=()) == ("disc", "bar")
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2


def test_datasets_that_are_gone_are_not_looked_for_where_none_is_asked_for(run, tmp_path, weights):
    content = yaml.safe_load(run[0].read_text())
    content["DATASETS"]["CUSTOM"]["shapes"] |= {"IMAGES": "/gone", "ANNOTATIONS": "/gone.json"}
    (tmp_path / "gone.yaml").write_text(yaml.safe_dump(content))
    cfg = config([tmp_path / "gone.yaml"], *weights, "DATASETS.TEST", "elsewhere")
    assert prepare(cfg, eval_only=True, splits=()) == ("disc", "bar")


def test_a_checkpoint_without_record_takes_the_classes_of_the_test_set(run, bare):
    assert prepare(config([run[0]], *bare), eval_only=True, splits=()) == ("disc", "bar")


@pytest.mark.parametrize("splits", [(), None])
def test_a_checkpoint_without_record_and_no_dataset_is_refused(bare, splits):
    with pytest.raises(UserError, match=r"bare\.pth' has no record of its classes and DATASETS.TE"):
        prepare(config([], *bare), eval_only=True, splits=splits)


def test_thresholds_in_another_order_are_refused_where_no_name_puts_them_right(tmp_path, weights):
    path = ScoreThresholds(("bar", "disc"), (0.1, 0.2), "", "").write(tmp_path / "t.json")
    cfg = config([], *weights, "BALANCE.SCORE_THRESHOLDS", str(path))
    with pytest.raises(UserError, match=r"put them in the order disc, bar"):
        prepare(cfg, eval_only=True, splits=())


def test_val_is_needed_where_it_is_asked_for_and_nowhere_else(run, weights):
    with pytest.raises(UserError, match=r"DATASETS.VAL is empty: name a dataset to choose on"):
        prepare(config([run[0]], *weights), eval_only=True, splits=("VAL",))
    cfg = config([run[0]], *weights, "DATASETS.VAL", "shapes_val", "DATASETS.TEST", "nowhere")
    assert prepare(cfg, eval_only=True, splits=("VAL",)) == ("disc", "bar")
    with pytest.raises(UserError, match=r"DATASETS.TEST names 'nowhere'"):
        prepare(cfg, eval_only=True)


def test_a_misspelt_val_is_answered_before_training(run):
    cfg = config([run[0]], "DATASETS.VAL", "shape_val")
    with pytest.raises(UserError, match=r"DATASETS.VAL names 'shape_val', did you mean 'sh"):
        prepare(cfg)


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_frozen_statistics_of_random_weights_are_said(run, caplog, norm):
    logging.getLogger("counterpoise").propagate = True
    overrides = ("MODEL.WEIGHTS", "", "MODEL.RESNETS.NORM", norm, "MODEL.DEVICE", "cpu")
    with caplog.at_level(logging.WARNING, "counterpoise"):
        prepare(load_config([CONFIGS / "r50_fpn" / "baseline.yaml", run[0]], overrides))
    assert ("keeps the statistics of trained weights" in caplog.text) == (norm == "FrozenBN")


def test_val_of_other_classes_than_the_checkpoint_is_refused(tmp_path, weights):
    data = write_dataset(tmp_path / "parts", names=("nut", "bolt"))
    stated = ("DATASETS.CUSTOM.parts.CLASSES", "['nut', 'bolt']", "DATASETS.VAL", "parts_val")
    with pytest.raises(UserError, match=r"MODEL.WEIGHTS was trained on \[disc, bar\]"):
        prepare(config([data], *weights, *stated), eval_only=True, splits=("VAL",))


def test_real_configs_know_their_validation_sets(real_data, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(real_data))
    aquarium = config([CONFIGS / "datasets" / "aquarium.yaml"])
    assert aquarium.DATASETS.VAL == ("aquarium_val",)
    assert len(prepare(aquarium)) == 7
    split = ("DATASETS.TRAIN", "bccd_only_train", "DATASETS.VAL", "bccd_val")
    assert len(prepare(config([CONFIGS / "datasets" / "bccd.yaml"], *split))) == 3
