"""``counterpoise batches``: what a training sees, drawn and counted."""

import re

import pytest

from counterpoise.commands import batches as command
from counterpoise.commands import console
from models import CONFIGS
from runs import SMALL, write_dataset


def batches(data, out, *arguments):
    files = ["--config-file", str(CONFIGS / "quick" / "baseline.yaml"), "--config-file", str(data)]
    return console.main(["batches", *files, "--out", str(out), *arguments, *SMALL])


@pytest.mark.parametrize("composed", [(), ("INPUT.MOSAIC.PROB", "1.0")])
def test_as_many_images_as_asked_for_are_drawn_and_their_boxes_counted(tmp_path, capsys, composed):
    data = write_dataset(tmp_path / "shapes")
    assert batches(data, tmp_path / "out", "--images", "5", *composed) == 0
    said = capsys.readouterr().out
    total = int(re.search(r"5 images with (\d+) box", said)[1])
    rows = [re.search(rf"^{name} +(\d+)$", said, re.MULTILINE)[1] for name in ("disc", "bar")]
    assert sum(map(int, rows)) == total > 0
    page = (tmp_path / "out" / "batches.html").read_text()
    assert page.count("data:image/jpeg") == 5


def test_the_time_is_that_of_all_images_that_were_loaded(tmp_path, capsys, monkeypatch):
    data, times = write_dataset(tmp_path / "shapes"), iter([0.0, 0.8])
    monkeypatch.setattr(command.time, "perf_counter", lambda: next(times))
    assert batches(data, tmp_path / "out", "--images", "5", "SOLVER.IMS_PER_BATCH", "4") == 0
    assert "100 ms of one worker each" in " ".join(capsys.readouterr().out.split())


def test_no_images_are_refused(tmp_path, capsys):
    assert batches(tmp_path / "none.yaml", tmp_path, "--images", "0") == 2
    assert "--images is 0, expected at least 1" in capsys.readouterr().err


def test_without_a_training_set_it_says_so(tmp_path, capsys):
    files = ["--config-file", str(CONFIGS / "quick" / "baseline.yaml")]
    assert console.main(["batches", *files, "--out", str(tmp_path)]) == 2
    assert "DATASETS.TRAIN is empty" in capsys.readouterr().err
