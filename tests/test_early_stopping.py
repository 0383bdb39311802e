"""A training whose evaluations no longer improve ends, exactly and with all that an end brings."""

import json
import logging
import math
import signal
from types import SimpleNamespace

import pytest
import torch

from counterpoise.errors import UserError
from counterpoise.training.early_stopping import EarlyStopping, check_early_stopping
from interruptions import at, different, results, train_until
from models import quick_config
from runs import train_net, write_dataset
from test_resume import CHECKPOINT, IMAGE, SHORT, STEP, TAG, command

#: No gain is above 1000, so the first evaluation stays the best and the third one ends the run.
STOPPING = (
    *SHORT,
    "SOLVER.MAX_ITER", "20",
    "TEST.EVAL_PERIOD", "2",
    "SOLVER.CHECKPOINT_PERIOD", "3",
    "SOLVER.EARLY_STOPPING.PATIENCE", "2",
    "SOLVER.EARLY_STOPPING.MIN_DELTA", "1000.0",
)  # fmt: skip


class Evaluated:
    """A trainer in which every iteration but the last is evaluated."""

    def __init__(self, hook):
        self.iter, self.max_iter, self.storage = -1, 100, self
        self.ended = []
        hook.trainer = self
        self.hook = hook

    def latest(self):
        return {} if self.value is None else {"bbox/AP": (self.value, self.iter)}

    def end_early(self):
        self.ended.append(self.iter)

    def run(self, values):
        for self.value in values:
            self.iter += 1
            self.hook.after_step()
        return self.ended


def stopping(patience=2, min_delta=0.0, metric="bbox/AP", best=None):
    return EarlyStopping(1, metric, patience, min_delta, best)


@pytest.mark.parametrize(
    "values, ended",
    [
        ([1, 2, 3, 4, 5], []),
        ([1, 2, 2, 2], [3]),
        ([3, 2, 3], [2]),  # as good is no better
        ([3, 2, 4, 3, 5, 1], []),
        ([0, 0, 0], [2]),
    ],
)
def test_a_training_ends_after_so_many_evaluations_without_improvement(values, ended):
    assert Evaluated(stopping()).run(values) == ended


def test_a_gain_below_the_least_one_counts_once_it_has_added_up():
    assert Evaluated(stopping(min_delta=1.0)).run([10, 10.6, 11.2, 11.8, 12.4]) == []
    assert Evaluated(stopping(min_delta=1.0)).run([10, 10.5, 11.0]) == [2]


@pytest.mark.parametrize("missing", [math.nan, None])
def test_an_evaluation_without_a_value_is_named_and_does_not_count(missing, caplog):
    assert Evaluated(stopping()).run([missing] * 5) == []
    assert "bbox/AP has no value in this evaluation" in caplog.text
    assert Evaluated(stopping()).run([5, missing, 4, missing, 4]) == [4]


def test_the_evaluation_behind_the_last_iteration_ends_nothing():
    trainer = Evaluated(stopping())
    trainer.max_iter = 3
    assert trainer.run([1, 1, 1]) == []


def test_a_resumed_run_decides_as_one_that_never_stopped():
    values = [3, 5, 5, 4, 6, 6, 6]
    for cut in range(1, len(values)):
        before, after = Evaluated(stopping(3)), Evaluated(stopping(3))
        before.run(values[:cut])
        after.hook.load_state_dict(json.loads(json.dumps(before.hook.state_dict())))
        after.iter = cut - 2
        assert after.run(values[cut - 1 :]) == [], cut  # its last evaluation comes again
        assert after.run([6]) == [7]


def test_more_patience_goes_on_and_another_metric_begins_anew():
    ended = Evaluated(stopping())
    ended.run([5, 5, 5])
    for hook, more in ((stopping(4), [5, 5]), (stopping(metric="bbox/AP50"), [])):
        hook.load_state_dict(ended.hook.state_dict())
        trainer = Evaluated(hook)
        trainer.iter = 1
        assert trainer.run([5]) == []
        assert trainer.run(more) == ([4] if more else [])


def test_the_sentence_says_why_when_and_which_checkpoint_is_best(caplog):
    caplog.set_level(logging.INFO)
    best = SimpleNamespace(folder="out", metric="bbox/AP50", best_metric=40.25, best_iter=0)
    Evaluated(stopping(min_delta=0.5, best=best)).run([12.125, 12.5, 12.25])
    assert (
        "Stopped early after 3 of 100 iterations: bbox/AP has not risen above 12.12 of iteration 0 "
        "by more than 0.5 in 2 evaluations; the best checkpoint is out/model_best.pth "
        "(bbox/AP50 40.25, iteration 0)"
    ) in caplog.text


def decide(rank, values):
    """Ends of a training in which the first process alone knows the metric."""
    return Evaluated(stopping()).run([value if rank == 0 else None for value in values])


def test_all_processes_end_at_the_same_step(processes):
    assert processes.run(decide, [3, 4, 4, 4]) == [[3], [3]]


