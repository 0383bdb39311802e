"""Anchor samplers: budgets, ignored anchors, ties, and equality with Detectron2."""

import pytest
import torch
from detectron2.modeling.sampling import subsample_labels
from torch.testing import assert_close

from counterpoise.sampling import mine_hard_negatives, sample_random

LABELS = torch.tensor([1, 0, 0, -1, 0, 0, 1, 0, -1, 0, 0, 0])
HARDNESS = torch.tensor([0.1, 2, -1, 9, 0.5, 0.5, -3, 0.5, 8, -2, 0.5, 0.25])


def labels_like_an_image(anchors=2000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 2, (anchors,), generator=generator)


@pytest.mark.parametrize(
    "ratio, expected",
    [
        (3, [1, 0, -1, -1, 0, 0, 1, 0, -1, -1, 0, 0]),
        (1, [1, 0, -1, -1, 0, -1, 1, -1, -1, -1, -1, -1]),
    ],
)
def test_golden_mining(ratio, expected):
    assert_close(mine_hard_negatives(LABELS, HARDNESS, ratio), torch.tensor(expected))


def test_an_image_without_objects_still_gives_its_hardest_negatives():
    empty = LABELS.clone()
    empty[LABELS == 1] = -1
    mined = mine_hard_negatives(empty, HARDNESS, min_negatives=3)
    assert_close(mined, torch.tensor([-1, 0, -1, -1, 0, 0, -1, -1, -1, -1, -1, -1]))
    assert (mine_hard_negatives(empty, HARDNESS, min_negatives=0) == -1).all()


def test_mining_equals_a_stable_sort_on_labels_with_many_ties():
    labels = labels_like_an_image()
    hardness = (torch.randn(2000) * 4).round() / 4
    mined = mine_hard_negatives(labels, hardness, ratio=1.5, max_positives=-1)
    negatives = (labels == 0).nonzero().flatten()
    order = hardness[negatives].sort(descending=True, stable=True).indices
    hardest = negatives[order[: int(1.5 * (labels == 1).sum())]]
    assert_close((mined == 0).nonzero().flatten(), hardest.sort().values)
    assert_close(mined == 1, labels == 1)


@pytest.mark.parametrize("seed", range(5))
def test_ignored_anchors_stay_ignored_and_no_label_is_invented(seed):
    labels = labels_like_an_image(seed=seed)
    for sampled in (
        sample_random(labels, 256, 0.5),
        mine_hard_negatives(labels, torch.randn(2000), 3.0, 128),
    ):
        chosen = sampled != -1
        assert_close(sampled[chosen], labels[chosen])


def test_positives_are_bounded_and_the_ratio_holds_for_those_kept():
    mined = mine_hard_negatives(labels_like_an_image(), torch.randn(2000), 3.0, max_positives=40)
    assert (mined == 1).sum() == 40
    assert (mined == 0).sum() == 120


def test_no_more_negatives_than_there_are():
    labels = torch.tensor([1, 1, 0, -1])
    assert_close(mine_hard_negatives(labels, torch.zeros(4), 3.0), labels)


@pytest.mark.parametrize("positives", [0, 3, 500])
@pytest.mark.parametrize("negatives", [0, 10, 500])
def test_random_sampling_draws_what_detectron2_draws(positives, negatives):
    labels = torch.tensor([1] * positives + [0] * negatives + [-1] * 20)
    torch.manual_seed(3)
    pos_idx, neg_idx = subsample_labels(labels, 256, 0.5, 0)
    stock = torch.full_like(labels, -1)
    stock[pos_idx], stock[neg_idx] = 1, 0
    torch.manual_seed(3)
    before = labels.clone()
    assert_close(sample_random(labels, 256, 0.5), stock)
    assert_close(labels, before)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="hardness"):
        mine_hard_negatives(LABELS, HARDNESS[:-1])
    with pytest.raises(ValueError, match="ratio"):
        mine_hard_negatives(LABELS, HARDNESS, ratio=0)
