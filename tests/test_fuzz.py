"""Losses, class weights and samplers on inputs that nobody chose: shapes, dtypes and extremes.

Each test draws CASES inputs, the same ones every time. COUNTERPOISE_FUZZ_CASES draws more.
"""

import math
import os
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from counterpoise.balance.class_weights import (
    BACKGROUNDS,
    NORMALIZES,
    RULES,
    ClassWeightWarning,
    batch_class_weights,
    class_weights,
)
from counterpoise.balance.gradient_balance import (
    eqlv2_weights,
    ghm_weights,
    gradient_histogram,
    gradient_norm,
)
from counterpoise.balance.image_sampling import RULES as IMAGE_RULES
from counterpoise.balance.image_sampling import image_factors
from counterpoise.balance.losses import (
    REDUCTIONS,
    cross_entropy_loss,
    sigmoid_focal_loss,
    softmax_focal_loss,
)
from counterpoise.balance.prime_samples import hierarchical_rank, importance
from counterpoise.balance.sampling import TIE_BREAKS, mine_hard_negatives, sample_random
from counterpoise.balance.ssd import mine_batch, ssd_loss

CASES = int(os.environ.get("COUNTERPOISE_FUZZ_CASES", "25"))
fuzz = settings(max_examples=CASES, derandomize=True, deadline=None, database=None)

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
#: Relative to the largest gradient of a row: what rounding to a dtype may change.
ROUNDING = {
    torch.float64: 1e-9, torch.float32: 2e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2,
}  # fmt: skip
SEEDS = st.integers(0, 2**31)
GAMMAS = st.one_of(st.just(0.0), st.floats(0.01, 8), st.floats(1e-6, 0.01))
IGNORED = -1


def generator(seed):
    return torch.Generator().manual_seed(seed)


#: Up to which a float64 softmax has digits to compare with.
ORDINARY = st.floats(1e-3, 30)
EXTREME = st.sampled_from([0.0, 1e-30, 88.0, 104.0, 1e4, 1e15, 1e30])


@st.composite
def classified(draw, largest=ORDINARY, dtypes=DTYPES):
    """Logits (N, C, ...) up to a magnitude, targets with some to ignore, and class weights."""
    random = generator(draw(SEEDS))
    classes = draw(st.integers(2, 40))
    more = draw(st.sampled_from([(), (3,), (2, 3)]))
    shape = (draw(st.integers(0, 12)), classes, *more)
    dtype = draw(st.sampled_from(dtypes))
    size = min(draw(largest), torch.finfo(dtype).max / 8)
    logits = ((2 * torch.rand(shape, generator=random, dtype=torch.float64) - 1) * size).to(dtype)
    targets = torch.randint(classes, (shape[0], *more), generator=random)
    targets[torch.rand(targets.shape, generator=random) < draw(st.floats(0, 1))] = IGNORED
    weight = torch.rand(classes, generator=random) * draw(st.sampled_from([1.0, 1e-3, 1e3]))
    return logits, targets, draw(st.sampled_from([None, weight]))


def literal_focal(logits, targets, gamma, weight):
    """The formula in float64; where p_t is near 1, 1 - p_t and log(p_t) have no digits of it.

    They come from the sum q of the other probabilities: log(p_t) = -log(1 + q / p_t).
    """
    logits = logits.double()
    kept = targets != IGNORED
    index = targets.clamp(min=0).unsqueeze(1)
    p = logits.softmax(dim=1)
    others = p.scatter(1, index, 0.0).sum(dim=1)
    loss = others**gamma * torch.log1p(others / p.gather(1, index).squeeze(1))
    if weight is not None:
        loss = loss * weight.double()[targets.clamp(min=0)]
    return torch.where(kept, loss, 0.0)


def reduced(loss, targets, weight, reduction):
    kept = targets != IGNORED
    if reduction == "none":
        return loss
    divisor = 1.0
    if reduction == "mean" or (reduction == "weight_sum" and weight is None):
        divisor = max(int(kept.sum()), 1)
    elif reduction == "weight_sum":
        divisor = weight.double()[targets[kept]].sum().clamp(min=torch.finfo(torch.float32).tiny)
    return loss.sum() / divisor


