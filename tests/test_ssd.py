"""SSD's mining and loss: equality with brute force and torchvision, and what they do better."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.ssd import SSD

from counterpoise.balance.ssd import mine_batch, ssd_loss

CODER = BoxCoder((10.0, 10.0, 5.0, 5.0))


def batch(images=3, anchors=200, classes=4, positives=10, seed=0, dtype=torch.float64):
    """Predictions that need gradients, with targets of `positives` positives in each image."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.zeros(images, anchors, dtype=torch.long)
    for row in targets:
        index = torch.randperm(anchors, generator=generator)[:positives]
        row[index] = torch.randint(1, classes, (positives,), generator=generator)

    def values(*shape):
        return torch.randn(images, anchors, *shape, generator=generator, dtype=dtype)

    return values(4).requires_grad_(), values(4), values(classes).requires_grad_(), targets


def brute_force(loc_preds, loc_targets, cls_preds, cls_targets, ratio=3.0, min_negatives=3):
    loc_loss, cls_loss, positives = 0.0, 0.0, 0
    for i, targets in enumerate(cls_targets.tolist()):
        losses = [-cls_preds[i, a].log_softmax(0)[t] for a, t in enumerate(targets)]
        foreground = [a for a, t in enumerate(targets) if t > 0]
        background = sorted((a for a, t in enumerate(targets) if t == 0), key=lambda a: -losses[a])
        wanted = int(ratio * len(foreground)) if foreground else min_negatives
        cls_loss += sum(losses[a] for a in foreground + background[:wanted])
        for a in foreground:
            loc_loss += F.smooth_l1_loss(loc_preds[i, a], loc_targets[i, a], reduction="sum")
        positives += len(foreground)
    return loc_loss / max(positives, 1), cls_loss / max(positives, 1)


def torchvision_loss(loc_preds, gt_boxes, anchors, cls_preds, cls_targets):
    """torchvision's, for one ground truth per anchor: positives are matched to their own."""
    own = torch.arange(cls_targets.shape[1])
    model = SimpleNamespace(box_coder=CODER, neg_to_pos_ratio=3)
    return SSD.compute_loss(
        model,
        [{"boxes": b, "labels": t} for b, t in zip(gt_boxes, cls_targets, strict=True)],
        {"bbox_regression": loc_preds, "cls_logits": cls_preds},
        [anchors] * len(cls_targets),
        [torch.where(t > 0, own, -1) for t in cls_targets],
    )


def both(positives, anchors=200):
    """Our losses and torchvision's on one batch, and the losses of its anchors."""
    loc_preds, _, cls_preds, cls_targets = batch(anchors=anchors, positives=positives)
    corner = torch.rand(anchors, 2, dtype=torch.float64)
    default_boxes = torch.cat([corner, corner + 1 + torch.rand_like(corner)], dim=1)
    gt_boxes = default_boxes + 0.1 * torch.rand(3, anchors, 4, dtype=torch.float64)
    loc_targets = torch.stack([CODER.encode_single(g, default_boxes) for g in gt_boxes])
    ours = ssd_loss(loc_preds, loc_targets, cls_preds, cls_targets, min_negatives=0)
    theirs = torchvision_loss(loc_preds, gt_boxes, default_boxes, cls_preds, cls_targets)
    losses = F.cross_entropy(cls_preds.transpose(1, 2), cls_targets, reduction="none")
    inputs = (loc_preds, cls_preds)
    return ours, (theirs["bbox_regression"], theirs["classification"]), losses, cls_targets, inputs


@pytest.mark.parametrize("positives", [0, 1, 10, 50])
def test_loss_and_gradients_equal_torchvisions_where_there_are_negatives_enough(positives):
    ours, theirs, _, _, inputs = both(positives)
    assert_close(ours, theirs)
    assert_close(
        torch.autograd.grad(sum(ours), inputs, allow_unused=True),
        torch.autograd.grad(sum(theirs), inputs, allow_unused=True),
    )


@pytest.mark.parametrize("positives", [60, 120, 200])
def test_no_positive_counts_twice_where_torchvision_counts_it_again_as_a_negative(positives):
    ours, theirs, losses, targets, _ = both(positives)
    assert_close(ours[0], theirs[0])
    excess = min(3 * positives, 200) - (200 - positives)
    counted_again = (theirs[1] - ours[1]) * 3 * positives
    all_positives = losses[targets > 0].sum()
    assert counted_again > 0
    if excess == positives:
        assert_close(counted_again, all_positives)
    else:
        assert counted_again < all_positives


