"""The box head's classification loss inside a detector."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch.testing import assert_close
from torchvision.ops import sigmoid_focal_loss as torchvision_focal

from counterpoise.balance.losses import REDUCTIONS, softmax_focal_loss
from counterpoise.errors import UserError
from counterpoise.modeling import ROILoss
from counterpoise.modeling.registry import ROI_LOSS_REGISTRY
from counterpoise.modeling.roi_loss import ClassificationLoss
from counterpoise.modeling.weight_sources import FixedWeights
from models import LOGGED, batch, build, losses_and_gradients, quick_config

WEIGHTS = ("BALANCE.CLASS_WEIGHTS.SOURCE", "list", "BALANCE.CLASS_WEIGHTS.VALUES", "[1,2,3,0.5]")
UNWEIGHTED = ("BALANCE.CLASS_WEIGHTS.SOURCE", "none")


def predictor(*settings, classes=3):
    return build(quick_config(*settings, classes=classes)).roi_heads.box_predictor


def proposals(gt_classes):
    count = len(gt_classes)
    instances = Instances((64, 64))
    instances.proposal_boxes = Boxes(torch.tensor([[4.0, 4, 20, 20]]).repeat(count, 1))
    instances.gt_boxes = Boxes(torch.tensor([[5.0, 5, 22, 22]]).repeat(count, 1))
    instances.gt_classes = torch.as_tensor(gt_classes, dtype=torch.long)
    return instances


def predictions(rows, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes + 1, generator=generator).requires_grad_()
    deltas = torch.randn(rows, 4 * classes, generator=generator).requires_grad_()
    return logits, deltas


def losses_of(head, gt_classes, classes=3):
    predicted = predictions(sum(map(len, gt_classes)), classes)
    with EventStorage(LOGGED) as storage:
        losses = head.losses(predicted, [proposals(g) for g in gt_classes])
    sum(losses.values()).backward()
    logs = {name: value for name, (value, _) in storage.latest().items()}
    return losses, predicted, logs


@pytest.mark.parametrize("normalizer", ["weight_sum", "mean", "num_pos", "sum"])
def test_the_head_computes_the_focal_loss_with_the_weights_of_the_config(normalizer):
    head = predictor(*WEIGHTS, "BALANCE.ROI_LOSS.NORMALIZER", normalizer)
    gt_classes = [[0, 1, 3, 3], [2, 3]]
    losses, (logits, _), _ = losses_of(head, gt_classes)
    weight, targets = torch.tensor([1, 2, 3, 0.5]), torch.tensor([0, 1, 3, 3, 2, 3])
    reduction = normalizer if normalizer in REDUCTIONS else "sum"
    expected = softmax_focal_loss(logits, targets, 2.0, weight, reduction=reduction)
    if normalizer == "num_pos":
        expected = expected / 3
    assert_close(losses["loss_cls"], expected)


def test_box_regression_is_stock_whatever_the_classification_loss():
    gt_classes = [[0, 1, 3, 3]]
    focal, _, _ = losses_of(predictor(*WEIGHTS), gt_classes)
    stock, _, _ = losses_of(
        predictor("MODEL.ROI_HEADS.NAME", "StandardROIHeads", *UNWEIGHTED), gt_classes
    )
    assert torch.equal(focal["loss_box_reg"], stock["loss_box_reg"])


@pytest.mark.parametrize("name", ["softmax_focal", "cross_entropy"])
def test_a_class_weight_reaches_the_gradient_of_every_loss(name):
    gradients = []
    for values in ("[1,1,1,1]", "[1,5,1,1]"):
        head = predictor(
            "BALANCE.ROI_LOSS.NAME", name, "BALANCE.ROI_LOSS.NORMALIZER", "sum",
            "BALANCE.CLASS_WEIGHTS.SOURCE", "list", "BALANCE.CLASS_WEIGHTS.VALUES", values,
        )  # fmt: skip
        _, (logits, _), _ = losses_of(head, [[0, 1, 3]])
        gradients.append(logits.grad)
    assert_close(gradients[1][[0, 2]], gradients[0][[0, 2]])
    assert_close(gradients[1][1], 5 * gradients[0][1])


def test_loss_weight_scales_the_classification_loss_alone():
    single, _, _ = losses_of(predictor(*WEIGHTS), [[0, 1, 3]])
    double, _, _ = losses_of(predictor(*WEIGHTS, "BALANCE.ROI_LOSS.LOSS_WEIGHT", "2"), [[0, 1, 3]])
    assert_close(double["loss_cls"], 2 * single["loss_cls"])
    assert torch.equal(double["loss_box_reg"], single["loss_box_reg"])


def loss_and_gradient(head, logits, gt_classes):
    """The classification loss of a predictor alone, and its gradient."""
    logits = logits.detach().requires_grad_()
    with EventStorage():
        loss = head.cls_loss(logits, torch.as_tensor(gt_classes))
    loss.backward()
    return loss.detach(), logits.grad


@pytest.mark.parametrize("name", ["softmax_focal", "cross_entropy", "sigmoid_focal"])
@pytest.mark.parametrize("normalizer", ["weight_sum", "mean", "num_pos", "sum"])
def test_a_target_of_minus_one_is_ignored_by_every_loss_and_normaliser(name, normalizer):
    settings = ("BALANCE.ROI_LOSS.NAME", name, "BALANCE.ROI_LOSS.NORMALIZER", normalizer)
    head = predictor(*WEIGHTS, *settings)
    logits, _ = predictions(5)
    loss, gradient = loss_and_gradient(head, logits, [0, 1, -1, 3, -1])
    kept = [0, 1, 3]
    expected, expected_gradient = loss_and_gradient(head, logits[kept], kept)
    assert_close(loss, expected)
    assert_close(gradient[kept], expected_gradient)
    assert (gradient[[2, 4]] == 0).all()
    nothing, gradient = loss_and_gradient(head, logits, [-1] * 5)
    assert nothing == 0 and (gradient == 0).all()


def test_detectron2_samples_no_proposal_that_its_matcher_ignores():
    """So the predictor need not look for a class of -1, which Detectron2's loss cannot take."""
    ignore = ("MODEL.ROI_HEADS.IOU_THRESHOLDS", "[0.05, 0.5]",
              "MODEL.ROI_HEADS.IOU_LABELS", "[0, -1, 1]")  # fmt: skip
    for sampler in ("random", "all", "ohem"):
        model = build(quick_config(*WEIGHTS, *ignore, "BALANCE.ROI_SAMPLER.NAME", sampler))
        seen = []
        model.roi_heads.box_predictor.cls_loss.register_forward_pre_hook(
            lambda _module, inputs, seen=seen: seen.append(inputs[1])
        )
        with EventStorage():
            losses, _ = losses_and_gradients(model, batch())
        assert len(seen) == 1 and (seen[0] >= 0).all() and losses["loss_cls"].isfinite()


