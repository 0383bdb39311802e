"""Which proposals train the box head: their number, their losses, and what a step costs."""

import pytest
import torch
from detectron2.layers import cat
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import EventStorage
from torch import nn
from torch.testing import assert_close

from counterpoise.errors import UserError
from counterpoise.modeling import ROISampler
from counterpoise.modeling.box_regression import box_loss_per_proposal
from counterpoise.modeling.registry import ROI_SAMPLER_REGISTRY
from counterpoise.modeling.roi_sampling import (
    OHEMProposalSampler,
    SampledROIHeads,
    read_only,
)
from models import C4, CASCADE, LOGGED, NEUTRAL, batch, build, losses_and_gradients, quick_config

ALL = ("BALANCE.ROI_SAMPLER.NAME", "all")
OHEM = ("BALANCE.ROI_SAMPLER.NAME", "ohem")
BUDGET, NMS = "BALANCE.ROI_SAMPLER.BUDGET", "BALANCE.ROI_SAMPLER.NMS_THRESH"
WEIGHTS = ("BALANCE.CLASS_WEIGHTS.SOURCE", "list", "BALANCE.CLASS_WEIGHTS.VALUES", "[1,2,3,0.5]")


def train_step(*settings, boxes=(5, 2), change=lambda model: None):
    """Proposals that reach the box predictor in a step: those with a graph, and all others."""
    model = build(quick_config(*NEUTRAL, *settings))
    change(model)
    seen, rows = [], {True: 0, False: 0}

    def record(predictor, predictions, proposals):
        seen.extend(proposals)
        return type(predictor).losses(predictor, predictions, proposals)

    predictor = model.roi_heads.box_predictor
    predictor.losses = lambda predictions, proposals: record(predictor, predictions, proposals)
    predictor.cls_score.register_forward_hook(
        lambda module, arguments, output: rows.__setitem__(
            output.requires_grad, rows[output.requires_grad] + len(output)
        )
    )
    with EventStorage(LOGGED) as storage:
        losses, gradients = losses_and_gradients(model, batch(boxes))
    logs = {name: value for name, (value, _) in storage.latest().items()}
    return seen, rows, logs, losses, gradients


def test_all_trains_on_every_proposal_and_the_ground_truth():
    seen, rows, logs, losses, _ = train_step(*ALL, "MODEL.RPN.NMS_THRESH", "1.0")
    kept = [len(p) for p in seen]
    assert min(kept) > 400  # RPN.POST_NMS_TOPK_TRAIN of the quick model is 500
    assert rows == {True: sum(kept), False: 0}
    for proposals, image in zip(seen, batch(), strict=True):
        instances = image["instances"]
        overlap = pairwise_iou(instances.gt_boxes, proposals.proposal_boxes)
        assert (overlap.amax(dim=1) > 0.999).all()
        best, matched = overlap.max(dim=0)
        expected = torch.where(best >= 0.5, instances.gt_classes[matched], 3)
        assert torch.equal(proposals.gt_classes, expected)
    assert logs["roi_head/num_fg_samples"] + logs["roi_head/num_bg_samples"] == sum(kept) / 2
    assert all(value.isfinite() for value in losses.values())


def test_ohem_trains_on_the_budget_and_only_reads_the_rest():
    _, everything, *_ = train_step(*ALL)
    seen, rows, logs, _, gradients = train_step(*OHEM, BUDGET, "16", NMS, "-1")
    assert [len(p) for p in seen] == [16, 16]
    assert rows == {True: 2 * 16, False: everything[True]}
    assert logs["roi_head/num_fg_samples"] + logs["roi_head/num_bg_samples"] == 16
    assert gradients["roi_heads.box_head.fc1.weight"].abs().sum() > 0


def saved_bytes(*settings):
    """Memory that the ROI heads hold for the backward pass."""
    held = {}

    def watch(model):
        forward = model.roi_heads.forward

        def measured(*arguments):
            def pack(tensor):
                held[tensor.data_ptr()] = tensor.nbytes
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                return forward(*arguments)

        model.roi_heads.forward = measured

    train_step(*settings, change=watch)
    return sum(held.values())


def test_training_memory_is_that_of_the_budget():
    budget = saved_bytes("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16")
    assert saved_bytes(*OHEM, BUDGET, "16", NMS, "-1") == pytest.approx(budget, rel=0.02)
    assert saved_bytes(*ALL) > 3 * budget


