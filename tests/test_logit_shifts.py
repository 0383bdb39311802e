"""Logit adjustment, Seesaw and the equilibrium loss against their formulas, written out."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from counterpoise.balance.logit_shifts import equilibrium_shift, prior_shift, seesaw_shift
from counterpoise.balance.losses import cross_entropy_loss

COUNTS = (400, 40, 10)


def batch(rows=12, classes=3, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(rows, classes + 1, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes + 1, (rows,), generator=generator)


def losses(logits, targets, shift):
    return cross_entropy_loss(logits + shift, targets, reduction="none")


def test_logit_adjustment_is_cross_entropy_of_prior_times_exponential():
    logits, targets = batch()
    prior = np.array(COUNTS) / sum(COUNTS)
    weight = np.append((prior * len(COUNTS)) ** 0.7, 1.0)
    terms = weight * np.exp(logits.numpy())
    expected = -np.log(terms[range(len(targets)), targets.numpy()] / terms.sum(1))
    actual = losses(logits, targets, prior_shift(torch.tensor(COUNTS), 0.7))
    np.testing.assert_allclose(actual.numpy(), expected)


def test_equal_counts_or_no_exponent_leave_cross_entropy():
    assert_close(prior_shift(torch.tensor([7, 7, 7])), torch.zeros(4, dtype=torch.float64))
    assert not prior_shift(torch.tensor(COUNTS), 0.0).any()


def test_adjusted_training_favours_rare_classes_by_the_ratio_of_counts_at_inference():
    # The loss is least where exp(z_c) pi_c is the frequency of c, so z itself is free of the prior.
    shift = prior_shift(torch.tensor(COUNTS))
    frequencies = torch.tensor([*COUNTS, 450.0], dtype=torch.float64)
    logits = (frequencies.log() - shift).requires_grad_()
    targets = torch.arange(4).repeat_interleave(frequencies.long())
    losses(logits.expand(len(targets), 4), targets, shift).sum().backward()
    assert_close(logits.grad, torch.zeros_like(logits), atol=1e-9, rtol=0)
    assert_close(logits[:3].exp() / logits[0].exp(), torch.ones(3, dtype=torch.float64))


def test_a_class_without_boxes_has_a_finite_prior():
    assert prior_shift(torch.tensor([5, 0])).isfinite().all()


def seesaw_by_hand(logits, targets, counts, p, q):
    """Loss of each row, as the equations say it, with the objectness left out."""
    result = []
    for z, y in zip(logits.tolist(), targets.tolist(), strict=True):
        num_classes = len(z) - 1
        total = sum(math.exp(v) for v in z[:num_classes])
        s = [math.exp(v) / total for v in z[:num_classes]]
        denominator = 0.0
        for j, value in enumerate(z):
            factor = 1.0
            if y < num_classes and j < num_classes and j != y:
                if counts[j] < counts[y]:
                    factor *= (max(counts[j], 1) / counts[y]) ** p
                if s[j] > s[y]:
                    factor *= max(s[j] / max(s[y], 0.01), 1.0) ** q
            denominator += factor * math.exp(value)
        result.append(math.log(denominator) - z[y])
    return result


@pytest.mark.parametrize("p, q", [(0.8, 2.0), (0.0, 2.0), (0.8, 0.0), (2.0, 0.5)])
@pytest.mark.parametrize("counts", [COUNTS, (0, 3, 3)])
def test_seesaw_is_its_formula(p, q, counts):
    logits, targets = batch(40)
    actual = losses(logits, targets, seesaw_shift(logits, targets, torch.tensor(counts), p, q))
    np.testing.assert_allclose(actual, seesaw_by_hand(logits, targets, counts, p, q))


def test_seesaw_without_exponents_or_of_background_is_cross_entropy():
    logits, targets = batch()
    assert not seesaw_shift(logits, targets, torch.tensor(COUNTS), 0, 0).any()
    background = torch.full_like(targets, 3)
    assert not seesaw_shift(logits, background, torch.tensor(COUNTS)).any()


def test_seesaw_spares_rare_classes_the_gradient_of_frequent_ones_alone():
    logits = torch.zeros(2, 4, requires_grad=True)
    shift = seesaw_shift(logits, torch.tensor([0, 2]), torch.tensor(COUNTS))
    losses(logits, torch.tensor([0, 2]), shift).sum().backward()
    of_frequent, of_rare = logits.grad
    assert of_frequent[2] / of_frequent[3] == pytest.approx((10 / 400) ** 0.8)
    assert of_rare[0] == of_rare[1] == of_rare[3]


def test_equilibrium_loss_is_its_formula():
    logits, targets = batch()
    s = np.array([0.6, 0.2, 0.05, 0.01])
    terms = s * np.exp(logits.numpy())
    expected = -np.log(terms[range(len(targets)), targets.numpy()] / terms.sum(1))
    shift = equilibrium_shift(torch.tensor(s[:3]))
    np.testing.assert_allclose(losses(logits, targets, shift).numpy(), expected)


def test_equal_scores_make_the_equilibrium_loss_cross_entropy():
    logits, targets = batch()
    plain = losses(logits, targets, torch.zeros(4, dtype=torch.float64))
    shift = equilibrium_shift(torch.full((3,), 0.01, dtype=torch.float64))
    assert_close(losses(logits, targets, shift), plain)


def test_gradients_are_those_of_cross_entropy_at_a_fixed_shift():
    logits, targets = batch(5)
    shift = seesaw_shift(logits, targets, torch.tensor(COUNTS))
    assert torch.autograd.gradcheck(
        lambda z: losses(z, targets, shift), logits.requires_grad_(), atol=1e-6
    )


def test_extreme_logits_have_finite_losses_and_gradients():
    logits = torch.tensor([[1e4, -1e4, 0, 0], [-1e4, 1e4, 0, 1e4]], requires_grad=True)
    targets = torch.tensor([1, 0])
    total = losses(logits, targets, seesaw_shift(logits, targets, torch.tensor(COUNTS))).sum()
    total.backward()
    assert total.isfinite() and logits.grad.isfinite().all()
