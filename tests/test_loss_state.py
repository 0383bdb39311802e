"""State that losses keep over steps: when it moves, over processes, and in checkpoints."""

import copy
import logging
import math

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch.testing import assert_close

from counterpoise.balance.class_counts import ClassCounts
from counterpoise.modeling.checkpoint import BalancedCheckpointer
from counterpoise.modeling.registry import DENSE_LOSS_REGISTRY, ROI_LOSS_REGISTRY
from counterpoise.modeling.weight_sources import ClassTable
from models import NEUTRAL, STOCK, batch, build, losses_and_gradients, quick_config
from test_retinanet import retinanet_config

ROI_LOSSES = ("logit_adjusted", "seesaw", "equilibrium", "eqlv2", "ghmc")
STATEFUL = ("seesaw", "equilibrium", "eqlv2", "ghmc")
DENSE_LOSSES = ("eqlv2", "ghmc")
TABLE = ClassTable(ClassCounts(("a", "b", "c"), (9, 5, 1), (100, 10, 2), 9, 0), None)


def config(name):
    return quick_config(*NEUTRAL, "BALANCE.ROI_LOSS.NAME", name)


def roi_loss(name):
    loss = ROI_LOSS_REGISTRY.get(name)(config(name)).train()
    loss.use_table(TABLE)
    return loss


def dense_loss(name):
    return DENSE_LOSS_REGISTRY.get(name)(retinanet_config()).train()


def samples(seed, rows=20, ignored=False):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, 4, generator=generator)
    targets = torch.randint(4, (rows,), generator=generator)
    if ignored:
        targets[::5] = -1
    return logits.requires_grad_(), targets


def state(loss):
    return {name: value.clone() for name, value in loss.state_dict().items()}


@pytest.mark.parametrize("name", STATEFUL)
def test_state_moves_in_a_step_that_trains_and_in_no_other(name):
    loss = roi_loss(name)
    start = state(loss)
    with torch.no_grad():
        loss(*samples(0))
    loss.eval()(*samples(0))
    assert all(torch.equal(value, start[key]) for key, value in state(loss).items())
    loss.train()(*samples(0))
    assert start and any(not torch.equal(v, start[key]) for key, v in state(loss).items())


@pytest.mark.parametrize("name", ROI_LOSSES)
def test_no_proposals_and_only_ignored_ones_give_zeros_with_a_graph_and_leave_the_state(name):
    loss = roi_loss(name)
    loss(*samples(0))
    before = state(loss)
    for rows in (0, 6):
        logits, targets = samples(1, rows)
        losses = loss(logits, targets.fill_(-1))
        losses.sum().backward()
        assert losses.shape == (rows,) and not losses.any() and not logits.grad.any()
    assert all(torch.equal(value, before[key]) for key, value in state(loss).items())


@pytest.mark.parametrize("name", ROI_LOSSES)
def test_ignored_proposals_change_nothing_for_others(name):
    logits, targets = samples(0, ignored=True)
    kept = targets >= 0
    with_ignored, without = roi_loss(name), roi_loss(name)
    for _ in range(2):
        losses = with_ignored(logits, targets)
        assert_close(losses[kept], without(logits[kept], targets[kept]))
        assert not losses[~kept].any()
    assert_close(state(with_ignored), state(without))


@pytest.mark.parametrize("name", ROI_LOSSES)
def test_half_precision_under_autocast_is_computed_in_float32(name):
    logits, targets = samples(0)
    half = logits.detach().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        actual = roi_loss(name)(half, targets)
    assert actual.dtype == torch.float32
    assert_close(actual, roi_loss(name)(half.float(), targets))


@pytest.mark.parametrize("name", ["eqlv2", "ghmc", "sigmoid_focal"])
def test_probabilities_of_half_logits_have_the_digits_of_float32(name):
    logits = torch.tensor([[8.0, -8, 0, -3]]).bfloat16()
    found = roi_loss(name).probabilities(logits)
    assert found.dtype == torch.float32
    assert_close(found, roi_loss(name).probabilities(logits.float()))