@pytest.mark.parametrize(
    "overrides, said",
    [
        ((), "PATIENCE is 3, which counts evaluations .* but TEST.EVAL_PERIOD is 0: set both"),
        (("TEST.EVAL_PERIOD", "5", "DATASETS.TEST", "()"), "but DATASETS.TEST is empty"),
        (("TEST.EVAL_PERIOD", "600", "SOLVER.MAX_ITER", "600"),
         "but TEST.EVAL_PERIOD 600 leaves no evaluation before the end at SOLVER.MAX_ITER 600"),
    ],
)  # fmt: skip
def test_stopping_by_evaluations_that_do_not_take_place_is_refused(overrides, said):
    test = ("DATASETS.TEST", "('mine',)")
    cfg = quick_config("SOLVER.EARLY_STOPPING.PATIENCE", "3", *test, *overrides)
    with pytest.raises(UserError, match=said):
        check_early_stopping(cfg)


def test_a_metric_that_is_not_there_is_refused_by_its_key(tmp_path, capsys):
    data = write_dataset(tmp_path / "shapes")
    keys = ("SOLVER.EARLY_STOPPING.METRIC", "AP-rear", *STOPPING)
    assert train_net(data, tmp_path / "out", *keys) == 2
    said = capsys.readouterr().err
    assert "SOLVER.EARLY_STOPPING.METRIC is 'AP-rear'" in said and "AP-tail" in said


def test_a_class_with_the_name_of_a_group_leaves_that_its_metric(tmp_path):
    data = write_dataset(tmp_path / "shapes")
    labels = tmp_path / "shapes" / "labels.json"
    labels.write_text(labels.read_text().replace('"disc"', '"tail"'))
    keys = ("SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "1", "TEST.BEST_METRIC", "AP-group-tail")
    assert train_net(data, tmp_path / "out", *keys) == 0
    lines = (tmp_path / "out" / "metrics.json").read_text().splitlines()
    logged = set().union(*map(json.loads, lines))
    assert {"bbox/AP-tail", "bbox/AP-group-tail", "bbox/AP-head", "bbox/AP-bar"} <= logged
    assert "bbox/AP-group-head" not in logged
    best = torch.load(tmp_path / "out" / "model_best.pth", weights_only=True)
    assert best["iteration"] in (0, 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def stopped(data, tmp_path_factory):
    """Folder of a run that stopped early, and what it said."""
    out = tmp_path_factory.mktemp("stopped") / "out"
    ended = train_until(command(data, out, *STOPPING), out.parent / "log")
    assert ended.code == 0, ended.output
    return out, ended.output


def test_a_run_that_stops_early_ends_as_any_other(stopped):
    out, output = stopped
    assert output.count("Stopped early after 6 of 20 iterations: bbox/AP-tail has not risen") == 1
    assert f"the best checkpoint is {out}/model_best.pth" in output
    assert "Traceback" not in output
    final = torch.load(out / "model_final.pth", weights_only=True)
    assert final["iteration"] == 5
    assert (out / "last_checkpoint").read_text() == "model_final.pth"
    assert json.loads((out / "run.json").read_text())["finished"]
    assert (out / "report.html").is_file() and (out / "evaluation.json").is_file()
    assert output.count("Evaluation written to") == 3  # the last one is not made twice
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "bbox/AP" in line] == [5, 6]
    assert "eta_seconds" not in lines[-1]  # no line of progress behind the end


def test_a_run_that_is_killed_time_and_again_stops_where_it_would_have(data, stopped, tmp_path):
    kills = [
        at(STEP, 3),
        at(IMAGE, 0, signal.SIGTERM),
        at(IMAGE, 0, signal.SIGTERM),  # in the same evaluation, with which the resumed run begins
        at(STEP, 1, signal.SIGTERM),  # which is saved, and not evaluated
        at(CHECKPOINT, 0, after=True),  # model_final.pth is there under its temporary name
        at(TAG, 0),
    ]
    for number, moment in enumerate(kills):
        flags = ["--resume"] if number else []
        ended = train_until(
            command(data, tmp_path / "out", *flags, *STOPPING), tmp_path / "log", moment
        )
        assert ended.code in (-signal.SIGKILL, 143), ended.output
    for _ in range(2):  # the second finds a run that has ended
        again = command(data, tmp_path / "out", "--resume", *STOPPING)
        ended = train_until(again, tmp_path / "log")
        assert ended.code == 0, ended.output
        assert ended.output.count("Stopped early after 6 of 20 iterations") == 1
        assert different(results(stopped[0]), results(tmp_path / "out")) == []


def test_more_patience_goes_on_with_a_run_that_stopped_early(data, stopped, tmp_path):
    more = (*STOPPING, "SOLVER.EARLY_STOPPING.PATIENCE", "3")
    for keys in (STOPPING, ("--resume", *more)):
        ended = train_until(command(data, tmp_path / "out", *keys), tmp_path / "log")
        assert ended.code == 0, ended.output
    whole = train_until(command(data, tmp_path / "whole", *more), tmp_path / "log")
    assert whole.code == 0 and "Stopped early after 8 of 20 iterations" in ended.output
    longer, at_once = (
        torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"]
        for name in ("out", "whole")
    )
    assert all(torch.equal(value, at_once[name]) for name, value in longer.items())


@pytest.mark.slow
def test_two_processes_stop_early_together(data, tmp_path):
    arguments = command(data, tmp_path / "out", "--num-processes=2", *STOPPING)
    ended = train_until(arguments, tmp_path / "log")
    assert ended.code == 0, ended.output
    assert ended.output.count("Stopped early after 6 of 20 iterations") == 1
    final = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)
    assert final["iteration"] == 5 and len(final["run_state"]["processes"]) == 2
