"""What checkpoints take on the disk is said before a training begins, and is what they take."""

import logging
import shutil
from collections import namedtuple

import pytest
import torch
from torch import nn

from counterpoise.modeling.checkpoint import AVERAGE_KEY, BalancedCheckpointer
from counterpoise.training.disk_use import (
    CheckpointCounts,
    checkpoint_bytes,
    checkpoint_counts,
    log_disk_use,
)
from counterpoise.training.weight_average import WeightAverage
from models import quick_config

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    "build, averaged",
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), False),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), False),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), True),
        (lambda p: torch.optim.AdamW(p, lr=0.1), True),
    ],
    ids=["SGD", "momentum", "momentum and average", "AdamW and average"],
)
def test_the_size_is_that_of_the_file(tmp_path, build, averaged):
    model = nn.Sequential(nn.Linear(300, 1000), nn.BatchNorm1d(1000), nn.Linear(1000, 300))
    model[0].requires_grad_(False)
    optimizer = build([p for p in model.parameters() if p.requires_grad])
    said = checkpoint_bytes(model, optimizer, averaged)  # before the optimizer has a state
    model(torch.rand(4, 300)).sum().backward()
    optimizer.step()
    parts = {"optimizer": optimizer}
    if averaged:
        parts[AVERAGE_KEY] = WeightAverage(model, 0.9)
    BalancedCheckpointer(model, str(tmp_path), **parts).save("model_0000001")
    assert (tmp_path / "model_0000001.pth").stat().st_size == pytest.approx(said, rel=0.01)


@pytest.mark.parametrize(
    "overrides, counts",
    [
        (("SOLVER.CHECKPOINT_PERIOD", "1000"), CheckpointCounts(9, 0)),
        (("SOLVER.CHECKPOINT_PERIOD", "20000"), CheckpointCounts(0, 0)),
        (
            ("SOLVER.CHECKPOINT_PERIOD", "1000", "SOLVER.CHECKPOINTS_KEPT", "2"),
            CheckpointCounts(2, 0),
        ),
        (
            ("SOLVER.CHECKPOINT_PERIOD", "5000", "SOLVER.CHECKPOINTS_KEPT", "4"),
            CheckpointCounts(1, 0),
        ),
        (("TEST.EVAL_PERIOD", "100", "DATASETS.TEST", "('a',)"), CheckpointCounts(1, 1)),
        (("TEST.EVAL_PERIOD", "100", "DATASETS.TEST", "()"), CheckpointCounts(1, 0)),
    ],
)
def test_checkpoints_are_counted_by_the_keys(overrides, counts):
    base = ("SOLVER.MAX_ITER", "9999", "SOLVER.CHECKPOINT_PERIOD", "5000")
    assert checkpoint_counts(quick_config(*base, *overrides)) == counts


def said(folder, caplog, monkeypatch, free):
    caplog.clear()
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 10**12 - free, free))
    log_disk_use(folder, CheckpointCounts(3, 1), 200_000_000)
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_the_use_and_what_is_free_is_said(tmp_path, caplog, monkeypatch):
    ((level, line),) = said(tmp_path, caplog, monkeypatch, 10**9)
    assert level == "INFO"
    assert line == (
        f"Checkpoints take up to 1 GB in {tmp_path} (5 of 200 MB: 3 by iteration, the best, the "
        "last); 1 GB are free there"
    )


def test_too_little_room_is_warned_of_with_what_is_lacking(tmp_path, caplog, monkeypatch):
    _, (level, line) = said(tmp_path, caplog, monkeypatch, 900_000_000)
    assert level == "WARNING" and line.startswith("The checkpoints need 100 MB more than is free")
    assert "SOLVER.CHECKPOINTS_KEPT 2" in line


def test_what_is_there_already_needs_no_room(tmp_path, caplog, monkeypatch):
    with (tmp_path / "model_0000001.pth").open("wb") as file:
        file.truncate(200_000_000)
    assert len(said(tmp_path, caplog, monkeypatch, 800_000_000)) == 1
    assert len(said(tmp_path, caplog, monkeypatch, 799_000_000)) == 2


def test_a_finished_run_took_what_was_said(run):
    _, out = run
    (line,) = [li for li in (out / "log.txt").read_text().splitlines() if "take up to" in li]
    assert "(3 of " in line and "1 by iteration, the best, the last" in line
    assert len(list(out.glob("model_*.pth"))) == 3
    each = float(line.partition("(3 of ")[2].split()[0]) * 1e6
    size = (out / "model_final.pth").stat().st_size
    assert size == pytest.approx(each, rel=0.1)