def with_gradient(loss, logits):
    """A loss and the gradient of its sum, both in float64."""
    logits = logits.clone().requires_grad_()
    value = loss(logits)
    value.sum().backward()
    return value.detach().double(), logits.grad.double()


@fuzz
@given(classified(), GAMMAS, st.sampled_from(REDUCTIONS))
def test_softmax_focal_and_its_gradient_are_those_of_the_literal_formula(case, gamma, reduction):
    logits, targets, weight = case
    value, gradient = with_gradient(
        lambda z: softmax_focal_loss(z, targets, gamma, weight, IGNORED, reduction), logits
    )
    expected, expected_gradient = with_gradient(
        lambda z: reduced(literal_focal(z, targets, gamma, weight), targets, weight, reduction),
        logits.double(),
    )
    float_type = torch.float64 if logits.dtype == torch.float64 else torch.float32
    assert_close(value, expected, rtol=ROUNDING[float_type], atol=1e-30)
    largest = expected_gradient.abs().amax() if expected_gradient.numel() else 0.0
    # The least number that the dtype of the logits, and so of their gradient, can tell from 0.
    least = torch.finfo(logits.dtype).smallest_normal
    assert ((gradient - expected_gradient).abs() <= ROUNDING[logits.dtype] * largest + least).all()


@fuzz
@given(classified(EXTREME), GAMMAS)
def test_softmax_focal_is_finite_with_gradients_that_cancel_at_any_logits(case, gamma):
    logits, targets, weight = case
    value, gradient = with_gradient(
        lambda z: softmax_focal_loss(z, targets, gamma, weight, IGNORED, "none"), logits
    )
    assert value.isfinite().all() and (value >= 0).all()
    assert gradient.isfinite().all()
    assert (gradient.movedim(1, -1)[targets == IGNORED] == 0).all()
    # A constant that is added to all logits of a sample changes nothing. Each may lack what the
    # dtype cannot tell from 0, times its weight.
    least = 40 * torch.finfo(logits.dtype).smallest_normal
    heaviest = 1.0 if weight is None else max(weight.max().item(), 1.0)
    most = ROUNDING[logits.dtype] * gradient.abs().sum(dim=1) + least * heaviest
    assert (gradient.sum(dim=1).abs() <= most).all()


@fuzz
@given(classified(), GAMMAS, st.sampled_from(REDUCTIONS[1:]))
def test_ignored_samples_are_as_if_they_were_not_there(case, gamma, reduction):
    logits, targets, weight = case
    kept = targets != IGNORED
    rows = logits.movedim(1, -1)[kept]
    whole = softmax_focal_loss(logits, targets, gamma, weight, IGNORED, reduction)
    alone = softmax_focal_loss(rows, targets[kept], gamma, weight, IGNORED, reduction)
    assert_close(whole, alone, rtol=1e-5, atol=1e-30)


@fuzz
@given(classified(st.one_of(ORDINARY, EXTREME), DTYPES[:2]))
def test_cross_entropy_is_that_of_torch(case):
    logits, targets, weight = case
    own = with_gradient(lambda z: cross_entropy_loss(z, targets, weight, IGNORED, "none"), logits)
    weight = None if weight is None else weight.to(logits)
    torchs = with_gradient(
        lambda z: F.cross_entropy(z, targets, weight, ignore_index=IGNORED, reduction="none"),
        logits,
    )
    # torch subtracts the sum's logarithm from the logits, which leaves a loss no digits of its own.
    size = logits.abs().max().item() if logits.numel() else 0.0
    most = 0.0 if weight is None else weight.max().item()
    atol = 8 * torch.finfo(logits.dtype).eps * (size + 4) * max(most, 1.0)
    assert_close(own[0], torchs[0], rtol=1e-5, atol=atol)
    assert_close(own[1], torchs[1], rtol=1e-4, atol=1e-5 * max(most, 1.0))


