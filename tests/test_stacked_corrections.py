"""The warning about corrections that are stacked."""

import logging

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from counterpoise.balance.class_counts import ClassCounts
from counterpoise.modeling.weight_sources import ClassTable
from counterpoise.training.stacked_corrections import active_corrections, warn_if_stacked
from models import NEUTRAL, quick_config
from test_retinanet import retinanet_config

COUNTS = ClassCounts(("red", "white", "plate"), (80, 10, 10), (400, 40, 10), 100, 0)
WEIGHTED = ClassTable(COUNTS, torch.tensor([1.0, 2.0, 4.0, 0.5]))
UNWEIGHTED = ClassTable(COUNTS, None)
REPEATED = (
    "DATASETS.TRAIN", "('stacked',)",
    "DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler",
    "DATALOADER.REPEAT_THRESHOLD", "0.4",
)  # fmt: skip
CLASS_AWARE = ("DATASETS.TRAIN", "('stacked',)", "BALANCE.IMAGE_SAMPLER.NAME", "class_aware")
WEIGHTS = ("BALANCE.CLASS_WEIGHTS.SOURCE", "dataset")


@pytest.fixture(autouse=True)
def images():
    """80 images of five red cells, 10 of four white ones, 10 of one plate."""
    held = [[0] * 5] * 80 + [[1] * 4] * 10 + [[2]] * 10
    records = [{"annotations": [{"category_id": c} for c in classes]} for classes in held]
    DatasetCatalog.register("stacked", lambda: records)
    MetadataCatalog.get("stacked").thing_classes = ["red cell", "white cell", "plate"]
    yield
    DatasetCatalog.remove("stacked")
    MetadataCatalog.remove("stacked")


def loss(name):
    return ("BALANCE.ROI_LOSS.NAME", name)


def warned(caplog, cfg, table):
    with caplog.at_level(logging.WARNING):
        warn_if_stacked(cfg, table)
    return caplog.text


@pytest.mark.parametrize(
    "settings, table",
    [((), UNWEIGHTED), (WEIGHTS, WEIGHTED), (loss("seesaw"), UNWEIGHTED), (REPEATED, UNWEIGHTED)],
)
def test_one_correction_or_none_is_no_reason_to_warn(caplog, settings, table):
    assert not warned(caplog, quick_config(*NEUTRAL, *settings), table)


def test_equal_weights_are_no_correction():
    table = ClassTable(COUNTS, torch.tensor([2.0, 2, 2, 1]))
    assert not active_corrections(quick_config(*NEUTRAL, *WEIGHTS), table)


def test_stacked_corrections_are_named_with_their_product_per_class(caplog):
    cfg = quick_config(*NEUTRAL, *WEIGHTS, *loss("logit_adjusted"), *REPEATED)
    text = warned(caplog, cfg, WEIGHTED)
    assert "3 corrections" in text and "BALANCE.ROI_LOSS.NAME" in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}
    assert rows["red"] == ["400", "1", "1", "1", "1"]
    assert rows["white"] == ["40", "2", "10", "2", "40"]
    # Weight 4; 400 / 10 boxes; drawn sqrt(0.4 / 0.1) = 2 times as often.
    assert rows["plate"] == ["10", "4", "40", "2", "320"]


@pytest.mark.parametrize(
    "sampling, rarest, level, product",
    [
        # 20 and 400 times the boxes, drawn 80 / 10 times as often: more than any training has had.
        (CLASS_AWARE, 20, "INFO", "160"),
        (CLASS_AWARE, 1, "WARNING", "3.2e+03"),
        # Not measured: 20 times the boxes, drawn sqrt(0.4 / 0.1) times as often.
        (REPEATED, 20, "WARNING", "40"),
    ],
)
def test_what_is_known_to_go_together_is_no_warning_up_to_where_it_was_measured(
    caplog, sampling, rarest, level, product
):
    counts = ClassCounts(COUNTS.names, COUNTS.images, (400, 40, rarest), 100, 0)
    with caplog.at_level(logging.INFO):
        cfg = quick_config(*NEUTRAL, *loss("logit_adjusted"), *sampling)
        warn_if_stacked(cfg, ClassTable(counts, None))
    (record,) = caplog.records
    assert record.levelname == level
    assert ("helped up to 300 to 1" in record.message) == (level == "INFO")
    assert record.message.splitlines()[-1].endswith(f" {product}")


def test_a_class_without_boxes_takes_no_part(caplog):
    counts = ClassCounts((*COUNTS.names, "none"), (80, 10, 10, 0), (400, 40, 20, 0), 100, 0)
    with caplog.at_level(logging.INFO):
        cfg = quick_config(*NEUTRAL, *loss("logit_adjusted"), *CLASS_AWARE)
        warn_if_stacked(cfg, ClassTable(counts, None))
    (record,) = caplog.records
    assert record.levelname == "INFO" and "20 times the boxes of the rarest" in record.message
    assert "none" not in record.message


def test_calibrated_scores_are_corrected_once_more(caplog):
    norcal = ("BALANCE.CALIBRATION.NAME", "norcal", "BALANCE.CALIBRATION.EXPONENT", "0.5")
    text = warned(caplog, quick_config(*NEUTRAL, *WEIGHTS, *norcal), WEIGHTED)
    assert "2 corrections" in text and "BALANCE.CALIBRATION" in text
    # Weight 4; (400 / 10)^0.5.
    assert "plate" in text and text.split("plate")[1].split() == ["10", "4", "6.32", "25.3"]


def test_what_adapts_in_training_is_named_without_a_factor(caplog):
    text = warned(caplog, quick_config(*NEUTRAL, *WEIGHTS, *loss("eqlv2")), WEIGHTED)
    assert "in training" in text and "eqlv2" in text


def test_one_stage_detectors_have_their_alpha(caplog):
    cfg = retinanet_config("BALANCE.DENSE_LOSS.ALPHA_SOURCE", "dataset", *REPEATED)
    text = warned(caplog, cfg, WEIGHTED)
    assert "BALANCE.DENSE_LOSS.ALPHA_SOURCE, DATALOADER.SAMPLER_TRAIN" in text
    (alpha, _) = active_corrections(cfg, WEIGHTED)
    assert alpha.factors[2] / alpha.factors[0] == pytest.approx(4)


def test_the_image_sampler_counts_by_the_boxes_that_are_seen():
    cfg = quick_config(
        *NEUTRAL, "DATASETS.TRAIN", "('stacked',)", "BALANCE.IMAGE_SAMPLER.NAME", "class_aware"
    )
    (sampling,) = active_corrections(cfg, UNWEIGHTED)
    assert sampling.keys == "BALANCE.IMAGE_SAMPLER.NAME"
    assert sampling.factors[2] / sampling.factors[0] == pytest.approx(8)
