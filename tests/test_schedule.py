"""SOLVER.EPOCHS: the iterations follow from the images that are trained on."""

import json

import pytest
import torch
from detectron2.data.samplers import RandomSubsetTrainingSampler

from counterpoise.config.loading import load_config
from counterpoise.config.preparation import prepare
from counterpoise.config.schedule import drawn_images, set_length
from counterpoise.datasets import count_classes
from models import CONFIGS, quick_config
from runs import NO_TEST, SMALL, train_net, write_dataset


def scheduled(images, *overrides):
    cfg = quick_config("SOLVER.IMS_PER_BATCH", "4", *overrides)
    cfg.defrost()
    set_length(cfg, images)
    return cfg.SOLVER


def test_without_epochs_the_iterations_are_those_of_the_config():
    stock = quick_config().SOLVER
    solver = scheduled(1000)
    assert (solver.MAX_ITER, solver.STEPS) == (stock.MAX_ITER, stock.STEPS)


def test_iterations_show_every_image_so_often_and_the_rate_falls_where_it_fell():
    given = ("SOLVER.EPOCHS", "2.5", "SOLVER.MAX_ITER", "600", "SOLVER.STEPS", "(400, 540)")
    solver = scheduled(1001, *given)
    assert solver.MAX_ITER == 626  # 2,502.5 images, and the rest of a batch
    assert solver.STEPS == (417, 563)


def test_a_whole_number_of_batches_is_not_one_more_by_rounding():
    given = ("SOLVER.EPOCHS", "2.2", "SOLVER.IMS_PER_BATCH", "2")
    assert scheduled(50, *given).MAX_ITER == 55


def test_the_config_of_a_run_gives_the_same_length_again():
    first = scheduled(999, "SOLVER.EPOCHS", "3.3")
    length = ("SOLVER.MAX_ITER", str(first.MAX_ITER), "SOLVER.STEPS", str(first.STEPS))
    assert scheduled(999, "SOLVER.EPOCHS", "3.3", *length) == first


def test_a_schedule_of_one_iteration_is_one():
    solver = scheduled(3, "SOLVER.EPOCHS", "0.1", "SOLVER.STEPS", "(400, 540)")
    assert (solver.MAX_ITER, solver.STEPS) == (1, (1,))


@pytest.mark.parametrize("drop", [False, True])
def test_images_that_are_left_out_do_not_count(tmp_path, drop):
    data = write_dataset(tmp_path / "shapes")
    labels = json.loads((tmp_path / "shapes" / "labels.json").read_text())
    labels["annotations"] = [a for a in labels["annotations"] if a["image_id"] > 4]
    (tmp_path / "shapes" / "labels.json").write_text(json.dumps(labels))
    overrides = ["SOLVER.EPOCHS", "4", "DATALOADER.FILTER_EMPTY_ANNOTATIONS", str(drop)]
    cfg = load_config([CONFIGS / "quick" / "baseline.yaml", data], [*SMALL, *overrides])
    prepare(cfg)
    counts = count_classes(["shapes_train"])
    assert counts.num_empty
    assert 2 * (counts.num_images - drop * counts.num_empty) == cfg.SOLVER.MAX_ITER


def test_an_epoch_of_a_random_subset_has_its_images():
    cfg = quick_config()
    assert drawn_images(cfg, 101) == 101
    cfg.defrost()
    cfg.DATALOADER.SAMPLER_TRAIN = "RandomSubsetTrainingSampler"
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.5  # a key of newer versions of Detectron2
    assert drawn_images(cfg, 101) == len(RandomSubsetTrainingSampler(101, 0.5)._indexes_subset)


def test_a_warm_up_that_outlasts_the_full_rate_is_named_before_the_training(tmp_path, capsys):
    """That of the model zoo, 1000 iterations, beside a few epochs of little data."""
    data = write_dataset(tmp_path / "shapes")
    zoo = ("SOLVER.EPOCHS", "1", "SOLVER.STEPS", "(2,)", "SOLVER.WARMUP_ITERS", "1000")
    assert train_net(data, tmp_path / "out", *zoo, *NO_TEST) == 0
    said = capsys.readouterr().out
    assert "SOLVER.WARMUP_ITERS is 1000, but after 2 iterations the rate falls" in said
    for line in (tmp_path / "out" / "metrics.json").read_text().splitlines():
        assert json.loads(line)["lr"] < 0.5 * quick_config().SOLVER.BASE_LR


def test_a_training_has_the_length_and_more_epochs_continue_it(tmp_path):
    data, out = write_dataset(tmp_path / "shapes"), tmp_path / "out"
    assert train_net(data, out, "SOLVER.EPOCHS", "1", *NO_TEST) == 0
    assert torch.load(out / "model_final.pth", weights_only=True)["iteration"] == 2
    assert train_net(data, out, "--resume", "SOLVER.EPOCHS", "2", *NO_TEST) == 0
    assert torch.load(out / "model_final.pth", weights_only=True)["iteration"] == 5
    log = (out / "log.txt").read_text()
    assert "6 images in batches of 2: SOLVER.MAX_ITER is 6" in log
    assert "SOLVER.WARMUP_ITERS" not in log
