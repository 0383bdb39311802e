"""Metrics are ratios over all steps since they were last logged, and end with the training."""

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from counterpoise.modeling.metric_log import PERIOD, MetricLog, log_last_iteration
from models import CASCADE, batch, build, losses_and_gradients, quick_config


def run(log, ratios, start=0):
    """Add one step per ratio, and return what was logged in which iteration."""
    logged = []
    with EventStorage(start) as storage:
        for iteration, ratio in enumerate(ratios, start):
            storage.iter = iteration
            log.add({"m": tuple(map(torch.tensor, ratio))})
            logged += [(iteration, v) for v, at in storage.latest().values() if at == iteration]
    return logged


def test_a_metric_is_the_ratio_of_sums_over_the_steps_of_a_period():
    ratios = [(1, 4)] * (PERIOD - 1) + [(5, 4)] + [(2, 4)] * PERIOD
    assert run(MetricLog(), ratios) == [
        (PERIOD - 1, pytest.approx((PERIOD + 4) / (4 * PERIOD))),
        (2 * PERIOD - 1, 0.5),
    ]


def test_a_metric_without_samples_is_not_logged():
    assert run(MetricLog(), [(0, 0)] * PERIOD) == []
    assert run(MetricLog(), [(0, 0)] * (PERIOD - 1) + [(1, 2)]) == [(PERIOD - 1, 0.5)]


def test_a_run_whose_last_iteration_is_no_multiple_of_the_period_logs_there_too():
    model = nn.Sequential(nn.Linear(1, 1), MetricLog())
    assert run(model[1], [(1, 2)] * 3, start=40) == []
    log_last_iteration(model, 43)
    assert run(model[1], [(0, 2)], start=43) == [(43, 0.375)]
    assert not any("1." in key for key in model.state_dict())


def test_each_stage_of_a_cascade_logs_its_own_proposals_of_all_steps():
    _, name, *rest = CASCADE
    heads = ("MODEL.ROI_HEADS.NAME", f"Balanced{name}", *rest)
    model = build(quick_config(*heads, "BALANCE.CLASS_WEIGHTS.SOURCE", "none"))
    seen = [[] for _ in model.roi_heads.box_predictor]
    for predictor, kept in zip(model.roi_heads.box_predictor, seen, strict=True):
        predictor.cls_loss.register_forward_pre_hook(
            lambda _module, inputs, kept=kept: kept.append(inputs[:2])
        )
    with EventStorage(PERIOD - 2) as storage:
        for iteration in (PERIOD - 2, PERIOD - 1):
            storage.iter = iteration
            losses_and_gradients(model, batch(seed=iteration))
    logged = {name: value for name, (value, _) in storage.latest().items()}
    for stage, steps in enumerate(seen):
        logits, gt_classes = (torch.cat(parts).detach() for parts in zip(*steps, strict=True))
        background = gt_classes == 3
        p_t = logits.softmax(dim=1)[background, 3].mean().item()
        assert len(steps) == 2 and logged[f"stage{stage}/roi/p_t_bg"] == pytest.approx(p_t)
    assert "roi/p_t_bg" not in logged
