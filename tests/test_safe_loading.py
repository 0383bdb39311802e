"""Weights of strangers are read as numbers: no suffix makes the program run code."""

import pickle
import tarfile
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoise.errors import UserError
from counterpoise.modeling.safe_loading import check_pickle, load_tensors
from counterpoise.modeling.training_record import RECORD_KEY, read_training_record
from counterpoise.training.checkpoints import read_checkpoint
from counterpoise.training.step_bundle import read_step
from models import build, quick_config
from runs import train_net


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def plain(path, content):
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("flag", ["--eval-only", "--overwrite"])
@pytest.mark.parametrize(
    "suffix, write",
    [
        (".pkl", plain),
        (".pth", torch.save),
        (".pth", plain),
        (".pyth", torch.save),
        (".bin", plain),
    ],
)
def test_weights_that_would_run_code_are_refused_and_do_not_run_it(
    run, tmp_path, capsys, suffix, write, flag
):
    weights, sign = tmp_path / f"weights{suffix}", tmp_path / "ran"
    content = {"model": {"a": Bomb(sign)}, "model_state": {"a": Bomb(sign)}, "__author__": "x"}
    write(content, weights) if write is torch.save else write(weights, content)
    assert train_net(run[0], tmp_path / "out", flag, "MODEL.WEIGHTS", str(weights)) == 2
    captured = capsys.readouterr()
    assert f"MODEL.WEIGHTS {weights} cannot be read as a checkpoint" in captured.err
    assert "Traceback" not in captured.err and not sign.exists()


def test_tar_files_in_which_old_versions_of_torch_run_code_are_not_opened(tmp_path):
    path = tmp_path / "a.pth"
    with tarfile.open(path, "w") as tar:
        tar.add(__file__, "pickle")
    for read in (load_tensors, read_step):
        with pytest.raises((pickle.UnpicklingError, UserError)) as refused:
            read(path)
        assert "tar form" in str(refused.value) or "UnpicklingError" in str(refused.value)


@pytest.mark.parametrize(
    "record",
    [{}, {"class_names": [1], "images": [1], "boxes": [1], "weights": []},
     {"class_names": ["a"], "images": [1], "boxes": [], "weights": []}, "text"],
)  # fmt: skip
def test_a_record_of_another_program_is_taken_for_none(tmp_path, record):
    path = tmp_path / "a.pth"
    torch.save({"model": {}, RECORD_KEY: record}, path)
    assert read_training_record(str(path)) is None


@pytest.mark.parametrize("code", [*np.typecodes["AllInteger"], *"?efd"])
def test_numbers_and_arrays_of_numpy_in_a_checkpoint_are_read(tmp_path, code):
    state = {"best": np.ones(1, code)[0], "all": np.arange(2).astype(code)}
    torch.save({"model": {}, "trainer": {"hooks": {"Best": state}}}, tmp_path / "a.pth")
    found = read_checkpoint(tmp_path / "a.pth")["trainer"]["hooks"]["Best"]
    assert found["best"] == 1 and found["best"].dtype == code
    assert found["all"].tolist() == [0, 1] and found["all"].dtype == code


def test_what_else_a_checkpoint_holds_is_named(tmp_path):
    torch.save({"model": {}, "trainer": {"begun": date(2026, 1, 1)}}, tmp_path / "a.pth")
    said = "it asks for datetime.date, which could run code"
    assert read_checkpoint(tmp_path / "a.pth") == said


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickled_arrays_of_the_model_zoo_are_read(run, tmp_path, protocol):
    model = build(quick_config("SOLVER.MAX_ITER", "1", classes=2))
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    content = {"model": arrays, "__author__": "Detectron2", "scalar": np.float32(1)}
    path = tmp_path / "zoo.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    check_pickle(path)
    short = ("SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()", "MODEL.WEIGHTS", str(path))
    assert train_net(run[0], tmp_path / "out", *short) == 0


@pytest.mark.parametrize("content", [b"", b"no pickle", b"\x80\x04N."])
@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".pyth"])
def test_a_file_that_holds_no_weights_is_refused_in_a_sentence(
    run, tmp_path, capsys, suffix, content
):
    weights = tmp_path / f"weights{suffix}"
    weights.write_bytes(content)
    assert train_net(run[0], tmp_path / "out", "MODEL.WEIGHTS", str(weights)) == 2
    captured = capsys.readouterr()
    assert str(weights) in captured.err and "Traceback" not in captured.err
