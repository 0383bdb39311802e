"""PISA: hierarchical ranks, importance, and what they do to the losses of the box head."""

import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch.testing import assert_close

from counterpoise.balance.prime_samples import hierarchical_rank, importance
from counterpoise.modeling.roi_loss import rescaled
from models import NEUTRAL, batch, build, losses_and_gradients, quick_config


def ranks_by_hand(ious, classes, objects):
    ranks = [0] * len(ious)
    for c in set(classes):
        of_class = [i for i in range(len(ious)) if classes[i] == c]
        within = {
            i: sum(objects[j] == objects[i] and ious[j] > ious[i] for j in of_class)
            for i in of_class
        }
        ordered = sorted(of_class, key=lambda i: (within[i], -ious[i]))
        for rank, i in enumerate(ordered):
            ranks[i] = rank
    return ranks


def test_ranks_are_those_of_the_definition():
    generator = torch.Generator().manual_seed(0)
    objects = torch.randint(9, (60,), generator=generator)
    classes = objects % 3
    ious = torch.rand(60, generator=generator)
    expected = ranks_by_hand(ious.tolist(), classes.tolist(), objects.tolist())
    assert hierarchical_rank(ious, classes, objects).tolist() == expected


def test_the_best_of_each_object_comes_before_the_second_best_of_any():
    ious, objects = torch.tensor([0.9, 0.8, 0.55, 0.5]), torch.tensor([0, 0, 1, 1])
    ranks = hierarchical_rank(ious, torch.zeros(4, dtype=torch.long), objects)
    assert ranks.tolist() == [0, 2, 1, 3]


def test_importance_is_the_formula_with_the_number_of_the_largest_class():
    ranks, classes = torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([0, 0, 0, 0, 1, 1])
    assert_close(importance(ranks, classes), torch.tensor([1, 0.75, 0.5, 0.25, 1, 0.75]) ** 2)
    biased = importance(ranks, classes, power=1.0, bias=0.2)
    assert biased[3].item() == pytest.approx(0.2 + 0.8 * 0.25)
    empty = torch.zeros(0, dtype=torch.long)
    assert importance(hierarchical_rank(empty.float(), empty, empty), empty).shape == (0,)


def test_rescaled_factors_keep_the_sum_of_the_chosen_losses():
    losses, chosen = torch.rand(10), torch.arange(10) < 6
    factors = rescaled(torch.rand(10), losses, chosen)
    assert (losses * factors).sum().item() == pytest.approx(losses.sum().item(), rel=1e-5)
    assert (factors[6:] == 1).all()
    assert torch.equal(rescaled(torch.rand(10), torch.zeros(10), chosen)[6:], torch.ones(4))


def head(*settings):
    settings = (*NEUTRAL, "BALANCE.PISA.ENABLED", "True", *settings)
    return build(quick_config(*settings)).roi_heads.box_predictor


def image(shifts, gt_class=0):
    """Proposals of one object that lie further and further off."""
    instances = Instances((64, 64))
    box = torch.tensor([10.0, 10, 30, 30])
    instances.proposal_boxes = Boxes(torch.stack([box + s for s in shifts]))
    instances.gt_boxes = Boxes(box.repeat(len(shifts), 1))
    instances.gt_classes = torch.full((len(shifts),), gt_class)
    return instances


def test_importance_in_the_head_falls_with_the_iou_after_regression():
    predictor, proposals = head(), [image([0.0, 4, 2]), image([1.0, 3]), image([0.0, 0], 3)]
    deltas = torch.zeros(7, 12)
    factors = predictor.attention.importance(predictor, deltas, proposals)
    # Best of the first object, best of the second, then the second best by IoU: of shift 2, 3.
    expected = torch.tensor([0, 4, 2, 1, 3])
    assert_close(factors[:5], ((5 - expected) / 5) ** 2)
    assert (factors[5:] == 1).all()
    # Deltas that move the box of shift 4 onto the object make it the best of all but one.
    deltas[1, :2] = -4 / 20 * torch.tensor(predictor.box2box_transform.weights[:2])
    moved = predictor.attention.importance(predictor, deltas, proposals)
    assert moved[1] > moved[2]


@pytest.mark.parametrize("loss", ["cross_entropy", "sigmoid_focal", "seesaw", "eqlv2", "ghmc"])
def test_pisa_changes_gradients_and_not_the_value_of_any_loss(loss):
    results = []
    for enabled in ("False", "True"):
        settings = (*NEUTRAL, "BALANCE.ROI_LOSS.NAME", loss, "BALANCE.PISA.ENABLED", enabled)
        model = build(quick_config(*settings))
        with EventStorage():
            results.append(losses_and_gradients(model, batch()))
    (plain, plain_gradients), (weighted, gradients) = results
    assert_close(weighted, plain, rtol=1e-5, atol=1e-6)
    name = "roi_heads.box_predictor.cls_score.weight"
    assert not torch.allclose(gradients[name], plain_gradients[name], rtol=1e-3)


@pytest.mark.parametrize("boxes", [(0, 0), (0, 2)])
def test_images_without_objects_train(boxes):
    settings = ("BALANCE.PISA.ENABLED", "True", "BALANCE.PISA.CARL", "True")
    with EventStorage():
        losses, gradients = losses_and_gradients(
            build(quick_config(*NEUTRAL, *settings)), batch(boxes)
        )
    assert all(v.isfinite() for v in losses.values())
    assert all(g.isfinite().all() for g in gradients.values())


def test_carl_at_equal_scores_is_the_box_loss_and_teaches_scores_the_accuracy_of_boxes():
    predictor = head("BALANCE.PISA.CARL", "True")
    proposals = [image([0.0, 4.0])]
    logits = torch.zeros(2, 4, requires_grad=True)
    with EventStorage():
        losses = predictor.losses((logits, torch.zeros(2, 12)), proposals)
    assert_close(losses["loss_carl"], losses["loss_box_reg"])
    losses["loss_carl"].backward()
    accurate, inaccurate = logits.grad[:, 0]
    assert accurate < 0 < inaccurate  # gradient descent raises the score of the accurate one


def test_carl_learns_from_scores_beside_one_that_underflows():
    settings = ("BALANCE.PISA.CARL_BIAS", "0.0", "BALANCE.PISA.CARL_POWER", "0.5")
    predictor = head("BALANCE.PISA.CARL", "True", *settings)
    proposals = [image([0.0, 4.0])]
    logits = torch.zeros(2, 4)
    logits[1, 1:] = 200.0  # the probability of class 0 is 0
    logits.requires_grad_()
    with EventStorage():
        losses = predictor.losses((logits, torch.zeros(2, 12)), proposals)
    losses["loss_carl"].backward()
    assert losses["loss_carl"].isfinite() and logits.grad.isfinite().all()
    assert (logits.grad[1] == 0).all()
