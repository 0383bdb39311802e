"""A training that does not learn is recognised and said."""

import logging
from types import SimpleNamespace

import pytest
import torch
from detectron2.utils.events import EventStorage

from counterpoise.training.learning_watch import LearningWatch, kept_values
from counterpoise.training.run_state import restore_run_state, run_state
from models import quick_config
from runs import train_net, write_dataset


def optimizer_of(kind=torch.optim.SGD):
    return kind([torch.zeros(1, requires_grad=True)], lr=0.01)


def warnings_of(caplog, metrics, max_iter=400, done=400, optimizer=None, **of_watch):
    """What the hook says after `done` steps of a training with constant metrics."""
    with EventStorage() as storage, caplog.at_level(logging.WARNING):
        for iteration in range(19, done, 20):
            storage.iter = iteration
            storage.put_scalars(**metrics)
        watch = LearningWatch(**of_watch)
        watch.trainer = SimpleNamespace(
            storage=storage, iter=done - 1, max_iter=max_iter, optimizer=optimizer or optimizer_of()
        )
        watch.after_step()
    return caplog.messages


LEARNING = {"rpn/fg_accuracy": 0.5, "roi/p_t_fg": 0.3}


@pytest.mark.parametrize("done", [200, 400])
@pytest.mark.parametrize(
    "metric, said",
    [("rpn/fg_accuracy", "recognises only 1%"), ("stage1/roi/p_t_fg", "a probability of 0.010")],
)
def test_a_part_that_has_not_learned_is_named_halfway_and_at_the_end(caplog, done, metric, said):
    (message,) = warnings_of(caplog, {**LEARNING, metric: 0.01}, done=done)
    assert said in message and metric in message and f"to {done}" in message


def test_nothing_is_said_of_iterations_whose_rate_is_still_rising(caplog):
    unlearned = {"rpn/fg_accuracy": 0.01}
    assert not warnings_of(caplog, unlearned, done=200, warmup_iters=150)
    assert warnings_of(caplog, unlearned, done=400, warmup_iters=150)


def test_nothing_is_said_of_an_rpn_that_is_not_to_learn(caplog):
    unlearned = {"rpn/fg_accuracy": 0.01, "roi/p_t_fg": 0.01}
    (message,) = warnings_of(caplog, unlearned, classifier_alone=True)
    assert "roi/p_t_fg" in message


def test_the_optimizer_that_is_in_use_is_not_advised(caplog):
    (message,) = warnings_of(caplog, {"rpn/fg_accuracy": 0.01})
    assert "SOLVER.OPTIMIZER AdamW" in message
    caplog.clear()
    own = optimizer_of(torch.optim.AdamW)
    (message,) = warnings_of(caplog, {"rpn/fg_accuracy": 0.01}, optimizer=own)
    assert message.endswith("train longer (SOLVER.MAX_ITER)")


@pytest.mark.parametrize(
    "metrics, done", [(LEARNING, 400), ({"rpn/fg_accuracy": 0.0}, 380), ({}, 400)]
)
def test_nothing_is_said_of_a_part_that_learns_or_between_the_checks(caplog, metrics, done):
    assert not warnings_of(caplog, metrics, done=done)


@pytest.mark.parametrize("max_iter", [400, 90_000, 1_000_001])
def test_what_it_looks_at_is_kept(max_iter):
    done = max_iter
    since = done - max_iter // 4
    assert len([at for at in range(19, done, 20) if at >= since]) <= kept_values(max_iter)


def test_a_resumed_run_is_judged_by_all_of_the_quarter_as_one_that_never_stopped(caplog, tmp_path):
    cfg = quick_config("OUTPUT_DIR", str(tmp_path))

    def trainer(storage):
        return SimpleNamespace(
            cfg=cfg, model=torch.nn.Linear(1, 1), data_loader=(), storage=storage, _hooks=[],
            _trainer=SimpleNamespace(_data_loader_iter=None), iter=399, max_iter=400,
            optimizer=optimizer_of(),
        )  # fmt: skip

    with EventStorage() as storage:
        for iteration in range(19, 360, 20):
            storage.put_scalar("rpn/fg_accuracy", 0.0, cur_iter=iteration)
        state = run_state(trainer(storage), [])
    with EventStorage() as storage, caplog.at_level(logging.WARNING):
        restore_run_state(trainer(storage), [], state)
        for iteration in (379, 399):
            storage.put_scalar("rpn/fg_accuracy", 0.2, cur_iter=iteration)
        watch = LearningWatch()
        watch.trainer = trainer(storage)
        watch.after_step()
    assert "recognises only 8% of" in caplog.text


def test_only_the_last_quarter_counts(caplog):
    with EventStorage() as storage, caplog.at_level(logging.WARNING):
        for iteration in range(19, 400, 20):
            storage.iter = iteration
            storage.put_scalar("rpn/fg_accuracy", 0.0 if iteration < 300 else 0.2)
        watch = LearningWatch()
        watch.trainer = SimpleNamespace(
            storage=storage, iter=399, max_iter=400, optimizer=optimizer_of()
        )
        watch.after_step()
    assert not caplog.messages


def test_proposals_that_miss_the_objects_are_said_after_the_evaluation(tmp_path, capsys):
    data = write_dataset(tmp_path / "shapes")
    few = ("SOLVER.MAX_ITER", "1", "MODEL.RPN.POST_NMS_TOPK_TEST", "1")
    assert train_net(data, tmp_path / "out", *few) == 0
    assert (
        "On shapes_val the 100 best proposals of an image have an average"
        in capsys.readouterr().out
    )