@st.composite
def labelled(draw, largest):
    """Logits of one sigmoid each, targets 0 or 1, alpha as a number or per class."""
    random = generator(draw(SEEDS))
    classes = draw(st.integers(1, 20))
    shape = (*draw(st.sampled_from([(), (0,), (7,), (2, 5)])), classes)
    dtype = draw(st.sampled_from(DTYPES))
    size = min(draw(largest), torch.finfo(dtype).max / 8)
    logits = ((2 * torch.rand(shape, generator=random, dtype=torch.float64) - 1) * size).to(dtype)
    targets = (torch.rand(shape, generator=random) < draw(st.floats(0, 1))).to(
        draw(st.sampled_from([torch.bool, torch.int64, torch.float32]))
    )
    number = draw(st.one_of(st.just(-1.0), st.floats(0, 1)))
    alpha = draw(st.sampled_from([number, torch.rand(classes, generator=random)]))
    return logits, targets, alpha


@fuzz
@given(labelled(ORDINARY), GAMMAS)
def test_sigmoid_focal_and_its_gradient_are_those_of_the_literal_formula(case, gamma):
    logits, targets, alpha = case

    def literal(z):
        t = targets.double()
        log_p = t * F.logsigmoid(z) + (1 - t) * F.logsigmoid(-z)
        others = t * torch.sigmoid(-z) + (1 - t) * torch.sigmoid(z)
        loss = -(others**gamma) * log_p
        if isinstance(alpha, torch.Tensor):
            return loss * (alpha.double() * t + (1 - alpha.double()) * (1 - t))
        return loss * (alpha * t + (1 - alpha) * (1 - t)) if alpha >= 0 else loss

    own = with_gradient(
        lambda z: sigmoid_focal_loss(z, targets, alpha, gamma, None, "none"), logits
    )
    expected = with_gradient(literal, logits.double())
    rounding = {torch.float64: 1e-9}.get(logits.dtype, 2e-4)
    assert_close(own[0], expected[0], rtol=rounding, atol=1e-30)
    least = torch.finfo(logits.dtype).smallest_normal
    assert_close(own[1], expected[1], rtol=ROUNDING[logits.dtype], atol=least)


@fuzz
@given(labelled(EXTREME), GAMMAS)
def test_sigmoid_focal_is_finite_at_any_logits(case, gamma):
    logits, targets, alpha = case
    value, gradient = with_gradient(
        lambda z: sigmoid_focal_loss(z, targets, alpha, gamma, None, "none"), logits
    )
    assert value.isfinite().all() and (value >= 0).all() and gradient.isfinite().all()


COUNTS = st.lists(st.integers(1, 10**9), min_size=1, max_size=60)
LITERAL_RULES = {
    "log": lambda n, f: 1 / math.log(1.10 + f),
    "inverse": lambda n, f: 1 / f,
    "inv_sqrt": lambda n, f: 1 / math.sqrt(f),
    "effective_num": lambda n, f: (1 - 0.999) / (1 - 0.999**n),
    "none": lambda n, f: 1.0,
}


@pytest.mark.filterwarnings("ignore::counterpoise.balance.class_weights.ClassWeightWarning")
@fuzz
@given(
    COUNTS, st.sampled_from(sorted(RULES)), st.sampled_from(BACKGROUNDS),
    st.sampled_from(NORMALIZES), SEEDS,
)  # fmt: skip
def test_class_weights_are_those_of_the_rule_in_any_order_of_the_classes(
    counts, rule, background, normalize, seed
):
    weights = class_weights(counts, rule, background=background, normalize=normalize)
    assert weights.dtype == torch.float32 and weights.shape == (len(counts) + 1,)
    assert weights.isfinite().all() and (weights > 0).all()
    literal = [LITERAL_RULES[rule](n, n / sum(counts)) for n in counts]
    scale = 1.0 if normalize == "none" else (weights[0] / literal[0]).item()
    assert_close(weights[:-1], scale * torch.tensor(literal), rtol=1e-5, atol=0)
    if normalize == "mean_one":
        assert_close(weights.mean(), torch.tensor(1.0), rtol=1e-5, atol=0)
    order = torch.randperm(len(counts), generator=generator(seed))
    shuffled = [counts[i] for i in order]
    again = class_weights(shuffled, rule, background=background, normalize=normalize)
    assert_close(again[:-1], weights[:-1][order], rtol=1e-6, atol=0)
    assert_close(again[-1], weights[-1], rtol=1e-6, atol=0)


