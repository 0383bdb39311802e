"""SOLVER.REFERENCE_WORLD_SIZE: every part of a training sees the scaled settings."""

import pytest
from detectron2.utils import comm

from counterpoise.errors import UserError
from counterpoise.training.reference_size import scaled_to_processes
from models import quick_config
from runs import NO_TEST, train_net, write_dataset

SETTINGS = ("SOLVER.IMS_PER_BATCH", "4", "SOLVER.BASE_LR", "0.02", "SOLVER.MAX_ITER", "100")


def test_settings_of_two_processes_are_scaled_to_one_and_only_once():
    cfg = quick_config(*SETTINGS, "SOLVER.REFERENCE_WORLD_SIZE", "2", "TEST.EVAL_PERIOD", "10")
    scaled = scaled_to_processes(cfg)
    solver = scaled.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER) == (2, 0.01, 200)
    assert scaled.TEST.EVAL_PERIOD == 20 and scaled.is_frozen()
    assert scaled_to_processes(scaled) is scaled
    assert cfg.SOLVER.IMS_PER_BATCH == 4


def test_no_period_is_scaled_to_nothing(monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 64)
    periods = ("SOLVER.CHECKPOINT_PERIOD", "10", "TEST.EVAL_PERIOD", "10", "SOLVER.MAX_ITER", "20")
    scaled = scaled_to_processes(quick_config(*periods, "SOLVER.REFERENCE_WORLD_SIZE", "1"))
    assert (scaled.SOLVER.CHECKPOINT_PERIOD, scaled.TEST.EVAL_PERIOD) == (1, 1)
    assert scaled.SOLVER.MAX_ITER == 1


def test_a_batch_that_as_many_processes_cannot_share_is_refused():
    with pytest.raises(UserError, match="REFERENCE_WORLD_SIZE is 3, among which a batch of"):
        scaled_to_processes(quick_config(*SETTINGS, "SOLVER.REFERENCE_WORLD_SIZE", "3"))


def test_a_run_keeps_and_trains_by_the_scaled_settings(tmp_path):
    data, out = write_dataset(tmp_path / "shapes"), tmp_path / "out"
    settings = ("SOLVER.IMS_PER_BATCH", "4", "SOLVER.MAX_ITER", "2")
    assert train_net(data, out, *settings, "SOLVER.REFERENCE_WORLD_SIZE", "2", *NO_TEST) == 0
    kept = (out / "config.yaml").read_text()
    assert "IMS_PER_BATCH: 2" in kept and "MAX_ITER: 4" in kept
    assert "for 4 iterations of 2 images" in (out / "log.txt").read_text()