@pytest.mark.parametrize("normalizer", ["weight_sum", "mean", "num_pos", "sum"])
@pytest.mark.parametrize("gt_classes", [[], [[]], [[], []], [[3, 3]]], ids=str)
def test_batches_with_nothing_or_no_foreground_give_finite_losses_with_a_graph(
    gt_classes, normalizer
):
    head = predictor(*WEIGHTS, "BALANCE.ROI_LOSS.NORMALIZER", normalizer)
    losses, (logits, _), _ = losses_of(head, gt_classes)
    assert all(value.isfinite() for value in losses.values())
    assert logits.grad is not None


@pytest.mark.parametrize("classes", [1, 1203])
def test_one_class_and_1203_classes_train(classes):
    model = build(quick_config(*UNWEIGHTED, classes=classes))
    with EventStorage():
        losses, gradients = losses_and_gradients(model, batch(classes=classes))
    assert all(value.isfinite() for value in losses.values())
    assert gradients["roi_heads.box_predictor.cls_score.weight"].abs().sum() > 0


def test_images_without_objects_train():
    model = build(quick_config(*WEIGHTS))
    with EventStorage():
        losses, gradients = losses_and_gradients(model, batch(boxes=(0, 0)))
    assert losses["loss_cls"] > 0
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_p_t_and_the_backgrounds_share_of_the_loss_are_logged():
    head = predictor(*WEIGHTS)
    _, (logits, _), logs = losses_of(head, [[0, 1, 3, 3]])
    targets = torch.tensor([0, 1, 3, 3])
    p_t = logits.softmax(1)[torch.arange(4), targets]
    loss = softmax_focal_loss(logits, targets, 2.0, torch.tensor([1, 2, 3, 0.5]), reduction="none")
    assert logs["roi/p_t_fg"] == pytest.approx(p_t[:2].mean().item(), rel=1e-5)
    assert logs["roi/p_t_bg"] == pytest.approx(p_t[2:].mean().item(), rel=1e-5)
    share = (loss[2:].sum() / loss.sum()).item()
    assert logs["roi/background_loss_share"] == pytest.approx(share, rel=1e-5)


