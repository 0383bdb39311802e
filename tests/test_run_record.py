"""What a run says of itself, and that its config trains the same again."""

import json
import sys
from datetime import datetime

import pytest
import torch

from counterpoise.commands import console
from counterpoise.errors import UserError
from counterpoise.training.run_record import RunRecord, command_line, hardware
from runs import NO_TEST, train_net, write_dataset


def weights(out):
    return torch.load(out / "model_final.pth", weights_only=True)["model"]


def test_a_run_records_its_command_config_seed_time_and_versions(run):
    data, out = run
    record = RunRecord.read(out / "run.json")
    assert record.command.startswith("python train_net.py --config-file ")
    assert "TEST.EVAL_PERIOD 2" in record.command
    assert record.config_files[-1] == str(data)
    assert record.seed == 1 and record.resumed_from is None
    assert datetime.fromisoformat(record.started) <= datetime.fromisoformat(record.finished)
    assert record.training_seconds > 0
    assert record.versions["torch"] == torch.__version__
    assert record.hardware == hardware()


def test_the_command_of_a_script_is_quoted_for_a_shell(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mine.py", "OUTPUT_DIR", "my run"])
    assert command_line() == "python mine.py OUTPUT_DIR 'my run'"


def test_a_resumed_run_adds_up_its_time_and_keeps_when_it_began(tmp_path):
    data = write_dataset(tmp_path / "shapes")
    assert train_net(data, tmp_path / "out", "SOLVER.MAX_ITER", "2", *NO_TEST) == 0
    first = RunRecord.read(tmp_path / "out" / "run.json")
    assert train_net(data, tmp_path / "out", "--resume", "SOLVER.MAX_ITER", "4", *NO_TEST) == 0
    second = RunRecord.read(tmp_path / "out" / "run.json")
    assert second.resumed_from == 2 and second.started == first.started
    assert second.training_seconds > first.training_seconds
    assert "--resume" in second.command


def test_a_run_that_fails_has_no_end(tmp_path, capsys):
    data = write_dataset(tmp_path / "shapes")
    assert train_net(data, tmp_path / "out", "SOLVER.MAX_ITER", "1", *NO_TEST) == 0
    for path in (tmp_path / "shapes" / "images").iterdir():
        path.unlink()
    assert train_net(data, tmp_path / "again") == 2
    assert RunRecord.read(tmp_path / "again" / "run.json").finished is None


@pytest.mark.parametrize("seed", ["5", "-1"])
def test_the_config_that_a_run_leaves_trains_the_same_from_anywhere(tmp_path, monkeypatch, seed):
    data = write_dataset(tmp_path / "shapes")
    monkeypatch.chdir(tmp_path)
    pretrained = ("MODEL.WEIGHTS", "first/model_final.pth")  # relative to the working directory
    short = (*NO_TEST, "SOLVER.MAX_ITER", "2", "SEED", seed)
    assert train_net(data, tmp_path / "first", *short) == 0
    assert train_net(data, tmp_path / "second", *short, *pretrained) == 0
    assert RunRecord.read(tmp_path / "second" / "run.json").seed >= 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = tmp_path / "again"
    config = ["--config-file", str(tmp_path / "second" / "config.yaml")]
    assert console.train_net([*config, "OUTPUT_DIR", str(again)]) == 0
    expected, actual = weights(tmp_path / "second"), weights(again)
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_two_runs_left_to_chance_differ(tmp_path):
    data = write_dataset(tmp_path / "shapes")
    short = (*NO_TEST, "SOLVER.MAX_ITER", "1", "SEED", "-1")
    for name in ("a", "b"):
        assert train_net(data, tmp_path / name, *short) == 0
    assert (
        RunRecord.read(tmp_path / "a" / "run.json").seed
        != RunRecord.read(tmp_path / "b" / "run.json").seed
    )


def test_an_evaluation_in_the_folder_of_a_run_leaves_its_config_alone(tmp_path):
    data = write_dataset(tmp_path / "shapes")
    out = tmp_path / "out"
    assert train_net(data, out, "SOLVER.MAX_ITER", "1", *NO_TEST) == 0
    config, record = (out / "config.yaml").read_text(), (out / "run.json").read_text()
    assert train_net(data, out, "--eval-only", "MODEL.WEIGHTS", str(out / "model_final.pth")) == 0
    assert (out / "config.yaml").read_text() == config
    assert (out / "run.json").read_text() == record


def test_overwrite_removes_all_that_a_run_leaves_and_nothing_of_the_user(tmp_path):
    data = write_dataset(tmp_path / "shapes")
    out = tmp_path / "out"
    assert train_net(data, out, "TEST.EVAL_PERIOD", "2") == 0
    choice = ["thresholds", "--run", str(out), "DATASETS.VAL", "shapes_val"]
    assert console.main(choice) == 0
    (out / "log.txt.rank3").touch()  # of a run in more processes
    (out / "model.onnx").touch()  # of an export
    mark = b"of the earlier run"
    earlier = [path for path in out.rglob("*") if path.is_file()]
    assert {"thresholds.json", "report.html", "model_best.pth"} <= {p.name for p in earlier}
    for path in (*earlier, out / "notes.txt"):
        path.write_bytes(mark + (path.read_bytes() if path.exists() else b""))
    assert train_net(data, out, "--overwrite", *NO_TEST, "SOLVER.MAX_ITER", "1") == 0
    files = [path for path in out.rglob("*") if path.is_file()]
    assert [path.name for path in files if mark in path.read_bytes()] == ["notes.txt"]
    assert not (out / "thresholds.json").exists() and not (out / "log.txt.rank3").exists()
    log = (out / "log.txt").read_text()
    assert log.count("Training on 6 images") == 1 and "for 1 iterations" in log


def test_overwrite_keeps_the_log_of_a_run_that_it_does_not_replace(run):
    data, out = run
    earlier = (out / "log.txt").read_text()
    assert train_net(data, out, "--overwrite", "DATASETS.TRAIN", "nowhere") == 2
    assert (out / "log.txt").read_text().startswith(earlier)


@pytest.mark.parametrize("key", ["MODEL.WEIGHTS", "BALANCE.SCORE_THRESHOLDS"])
def test_overwrite_removes_no_file_that_the_new_run_needs(run, capsys, key):
    data, out = run
    file = out / ("model_best.pth" if key == "MODEL.WEIGHTS" else "thresholds.json")
    if not file.exists():
        file.write_text(json.dumps({"thresholds": {"disc": 0.5, "bar": 0.5}}))
    before = sorted(path.name for path in out.iterdir())
    assert train_net(data, out, "--overwrite", key, str(file)) == 2
    said = capsys.readouterr().err
    assert f"--overwrite would remove {file}, which {key} names" in said
    assert sorted(path.name for path in out.iterdir()) == before
    (out / "thresholds.json").unlink(missing_ok=True)


@pytest.mark.parametrize("text", ["{", "[]", '{"command": "x"}'])
def test_a_record_that_cannot_be_used_is_named(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"run\.json"):
        RunRecord.read(tmp_path / "run.json")


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = RunRecord("python x.py", ("a.yaml",), 3)
    assert RunRecord.read(record.write(tmp_path / "run.json")) == record
    assert json.loads((tmp_path / "run.json").read_text())["finished"] is None


@pytest.mark.parametrize(
    "key, value",
    [
        ("started", None),
        ("finished", -1),
        ("finished", "yesterday"),
        ("training_seconds", None),
        ("training_seconds", 10**400),
        ("versions", None),
        ("hardware", -1),
    ],
)
def test_a_record_with_a_value_of_another_type_is_refused(tmp_path, key, value):
    path = RunRecord("python train_net.py", (), 1).write(tmp_path / "run.json")
    content = json.loads(path.read_text()) | {key: value}
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"run.json.{key}: .*: remove the file"):
        RunRecord.read(path)
