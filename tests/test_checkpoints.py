"""Checkpoints are whole or absent; a damaged one is named and the one before it is used."""

import errno
import logging
import os
import resource
from types import SimpleNamespace

import pytest
import torch
from detectron2.engine import hooks
from detectron2.utils.events import EventStorage, JSONWriter
from torch import nn

from counterpoise.balance.class_counts import ClassCounts
from counterpoise.errors import RunFailed, UserError
from counterpoise.modeling.checkpoint import AVERAGE_KEY, BalancedCheckpointer, not_finite
from counterpoise.modeling.training_record import RECORD_KEY, TrainingRecord
from counterpoise.modeling.weight_sources import ClassTable
from counterpoise.training import hooks as training_hooks
from counterpoise.training import trainer
from counterpoise.training.checkpoints import (
    BestCheckpointer,
    CheckpointWriter,
    newest_checkpoint,
    numbered_checkpoints,
    remove_unfinished,
)
from counterpoise.training.stopping import StopRequest
from counterpoise.training.weight_average import WeightAverage
from counterpoise.utils.output_dir import FINAL_CHECKPOINT
from models import build, quick_config
from runs import NO_TEST, train_net, write_dataset


class Poison:
    """A state that fails in the middle of being pickled."""

    def state_dict(self):
        return {"before": torch.zeros(1000), "poison": self}

    def load_state_dict(self, _):
        raise AssertionError

    def __reduce__(self):
        raise RuntimeError("poison pickle")


def checkpointer(folder, **parts):
    return BalancedCheckpointer(nn.Linear(100, 100), str(folder), **parts)


def writer(folder, keep=-1, saver=None):
    made = CheckpointWriter(
        saver or checkpointer(folder), 1, 0, keep, StopRequest(), lambda: {"mark": 1}
    )
    made.trainer = SimpleNamespace(iter=0, max_iter=100)
    return made


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def record(*class_names):
    ones = (1,) * len(class_names)
    return TrainingRecord(ClassTable(ClassCounts(class_names, ones, ones), None))


@pytest.mark.parametrize("agnostic", [True, False])
def test_fine_tuning_for_other_classes_keeps_the_rows_that_all_classes_share(tmp_path, agnostic):
    cfg = quick_config(
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", str(agnostic),
        "MODEL.MASK_ON", "True",
        "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead",
        "MODEL.ROI_MASK_HEAD.CONV_DIM", "8",
        "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", str(agnostic),
    )  # fmt: skip
    source, tuned, fresh = build(cfg), build(cfg, seed=1), build(cfg, seed=1)
    parts = {RECORD_KEY: record("a", "b", "c")}
    BalancedCheckpointer(source, str(tmp_path), **parts).save("model")
    parts = {RECORD_KEY: record("x", "y", "z")}
    path = str(tmp_path / "model.pth")
    BalancedCheckpointer(tuned, **parts).load(path, checkpointables=[])
    source, tuned, fresh = (model.roi_heads.state_dict() for model in (source, tuned, fresh))
    for layer in ("box_predictor.bbox_pred", "mask_head.predictor"):
        expected = source if agnostic else fresh
        assert torch.equal(tuned[f"{layer}.weight"], expected[f"{layer}.weight"])
    scores = "box_predictor.cls_score.weight"
    assert torch.equal(tuned[scores], fresh[scores])


def test_a_writer_that_fails_half_way_leaves_the_checkpoint_before(tmp_path):
    checkpointer(tmp_path).save("model_0000001")
    with pytest.raises(UserError, match=r"model_0000002\.pth cannot be written .*poison pickle"):
        checkpointer(tmp_path, trainer=Poison()).save("model_0000002")
    assert names(tmp_path) == ["last_checkpoint", "model_0000001.pth"]
    assert newest_checkpoint(tmp_path)[0].name == "model_0000001.pth"


def test_a_limit_of_the_disk_is_said_once_and_the_training_goes_on(tmp_path, caplog):
    saving = writer(tmp_path)
    saving.after_step()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        for saving.trainer.iter in (1, 2):
            saving.after_step()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (said,) = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert "model_0000001.pth cannot be written (File too large)" in said
    assert names(tmp_path) == ["last_checkpoint", "model_0000000.pth"]
    saving.trainer.iter = 3
    saving.after_step()
    assert newest_checkpoint(tmp_path)[0].name == "model_0000003.pth"


def test_the_last_checkpoint_that_cannot_be_written_ends_the_training(tmp_path):
    saving = writer(tmp_path, saver=checkpointer(tmp_path, trainer=Poison()))
    saving.trainer.max_iter = 1
    with pytest.raises(UserError, match=r"model_final\.pth cannot be written"):
        saving.after_step()