@pytest.mark.parametrize("name", ["softmax_focal", "cross_entropy", "sigmoid_focal"])
def test_the_p_t_that_a_loss_hands_out_is_that_of_its_probabilities(name):
    loss = ROI_LOSS_REGISTRY.get(name)(quick_config("BALANCE.ROI_LOSS.NAME", name))
    logits, targets = predictions(5)[0], torch.tensor([0, 2, 3, -1, 1])
    losses, p_t = loss.with_p_t(logits, targets)
    kept = targets >= 0
    expected = loss.probabilities(logits).gather(1, targets.clamp(min=0)[:, None]).squeeze(1)
    assert_close(p_t[kept], expected.detach()[kept])
    assert torch.equal(losses, loss(logits, targets)) and losses[3] == 0
    assert losses.requires_grad and not p_t.requires_grad


@pytest.mark.parametrize("name", ["softmax_focal", "cross_entropy"])
def test_the_log_needs_no_softmax_of_its_own(name, monkeypatch):
    head = predictor(*WEIGHTS, "BALANCE.ROI_LOSS.NAME", name)
    monkeypatch.setattr(
        type(head.cls_loss.loss), "probabilities", lambda *_: pytest.fail("softmax computed again")
    )
    _, _, logs = losses_of(head, [[0, 1, 3, 3]])
    assert 0 < logs["roi/p_t_fg"] < 1


def test_prior_prob_sets_the_initial_foreground_probability():
    head = predictor("BALANCE.ROI_LOSS.PRIOR_PROB", "0.25", classes=80)
    assert head.cls_score.bias[-1].item() == pytest.approx(5.4806, abs=1e-4)
    assert head.cls_score.bias.softmax(0)[:-1].sum().item() == pytest.approx(0.25)
    assert predictor(classes=80).cls_score.bias.abs().sum() == 0


def test_class_weights_are_computed_once_at_the_first_loss():
    calls = []

    def weights():
        calls.append(1)
        return torch.tensor([2.0, 1.0])

    loss = ClassificationLoss(lambda z, t: z.new_ones(len(t)), FixedWeights(weights))
    assert not calls
    with EventStorage():
        for _ in range(3):
            loss(torch.zeros(2, 2), torch.tensor([0, 1]))
    assert len(calls) == 1
    assert not loss.state_dict()


def test_a_loss_registered_outside_is_chosen_by_name():
    @ROI_LOSS_REGISTRY.register(name="constant_for_test")
    def build_constant(cfg):
        return lambda logits, gt_classes: 0 * logits.sum(1) + 7.0

    losses, _, _ = losses_of(
        predictor("BALANCE.ROI_LOSS.NAME", "constant_for_test", *UNWEIGHTED), [[0, 3]]
    )
    assert losses["loss_cls"].item() == pytest.approx(7.0)