@pytest.mark.parametrize("name", STATEFUL)
def test_logits_that_are_not_finite_show_in_the_loss_and_not_in_the_state(name):
    loss = roi_loss(name)
    loss(*samples(0))
    logits, targets = samples(1)
    with torch.no_grad():
        logits[3] = math.nan
    assert loss(logits, targets)[3].isnan()
    assert all(value.isfinite().all() for value in state(loss).values())
    # SOLVER.NON_FINITE skip goes on with the next step.
    assert loss(*samples(2)).isfinite().all()


def test_seesaw_counts_the_foreground():
    loss = roi_loss("seesaw")
    for _ in range(2):
        loss(torch.zeros(6, 4, requires_grad=True), torch.tensor([0, 0, 2, 3, 3, -1]))
    assert loss.counts.tolist() == [4, 0, 2]


def test_equilibrium_averages_the_scores_of_each_class_that_is_there():
    loss = roi_loss("equilibrium")
    logits, targets = samples(0)
    targets[targets == 1] = 3
    loss(logits, targets)
    scores = logits.softmax(1)
    for c in (0, 2):
        mean = scores[targets == c, c].mean().item()
        assert loss.mean_scores[c].item() == pytest.approx(0.99 * 0.01 + 0.01 * mean)
    assert loss.mean_scores[1].item() == pytest.approx(0.01)


def test_eqlv2_adds_up_weighted_gradients_and_leaves_the_background_alone():
    loss = roi_loss("eqlv2")
    positive, negative = torch.zeros(3), torch.zeros(3)
    for seed in range(3):
        logits, targets = samples(seed)
        ratio = torch.where(negative > 0, positive / negative, 100.0)
        f = 1 / (1 + torch.exp(-12 * (ratio - 0.8)))
        one_hot = torch.nn.functional.one_hot(targets, 4).float()
        f = torch.cat([f, torch.ones(1)])
        weight = one_hot * (1 + 4 * (1 - f)) + (1 - one_hot) * f
        probability = logits.sigmoid().detach()
        bce = -(one_hot * probability.log() + (1 - one_hot) * (1 - probability).log())
        assert_close(loss(logits, targets).detach(), (weight * bce).sum(1), rtol=1e-4, atol=1e-6)
        gradient = (weight * (probability - one_hot).abs())[:, :3]
        positive += (gradient * one_hot[:, :3]).sum(0)
        negative += (gradient * (1 - one_hot[:, :3])).sum(0)
    assert_close(loss.balanced.positive, positive)
    assert_close(loss.balanced.negative, negative)


def test_ghmc_over_anchors_is_a_mean_once_divided_by_the_positives():
    loss = dense_loss("ghmc")
    logits, _ = samples(0, 24)
    labels = torch.tensor([0, 1, -1] + [3] * 9).repeat(2).view(2, 12)
    losses = loss.per_anchor(logits[:, :3].reshape(2, 12, 3), labels, [])
    assert losses.shape == (2, 12) and not losses[labels < 0].any()
    elements = loss.balanced(
        logits[:, :3], labels.view(-1, 1) == torch.arange(3), labels.flatten() >= 0
    )
    # A second step without momentum of the first: the histogram is that of equal counts.
    assert_close(losses.sum() / 4, elements.sum() / (20 + 2) / 3)


def test_ghmc_learns_from_a_batch_without_positives():
    logits = samples(0, 24)[0].detach()[:, :3].requires_grad_()
    labels = torch.full((2, 12), 3)
    loss = dense_loss("ghmc").per_anchor(logits.view(2, 12, 3), labels, []).sum()
    loss.backward()
    no_target, kept = torch.zeros(24, 3, dtype=torch.bool), torch.ones(24, dtype=torch.bool)
    # Detectron2 counts one positive where there is none.
    assert_close(loss, dense_loss("ghmc").balanced(logits, no_target, kept).mean())
    assert logits.grad.all()