@pytest.mark.parametrize("ratio", [0.5, 1, 3])
@pytest.mark.parametrize("positives", [0, 2, 25, 40])
def test_loss_equals_brute_force_with_ignored_anchors(ratio, positives):
    loc_preds, loc_targets, cls_preds, cls_targets = batch(anchors=40, positives=positives)
    cls_targets[:, ::5] = -1
    cls_targets[1] = cls_targets[1].clamp(max=0)
    arguments = (loc_preds, loc_targets, cls_preds, cls_targets, ratio)
    for actual, expected in zip(ssd_loss(*arguments), brute_force(*arguments), strict=True):
        assert actual.item() == pytest.approx(float(torch.as_tensor(expected).detach()))


@pytest.mark.parametrize("ratio", [1, 3, 100])
def test_mining_takes_every_positive_and_never_an_ignored_anchor(ratio):
    targets = torch.randint(-1, 3, (4, 100))
    # Ignored anchors and positives have by far the largest losses.
    cls_loss = torch.rand(4, 100) + 50 * (targets != 0)
    chosen = mine_batch(cls_loss, targets, ratio)
    assert chosen[targets > 0].all() and not chosen[targets < 0].any()
    available = (targets == 0).sum(1)
    wanted = ratio * (targets > 0).sum(1)
    assert_close((chosen & (targets == 0)).sum(1), torch.minimum(available, wanted))


def test_saturated_negatives_are_still_chosen_as_true_negatives():
    targets = torch.tensor([[2, 0, 0, 0, 0, -1]])
    assert mine_batch(torch.zeros(1, 6), targets).tolist() == [[True] * 4 + [False] * 2]


def test_each_image_is_mined_on_its_own():
    targets = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0]])
    cls_loss = torch.tensor([[0.0, 0.1, 0.2, 0.3], [7.0, 9.0, 8.0, 6.0]])
    chosen = mine_batch(cls_loss, targets, ratio=1, min_negatives=0)
    assert chosen.tolist() == [[True, False, False, True], [False] * 4]


def test_an_image_without_positives_gives_its_hardest_negatives():
    chosen = mine_batch(torch.tensor([[7.0, 9, 8, 6]]), torch.zeros(1, 4, dtype=torch.long))
    assert chosen.tolist() == [[True, True, True, False]]


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (2, 5)])
@pytest.mark.parametrize("target", [-1, 0])
def test_batches_with_nothing_to_learn_give_finite_losses_with_a_graph(shape, target):
    loc_preds = torch.randn(*shape, 4, requires_grad=True)
    cls_preds = torch.randn(*shape, 3, requires_grad=True)
    targets = torch.full(shape, target)
    loc_loss, cls_loss = ssd_loss(loc_preds, torch.zeros(*shape, 4), cls_preds, targets)
    assert loc_loss == 0 and cls_loss.isfinite()
    (loc_loss + cls_loss).backward()
    assert loc_preds.grad is not None and cls_preds.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    half = batch(dtype=dtype)
    exact = [v.float() if v.is_floating_point() else v for v in half]
    losses = ssd_loss(*half)
    assert all(loss.dtype == torch.float32 for loss in losses)
    assert_close(losses, ssd_loss(*exact))


def test_bad_arguments_are_named():
    loc_preds, loc_targets, cls_preds, cls_targets = batch()
    with pytest.raises(ValueError, match="ratio must be > 0, got 0"):
        ssd_loss(loc_preds, loc_targets, cls_preds, cls_targets, ratio=0)
    with pytest.raises(ValueError, match="loc_preds"):
        ssd_loss(loc_preds[:, 1:], loc_targets, cls_preds, cls_targets)
    with pytest.raises(ValueError, match="cls_targets"):
        ssd_loss(loc_preds, loc_targets, cls_preds, cls_targets[:, 1:])
    with pytest.raises(ValueError, match="targets must lie in"):
        ssd_loss(loc_preds, loc_targets, cls_preds, cls_targets + 3)
    with pytest.raises(ValueError, match="cls_loss and targets"):
        mine_batch(torch.zeros(2, 3), torch.zeros(2, 4, dtype=torch.long))