@pytest.mark.parametrize("reduced", [F.cross_entropy, lambda z, t: z.square()])
def test_a_registered_loss_that_is_not_one_per_proposal_is_refused(reduced):
    """A mean times weights over their sum would be the mean: the weights would do nothing."""
    loss = ClassificationLoss(reduced, FixedWeights(lambda: torch.tensor([1.0, 5])))
    classes = torch.tensor([0, 1, 1])
    for compute in (loss, loss.per_proposal):
        with EventStorage(), pytest.raises(UserError, match=r"ROI_LOSS.NAME .*expected \(3,\)"):
            compute(torch.zeros(3, 2), classes)


@ROI_LOSS_REGISTRY.register(name="shifted_for_test")
class ShiftedLoss(ROILoss):
    """Not a softmax: its probabilities and its prior are its own."""

    def __init__(self, cfg):
        super().__init__()

    def forward(self, logits, gt_classes):
        return logits.square().sum(dim=1).masked_fill(gt_classes < 0, 0.0)

    def probabilities(self, logits):
        return (logits + 7).sigmoid()

    def prior_bias(self, num_classes, prior_prob):
        return torch.full((num_classes + 1,), prior_prob)


def test_a_registered_loss_brings_its_own_probabilities_and_prior():
    name = ("BALANCE.ROI_LOSS.NAME", "shifted_for_test")
    head = predictor(*name, *UNWEIGHTED, "BALANCE.ROI_LOSS.PRIOR_PROB", "0.125")
    assert (head.cls_score.bias == 0.125).all()
    losses, (logits, deltas), logs = losses_of(head, [[0, 1], [3]])
    assert_close(losses["loss_cls"], logits.square().sum() / 3)
    probabilities = head.predict_probs((logits, deltas), [proposals([0, 1]), proposals([3])])
    assert [len(p) for p in probabilities] == [2, 1]
    assert_close(torch.cat(probabilities), (logits + 7).sigmoid())
    expected = (logits[[0, 1], [0, 1]] + 7).sigmoid().mean().item()
    assert logs["roi/p_t_fg"] == pytest.approx(expected, rel=1e-5)


SIGMOID = ("BALANCE.ROI_LOSS.NAME", "sigmoid_focal", *UNWEIGHTED)


def test_sigmoid_focal_sums_one_binary_loss_per_class_and_leaves_the_last_column_out():
    head = predictor(*SIGMOID, "BALANCE.ROI_LOSS.NORMALIZER", "sum")
    logits, _ = predictions(4)
    loss, gradient = loss_and_gradient(head, logits, [0, 2, 3, -1])
    labels = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 0, 0]])
    expected = torchvision_focal(logits[:3, :3], labels, 0.25, 2.0, "sum")
    assert_close(loss, expected.detach())
    assert (gradient[:, 3] == 0).all() and (gradient[3] == 0).all()


def test_sigmoid_focal_takes_an_alpha_per_class():
    head = predictor(*SIGMOID, "BALANCE.ROI_LOSS.ALPHA", "[0.2, 0.5, 0.9]")
    losses, (logits, _), _ = losses_of(head, [[0, 2, 3]])
    labels = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 0, 0]])
    expected = sum(
        torchvision_focal(logits[:, c], labels[:, c], alpha, 2.0, "sum")
        for c, alpha in enumerate([0.2, 0.5, 0.9])
    )
    assert_close(losses["loss_cls"], expected / 3)
    with pytest.raises(UserError, match="ALPHA has 2 numbers, expected 1 or 3"):
        predictor(*SIGMOID, "BALANCE.ROI_LOSS.ALPHA", "[0.2, 0.5]")
    with pytest.raises(UserError, match=r"ALPHA is .*expected numbers in \[0, 1\]"):
        predictor(*SIGMOID, "BALANCE.ROI_LOSS.ALPHA", "[0.2, 0.5, 1.5]")