@fuzz
@given(
    st.lists(st.integers(0, 10**6), min_size=2, max_size=60),
    st.sampled_from(sorted(RULES)), st.sampled_from(NORMALIZES),
)  # fmt: skip
def test_weights_of_a_batch_are_finite_and_one_for_absent_classes(counts, rule, normalize):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ClassWeightWarning)
        weights = batch_class_weights(torch.tensor(counts), rule, normalize=normalize)
    assert weights.isfinite().all() and (weights > 0).all()
    present = torch.tensor(counts) > 0
    assert (weights[~present] == 1).all()
    if not present[:-1].any():
        assert (weights == 1).all()
    elif normalize == "mean_one":
        assert_close(weights[present].mean(), torch.tensor(1.0), rtol=1e-5, atol=0)


@st.composite
def anchors(draw):
    """Labels (A,) in {-1, 0, 1}, mostly few positives, and how hard each anchor is."""
    random = generator(draw(SEEDS))
    number = draw(st.integers(0, 400))
    shares = torch.tensor(draw(st.sampled_from(
        [(1.0, 1.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.2, 0.79, 0.01)]
    )))  # fmt: skip
    drawn = torch.multinomial(shares, number, True, generator=random) if number else torch.empty(0)
    labels = (drawn - 1).to(draw(st.sampled_from([torch.int8, torch.int64])))
    # Few values make ties, and a value may be no number.
    hardness = torch.randint(draw(st.integers(1, 1000)), (number,), generator=random).float()
    for value in draw(st.lists(st.sampled_from([math.nan, math.inf, -math.inf]), max_size=3)):
        hardness[torch.rand(number, generator=random) < 0.1] = value
    torch.manual_seed(draw(SEEDS))  # the samplers draw from the common generator
    return labels, hardness


def check_chosen(sampled, labels):
    """The numbers of positives and negatives that were chosen, each of which is one."""
    assert sampled.shape == labels.shape and sampled.dtype == labels.dtype
    chosen = sampled != -1
    assert (sampled[chosen] == labels[chosen]).all()
    assert not (labels[chosen] == -1).any()
    return int((sampled == 1).sum()), int((sampled == 0).sum())


@fuzz
@given(
    anchors(),
    st.integers(0, 300),
    st.floats(0, 1),
    st.one_of(st.just(math.inf), st.floats(0.01, 9)),
)
def test_random_sampling_fills_its_budget_and_takes_no_ignored_anchor(case, budget, share, bound):
    labels, _ = case
    positives, negatives = check_chosen(sample_random(labels, budget, share, bound), labels)
    assert positives == min(int((labels == 1).sum()), int(budget * share))
    most = min(budget - positives, bound * max(positives, 1))
    assert negatives == min(int((labels == 0).sum()), int(most))


@fuzz
@given(
    anchors(), st.floats(0.01, 20), st.integers(-1, 200), st.integers(0, 200),
    st.sampled_from(TIE_BREAKS), st.sampled_from([0.0, 0.3, 1.0]),
)  # fmt: skip
def test_mining_takes_the_hardest_within_its_ratio_and_no_ignored_anchor(
    case, ratio, most, least, tie_break, fraction
):
    labels, hardness = case
    mined = mine_hard_negatives(
        labels, hardness, ratio, most, least, tie_break, random_fraction=fraction
    )
    positives, negatives = check_chosen(mined, labels)
    there = int((labels == 1).sum())
    assert positives == (min(there, most) if most >= 0 else there)
    wanted = math.floor(ratio * positives) if positives else least
    assert negatives == min(int((labels == 0).sum()), wanted)
    if fraction == 0.0 and negatives:
        ranked = hardness.nan_to_num(math.inf, math.inf, -math.inf)
        left = ranked[(labels == 0) & (mined == -1)]
        assert len(left) == 0 or ranked[mined == 0].min() >= left.max()


