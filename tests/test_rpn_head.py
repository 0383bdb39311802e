"""The RPN head with sparse gradients: the outputs and gradients of Detectron2's head."""

import copy

import pytest
import torch
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from torch.testing import assert_close

from counterpoise.modeling import rpn_head
from counterpoise.modeling.rpn_head import SparseGradientRPNHead

SIZES = [(12, 16), (6, 8), (1, 1)]


def heads(dtype=torch.float64, **settings):
    """Detectron2's head and ours, with the same weights."""
    torch.manual_seed(0)
    settings = {"in_channels": 8, "num_anchors": 3, **settings}
    theirs, ours = StandardRPNHead(**settings), SparseGradientRPNHead(**settings)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours.load_state_dict(theirs.state_dict())
    return theirs.to(dtype), ours.to(dtype)


def outputs_and_gradients(head, maps, masks):
    """All outputs, and the gradients of features and weights of a loss of the masked outputs."""
    maps = [m.clone().requires_grad_() for m in maps]
    logits, deltas = head(maps)
    outputs = [*logits, *deltas]
    loss = sum((o.double().square() * m).sum() for o, m in zip(outputs, masks, strict=True))
    gradients = torch.autograd.grad(loss, [*maps, *head.parameters()])
    return [o.detach() for o in outputs], gradients


def inputs(dtype=torch.float64, share=0.05, images=2):
    torch.manual_seed(1)
    maps = [torch.randn(images, 8, *size, dtype=dtype) for size in SIZES]
    shapes = [(images, c, *size) for c in (3, 12) for size in SIZES]
    return maps, [(torch.rand(s) < share).double() for s in shapes]


@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("block", [7, 4096])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_outputs_and_gradients_are_detectron2s(share, block, order, monkeypatch):
    monkeypatch.setattr(rpn_head, "BLOCK", block)
    maps, masks = inputs(share=share)
    maps = [m.contiguous(memory_format=order) for m in maps]
    expected, actual = (outputs_and_gradients(head, maps, masks) for head in heads())
    assert all(map(torch.equal, actual[0], expected[0]))
    # The products are summed in float32.
    assert_close(actual[1], expected[1], rtol=1e-5, atol=1e-5)
    if share:
        assert all(g.abs().sum() > 0 for g in actual[1][3:])


def test_a_level_and_an_output_without_a_loss_have_no_gradient():
    maps, masks = inputs(share=1.0)
    for level in (0, 3, 4):  # all of the first level, the deltas of the second
        masks[level].zero_()
    expected, actual = (outputs_and_gradients(head, maps, masks) for head in heads())
    assert_close(actual[1], expected[1], rtol=1e-5, atol=1e-5)
    assert not actual[1][0].any() and actual[1][1].any()


def test_in_bfloat16_it_is_as_near_to_the_truth_as_detectron2s():
    maps, masks = inputs(torch.float32)
    truth = outputs_and_gradients(heads()[0], [m.double() for m in maps], masks)[1]
    errors = []
    for head in heads(torch.float32):
        with torch.autocast("cpu", torch.bfloat16):
            gradients = outputs_and_gradients(head, maps, masks)[1]
        assert all(g.dtype == torch.float32 for g in gradients)
        errors.append([(g - t).norm() / t.norm() for g, t in zip(gradients, truth, strict=True)])
    theirs, ours = torch.tensor(errors)
    assert (ours <= 1.5 * theirs + 1e-3).all(), (theirs, ours)


def test_a_gradient_that_is_not_finite_reaches_the_weights():
    maps, masks = inputs()
    masks[0][0, 0, 3, 3] = torch.nan
    gradients = outputs_and_gradients(heads()[1], maps, masks)[1]
    assert gradients[0].isnan().any() and gradients[3].isnan().any()


def test_frozen_weights_and_features_need_no_gradient():
    maps, _ = inputs()
    _, ours = heads()
    ours.conv.requires_grad_(False)
    logits, deltas = ours(maps)
    sum(o.sum() for o in (*logits, *deltas)).backward()
    assert ours.conv.weight.grad is None and ours.anchor_deltas.weight.grad.any()


def test_without_gradients_or_with_more_convolutions_it_is_detectron2s_own():
    maps, masks = inputs()
    theirs, ours = heads(conv_dims=[8, 8])
    expected, actual = (outputs_and_gradients(h, maps, masks) for h in (theirs, ours))
    assert all(map(torch.equal, actual[1], expected[1]))
    theirs, ours = heads()
    with torch.no_grad():
        for mine, reference in zip(ours(maps), theirs(maps), strict=True):
            assert all(map(torch.equal, mine, reference))


def test_a_second_derivative_is_refused():
    maps, _ = inputs()
    _, ours = heads()
    x = maps[0].requires_grad_()
    (gradient,) = torch.autograd.grad(ours([x])[0][0].square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_it_can_be_copied_and_keeps_the_names_of_its_weights():
    theirs, ours = heads()
    assert copy.deepcopy(ours).state_dict().keys() == theirs.state_dict().keys()
