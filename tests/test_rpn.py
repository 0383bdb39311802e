"""The RPN with hard negatives: which anchors train it, and how its losses are normalised."""

import pytest
import torch
from detectron2.structures import Boxes, pairwise_iou
from detectron2.utils.events import EventStorage
from torch.nn.functional import softplus
from torch.testing import assert_close

from counterpoise.errors import UserError
from counterpoise.modeling.anchor_sampling import OHEMAnchorSampler
from counterpoise.modeling.registry import ANCHOR_SAMPLER_REGISTRY
from models import LOGGED, NEUTRAL, batch, build, losses_and_gradients, quick_config

OHEM = ("BALANCE.ANCHOR_SAMPLER.NAME", "ohem")
NORMALIZER = "BALANCE.ANCHOR_SAMPLER.NORMALIZER"
#: What the recording sampler was given, per image.
SEEN = []


def rpn_losses(*settings, boxes=(5, 2)):
    model = build(quick_config(*NEUTRAL, *settings))
    with EventStorage(LOGGED) as storage:
        losses, _ = losses_and_gradients(model, batch(boxes))
    return losses, {name: value for name, (value, _) in storage.latest().items()}


def test_ohem_keeps_the_positives_and_takes_three_negatives_for_each():
    random, random_logs = rpn_losses()
    ohem, ohem_logs = rpn_losses(*OHEM)
    assert ohem_logs["rpn/num_pos_anchors"] == random_logs["rpn/num_pos_anchors"] > 0
    assert ohem_logs["rpn/num_neg_anchors"] == 3 * ohem_logs["rpn/num_pos_anchors"]
    assert torch.equal(ohem["loss_rpn_loc"], random["loss_rpn_loc"])


@ANCHOR_SAMPLER_REGISTRY.register(name="recording_for_test")
def build_recording_sampler(cfg):
    """OHEM that keeps what it is given."""
    sampler = ANCHOR_SAMPLER_REGISTRY.get("ohem")(cfg)
    SEEN.clear()

    def recording(labels, logits, anchors):
        SEEN.append((labels.clone(), logits, anchors))
        return sampler(labels, logits, anchors)

    return recording


def recorded_step():
    """The losses of a step, what its sampler saw of each image, and the head's logits (N, A)."""
    model = build(quick_config(*NEUTRAL, "BALANCE.ANCHOR_SAMPLER.NAME", "recording_for_test"))
    levels = []
    model.proposal_generator.rpn_head.register_forward_hook(
        lambda _module, _inputs, outputs: levels.extend(outputs[0])
    )
    with EventStorage():
        losses, _ = losses_and_gradients(model, batch())
    logits = torch.cat([level.permute(0, 2, 3, 1).flatten(1) for level in levels], dim=1)
    return losses, list(SEEN), logits


def test_the_sampler_sees_the_labels_and_the_heads_objectness_logits_without_their_graph():
    _, seen, logits = recorded_step()
    assert logits.requires_grad and len(seen) == len(logits) == 2
    for (labels, given, anchors), expected in zip(seen, logits, strict=True):
        assert torch.equal(given, expected) and not given.requires_grad
        assert len(labels) == len(given) == sum(map(len, anchors))
        assert set(labels.tolist()) == {-1, 0, 1}


def test_ohem_negatives_are_the_hardest_ones():
    losses, seen, logits = recorded_step()
    total = 0.0
    for (labels, *_), scores in zip(seen, logits.detach(), strict=True):
        positives, negatives = scores[labels == 1], scores[labels == 0]
        hardest = softplus(negatives).topk(3 * len(positives)).values
        assert hardest.mean() > softplus(negatives).mean()
        total += softplus(-positives).sum() + hardest.sum()
    assert_close(losses["loss_rpn_cls"], total / (2 * 256), rtol=1e-6, atol=0.0)


def test_images_without_objects_train_on_their_hardest_negatives():
    losses, logs = rpn_losses(*OHEM, "BALANCE.ANCHOR_SAMPLER.MIN_NEGATIVES", "7", boxes=(0, 0))
    assert logs["rpn/num_neg_anchors"] == 7
    assert logs["rpn/num_pos_anchors"] == 0
    assert losses["loss_rpn_cls"] > 0


def test_normalizers_divide_by_what_they_name():
    reference, logs = rpn_losses(*OHEM, NORMALIZER, "batch")
    images, batch_size = 2, 256
    positives = images * logs["rpn/num_pos_anchors"]
    sampled = positives + images * logs["rpn/num_neg_anchors"]
    by_sampled, _ = rpn_losses(*OHEM, NORMALIZER, "num_sampled")
    by_positives, _ = rpn_losses(*OHEM, NORMALIZER, "num_pos")
    total = {name: value * images * batch_size for name, value in reference.items()}
    assert_close(by_sampled["loss_rpn_cls"], total["loss_rpn_cls"] / sampled)
    assert_close(by_sampled["loss_rpn_loc"], reference["loss_rpn_loc"])
    assert_close(by_positives["loss_rpn_cls"], total["loss_rpn_cls"] / positives)
    assert_close(by_positives["loss_rpn_loc"], total["loss_rpn_loc"] / positives)