@pytest.mark.parametrize("nms_thresh", [-1.0, 0.7])
def test_ohem_takes_the_largest_losses_that_a_separate_pass_finds(nms_thresh):
    model = build(quick_config(*NEUTRAL, *ALL))
    heads = model.roi_heads.train()
    candidates, features = labelled_proposals(model)
    expected = []
    for image, proposals in enumerate(candidates):
        alone = {name: value[image : image + 1] for name, value in features.items()}
        losses = []
        for i in range(len(proposals)):
            one = [proposals[i : i + 1]]
            with EventStorage(), torch.no_grad():
                predictions = heads.predict_boxes(alone, one)
                losses.append(sum(heads.box_predictor.losses(predictions, one).values()))
        losses = torch.stack(losses)
        kept = []
        for i in losses.argsort(descending=True).tolist():
            same = [k for k in kept if proposals.gt_classes[k] == proposals.gt_classes[i]]
            overlap = pairwise_iou(proposals.proposal_boxes[same], proposals.proposal_boxes[[i]])
            if nms_thresh < 0 or not (overlap > nms_thresh).any():
                kept.append(i)
        expected.append(kept[:20])
    losses = heads.losses_per_proposal(features, candidates).split([*map(len, candidates)])
    sampler = OHEMProposalSampler(20, nms_thresh)
    for proposals, loss, indices in zip(candidates, losses, expected, strict=True):
        chosen = sampler(proposals.gt_classes, proposals.proposal_boxes, loss)
        assert chosen.tolist() == indices


def labelled_proposals(model, boxes=(5, 2), count=60):
    """All labelled proposals of a batch, some of them off the ground truth, and the features."""
    generator = torch.Generator().manual_seed(0)
    images, proposals = batch(boxes), []
    for image in images:
        corner = torch.rand(count, 2, generator=generator) * 60
        near = image["instances"].gt_boxes.tensor.repeat(4, 1)
        near = near + torch.rand(near.shape, generator=generator)
        found = torch.cat([torch.cat([corner, corner + 5 + corner / 2], dim=1), near])
        instances = Instances((96, 96))
        instances.proposal_boxes = Boxes(found)
        instances.objectness_logits = torch.zeros(len(found))
        proposals.append(instances)
    features = {
        f"p{i}": torch.randn(len(boxes), 16, 96 // 2**i, 96 // 2**i, generator=generator)
        for i in range(2, 6)
    }
    with EventStorage():
        labelled = model.roi_heads.label_and_sample_proposals(
            proposals, [image["instances"] for image in images]
        )
    return labelled, features


@pytest.mark.parametrize("agnostic", ["True", "False"])
@pytest.mark.parametrize("kind", ["smooth_l1", "giou", "diou", "ciou"])
def test_box_losses_add_up_to_detectron2s(kind, agnostic):
    model = build(
        quick_config(
            *NEUTRAL, *ALL,
            "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", kind,
            "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT", "2.5",
            "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA", "0.5",
            "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", agnostic,
        )
    )  # fmt: skip
    heads = model.roi_heads
    proposals, features = labelled_proposals(model, boxes=(5, 0))
    with EventStorage(), torch.no_grad():
        predictions = heads.predict_boxes(features, proposals)
        total = heads.box_predictor.losses(predictions, proposals)["loss_box_reg"]
    losses = box_loss_per_proposal(heads.box_predictor, predictions[1], proposals)
    gt_classes = cat([p.gt_classes for p in proposals])
    assert_close(losses.sum(), total)
    assert (losses[gt_classes < 3] > 0).any() and (losses[gt_classes == 3] == 0).all()


@pytest.mark.parametrize("normalizer", ["weight_sum", "mean", "num_pos", "sum"])
@pytest.mark.parametrize("loss", ["softmax_focal", "sigmoid_focal", "cross_entropy"])
def test_proposals_are_ranked_by_the_loss_that_trains(loss, normalizer):
    model = build(
        quick_config(
            *ALL, *WEIGHTS,
            "BALANCE.ROI_LOSS.NAME", loss,
            "BALANCE.ROI_LOSS.NORMALIZER", normalizer,
            "BALANCE.ROI_LOSS.LOSS_WEIGHT", "1.5",
        )
    )  # fmt: skip
    heads = model.roi_heads
    proposals, features = labelled_proposals(model)
    with EventStorage(), torch.no_grad():
        predictions = heads.predict_boxes(features, proposals)
        total = sum(heads.box_predictor.losses(predictions, proposals).values())
    assert_close(heads.losses_per_proposal(features, proposals).sum(), total)


def test_no_share_of_foreground_is_asked_for():
    losses = torch.tensor([0.1, 0.9, 0.8, 0.2])
    boxes = Boxes(
        torch.tensor([[0.0, 0, 9, 9], [20, 20, 29, 29], [40, 40, 49, 49], [60, 0, 69, 9]])
    )
    sampler = OHEMProposalSampler(budget=2)
    assert sampler(torch.tensor([0, 3, 3, 1]), boxes, losses).tolist() == [1, 2]
    assert sampler(torch.tensor([3, 0, 1, 3]), boxes, losses).tolist() == [1, 2]


def test_nms_drops_the_smaller_loss_of_two_with_one_label_and_keeps_other_labels():
    boxes = Boxes(torch.tensor([[0.0, 0, 10, 10], [0, 1, 10, 11], [50, 50, 60, 60]]))
    losses = torch.tensor([0.5, 0.6, 0.1])
    one_label, two_labels = torch.tensor([3, 3, 3]), torch.tensor([3, 0, 3])
    assert OHEMProposalSampler(2, 0.7)(one_label, boxes, losses).tolist() == [1, 2]
    assert OHEMProposalSampler(2, 0.7)(two_labels, boxes, losses).tolist() == [1, 0]
    assert OHEMProposalSampler(2, -1)(one_label, boxes, losses).tolist() == [1, 0]


@pytest.mark.parametrize("sampler", [ALL, OHEM])
@pytest.mark.parametrize("boxes", [(0, 3), (0, 0)])
def test_images_without_objects_train(sampler, boxes):
    seen, _, _, losses, gradients = train_step(*sampler, boxes=boxes)
    assert len(seen) == 2 and all(len(p) > 0 for p in seen)
    assert all(value.isfinite() for value in losses.values())
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_ignored_proposals_are_left_out():
    ignore = ("MODEL.ROI_HEADS.IOU_THRESHOLDS", "[0.05, 0.5]",
              "MODEL.ROI_HEADS.IOU_LABELS", "[0, -1, 1]")  # fmt: skip
    plain, *_ = train_step(*ALL)
    seen, *_ = train_step(*ALL, *ignore)
    assert sum(map(len, seen)) < sum(map(len, plain))
    assert all((p.gt_classes >= 0).all() for p in seen)


def test_the_read_only_pass_leaves_running_statistics_and_modes_alone():
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.BatchNorm1d(3).eval())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [part.training for part in module.modules()]
    with read_only(module):
        assert not module(torch.randn(5, 3)).requires_grad
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert [part.training for part in module.modules()] == modes == [True, True, True, False]


