"""The choice of proposals: Detectron2's, with NMS over no more boxes than it takes."""

import pytest
import torch
from detectron2.layers import batched_nms
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes
from torchvision.ops import nms

from counterpoise.modeling import proposals
from counterpoise.modeling.proposals import best_kept
from counterpoise.modeling.rpn import BalancedRPN
from models import NEUTRAL, build, quick_config


def rpn(*settings):
    return build(quick_config(*NEUTRAL, *settings)).proposal_generator


def predictions(module, images=2, height=48, width=64, spread=2.0, digits=None):
    """Anchors, and random logits and deltas as the head gives them to ``predict_proposals``."""
    torch.manual_seed(0)
    features = [torch.zeros(1, 1, height // 2**i, width // 2**i) for i in range(5)]
    anchors = module.anchor_generator(features)
    logits = [torch.randn(images, len(a)) * spread for a in anchors]
    if digits is not None:
        logits = [level.round(decimals=digits) for level in logits]
    deltas = [torch.randn(images, len(a), 4) * 0.3 for a in anchors]
    return anchors, logits, deltas, [(height * 4, width * 4), (height * 3, width * 4)][:images]


def assert_equal_to_stock(module, inputs):
    expected = RPN.predict_proposals(module, *inputs)
    actual = module.predict_proposals(*inputs)
    assert len(actual) == len(expected)
    for mine, reference in zip(actual, expected, strict=True):
        assert mine.image_size == reference.image_size
        assert torch.equal(mine.objectness_logits, reference.objectness_logits)
        if len(mine) == 0:
            continue
        # The sort of Detectron2 leaves the order of equal scores open, so that of the last score
        # any may be there.
        known = mine.objectness_logits > mine.objectness_logits[-1]
        assert rows(mine[known]) == rows(reference[known])
        if mine.objectness_logits.unique().numel() == len(mine):
            assert torch.equal(mine.proposal_boxes.tensor, reference.proposal_boxes.tensor)
    return actual


def rows(found):
    """Score and box of each proposal, in an order of their own."""
    both = torch.cat([found.objectness_logits[:, None], found.proposal_boxes.tensor], dim=1)
    return sorted(both.tolist())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("digits", [None, 1, 0], ids=["distinct", "some equal", "many equal"])
@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("MODEL.RPN.POST_NMS_TOPK_TRAIN", "20", "MODEL.RPN.POST_NMS_TOPK_TEST", "20"),
        ("MODEL.RPN.NMS_THRESH", "0.05"),
        ("MODEL.RPN.NMS_THRESH", "1.0"),
        ("MODEL.PROPOSAL_GENERATOR.MIN_SIZE", "40"),
    ],
    ids=str,
)
def test_proposals_and_their_order_are_detectron2s(settings, digits, training):
    module = rpn(*settings).train(training)
    found = assert_equal_to_stock(module, predictions(module, digits=digits))
    assert all(len(proposals) for proposals in found)


def test_fewer_anchors_than_are_asked_for_and_boxes_outside_of_the_image():
    module = rpn()
    assert_equal_to_stock(module, predictions(module, height=4, width=4))
    anchors, logits, deltas, sizes = predictions(module)
    deltas = [level + 50.0 for level in deltas]
    found = assert_equal_to_stock(module, (anchors, logits, deltas, sizes))
    assert all(len(proposals) == 0 for proposals in found)


def test_numbers_that_are_not_finite_end_a_training_and_are_left_out_elsewhere():
    module = rpn()
    inputs = predictions(module)
    best = inputs[1][0][0].argmax()
    inputs[2][0][0, best] = torch.nan
    with pytest.raises(FloatingPointError, match="diverged"):
        module.train().predict_proposals(*inputs)
    assert_equal_to_stock(module.eval(), inputs)


def test_in_half_precision_the_logits_keep_their_type():
    module = rpn()
    anchors, logits, deltas, sizes = predictions(module)
    logits, deltas = ([x.bfloat16() for x in levels] for levels in (logits, deltas))
    with torch.autocast("cpu", torch.bfloat16):  # without which stock's NMS refuses the types
        found = assert_equal_to_stock(module, (anchors, logits, deltas, sizes))
    assert found[0].objectness_logits.dtype == torch.bfloat16


def test_nms_looks_at_few_boxes_unless_it_has_to_look_at_all(monkeypatch):
    looked_at = []

    def counting(boxes, scores, threshold):
        looked_at.append(len(boxes))
        return nms(boxes, scores, threshold)

    monkeypatch.setattr(proposals, "nms", counting)
    torch.manual_seed(0)
    corner = torch.rand(3000, 2) * 400
    boxes = torch.cat([corner, corner + 20], dim=1)
    scores, levels = torch.randn(3000), torch.randint(3, (3000,))
    for number, at_most in ((100, 200), (1400, 6000)):
        looked_at.clear()
        kept = best_kept(boxes, scores, levels, 0.7, number)
        assert torch.equal(kept, batched_nms(boxes, scores, levels, 0.7)[:number])
        assert sum(looked_at) <= at_most
    crowded = torch.tensor([10.0, 10.0, 50.0, 50.0]).expand(3000, 4)
    looked_at.clear()
    assert len(best_kept(crowded, scores, levels, 0.7, 100)) == 3
    assert looked_at  # first few, then all


def test_only_a_cpu_looks_again(monkeypatch):
    module = rpn()
    anchors, *rest = predictions(module)
    called = []
    monkeypatch.setattr(RPN, "predict_proposals", lambda self, *args: called.append(args))
    module.predict_proposals(anchors, *rest)
    assert not called
    elsewhere = [Boxes(boxes.tensor.to("meta")) for boxes in anchors]
    BalancedRPN.predict_proposals(module, elsewhere, *rest)
    assert len(called) == 1
