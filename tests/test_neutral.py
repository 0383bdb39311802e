"""Under neutral settings every number is stock Detectron2's, bit for bit."""

import pytest
import torch
from detectron2.utils.events import EventStorage

from models import C4, CASCADE, NEUTRAL, STOCK, batch, build, losses_and_gradients, quick_config


@pytest.fixture(scope="module")
def pair():
    return build(quick_config(*STOCK)), build(quick_config(*NEUTRAL))


def assert_equal(ours, stock):
    assert ours.keys() == stock.keys()
    for name in stock:
        assert torch.equal(ours[name], stock[name]), name


def test_initial_weights_are_equal_under_one_seed(pair):
    stock, ours = pair
    assert_equal(ours.state_dict(), stock.state_dict())


@pytest.mark.parametrize("normalizer", ["weight_sum", "mean"])
@pytest.mark.parametrize("boxes", [(5, 2), (0, 3), (0, 0)])
def test_losses_and_gradients_are_equal(pair, boxes, normalizer):
    stock, ours = pair
    ours.roi_heads.box_predictor.cls_loss.normalizer = normalizer
    with EventStorage():
        expected = losses_and_gradients(stock, batch(boxes))
        actual = losses_and_gradients(ours, batch(boxes))
    for our_part, stock_part in zip(actual, expected, strict=True):
        assert_equal(our_part, stock_part)


def test_three_steps_of_training_end_in_equal_weights():
    ends = []
    for settings in (STOCK, NEUTRAL):
        model = build(quick_config(*settings))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        with EventStorage():
            for step in range(3):
                losses_and_gradients(model, batch(seed=step), seed=step)
                optimizer.step()
        ends.append(model.state_dict())
    assert_equal(*ends)


def test_detections_are_equal(pair):
    stock, ours = (model.eval() for model in pair)
    with torch.no_grad():
        expected = stock(batch())
        actual = ours(batch())
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor)
        assert torch.equal(a["instances"].scores, b["instances"].scores)


@pytest.mark.parametrize("head", [CASCADE, C4], ids=["cascade", "c4"])
def test_other_heads_are_stock_too(head):
    _, name, *rest = head
    balanced = ("MODEL.ROI_HEADS.NAME", f"Balanced{name}", *rest)
    results = []
    for settings in ((*STOCK[:2], *head), (*balanced, *NEUTRAL)):
        model = build(quick_config(*settings))
        with EventStorage():
            results.append((model.state_dict(), *losses_and_gradients(model, batch())))
    for ours, stock in zip(results[1], results[0], strict=True):
        assert_equal(ours, stock)


@pytest.mark.parametrize("head", [CASCADE, C4], ids=["cascade", "c4"])
def test_other_heads_take_the_loss_flags(head):
    _, name, *rest = head
    settings = ("MODEL.ROI_HEADS.NAME", f"Balanced{name}", *rest, *NEUTRAL)
    with EventStorage():
        plain, _ = losses_and_gradients(build(quick_config(*settings)), batch())
        focal = ("BALANCE.ROI_LOSS.NAME", "softmax_focal")
        focused, _ = losses_and_gradients(build(quick_config(*settings, *focal)), batch())
    changed = {key for key in plain if not torch.equal(plain[key], focused[key])}
    assert changed == {key for key in plain if "loss_cls" in key}


def test_a_mask_head_built_after_the_box_head_starts_as_in_stock():
    mask = ("MODEL.MASK_ON", "True", "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead")
    stock, ours = build(quick_config(*STOCK, *mask)), build(quick_config(*NEUTRAL, *mask))
    assert_equal(ours.state_dict(), stock.state_dict())
