"""What makes a result too good is said before the training: test images that are trained on."""

import logging

import pytest

from counterpoise.inspection.duplicate_files import warn_of_shared_files
from runs import NO_TEST, train_net, write_dataset


def test_files_of_a_test_set_that_are_trained_on_are_counted_by_content(tmp_path, caplog):
    content = {"a": b"1" * 9000, "b": b"1" * 8999 + b"2", "c": b"2" * 9000, "copy": b"1" * 9000}
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    paths = {name: str(tmp_path / name) for name in (*content, "gone")}
    with caplog.at_level(logging.WARNING, "counterpoise"):
        warn_of_shared_files([paths["a"]], [paths["b"], paths["c"], paths["gone"]], "x and y")
        assert not caplog.records
        warn_of_shared_files([paths["a"], paths["c"]], [paths["b"], paths["copy"]], "x and y")
    (record,) = caplog.records
    said = record.getMessage()
    assert "x and y share files" in said and "1 of the test set" in said and paths["copy"] in said


@pytest.mark.parametrize("split", ["TRAIN", "TEST"])
def test_a_dataset_that_is_named_twice_is_refused(split, tmp_path, capsys):
    data = write_dataset(tmp_path / "shapes")
    names = str(("shapes_train", "shapes_train"))
    options = ["DATASETS.TEST", names] if split == "TEST" else [*NO_TEST, "DATASETS.TRAIN", names]
    assert train_net(data, tmp_path / "out", *options) == 2
    assert f"DATASETS.{split} names 'shapes_train' twice" in capsys.readouterr().err


def test_a_training_says_at_its_start_that_its_test_set_is_trained_on(tmp_path):
    data = write_dataset(tmp_path / "shapes")
    whole = ["DATASETS.TRAIN", "('shapes_train', 'shapes_val')", "SOLVER.MAX_ITER", "1"]
    assert train_net(data, tmp_path / "out", *whole) == 0
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "2 of the test set" in log
    assert log.index("2 of the test set") < log.index("Starting training")
