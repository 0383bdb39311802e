"""Anchor samplers: budgets, ignored anchors, ties, and equality with Detectron2."""

import math

import pytest
import torch
from detectron2.modeling.sampling import subsample_labels
from torch.testing import assert_close

from counterpoise.balance.sampling import hardest, mine_hard_negatives, sample_random

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


def test_no_positive_is_kept_where_none_may_be():
    labels = torch.tensor([1, 1, 0, 0, 0, 0])
    mined = mine_hard_negatives(labels, torch.randn(6), max_positives=0, min_negatives=2)
    assert (mined == 1).sum() == 0 and (mined == 0).sum() == 2


def test_a_share_of_the_negatives_is_rounded_down():
    labels = torch.zeros(100, dtype=torch.long)
    hardness = torch.arange(100.0)
    torch.manual_seed(0)
    mined = mine_hard_negatives(labels, hardness, min_negatives=5, random_fraction=0.5)
    assert (mined == 0).sum() == 5 and (mined[97:] == 0).all()  # 2.5 at random are 2


@pytest.mark.parametrize("ratio, negatives", [(1.15, 115), (1.155, 115), (2.3, 230)])
def test_a_whole_number_of_negatives_is_not_one_less_by_floating_point(ratio, negatives):
    labels = torch.cat([torch.ones(100), torch.zeros(400)]).long()
    mined = mine_hard_negatives(labels, torch.randn(500), ratio=ratio, max_positives=-1)
    assert (mined == 0).sum() == negatives


def negatives_under_seed(seed, hardness, **settings):
    torch.manual_seed(seed)
    labels = torch.zeros(len(hardness), dtype=torch.int8)
    mined = mine_hard_negatives(labels, hardness, min_negatives=20, **settings)
    return (mined == 0).nonzero().flatten().tolist()


def test_equally_hard_negatives_come_by_index_or_at_random_under_the_seed():
    equal = torch.zeros(1000)
    for seed in (0, 1):
        assert negatives_under_seed(seed, equal) == list(range(20))
    random = [negatives_under_seed(seed, equal, tie_break="random") for seed in (0, 1, 0)]
    assert random[0] == random[2] != random[1]
    assert all(len(set(chosen)) == 20 and max(chosen) > 500 for chosen in random)


def test_a_random_tie_break_never_prefers_an_easier_negative():
    hardness = torch.zeros(1000)
    hardness[500:515] = 1.0
    hardness[515:600] = 0.5
    chosen = set(negatives_under_seed(0, hardness, tie_break="random"))
    assert set(range(500, 515)) < chosen
    assert chosen < set(range(500, 600)) and len(chosen) == 20


def test_a_nan_is_chosen_so_that_it_shows():
    values = torch.tensor([3.0, float("nan"), 2.0, float("inf")])
    assert hardest(values, 2).tolist() == [False, True, False, True]
    assert hardest(torch.full((3,), float("nan")), 2).tolist() == [True, True, False]


def test_only_those_that_can_be_chosen_are_also_where_all_values_are_minus_infinity():
    among = torch.tensor([False, True, False, True, True])
    for values in (torch.full((5,), -math.inf), torch.zeros(5), torch.tensor([9.0, 1, 9, 2, 3])):
        for tie_break in ("index", "random"):
            assert torch.equal(hardest(values, 4, tie_break, among), among)
    assert hardest(torch.zeros(5), 2, "index", among).nonzero().flatten().tolist() == [1, 3]


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


@pytest.mark.parametrize("positives, kept", [(0, 2), (3, 6), (200, 128)])
def test_a_bound_holds_the_negatives_of_a_random_sample_to_the_positives(positives, kept):
    labels = torch.tensor([1] * positives + [0] * 500)
    sampled = sample_random(labels, 256, 0.5, max_negatives_per_positive=2)
    assert (sampled == 0).sum() == kept
    assert (sampled == 1).sum() == min(positives, 128)


def test_a_share_of_the_negatives_is_drawn_at_random_from_those_that_are_not_the_hardest():
    labels = torch.tensor([1] * 10 + [0] * 990)
    hardness = torch.arange(1000.0)
    taken = torch.zeros(1000)
    for seed in range(200):
        torch.manual_seed(seed)
        mined = mine_hard_negatives(labels, hardness, 3.0, random_fraction=0.5)
        assert (mined == 0).sum() == 30 and (mined == 1).sum() == 10
        assert (mined[-15:] == 0).all()
        taken += mined == 0
    # 15 of 975 in each of 200 draws: 3.1 on average, 8 standard deviations below 18.
    assert (taken[10:-15] > 0).float().mean() > 0.9 and taken[10:-15].max() < 18


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


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64])
def test_the_generator_ends_where_detectron2_leaves_it(dtype):
    states = []
    for sample in (
        lambda x: subsample_labels(x, 64, 0.25, 0),
        lambda x: sample_random(x, 64, 0.25),
    ):
        torch.manual_seed(5)
        sample(labels_like_an_image().to(dtype))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_an_image_without_anchors_has_none_to_choose():
    labels = torch.zeros(0, dtype=torch.int8)
    for max_positives in (-1, 128):
        mined = mine_hard_negatives(labels, torch.zeros(0), max_positives=max_positives)
        assert torch.equal(mined, labels)
    assert torch.equal(sample_random(labels, 256, 0.5), labels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_hardest_are_found_in_every_floating_point_type(dtype):
    values = torch.tensor([-math.inf, 3.0, math.nan, 2.0, math.inf, 3.0], dtype=dtype)
    assert hardest(values, 3).tolist() == [False, True, True, False, True, False]
    among = torch.tensor([True, False, False, True, False, False])
    assert torch.equal(hardest(values, 5, among=among), among)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="hardness"):
        mine_hard_negatives(LABELS, HARDNESS[:-1])
    with pytest.raises(ValueError, match="ratio"):
        mine_hard_negatives(LABELS, HARDNESS, ratio=0)
    with pytest.raises(ValueError, match="ratio"):
        mine_hard_negatives(torch.zeros(3), torch.zeros(3), ratio=float("inf"))
    with pytest.raises(ValueError, match="min_negatives"):
        mine_hard_negatives(torch.zeros(3), torch.zeros(3), min_negatives=-1)
    with pytest.raises(ValueError, match="random_fraction"):
        mine_hard_negatives(LABELS, HARDNESS, random_fraction=1.5)
    with pytest.raises(ValueError, match=r"tie_break must be in .*got 'first'"):
        mine_hard_negatives(LABELS, HARDNESS, tie_break="first")
