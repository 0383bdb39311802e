"""What a training says of its progress beside Detectron2's line."""

import logging

import pytest
from detectron2.utils.events import EventStorage

from counterpoise.training.hooks import ProgressPrinter


def said(caplog, done, max_iter=1000, times=(0.5,), period=0, evaluates=True, evaluations=()):
    """The line after `done` iterations of 8 images."""
    caplog.set_level(logging.INFO)
    printer = ProgressPrinter(8, period, evaluates, lambda: max_iter, evaluations)
    with EventStorage() as storage:
        for storage.iter, seconds in enumerate(times):
            storage.put_scalar("time", seconds)
        storage.iter = done - 1
        printer.write()
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    "done, period, evaluations, left",
    [
        (200, 0, [], "0:06:40 and 1 evaluation"),
        (200, 0, [20.0], "0:07:00 with 1 evaluation of 0:00:20"),
        (200, 100, [20.0, 10.0, 90.0], "0:09:20 with 8 evaluations of 0:00:20"),  # 300 to 1000
        (250, 100, [20.0], "0:08:55 with 8 evaluations of 0:00:20"),
        (999, 100, [20.0], "0:00:20 with 1 evaluation of 0:00:20"),
        (1000, 100, [20.0], "0:00:20 with 1 evaluation of 0:00:20"),
        (200, 300, [60.0], "0:10:40 with 4 evaluations of 0:01:00"),  # 300, 600, 900 and the end
    ],
)
def test_the_time_left_counts_the_evaluations_to_come(caplog, done, period, evaluations, left):
    (line,) = said(caplog, done, period=period, evaluations=evaluations)
    assert line == f"16 images/s  left: {left}"


def test_a_training_without_a_test_set_has_its_iterations_left(caplog):
    (line,) = said(caplog, 200, evaluates=False)
    assert line == "16 images/s  left: 0:06:40"


def test_images_per_second_are_those_of_now_and_a_slow_step_does_not_count(caplog):
    times = [*[2.0] * 100, *[0.1] * 19, 60.0]
    (line,) = said(caplog, 120, times=times, evaluates=False)
    assert line.startswith("80 images/s  left: 0:29:20")


def test_nothing_is_said_without_a_time_or_behind_the_end(caplog):
    assert said(caplog, 20, times=()) == []
    assert said(caplog, 1001) == []