def step(rank, name, dense, parts):
    """A step of a process on its part: the losses' sum and the state afterwards, over two steps."""
    loss = dense_loss(name) if dense else roi_loss(name)
    sums = []
    for seed in range(2):
        logits, targets = samples(seed, 30)
        rows = slice(None) if rank is None else parts[rank]
        logits, targets = logits[rows], targets[rows]
        if dense:
            losses = loss.per_anchor(logits[None, :, :3], targets[None], [])
        else:
            losses = loss(logits, targets)
        sums.append(losses.sum().detach())
    return torch.stack(sums), state(loss)


@pytest.mark.parametrize("parts", [(slice(0, 12), slice(12, 30)), (slice(0, 30), slice(0, 0))])
@pytest.mark.parametrize(
    "name, dense", [(n, False) for n in ROI_LOSSES] + [(n, True) for n in DENSE_LOSSES]
)
def test_two_processes_are_one_with_the_joint_batch(processes, name, dense, parts):
    first, second = processes.run(step, name, dense, parts)
    losses, joint = step(None, name, dense, parts)
    # GHM-C's factor for one-stage detectors is by the mean of the positives over processes.
    assert_close(first[0] + second[0], losses, rtol=1e-5, atol=1e-6)
    for _, own in (first, second):
        assert_close(own, joint, rtol=1e-5, atol=1e-6)


def train(model, steps):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for seed in steps:
        with EventStorage():
            losses, _ = losses_and_gradients(model, batch(seed=seed), seed=seed)
        optimizer.step()
    return losses


@pytest.mark.parametrize("name", STATEFUL)
def test_a_resumed_model_goes_on_exactly(name, tmp_path):
    straight = build(config(name))
    train(straight, range(2))
    BalancedCheckpointer(straight, str(tmp_path)).save("two")
    expected = train(straight, [2])
    resumed = build(config(name), seed=5)
    BalancedCheckpointer(resumed).load(str(tmp_path / "two.pth"))
    assert_close(train(resumed, [2]), expected, rtol=0, atol=0)
    assert_close(resumed.state_dict(), straight.state_dict(), rtol=0, atol=0)


def saved(model, folder):
    BalancedCheckpointer(model, str(folder)).save("model")
    return str(folder / "model.pth")


def load(model, path, caplog, complete=False):
    checkpointer = BalancedCheckpointer(model)
    checkpointer.require_all = complete
    with caplog.at_level(logging.INFO):
        checkpointer.load(path)
    return caplog.text


def test_a_stock_checkpoint_loads_and_the_state_starts_anew_which_is_said(tmp_path, caplog):
    path, model = saved(build(quick_config(*STOCK)), tmp_path), build(config("seesaw"))
    said = load(model, path, caplog, complete=True)
    assert "has no state of this loss, which starts anew: roi_heads.box_predictor.cls_loss" in said


def test_a_checkpoint_with_state_loads_into_other_losses_which_is_said(tmp_path, caplog):
    source = build(config("eqlv2"))
    train(source, range(1))
    path = saved(source, tmp_path)
    for model in (build(quick_config(*STOCK)), build(config("cross_entropy"))):
        assert "holds the state of another loss, which is left out" in load(model, path, caplog)
        key = "roi_heads.box_predictor.cls_score.weight"
        assert torch.equal(model.state_dict()[key], source.state_dict()[key])
        caplog.clear()


@pytest.mark.parametrize("name", STATEFUL)
def test_ohem_ranks_by_the_loss_without_moving_its_state(name):
    settings = ("BALANCE.ROI_LOSS.NAME", name, "BALANCE.ROI_SAMPLER.NAME", "ohem")
    model = build(quick_config(*NEUTRAL, *settings))
    loss, calls = model.roi_heads.box_predictor.cls_loss.loss, []
    loss.register_forward_hook(lambda *_: calls.append(copy.deepcopy(state(loss))))
    with EventStorage():
        losses_and_gradients(model, batch())
    start = state(build(quick_config(*NEUTRAL, *settings)).roi_heads.box_predictor.cls_loss.loss)
    assert len(calls) == 2
    assert_close(calls[0], start, rtol=0, atol=0)
    assert any(not torch.equal(calls[1][key], start[key]) for key in start)
