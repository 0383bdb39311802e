"""The softmax focal loss against published identities, golden values and other libraries."""

import math

import pytest
import torch
import torch.nn.functional as F
from fvcore.nn import sigmoid_focal_loss as fvcore_focal
from torch.testing import assert_close
from torchvision.ops import sigmoid_focal_loss as torchvision_focal

from counterpoise.balance.losses import (
    REDUCTIONS,
    check_gamma,
    cross_entropy_loss,
    sigmoid_focal_loss,
    softmax_focal_loss,
    softmax_focal_reference,
    softmax_focal_with_p_t,
)

FLAT, MIXED = [0.0, 0, 0, 0], [2.0, 0.5, -1, 0]

# logits, target, weight, gamma, loss, gradient: 60-digit arithmetic, rounded to 12 digits.
GOLDEN = [
    (FLAT, 0, 1, 2, 0.77979057813, [-0.811770289065] + [0.270590096355] * 3),
    (FLAT, 3, 4.5, 2, 3.50905760158, [1.2176554336] * 3 + [-3.65296630079]),
    (
        MIXED,
        0,
        1,
        2,
        0.0287717623334,
        [-0.0652254505698, 0.0356489300431, 0.00795435146964, 0.0216221690571],
    ),
    (
        MIXED,
        0,
        1,
        0,
        0.34234958239,
        [-0.289900077114, 0.158444709515, 0.0353537934087, 0.0961015741901],
    ),
    (
        MIXED,
        2,
        6,
        2,
        18.6611860848,
        [4.93597543389, 1.10136498905, -6.70535205634, 0.668011633394],
    ),
    (
        MIXED,
        1,
        1,
        0.5,
        1.6901037584,
        [0.764398608619, -0.90590587661, 0.0380571657876, 0.103450102203],
    ),
    (
        MIXED,
        3,
        0.25,
        5,
        0.353337612722,
        [0.240496654536, 0.0536620570417, 0.0119736233816, -0.306132334959],
    ),
    ([1.0, 2], 0, 1, 2, 0.701868303411, [-0.768234723199, 0.768234723199]),
    ([10.0, 0, 0, 0], 0, 1, 0.5, 1.58929862042e-6, [-2.38373149552e-6] + [7.94577165172e-7] * 3),
    ([30.0, 0, 0, 0], 0, 1, 0.5, 1.48740828574e-19, [-2.2311124286e-19] + [7.43704142868e-20] * 3),
    ([-30.0, 0, 0, 0], 0, 1, 2, 31.0986122887, [-1.0] + [0.333333333334] * 3),
    (
        [1000.0, 999, 998],
        0,
        2,
        1,
        0.272899566156,
        [-0.405671203601, 0.296569413496, 0.109101790105],
    ),
]
BCCD_WEIGHTS = [1.4973414212127968, 6.1649272593714551, 6.2385896300116386, 4.6336194368652968]