def test_detection_is_not_touched_by_the_sampler():
    plain, mining = (build(quick_config(*NEUTRAL, *s)).eval() for s in ((), OHEM))
    with torch.no_grad():
        for ours, theirs in zip(mining(batch()), plain(batch()), strict=True):
            assert torch.equal(ours["instances"].scores, theirs["instances"].scores)


def test_a_sampler_registered_outside_is_chosen_by_name():
    @ROI_SAMPLER_REGISTRY.register(name="foreground_for_test")
    def build_foreground(cfg):
        background = cfg.MODEL.ROI_HEADS.NUM_CLASSES
        return lambda gt_classes, boxes, losses: (gt_classes < background).nonzero().flatten()

    seen, *_ = train_step("BALANCE.ROI_SAMPLER.NAME", "foreground_for_test")
    assert all(len(p) > 0 and (p.gt_classes < 3).all() for p in seen)


@ROI_SAMPLER_REGISTRY.register(name="easiest_for_test")
class EasiestSampler(ROISampler):
    """The seven proposals with the smallest losses."""

    needs_losses = True

    def __init__(self, cfg):
        super().__init__()

    def __call__(self, gt_classes, boxes, losses):
        assert losses.shape == gt_classes.shape and not losses.requires_grad
        return losses.argsort()[:7]


def test_a_registered_sampler_that_needs_losses_gets_them_and_a_function_does_not():
    seen, *_ = train_step("BALANCE.ROI_SAMPLER.NAME", "easiest_for_test")
    assert [len(p) for p in seen] == [7, 7]
    given = []

    @ROI_SAMPLER_REGISTRY.register(name="plain_for_test")
    def build_plain(cfg):
        return lambda gt_classes, boxes, losses: given.append(losses) or torch.arange(5)

    seen, *_ = train_step("BALANCE.ROI_SAMPLER.NAME", "plain_for_test")
    assert [len(p) for p in seen] == [5, 5] and given == [None, None]


def test_an_unknown_sampler_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"ROI_SAMPLER.NAME is 'ohme', did you mean 'ohem'"):
        build(quick_config("BALANCE.ROI_SAMPLER.NAME", "ohme"))


def test_heads_without_one_loss_per_proposal_refuse_to_mine():
    class SeveralPredictors(SampledROIHeads, StandardROIHeads):
        pass

    with pytest.raises(UserError, match=r"ROI_SAMPLER.NAME is 'ohem'.*no single loss"):
        SeveralPredictors(quick_config(*OHEM), {})


@pytest.mark.parametrize(
    "head, sampler",
    [(C4, "all"), (C4, "ohem"), (CASCADE, "all")],
    ids=["c4 all", "c4 ohem", "cascade all"],
)
def test_other_heads_take_the_sampler_flag(head, sampler):
    _, name, *rest = head
    settings = (*NEUTRAL, "MODEL.ROI_HEADS.NAME", f"Balanced{name}", *rest)
    model = build(quick_config(*settings, "BALANCE.ROI_SAMPLER.NAME", sampler))
    with EventStorage(LOGGED) as storage:
        losses, _ = losses_and_gradients(model, batch())
    numbers = {name: value for name, (value, _) in storage.latest().items()}
    total = numbers["roi_head/num_fg_samples"] + numbers["roi_head/num_bg_samples"]
    assert total <= 64 if sampler == "ohem" else total > 128
    assert all(value.isfinite() for value in losses.values())


def test_cascade_refuses_a_sampler_that_ranks_by_a_single_loss():
    _, name, *rest = CASCADE
    with pytest.raises(UserError, match="several box predictors"):
        build(quick_config("MODEL.ROI_HEADS.NAME", f"Balanced{name}", *rest, *OHEM))