def poisoned(folder, value, name="weight", **parts):
    saver = checkpointer(folder, **parts)
    with torch.no_grad():
        saver.model.get_parameter(name)[-1] = value
    return saver


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_end_the_training_and_the_checkpoint_before_stays(
    tmp_path, value
):
    checkpointer(tmp_path).save("model_0000001")
    saving = writer(tmp_path, saver=poisoned(tmp_path, value, "bias"))
    saving.trainer.iter = 2
    with pytest.raises(RunFailed, match=r"1 of 2 weights are not finite, such as bias, so .*0002"):
        saving.after_step()
    assert names(tmp_path) == ["last_checkpoint", "model_0000001.pth"]
    assert newest_checkpoint(tmp_path)[0].name == "model_0000001.pth"


def test_averaged_weights_that_are_not_finite_are_named_as_such(tmp_path):
    average = WeightAverage(nn.Linear(100, 100), 0.9)
    average.weights["weight"][0, 0] = float("nan")
    saver = checkpointer(tmp_path, **{AVERAGE_KEY: average})
    with pytest.raises(RunFailed, match="1 of 4 weights are not finite, such as averaged weight"):
        saver.save("model_best")
    broken = poisoned(tmp_path, float("nan"), **{AVERAGE_KEY: WeightAverage(nn.Linear(1, 1), 0.9)})
    with pytest.raises(RunFailed, match="such as weight, so"):
        broken.save("model_best")
    assert names(tmp_path) == []


def test_tensors_that_are_not_finite_are_found_among_all_kinds():
    state = {
        "whole": torch.tensor([1, 2]),
        "empty": torch.zeros(0),
        "half": torch.tensor([1.0, float("inf")], dtype=torch.float16),
        "fine": torch.full((3,), 3e38),
        "brain": torch.tensor(float("nan"), dtype=torch.bfloat16),
        "flag": torch.tensor(True),
    }
    assert not_finite(state) == ["half", "brain"]
    assert not_finite({}) == []


@pytest.mark.parametrize("last", [True, False])
def test_a_training_whose_step_leads_to_infinity_ends_in_one_sentence(tmp_path, capsys, last):
    """A step that is too long from finite gradients, as at the largest rate that a float holds."""
    own = tmp_path / "own.py"
    own.write_text(
        "import torch\n"
        "from detectron2.engine import hooks\n"
        "timed = hooks.IterationTimer.after_step\n"
        "def spoil(self):\n"
        "    timed(self)\n"
        "    if self.trainer.iter == 1:\n"
        "        next(self.trainer.model.parameters()).data.fill_(float('inf'))\n"
        "hooks.IterationTimer.after_step = spoil\n"
    )
    keys = ("SOLVER.MAX_ITER", "2" if last else "3", "SOLVER.CHECKPOINT_PERIOD", "1")
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hooks.IterationTimer, "after_step", hooks.IterationTimer.after_step)
        code = train_net(write_dataset(tmp_path / "shapes"), out, f"--import={own}", *keys)
    captured = capsys.readouterr()
    assert code == 1 and "Traceback" not in captured.out + captured.err
    assert "weights are not finite, such as backbone." in captured.err
    assert [path.name for path in out.glob("*.pth")] == ["model_0000000.pth"]
    assert (out / "last_checkpoint").read_text() == "model_0000000.pth"
    assert not (out / "evaluation.json").exists()


def test_a_run_that_fails_in_its_last_iteration_is_not_evaluated(tmp_path, monkeypatch, capsys):
    """In there a process that fails alone would wait for others, which wait for it."""
    write, evaluated = CheckpointWriter._write, []

    def full(self, file_name):
        if file_name == FINAL_CHECKPOINT:
            raise UserError("no space left")
        write(self, file_name)

    monkeypatch.setattr(CheckpointWriter, "_write", full)
    monkeypatch.setattr(trainer, "evaluate", lambda *_: evaluated.append(1))
    data = write_dataset(tmp_path / "shapes")
    assert train_net(data, tmp_path / "out", "SOLVER.MAX_ITER", "1") == 2
    assert "no space left" in capsys.readouterr().err and not evaluated