def batch(classes=5, samples=64, scale=3.0, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(samples, classes, generator=generator, dtype=dtype)
    targets = torch.randint(classes, (samples,), generator=generator)
    weight = torch.rand(classes, generator=generator, dtype=dtype) + 0.1
    return logits.requires_grad_(), targets, weight


def value_and_grad(loss_of, logits):
    logits = logits.detach().clone().requires_grad_()
    loss = loss_of(logits)
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


@pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("logits, target, w, gamma, loss, grad", GOLDEN)
def test_golden_vectors(logits, target, w, gamma, loss, grad, dtype, rtol):
    weight = torch.ones(len(logits), dtype=dtype)
    weight[target] = w
    value, gradient = value_and_grad(
        lambda z: softmax_focal_loss(z, torch.tensor([target]), gamma, weight, reduction="sum"),
        torch.tensor([logits], dtype=dtype),
    )
    assert_close(value.double(), torch.tensor(loss, dtype=torch.float64), rtol=rtol, atol=0)
    assert_close(gradient[0].double(), torch.tensor(grad, dtype=torch.float64), rtol=rtol, atol=0)


def test_golden_batch_for_every_reduction():
    logits = torch.tensor([MIXED] * 4, dtype=torch.float64)
    targets = torch.tensor([0, 2, 1, 3])
    weight = torch.tensor(BCCD_WEIGHTS, dtype=torch.float64)
    expected = {
        "none": [0.0430811515030259, 19.4032469987612, 8.04387486827787, 8.86770697019055],
        "sum": 36.3579099887326,
        "mean": 9.08947749718316,
        "weight_sum": 1.96163660417747,
    }
    for reduction in REDUCTIONS:
        loss = softmax_focal_loss(logits, targets, 2.0, weight, reduction=reduction)
        assert_close(
            loss, torch.tensor(expected[reduction], dtype=torch.float64), rtol=1e-10, atol=0
        )
    unweighted = softmax_focal_loss(logits, targets, 2.0, reduction="mean").item()
    assert unweighted == pytest.approx(1.58938125879201, rel=1e-10)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_gamma_zero_is_cross_entropy_in_value_and_gradient(reduction):
    logits, targets, _ = batch()
    ours = value_and_grad(
        lambda z: softmax_focal_loss(z, targets, 0.0, reduction=reduction).sum(), logits
    )
    torchs = value_and_grad(
        lambda z: F.cross_entropy(z, targets, reduction=reduction).sum(), logits
    )
    assert_close(ours, torchs, rtol=1e-12, atol=1e-13)


def test_gamma_zero_by_weight_sum_is_weighted_cross_entropy_and_by_mean_is_not():
    logits, targets, weight = batch()
    reference = F.cross_entropy(logits, targets, weight=weight)
    assert_close(softmax_focal_loss(logits, targets, 0.0, weight), reference, rtol=1e-12, atol=0)
    assert_close(cross_entropy_loss(logits, targets, weight), reference, rtol=1e-12, atol=0)
    mean = softmax_focal_loss(logits, targets, 0.0, weight, reduction="mean")
    assert not torch.isclose(mean, reference, rtol=1e-2)


def test_weights_that_sum_to_less_than_one_divide_all_the_same():
    logits, targets, weight = batch()
    small = weight * 0.1 / weight[targets].sum()
    reference = F.cross_entropy(logits, targets, weight=weight)
    for loss in (softmax_focal_loss(logits, targets, 0.0, small),
                 cross_entropy_loss(logits, targets, small)):  # fmt: skip
        assert_close(loss, reference, rtol=1e-12, atol=0)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_loss_is_cross_entropy_times_the_focusing_factor(gamma):
    logits, targets, _ = batch()
    p_t = logits.softmax(1).gather(1, targets[:, None]).squeeze(1)
    expected = (1 - p_t) ** gamma * F.cross_entropy(logits, targets, reduction="none")
    assert_close(softmax_focal_loss(logits, targets, gamma, reduction="none"), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_two_classes_equal_torchvision_and_fvcore_sigmoid_focal(gamma):
    logits, targets, _ = batch(classes=2)
    margin, labels = logits[:, 1] - logits[:, 0], targets.double()
    ours = softmax_focal_loss(logits, targets, gamma, reduction="none")
    assert_close(ours, torchvision_focal(margin, labels, -1, gamma), rtol=1e-11, atol=1e-14)
    assert_close(ours.float(), fvcore_focal(margin, labels, -1, gamma), rtol=1e-5, atol=1e-6)
    alpha = torch.tensor([0.75, 0.25], dtype=torch.float64)
    weighted = softmax_focal_loss(logits, targets, gamma, alpha, reduction="none")
    assert_close(weighted, torchvision_focal(margin, labels, 0.25, gamma), rtol=1e-11, atol=1e-14)


def test_many_classes_equal_torchvision_binary_focal_of_the_margin():
    logits, targets, _ = batch(classes=7)
    index = targets[:, None]
    rest = logits.scatter(1, index, -math.inf).logsumexp(1)
    margin = logits.gather(1, index).squeeze(1) - rest
    expected = torchvision_focal(margin, torch.ones_like(margin), -1, 2.0)
    assert_close(softmax_focal_loss(logits, targets, 2.0, reduction="none"), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.5, 1.0, 1.5, 2.0, 5.0])
def test_gradcheck(gamma):
    logits, targets, weight = batch(classes=4, samples=6)
    targets[0] = -1
    assert torch.autograd.gradcheck(lambda z: softmax_focal_loss(z, targets, gamma, weight), logits)


def test_second_derivative_is_right():
    logits, targets, weight = batch(classes=4, samples=4)
    assert torch.autograd.gradgradcheck(
        lambda z: softmax_focal_loss(z, targets, 2.0, weight), logits
    )


GAMMAS = [0.0, 0.3, 0.5, 1.0, 2.0, 5.0]


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0, 1e4])
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_the_fast_form_equals_the_reference(dtype, tolerance, gamma, scale):
    logits, targets, _ = batch(samples=512, scale=scale)
    logits = logits.detach().to(dtype)
    fast = value_and_grad(lambda z: softmax_focal_with_p_t(z, targets, gamma)[0].sum(), logits)
    exact = value_and_grad(
        lambda z: softmax_focal_reference(z, targets, gamma).sum(), logits.double()
    )
    exact = tuple(value.to(dtype) for value in exact)
    assert_close(fast, exact, rtol=tolerance, atol=tolerance)
    p_t = softmax_focal_with_p_t(logits, targets, gamma)[1]
    expected = logits.softmax(1).gather(1, targets[:, None]).squeeze(1)
    assert_close(p_t, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("margin", [-80.0, -17.0, -1.0, 1.0, 17.0, 25.0])
def test_the_fast_form_keeps_its_digits_where_p_t_rounds_to_zero_or_one(gamma, margin):
    logits, targets = torch.tensor([[margin, 0.0, -1.0]]), torch.tensor([0])
    fast = value_and_grad(lambda z: softmax_focal_with_p_t(z, targets, gamma)[0].sum(), logits)
    exact = value_and_grad(
        lambda z: softmax_focal_reference(z, targets, gamma).sum(), logits.double()
    )
    # q^(1 + gamma) of a margin rounded at 2^-24.
    rtol = 3e-7 * (1 + gamma) * (1 + abs(margin) / 2)
    smallest = torch.finfo(torch.float32).tiny
    assert_close([x.double() for x in fast], list(exact), rtol=rtol, atol=smallest)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_gradcheck_of_the_fast_form(gamma):
    logits, targets, weight = batch(classes=4, samples=6)
    factors = weight[targets].index_fill(0, torch.tensor([0]), 0.0)
    assert torch.autograd.gradcheck(
        lambda z: softmax_focal_with_p_t(z, targets, gamma, factors)[0], logits
    )


def test_the_fast_form_refuses_a_second_derivative():
    logits, targets, _ = batch(dtype=torch.float32)
    loss = softmax_focal_loss(logits, targets)
    with pytest.raises(RuntimeError, match=r"twice .*logits\.double.. or call softmax_focal_ref"):
        torch.autograd.grad(loss, logits, create_graph=True)
    (gradient,) = torch.autograd.grad(
        softmax_focal_loss(logits.double(), targets), logits, create_graph=True
    )
    assert gradient.requires_grad


def test_no_more_than_the_size_of_the_logits_is_kept_for_the_backward_pass():
    logits, targets, weight = batch(classes=81, samples=512, dtype=torch.float32)
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = softmax_focal_loss(logits, targets, 2.0, weight)
    assert loss.requires_grad
    assert sorted(kept.values()) == [512 * 4, logits.nbytes]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_loss_compiles_into_one_graph(backend, reduction):
    logits, targets, weight = batch(dtype=torch.float32)
    targets[::5] = -1

    def loss_of(z):
        return softmax_focal_loss(z, targets, 2.0, weight, reduction=reduction).sum()

    torch.compiler.reset()
    compiled = torch.compile(loss_of, backend=backend, fullgraph=True)
    assert_close(value_and_grad(compiled, logits), value_and_grad(loss_of, logits))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_maps_of_every_dtype_equal_the_reference_and_have_gradients_of_that_dtype(dtype):
    logits, targets, weight = batch(classes=3, samples=2 * 4 * 5)
    dense = logits.detach().reshape(2, 4, 5, 3).movedim(-1, 1).to(dtype)
    targets = targets.reshape(2, 4, 5)
    loss, gradient = value_and_grad(lambda z: softmax_focal_loss(z, targets, 2.0, weight), dense)
    expected = value_and_grad(lambda z: softmax_focal_loss(z, targets, 2.0, weight), dense.double())
    assert loss.dtype == torch.float32 and gradient.dtype == dtype
    assert_close(loss.double(), expected[0], rtol=1e-6, atol=0)
    assert_close(gradient.double(), expected[1].to(dtype).double())


def test_an_ignored_sample_may_hold_infinity():
    logits, targets, weight = batch(dtype=torch.float32)
    expected = softmax_focal_loss(logits[1:], targets[1:], 2.0, weight)
    logits.data[0], targets[0] = math.inf, -1
    assert_close(softmax_focal_loss(logits, targets, 2.0, weight), expected)


def test_a_weight_that_requires_a_gradient_gets_it():
    logits, targets, weight = batch(dtype=torch.float32)
    weight.requires_grad_()
    softmax_focal_loss(logits, targets, 2.0, weight, reduction="sum").backward()
    losses = softmax_focal_reference(logits.detach(), targets, 2.0)
    assert_close(weight.grad, torch.zeros(5).index_add(0, targets, losses))


def test_class_weight_scales_loss_and_gradient_and_not_the_focusing_factor():
    logits, targets, weight = batch()
    plain = softmax_focal_loss(logits, targets, 2.0, reduction="none")
    weighted = softmax_focal_loss(logits, targets, 2.0, weight, reduction="none")
    assert_close(weighted, plain * weight[targets])
    doubled = value_and_grad(
        lambda z: softmax_focal_loss(z, targets, 2.0, 2 * weight, reduction="sum"), logits
    )
    once = value_and_grad(
        lambda z: softmax_focal_loss(z, targets, 2.0, weight, reduction="sum"), logits
    )
    assert_close(doubled, tuple(2 * x for x in once))


def test_class_weights_follow_the_order_of_the_logits():
    logits, targets, weight = batch()
    order = torch.tensor([3, 1, 4, 0, 2])
    permuted = softmax_focal_loss(
        logits[:, order], order.argsort()[targets], 2.0, weight[order], reduction="none"
    )
    assert_close(permuted, softmax_focal_loss(logits, targets, 2.0, weight, reduction="none"))
    unpermuted_weight = softmax_focal_loss(
        logits[:, order], order.argsort()[targets], 2.0, weight, reduction="none"
    )
    assert not torch.allclose(permuted, unpermuted_weight)


def test_gradient_rows_sum_to_zero_and_a_common_shift_changes_nothing():
    logits, targets, weight = batch()
    value, grad = value_and_grad(lambda z: softmax_focal_loss(z, targets, 2.0, weight), logits)
    assert_close(grad.sum(1), torch.zeros(len(grad), dtype=grad.dtype), atol=1e-15, rtol=0)
    assert_close(softmax_focal_loss(logits + 100, targets, 2.0, weight).detach(), value)


def test_loss_is_never_above_cross_entropy_and_its_gradient_is_for_hard_samples():
    logits = torch.tensor([[-2.0, 0.0], [4.0, 0.0]], dtype=torch.float64)
    targets = torch.tensor([0, 0])
    focal, focal_grad = value_and_grad(
        lambda z: softmax_focal_loss(z, targets, 2.0, reduction="sum"), logits
    )
    entropy, entropy_grad = value_and_grad(
        lambda z: F.cross_entropy(z, targets, reduction="sum"), logits
    )
    assert focal < entropy
    assert focal_grad[0, 0].abs() > entropy_grad[0, 0].abs()
    assert focal_grad[1, 0].abs() < 0.1 * entropy_grad[1, 0].abs()


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize(
    "dtype, largest",
    [
        (torch.float16, 65504.0),
        (torch.bfloat16, 1e30),
        (torch.float32, 1e30),
        (torch.float64, 1e30),
    ],
)
def test_extreme_logits_give_the_right_loss_and_finite_gradients(gamma, dtype, largest):
    logits = torch.tensor(
        [[largest, -largest, 0], [-largest, largest, 0], [largest, largest, largest]], dtype=dtype
    )
    leaf = logits.clone().requires_grad_()
    loss = softmax_focal_loss(leaf, torch.tensor([0, 0, 0]), gamma, reduction="none")
    loss.sum().backward()
    exact = logits.double()
    expected = torch.stack(
        [
            exact.new_tensor(0.0),
            exact[1, 1] - exact[1, 0],
            exact.new_tensor((2 / 3) ** gamma * math.log(3)),
        ]
    )
    assert_close(loss.double(), expected, rtol=1e-6, atol=1e-12)
    assert leaf.grad.isfinite().all()
    assert leaf.grad[1, 0].item() == pytest.approx(-1.0, rel=1e-3)


def test_gradient_is_not_clamped_away_for_the_hardest_samples():
    logits = torch.tensor([[-50.0, 0.0, 0.0]], requires_grad=True)
    softmax_focal_loss(logits, torch.tensor([0]), 2.0).backward()
    assert logits.grad[0, 0].item() == pytest.approx(-1.0, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_logits_are_computed_in_float32_also_under_autocast(dtype):
    logits, targets, weight = batch(dtype=torch.float32)
    half = logits.detach().to(dtype)
    expected = softmax_focal_loss(half.float(), targets, 2.0, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = softmax_focal_loss(half, targets, 2.0, weight)
    assert loss.dtype == torch.float32
    assert_close(loss, expected, rtol=0, atol=0)
    assert_close(softmax_focal_loss(half, targets, 2.0, weight), expected, rtol=0, atol=0)


@pytest.mark.parametrize("reduction", ["sum", "mean", "weight_sum"])
@pytest.mark.parametrize("samples, target", [(0, 0), (3, -1)])
def test_nothing_to_learn_from_gives_zero_that_keeps_the_graph(reduction, samples, target):
    logits = torch.randn(samples, 4, requires_grad=True)
    loss = softmax_focal_loss(
        logits, torch.full((samples,), target), 2.0, torch.rand(4), reduction=reduction
    )
    loss.backward()
    assert loss.item() == 0
    assert_close(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("reduction", ["sum", "mean", "weight_sum"])
@pytest.mark.parametrize("ignore_index", [-1, 255])
def test_ignored_targets_leave_the_sum_and_the_divisor(reduction, ignore_index):
    logits, targets, weight = batch()
    targets[::3] = ignore_index
    kept = targets != ignore_index
    loss = softmax_focal_loss(logits, targets, 2.0, weight, ignore_index, reduction)
    expected = softmax_focal_loss(logits[kept], targets[kept], 2.0, weight, reduction=reduction)
    assert_close(loss, expected)


def test_dense_maps_equal_the_flattened_batch():
    logits, targets, weight = batch(classes=3, samples=2 * 4 * 5)
    dense = logits.detach().reshape(2, 4, 5, 3).movedim(-1, 1)
    dense_targets = targets.reshape(2, 4, 5)
    for reduction in ("sum", "mean", "weight_sum"):
        assert_close(
            softmax_focal_loss(dense, dense_targets, 2.0, weight, reduction=reduction),
            softmax_focal_loss(logits, targets, 2.0, weight, reduction=reduction).detach(),
        )
    assert softmax_focal_loss(dense, dense_targets, reduction="none").shape == (2, 4, 5)


@pytest.mark.parametrize("classes", [2, 1204])
def test_one_class_and_lvis_sized_class_lists(classes):
    logits, targets, weight = batch(classes=classes, samples=16)
    loss, grad = value_and_grad(lambda z: softmax_focal_loss(z, targets, 2.0, weight), logits)
    assert loss.isfinite() and grad.isfinite().all() and grad.abs().sum() > 0


@pytest.mark.parametrize(
    "change, said",
    [
        ({"gamma": -1.0}, "gamma"),
        ({"gamma": math.nan}, "gamma"),
        ({"reduction": "avg"}, "reduction"),
        ({"targets": torch.tensor([0, 4])}, "targets"),
        ({"targets": torch.tensor([0, -2])}, "targets"),
        ({"targets": torch.tensor([0.0, 1.0])}, "targets"),
        ({"targets": torch.tensor([0])}, "targets"),
        ({"logits": torch.zeros(2, 1)}, "logits"),
        ({"weight": torch.ones(3)}, "weight"),
        ({"weight": torch.tensor([1.0, 1, 1, -1])}, "weight"),
        ({"weight": torch.tensor([1.0, 1, 1, math.nan])}, "weight"),
    ],
)
def test_bad_arguments_are_named(change, said):
    arguments = {"logits": torch.zeros(2, 4), "targets": torch.tensor([0, 1])} | change
    with pytest.raises(ValueError, match=said):
        softmax_focal_loss(**arguments)


def binary_batch(shape=(32, 4), seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(shape, generator=generator, dtype=torch.float64)
    targets = torch.randint(2, shape, generator=generator)
    return logits.requires_grad_(), targets


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.25, 0.75])
def test_sigmoid_focal_equals_torchvision_in_value_and_gradient(alpha, gamma, reduction):
    logits, targets = binary_batch()
    ours = value_and_grad(
        lambda z: sigmoid_focal_loss(z, targets, alpha, gamma, reduction=reduction).sum(), logits
    )
    theirs = value_and_grad(
        lambda z: torchvision_focal(z, targets.double(), alpha, gamma, reduction).sum(), logits
    )
    assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


def test_sigmoid_focal_is_finite_where_torchvision_is_not():
    logits, targets = torch.tensor([30.0, -30.0]), torch.tensor([1.0, 0.0])
    theirs = value_and_grad(lambda z: torchvision_focal(z, targets, -1, 0.5, "sum"), logits)
    ours = value_and_grad(
        lambda z: sigmoid_focal_loss(z, targets, -1, 0.5, reduction="sum"), logits
    )
    assert theirs[1].isnan().any()
    assert ours[1].isfinite().all() and ours[0].isfinite()


def test_sigmoid_focal_takes_one_alpha_per_class():
    logits, targets = binary_batch()
    alpha = torch.tensor([0.1, 0.25, 0.5, 0.9], dtype=torch.float64)
    columns = [
        sigmoid_focal_loss(logits[:, c], targets[:, c], alpha[c].item(), reduction="none")
        for c in range(4)
    ]
    loss = sigmoid_focal_loss(logits, targets, alpha, reduction="none")
    assert_close(loss, torch.stack(columns, dim=1))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_sigmoid_focal_gradcheck(gamma):
    logits, targets = binary_batch((3, 2))
    assert torch.autograd.gradcheck(lambda z: sigmoid_focal_loss(z, targets, 0.3, gamma), logits)


def test_sigmoid_focal_of_nothing_is_zero_with_a_graph():
    logits = torch.zeros(0, 3, requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.zeros(0, 3))
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize(
    "change, said",
    [
        ({"gamma": -1.0}, "gamma"),
        ({"alpha": 1.5}, "alpha"),
        ({"alpha": torch.tensor([0.5, -0.5])}, "alpha"),
        ({"alpha": torch.full((3, 1, 2), 0.5)}, "alpha must be a number or"),
        ({"targets": torch.zeros(3)}, "targets"),
        ({"reduction": "weight_sum"}, "reduction"),
    ],
)
def test_sigmoid_focal_names_bad_arguments(change, said):
    arguments = {"logits": torch.zeros(2, 2), "targets": torch.zeros(2, 2)} | change
    with pytest.raises(ValueError, match=said):
        sigmoid_focal_loss(**arguments)


def test_weighted_cross_entropy_is_the_alpha_balanced_one():
    """CE(p_t) = -alpha_t log(p_t), equation 3 of arXiv:1708.02002, for two and for many classes."""
    for classes in (2, 5):
        logits, targets, weight = batch(classes=classes)
        log_p = logits.log_softmax(1).gather(1, targets[:, None]).squeeze(1)
        loss = cross_entropy_loss(logits, targets, weight, reduction="none")
        assert_close(loss, -weight[targets] * log_p)


def test_values_are_checked_on_the_cpu_unless_it_is_turned_off():
    logits, wrong = torch.zeros(2, 3), torch.tensor([0.5, -1.0, 1.0])
    targets = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="weight"):
        softmax_focal_loss(logits, targets, weight=wrong)
    softmax_focal_loss(logits, targets, weight=wrong, check_values=False)
    with pytest.raises(ValueError, match="alpha"):
        sigmoid_focal_loss(logits, logits, wrong)
    sigmoid_focal_loss(logits, logits, wrong, check_values=False)


@pytest.mark.parametrize("gamma", [-0.1, math.nan, math.inf])
def test_a_gamma_without_a_focal_loss_is_refused(gamma):
    with pytest.raises(ValueError, match="gamma must be finite and >= 0"):
        check_gamma(gamma)
