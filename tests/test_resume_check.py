"""A resumed run that would not be the one of its checkpoint is refused, and --force resumes it."""

import json
import shutil

import pytest
import torch
import yaml
from detectron2.engine import DefaultTrainer
from detectron2.engine.hooks import TorchProfiler

from counterpoise.training.resume_check import changed_keys
from counterpoise.training.trainer import BalancedTrainer
from models import quick_config
from runs import NO_TEST, train_net, write_dataset

SHORT = ("SOLVER.MAX_ITER", "2", *NO_TEST)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A short run: (config of the dataset, OUTPUT_DIR)."""
    folder = tmp_path_factory.mktemp("stopped")
    data = write_dataset(folder / "shapes")
    assert train_net(data, folder / "out", *SHORT) == 0
    return data, folder / "out"


@pytest.fixture
def copied(stopped, tmp_path):
    data, out = stopped
    return data, shutil.copytree(out, tmp_path / "out")


def config(*overrides):
    return yaml.safe_load(quick_config(*overrides).dump())


@pytest.mark.parametrize(
    "key, value",
    [
        ("SOLVER.BASE_LR", "0.5"),
        ("SEED", "7"),
        ("BALANCE.ROI_LOSS.GAMMA", "1.5"),
        ("INPUT.COLOR_JITTER", "0.2"),
        ("SOLVER.STEPS", "(3,)"),
        ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),
    ],
)
def test_a_key_that_shapes_the_training_is_named(key, value):
    (said,) = changed_keys(config(), quick_config(key, value))
    assert said.startswith(f"{key} is ") and " and was " in said


@pytest.mark.parametrize(
    "key, value",
    [
        ("DATALOADER.NUM_WORKERS", "3"),
        ("SOLVER.CHECKPOINT_PERIOD", "3"),
        ("SOLVER.CHECKPOINTS_KEPT", "3"),
        ("TEST.EVAL_PERIOD", "3"),
        ("INPUT.MIN_SIZE_TEST", "96"),
        ("MODEL.WEIGHTS", "else.pth"),
        ("OUTPUT_DIR", "else"),
        ("SOLVER.MAX_ITER", "9999"),
    ],
)
def test_a_key_that_does_not_is_free(key, value):
    assert changed_keys(config(), quick_config(key, value)) == []


@pytest.mark.parametrize(
    "setting",
    [
        ("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"),
        ("INPUT.COMPOSE_UNTIL", "0.9"),
        ("SOLVER.RESCALE_INTERVAL", "True"),
        ("SOLVER.WARMUP_ITERS", "700"),
    ],
)
@pytest.mark.parametrize("before, now", [(600, 9999), (9999, 600)])
def test_the_last_iteration_is_free_only_where_the_steps_before_do_not_depend_on_it(
    setting, before, now
):
    was = config(*setting, "SOLVER.MAX_ITER", str(before))
    (said,) = changed_keys(was, quick_config(*setting, "SOLVER.MAX_ITER", str(now)))
    assert said == f"SOLVER.MAX_ITER is {now} and was {before}"


def test_a_key_that_the_checkpoint_does_not_know_had_its_default():
    before = config()
    del before["MODEL"]["EMA"], before["SOLVER"]["OPTIMIZER"]
    assert changed_keys(before, quick_config("SOLVER.OPTIMIZER", "SGD")) == []
    (said,) = changed_keys(before, quick_config("SOLVER.OPTIMIZER", "AdamW"))
    assert said == "SOLVER.OPTIMIZER is AdamW and was SGD"


def test_another_config_is_refused_and_leaves_the_run_as_it_was(stopped, capsys):
    data, out = stopped
    before = (out / "config.yaml").read_text(), (out / "metrics.json").read_text()
    other = ("SOLVER.BASE_LR", "0.5", "SOLVER.MAX_ITER", "3", *NO_TEST)
    assert train_net(data, out, "--resume", *other) == 2
    said = capsys.readouterr().err
    assert "another config (SOLVER.BASE_LR is 0.5 and was " in said and "--force" in said
    assert len(said.splitlines()) == 1
    assert ((out / "config.yaml").read_text(), (out / "metrics.json").read_text()) == before


def test_force_continues_with_another_config(copied):
    data, out = copied
    other = ("SOLVER.BASE_LR", "0.5", "SOLVER.MAX_ITER", "3", *NO_TEST)
    assert train_net(data, out, "--resume", "--force", *other) == 0
    assert torch.load(out / "model_final.pth", weights_only=True)["iteration"] == 2
    assert "BASE_LR: 0.5" in (out / "config.yaml").read_text()


def test_a_forced_run_steps_by_the_rates_of_its_own_config(tmp_path):
    data, out = write_dataset(tmp_path / "shapes"), tmp_path / "out"
    recipe = ("SOLVER.OPTIMIZER", "SGD", "SOLVER.WARMUP_ITERS", "0", *NO_TEST)
    assert train_net(data, out, *recipe, "SOLVER.MAX_ITER", "2", "SOLVER.BASE_LR", "0.1") == 0
    other = ("SOLVER.BASE_LR", "0.004", "SOLVER.MOMENTUM", "0.5", "SOLVER.WEIGHT_DECAY", "0.02")
    more = (*recipe, *other, "SOLVER.MAX_ITER", "3")
    assert train_net(data, out, "--resume", "--force", *more) == 0
    content = torch.load(out / "model_final.pth", weights_only=True)
    (group, *_) = content["trainer"]["_trainer"]["optimizer"]["param_groups"]
    assert (group["momentum"], group["weight_decay"]) == (0.5, 0.02)
    assert group["lr"] == 0.004
    last = json.loads((out / "metrics.json").read_text().splitlines()[-1])
    assert last["lr"] == 0.004  # of the first step behind the checkpoint


@pytest.mark.parametrize(
    "key, value",
    [("SOLVER.OPTIMIZER", "SGD"), ("MODEL.TORCHVISION.FREEZE_AT", "2")],
)
def test_another_optimizer_is_refused_in_a_sentence_even_when_forced(stopped, capsys, key, value):
    data, out = stopped
    more = (key, value, "SOLVER.MAX_ITER", "3", *NO_TEST)
    assert train_net(data, out, "--resume", "--force", *more) == 2
    said = capsys.readouterr().err
    assert "with another SOLVER.OPTIMIZER, other frozen layers" in said
    assert "Traceback" not in said


def change_checkpoint(out, change):
    content = torch.load(out / "model_final.pth", weights_only=True)
    change(content)
    torch.save(content, out / "model_final.pth")


@pytest.mark.parametrize("part", ["trainer", "run_state"])
def test_a_checkpoint_without_the_state_of_a_run_is_refused_unless_forced(copied, capsys, part):
    data, out = copied
    change_checkpoint(out, lambda content: content.pop(part))
    more = ("SOLVER.MAX_ITER", "3", *NO_TEST)
    assert train_net(data, out, "--resume", *more) == 2
    assert "because of no state of a run beside its weights" in capsys.readouterr().err
    assert train_net(data, out, "--resume", "--force", *more) == 0


def test_another_number_of_processes_is_refused_unless_forced(copied, capsys):
    data, out = copied
    change_checkpoint(
        out, lambda c: c["run_state"].update(processes=c["run_state"]["processes"] * 2)
    )
    more = ("SOLVER.MAX_ITER", "3", *NO_TEST)
    assert train_net(data, out, "--resume", *more) == 2
    assert "another number of processes (1, and it was 2)" in capsys.readouterr().err
    assert train_net(data, out, "--resume", "--force", *more) == 0


def test_a_run_on_a_loader_of_ones_own_is_resumed(copied, monkeypatch):
    """Where it stands is not known, so it starts again."""
    data, out = copied
    own = classmethod(DefaultTrainer.build_train_loader.__func__)
    monkeypatch.setattr(BalancedTrainer, "build_train_loader", own)
    assert train_net(data, out, "--resume", "SOLVER.MAX_ITER", "3", *NO_TEST) == 0


def test_a_hook_of_ones_own_that_ends_in_a_step_what_it_began_there_is_resumed(copied, monkeypatch):
    """The resumed run does first what hooks behind the checkpoint do in its iteration."""
    data, out = copied
    profiler = TorchProfiler(lambda trainer: False, str(out))
    stock = BalancedTrainer.build_hooks
    monkeypatch.setattr(BalancedTrainer, "build_hooks", lambda self: [*stock(self), profiler])
    assert train_net(data, out, "--resume", "SOLVER.MAX_ITER", "3", *NO_TEST) == 0


def test_boxes_that_moved_are_noticed(copied, tmp_path, capsys):
    data, out = copied
    moved = shutil.copytree(data.parent, tmp_path / "shapes")
    labels = json.loads((moved / "labels.json").read_text())
    for annotation in labels["annotations"]:
        annotation["bbox"][0] += 1
    (moved / "labels.json").write_text(json.dumps(labels))
    more = ("SOLVER.MAX_ITER", "3", *NO_TEST)
    assert train_net(moved / "data.yaml", out, "--resume", *more) == 2
    assert "other images or boxes in the training set" in capsys.readouterr().err


def test_another_class_list_is_refused_even_when_forced_where_layers_differ(
    copied, tmp_path, capsys
):
    _, out = copied
    other = write_dataset(tmp_path / "shapes", names=("disc", "bar", "ring"))
    more = ("SOLVER.MAX_ITER", "3", *NO_TEST)
    assert train_net(other, out, "--resume", *more) == 2
    assert "the checkpoint has the classes [disc, bar]" in capsys.readouterr().err
    assert train_net(other, out, "--resume", "--force", *more) == 2
    assert "of a model with other layers" in capsys.readouterr().err


def test_a_run_that_is_further_than_its_last_iteration_is_refused(stopped, capsys):
    data, out = stopped
    assert train_net(data, out, "--resume", "SOLVER.MAX_ITER", "1", *NO_TEST) == 2
    assert "has 2 iterations behind it: raise it" in capsys.readouterr().err


def test_a_resume_that_finds_no_checkpoint_says_that_it_starts_anew(stopped, tmp_path, capsys):
    data, _ = stopped
    said = "misspelt has no checkpoint to go on from: the training starts at its beginning"
    assert train_net(data, tmp_path / "misspelt", "--resume", *SHORT) == 0
    assert said in capsys.readouterr().out
    assert train_net(data, tmp_path / "misspelt", "--resume", *SHORT, "SOLVER.MAX_ITER", "3") == 0
    assert said not in capsys.readouterr().out


def test_force_alone_is_refused(stopped, tmp_path, capsys):
    assert train_net(stopped[0], tmp_path / "out", "--force", *SHORT) == 2
    assert "give it together with --resume" in capsys.readouterr().err


def test_a_seed_left_to_chance_is_that_of_the_run_when_it_is_resumed(stopped, tmp_path):
    data, _ = stopped
    out = tmp_path / "out"
    assert train_net(data, out, "SEED", "-1", *SHORT) == 0
    more = ("SEED", "-1", "SOLVER.MAX_ITER", "3", *NO_TEST)
    assert train_net(data, out, "--resume", *more) == 0