def test_sigmoid_focal_is_tested_with_the_activation_that_it_is_trained_with():
    head = predictor(*SIGMOID)
    logits, deltas = predictions(5)
    probabilities = head.predict_probs((logits, deltas), [proposals([0, 1]), proposals([0, 1, 2])])
    assert [len(p) for p in probabilities] == [2, 3]
    assert_close(torch.cat(probabilities)[:, :3], logits[:, :3].sigmoid())
    prior = predictor(*SIGMOID, "BALANCE.ROI_LOSS.PRIOR_PROB", "0.01")
    assert_close(prior.cls_score.bias[:3].sigmoid(), torch.full((3,), 0.01))


def test_batch_weights_follow_the_proposals_of_each_step():
    settings = ("BALANCE.CLASS_WEIGHTS.SOURCE", "batch", "BALANCE.ROI_LOSS.NORMALIZER", "sum")
    head = predictor(*settings)
    for gt_classes in ([0, 0, 0, 1, 3, 3, 3, 3], [2, 3]):
        losses, (logits, _), _ = losses_of(head, [gt_classes])
        targets = torch.tensor(gt_classes)
        frequency = torch.bincount(targets, minlength=4) / len(targets)
        weight = 1 / torch.log(1.10 + frequency)
        expected = softmax_focal_loss(logits, targets, 2.0, weight, reduction="sum")
        assert_close(losses["loss_cls"], expected)


def test_batch_weights_are_one_without_foreground():
    head = predictor("BALANCE.CLASS_WEIGHTS.SOURCE", "batch", "BALANCE.ROI_LOSS.NORMALIZER", "sum")
    logits, _ = predictions(3)
    targets = torch.tensor([3, 3, -1])
    loss, _ = loss_and_gradient(head, logits, targets)
    assert_close(loss, softmax_focal_loss(logits, targets, 2.0, reduction="sum").detach())


def test_mask_rcnn_trains_two_steps():
    model = build(
        quick_config(
            *WEIGHTS, "MODEL.MASK_ON", "True",
            "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead",
            "MODEL.ROI_MASK_HEAD.NUM_CONV", "1",
            "MODEL.ROI_MASK_HEAD.CONV_DIM", "8",
        )
    )  # fmt: skip
    images = batch()
    for image in images:
        boxes = image["instances"].gt_boxes.tensor
        image["instances"].gt_masks = PolygonMasks(
            [[np.array([x0, y0, x1, y0, x1, y1, x0, y1])] for x0, y0, x1, y1 in boxes.tolist()]
        )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with EventStorage():
        for step in range(2):
            losses, _ = losses_and_gradients(model, images, seed=step)
            optimizer.step()
    assert losses["loss_mask"].isfinite() and losses["loss_cls"].isfinite()


def test_an_unknown_loss_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'softmax_focal'"):
        predictor("BALANCE.ROI_LOSS.NAME", "softmax_focl")


@pytest.mark.parametrize("key", ["USE_SIGMOID_CE", "USE_FED_LOSS"])
def test_detectron2s_own_loss_switches_are_refused_not_ignored(key):
    with pytest.raises(UserError, match=key):
        predictor(f"MODEL.ROI_BOX_HEAD.{key}", "True")


def test_detectron2s_box_loss_weight_still_works():
    single, _, _ = losses_of(predictor(*WEIGHTS), [[0, 1, 3]])
    triple, _, _ = losses_of(
        predictor(*WEIGHTS, "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT", "3.0"), [[0, 1, 3]]
    )
    assert_close(triple["loss_box_reg"], 3 * single["loss_box_reg"])
    assert math.isclose(triple["loss_cls"].item(), single["loss_cls"].item())