def test_a_disk_that_is_full_for_the_metrics_does_not_end_a_training(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(training_hooks, "append_class_losses", full)
    monkeypatch.setattr(JSONWriter, "write", full)
    data, out = write_dataset(tmp_path / "shapes"), tmp_path / "out"
    assert train_net(data, out, "SOLVER.MAX_ITER", "40", *NO_TEST) == 0
    said = (out / "log.txt").read_text()
    assert said.count("Metrics cannot be written") == 2  # once for each of the two files
    assert (out / "model_final.pth").is_file()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only_is_said(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match=r"cannot be written \(Permission denied\)"):
            checkpointer(tmp_path).save("model_0000001")
    finally:
        tmp_path.chmod(0o700)


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "torn":
        del content[len(content) // 2 :]
    elif how == "empty":
        content.clear()
    else:  # within the weights, where torch.load does not look
        content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["torn", "empty", "flipped"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, caplog, how):
    saver = checkpointer(tmp_path)
    for iteration in (1, 3, 5):
        saver.save(f"model_{iteration:07d}", iteration=iteration)
    damage(tmp_path / "model_0000005.pth", how)
    path, content = newest_checkpoint(tmp_path)
    assert path.name == "model_0000003.pth" and content["iteration"] == 3
    assert "model_0000005.pth is torn or corrupt" in caplog.text


def test_a_run_without_a_whole_checkpoint_is_refused(tmp_path):
    checkpointer(tmp_path).save("model_0000001")
    damage(tmp_path / "model_0000001.pth", "torn")
    with pytest.raises(UserError, match="none of the 1 checkpoints in"):
        newest_checkpoint(tmp_path)


def test_last_checkpoint_cannot_lead_out_of_its_folder(tmp_path, caplog):
    (tmp_path / "out").mkdir()
    checkpointer(tmp_path).save("model_0000009")
    checkpointer(tmp_path / "out").save("model_0000001")
    for name in ("../model_0000009.pth", str(tmp_path / "model_0000009.pth"), "gone.pth", ""):
        (tmp_path / "out" / "last_checkpoint").write_text(name)
        assert newest_checkpoint(tmp_path / "out")[0].name == "model_0000001.pth"
        assert "which is not in its folder" in caplog.text
        caplog.clear()


def test_the_final_checkpoint_of_a_run_that_was_extended_is_not_the_newest(tmp_path):
    saver = checkpointer(tmp_path)
    saver.save("model_final", iteration=3)
    saver.save("model_0000005", iteration=5)
    (tmp_path / "last_checkpoint").unlink()
    assert newest_checkpoint(tmp_path)[0].name == "model_0000005.pth"
    saver.save("model_final", iteration=7)
    (tmp_path / "last_checkpoint").unlink()
    assert newest_checkpoint(tmp_path)[0].name == "model_final.pth"


def test_a_folder_without_a_checkpoint_has_none(tmp_path):
    assert newest_checkpoint(tmp_path) is None


def test_the_best_checkpoint_is_not_what_a_run_goes_on_from(tmp_path):
    saver = checkpointer(tmp_path)
    saver.save("model_0000001")
    saver.save("model_best")
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"


def test_the_last_ones_are_kept_and_those_of_other_names(tmp_path):
    saving = writer(tmp_path, keep=2)
    saving.checkpointer.save("model_best")
    saving.trainer.max_iter = 5
    for saving.trainer.iter in range(5):
        saving.after_step()
    assert [p.name for p in numbered_checkpoints(tmp_path)] == [
        "model_0000003.pth",
        "model_0000004.pth",
    ]
    assert (tmp_path / "model_best.pth").exists() and (tmp_path / "model_final.pth").exists()


def test_the_one_just_written_stays_before_a_torn_one_of_a_higher_number(tmp_path):
    saver = BalancedCheckpointer(nn.Linear(2, 2), str(tmp_path))
    saver.save("model_0000049", iteration=49)
    saver.save("model_0000099", iteration=99)
    torn = tmp_path / "model_0000099.pth"
    torn.write_bytes(torn.read_bytes()[:200])
    writer = CheckpointWriter(saver, 50, 0, 1, StopRequest(), dict)
    writer.trainer = SimpleNamespace(iter=59, max_iter=1000)
    writer.save()
    assert newest_checkpoint(tmp_path)[0].name == "model_0000059.pth"


def test_a_best_checkpoint_that_was_not_written_is_not_the_best(tmp_path, monkeypatch):
    saver = BalancedCheckpointer(nn.Linear(2, 2), str(tmp_path))
    writer = CheckpointWriter(saver, 50, 10, 0, StopRequest(), dict)
    best = BestCheckpointer(writer, "bbox/AP")

    def full(name, **_):
        raise UserError("no room") from OSError("no room")

    for iteration, value in ((9, 30.0), (19, 29.0)):
        with EventStorage(iteration) as storage, monkeypatch.context() as patch:
            if value == 30:
                patch.setattr(saver, "save", full)
            best.trainer = SimpleNamespace(iter=iteration, max_iter=100, storage=storage)
            storage.put_scalar("bbox/AP", value)
            best.after_step()
    assert best.best_metric == 29 and (tmp_path / "model_best.pth").is_file()


def test_detectron2s_own_periodic_checkpointer_is_the_measure(tmp_path):
    """Same names at the same iterations."""
    (tmp_path / "own").mkdir()
    (tmp_path / "stock").mkdir()
    own = writer(tmp_path / "own")
    own.period = 3
    stock = hooks.PeriodicCheckpointer(checkpointer(tmp_path / "stock"), 3)
    trainer = SimpleNamespace(iter=0, max_iter=8)
    for hook in (own, stock):
        hook.trainer = trainer
        hook.before_train()
        for trainer.iter in range(8):
            hook.after_step()
    assert names(tmp_path / "own") == names(tmp_path / "stock")


def test_what_a_killed_writer_left_is_removed(tmp_path):
    for name in (".model_0000001.pth.123.tmp", ".notes.tmp", "mine.tmp"):
        (tmp_path / name).touch()
    remove_unfinished(tmp_path)
    assert names(tmp_path) == [".notes.tmp", "mine.tmp"]