@fuzz
@given(SEEDS, st.integers(0, 4), st.integers(0, 60), st.integers(2, 9), EXTREME, st.floats(0.01, 9))
def test_ssd_trains_what_it_mines_at_any_logits(seed, images, number, classes, size, ratio):
    random = generator(seed)
    logits = (2 * torch.rand(images, number, classes, generator=random) - 1) * size
    targets = torch.randint(-1, classes, (images, number), generator=random)
    offsets = torch.randn(images, number, 4, generator=random)
    logits.requires_grad_()
    offsets.requires_grad_()
    location, classification = ssd_loss(offsets, torch.zeros_like(offsets), logits, targets, ratio)
    (location + classification).backward()
    assert location.isfinite() and classification.isfinite()
    assert logits.grad.isfinite().all()
    assert (logits.grad[targets == -1] == 0).all()
    assert (offsets.grad[targets <= 0] == 0).all()
    chosen = mine_batch(torch.rand(targets.shape, generator=random), targets, ratio)
    for of_image, labels in zip(chosen, targets, strict=True):
        positives = int((labels > 0).sum())
        wanted = math.floor(ratio * positives) if positives else 3
        assert of_image[labels > 0].all() and not of_image[labels == -1].any()
        assert of_image[labels == 0].sum() == min(int((labels == 0).sum()), wanted)


@fuzz
@given(SEEDS, st.integers(1, 200), st.integers(1, 30), EXTREME)
def test_harmonised_gradients_count_on_average_as_one_each(seed, number, bins, size):
    random = generator(seed)
    logits = (2 * torch.rand(number, generator=random) - 1) * size
    targets = torch.rand(number, generator=random) < 0.3
    norms = gradient_norm(logits, targets)
    counts = gradient_histogram(norms, torch.tensor([True]), bins)
    assert counts.sum() == number
    weights = ghm_weights(norms, counts.float(), counts)
    assert_close(weights.mean(), torch.tensor(1.0), rtol=1e-4, atol=0)


@fuzz
@given(SEEDS, st.integers(1, 50), st.sampled_from([0.0, 1e-20, 1.0, 1e20]))
def test_equalised_weights_stay_in_their_ranges(seed, classes, size):
    random = generator(seed)
    gradients = torch.rand(2, classes, generator=random) * size
    positive, negative = eqlv2_weights(*gradients)
    assert ((positive >= 1) & (positive <= 5)).all()
    assert ((negative >= 0) & (negative <= 1)).all()


@fuzz
@given(
    SEEDS, st.integers(1, 60), st.integers(1, 20), st.sampled_from(IMAGE_RULES),
    st.sampled_from([0.05, 0.9, 1.0]), st.one_of(st.just(-1.0), st.floats(1e-6, 10)),
)  # fmt: skip
def test_draws_of_images_are_finite_and_keep_their_number(seed, images, classes, rule, share, t):
    random = generator(seed)
    counts = torch.randint(1, 1000, (images, classes), generator=random)
    counts[torch.rand(counts.shape, generator=random) >= share] = 0
    counts[0, 0] += 1
    factors = image_factors(counts, rule, t)
    assert factors.shape == (images,) and factors.isfinite().all()
    if rule in ("repeat_factor", "irfs"):
        assert (factors >= 1).all()
    else:
        assert (factors >= 0).all()
        assert_close(factors.mean(), torch.tensor(1.0).double(), rtol=1e-9, atol=0)


@fuzz
@given(SEEDS, st.integers(0, 200), st.integers(1, 9), st.integers(1, 30), st.floats(0, 9))
def test_prime_samples_are_ranked_once_in_their_class(seed, number, classes, objects, power):
    random = generator(seed)
    of_object = torch.randint(classes, (objects,), generator=random)
    owner = torch.randint(objects, (number,), generator=random)
    ious = torch.randint(8, (number,), generator=random) / 8  # with ties
    ranks = hierarchical_rank(ious, of_object[owner], owner)
    for one in range(classes):
        inside = ranks[of_object[owner] == one].sort().values
        assert torch.equal(inside, torch.arange(len(inside)))
    weights = importance(ranks, of_object[owner], power)
    assert ((weights > 0) & (weights <= 1)).all()
