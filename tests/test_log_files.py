"""Logs are bounded however long a training is, and a resumed run writes them as a whole one."""

import errno
import logging
import re
import shutil
from types import SimpleNamespace

import pytest
from detectron2.utils.logger import _cached_log_stream, setup_logger

from counterpoise.modeling.metric_log import PERIOD
from counterpoise.training import log_files
from counterpoise.training.log_files import (
    CLASS_BYTES,
    METRICS_BYTES,
    MOST_BYTES,
    LogRotation,
    record_period,
    rotate,
)
from interruptions import at, different, results, train_until
from runs import train_net, write_dataset
from test_resume import SHORT, STEP, command


@pytest.mark.parametrize("max_iter", [1, 90_000, 499_999, 500_001, 3_000_000, 10**9])
@pytest.mark.parametrize("record", [METRICS_BYTES, 3 * CLASS_BYTES, 1204 * CLASS_BYTES])
def test_records_stay_within_the_bound_and_are_no_rarer_than_it_needs(max_iter, record):
    period = record_period(max_iter, record)
    assert period % PERIOD == 0
    assert max_iter / period * record <= MOST_BYTES
    assert period == PERIOD or max_iter / (period - PERIOD) * record > MOST_BYTES


def test_a_record_is_of_the_size_that_is_counted_with(run):
    _, out = run
    lines = (out / "metrics.json").read_text().splitlines()
    assert max(map(len, lines)) < METRICS_BYTES
    line = (out / "class_losses.jsonl").read_text().splitlines()[0]
    assert len(line) < 3 * CLASS_BYTES


def test_a_log_that_its_writers_have_open_is_moved_away_without_losing_a_line(tmp_path):
    loggers = [setup_logger(str(tmp_path), name=name) for name in ("counterpoise", "fvcore")]
    for number in range(30):
        loggers[number % 2].info("line %d", number)
        if number % 10 == 9:
            rotate(tmp_path / "log.txt")
    loggers[0].info("line 30")
    found = []
    for name in ("log.txt.1", "log.txt.2", "log.txt.3", "log.txt"):
        text = (tmp_path / name).read_text()
        assert "\0" not in text
        found.append([int(number) for number in re.findall(r"line (\d+)$", text, re.MULTILINE)])
    assert found == [list(range(10)), list(range(10, 20)), list(range(20, 30)), [30]]
    _cached_log_stream.cache_clear()


def test_the_first_part_and_the_newest_stay(tmp_path):
    log = tmp_path / "log.txt"
    (tmp_path / "log.txt.rank1").write_text("of another process")
    for number in range(1, 8):
        log.write_text(f"part {number}")
        rotate(log)
    parts = {path.name: path.read_text() for path in tmp_path.glob("log.txt.[0-9]*")}
    assert parts == {f"log.txt.{n}": f"part {n}" for n in (1, 5, 6, 7)}
    assert log.read_text() == "" and (tmp_path / "log.txt.rank1").read_text()


def watch(path):
    hook = LogRotation(path)
    hook.trainer = SimpleNamespace(iter=PERIOD - 1)
    return hook


def test_a_log_is_moved_away_above_its_size_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(log_files, "MOST_TEXT", 10)
    log = tmp_path / "log.txt.rank1"
    watch(log).after_step()  # there is none yet
    log.write_text("x" * 10)
    watch(log).after_step()
    assert log.read_text() == "x" * 10
    log.write_text("x" * 11)
    watch(log).after_step()
    assert log.read_text() == "" and (tmp_path / "log.txt.rank1.1").read_text() == "x" * 11


def test_a_log_that_cannot_be_moved_is_said_once_and_stays(tmp_path, monkeypatch, caplog):
    def full(source, target):
        target.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(log_files, "MOST_TEXT", 10)
    monkeypatch.setattr(shutil, "copyfile", full)
    log = tmp_path / "log.txt"
    log.write_text("x" * 11)
    hook = watch(log)
    for _ in range(3):
        hook.after_step()
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        f"{log} is not moved away and grows (No space left on device)"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["log.txt"]
    assert log.read_text() == "x" * 11


def test_an_overwritten_run_leaves_no_part_of_its_log(tmp_path):
    data, out = write_dataset(tmp_path / "shapes"), tmp_path / "out"
    out.mkdir()
    for name in ("log.txt.1", "log.txt.rank0.1", "log.txt.rank1", "log.txt.rank1.2", "log.txt.md"):
        (out / name).touch()
    assert train_net(data, out, "--overwrite", "SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()") == 0
    assert sorted(path.name for path in out.glob("log.txt*")) == ["log.txt", "log.txt.md"]


@pytest.mark.slow
def test_a_run_that_writes_less_often_goes_on_as_one_that_never_stopped(tmp_path):
    """With a tiny bound the numbers come every 40 iterations."""
    own = tmp_path / "own.py"
    own.write_text(
        "from counterpoise.training import log_files\n"
        "log_files.MOST_BYTES, log_files.MOST_TEXT = 3000, 2000\n"
    )
    data = write_dataset(tmp_path / "shapes")
    recipe = (f"--import={own}", *SHORT, "SOLVER.MAX_ITER", "50", "TEST.EVAL_PERIOD", "0")
    ended = train_until(command(data, tmp_path / "whole", *recipe), tmp_path / "log")
    assert ended.code == 0, ended.output
    expected = results(tmp_path / "whole")
    assert [line["iteration"] for line in expected["metrics"] if "lr" in line] == [39, 49]
    for moment in (at(STEP, 31), at(STEP, 14), None):
        flags = ["--resume"] if (tmp_path / "out").exists() else []
        ended = train_until(
            command(data, tmp_path / "out", *flags, *recipe), tmp_path / "log", moment
        )
    assert ended.code == 0, ended.output
    assert different(expected, results(tmp_path / "out")) == []
    assert (tmp_path / "out" / "log.txt.1").is_file()