def test_normalizers_survive_images_without_objects():
    for normalizer in ("num_sampled", "num_pos"):
        losses, _ = rpn_losses(*OHEM, NORMALIZER, normalizer, boxes=(0,))
        assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize("sampler, normalizer", [("ohem", "num_sampled"), ("random", "batch")])
def test_hard_negatives_are_averaged_and_a_random_sample_is_divided_as_in_detectron2(
    sampler, normalizer
):
    name = ("BALANCE.ANCHOR_SAMPLER.NAME", sampler)
    assert rpn_losses(*name)[0] == rpn_losses(*name, NORMALIZER, normalizer)[0]


def test_a_bound_on_the_negatives_makes_a_random_sample_one_to_one_where_positives_are_few():
    _, stock = rpn_losses()
    _, bounded = rpn_losses("BALANCE.ANCHOR_SAMPLER.NEG_POS_UB", "1")
    assert bounded["rpn/num_pos_anchors"] == stock["rpn/num_pos_anchors"] < 128
    assert bounded["rpn/num_neg_anchors"] == bounded["rpn/num_pos_anchors"]
    assert stock["rpn/num_neg_anchors"] == 256 - stock["rpn/num_pos_anchors"]


def test_accuracy_is_logged_over_all_labelled_anchors_whatever_the_sampler():
    _, random = rpn_losses()
    _, ohem = rpn_losses(*OHEM)
    for name in ("rpn/fg_accuracy", "rpn/bg_accuracy"):
        assert ohem[name] == random[name]
        assert 0 <= ohem[name] <= 1


def test_nms_spreads_the_negatives_and_refills_when_it_runs_short():
    crowd = torch.tensor([[0.0, 0, 10, 10], [0, 1, 10, 11], [1, 0, 11, 10]])
    apart = torch.tensor([[50.0, 50, 60, 60], [90, 90, 100, 100]])
    anchors = [Boxes(torch.cat([crowd, apart]))]
    labels, logits = torch.zeros(5, dtype=torch.int8), torch.tensor([5.0, 4, 3, 2, 1])

    def chosen(nms_thresh, negatives):
        sampler = OHEMAnchorSampler(min_negatives=negatives, nms_thresh=nms_thresh)
        return (sampler(labels, logits, anchors) == 0).nonzero().flatten().tolist()

    assert chosen(-1.0, 3) == [0, 1, 2]
    assert chosen(0.5, 3) == [0, 3, 4]
    assert chosen(0.5, 4) == [0, 1, 3, 4]


def test_nms_does_not_mix_feature_levels():
    box = torch.tensor([[0.0, 0, 10, 10]])
    sampler = OHEMAnchorSampler(min_negatives=2, nms_thresh=0.5)
    anchors = [Boxes(box), Boxes(torch.cat([box, box + 50]))]
    labels = torch.zeros(3, dtype=torch.int8)
    assert sampler(labels, torch.tensor([3.0, 2, 1]), anchors).tolist() == [0, 0, -1]


def sampled_anchors(*settings, seed=0, logits=None):
    """The quick model's anchors of an image without objects, and those that a sampler takes."""
    model = build(quick_config(*OHEM, "BALANCE.ANCHOR_SAMPLER.MIN_NEGATIVES", "40", *settings))
    rpn = model.proposal_generator
    features = [torch.zeros(1, 1, 24 // 2**i, 24 // 2**i) for i in range(5)]
    anchors = rpn.anchor_generator(features)
    total = sum(map(len, anchors))
    torch.manual_seed(seed)
    sampled = rpn.anchor_sampler(
        torch.zeros(total, dtype=torch.int8),
        torch.zeros(total) if logits is None else logits(total),
        anchors,
    )
    return anchors, (sampled == 0).nonzero().flatten()


def test_nms_in_the_config_leaves_no_two_negatives_at_one_location():
    def overlap(*settings):
        anchors, chosen = sampled_anchors(*settings, logits=torch.randn)
        finest = anchors[0].tensor[chosen[chosen < len(anchors[0])]]
        assert len(chosen) == 40
        return pairwise_iou(Boxes(finest), Boxes(finest)).fill_diagonal_(0).max()

    assert overlap() > 0.5
    assert overlap("BALANCE.ANCHOR_SAMPLER.NMS_THRESH", "0.4") <= 0.4


def test_a_random_tie_break_in_the_config_follows_the_seed_and_leaves_the_corner():
    tie_break = ("BALANCE.ANCHOR_SAMPLER.TIE_BREAK", "random")
    _, by_index = sampled_anchors()
    assert by_index.tolist() == list(range(40))
    for nms in ((), ("BALANCE.ANCHOR_SAMPLER.NMS_THRESH", "0.7")):
        first, again, other = (
            sampled_anchors(*tie_break, *nms, seed=seed)[1] for seed in (0, 0, 1)
        )
        assert torch.equal(first, again) and not torch.equal(first, other)
        assert len(first) == 40 and first.float().mean() > 200


def test_an_unknown_sampler_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'ohem'"):
        build(quick_config("BALANCE.ANCHOR_SAMPLER.NAME", "ohme"))
