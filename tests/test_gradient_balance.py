"""EQL v2 and GHM-C against their formulas, written out."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from counterpoise.balance.gradient_balance import (
    eqlv2_weights,
    ghm_weights,
    gradient_histogram,
    gradient_norm,
    moving_histogram,
    weighted_bce,
)


def batch(rows=50, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    return logits, torch.rand(rows, classes, generator=generator) < 0.2


def test_gradient_norm_is_the_gradient_of_binary_cross_entropy():
    logits, targets = batch()
    logits.requires_grad_()
    weighted_bce(logits, targets, torch.ones_like(logits)).sum().backward()
    assert_close(gradient_norm(logits, targets), logits.grad.abs())


def test_eqlv2_weights_are_the_formula():
    positive, negative = [1.0, 8.0, 30.0, 5.0], [10.0, 10.0, 10.0, 0.0]
    actual = eqlv2_weights(torch.tensor(positive), torch.tensor(negative), 12.0, 0.8, 4.0)
    for i, (p, n) in enumerate(zip(positive, negative, strict=True)):
        f = 1 / (1 + math.exp(-12 * ((p / n if n else 100.0) - 0.8)))
        assert actual[1][i].item() == pytest.approx(f, rel=1e-5, abs=1e-7)
        assert actual[0][i].item() == pytest.approx(1 + 4 * (1 - f), rel=1e-5)


def test_eqlv2_starts_as_binary_cross_entropy():
    positive, negative = eqlv2_weights(torch.zeros(3), torch.zeros(3))
    assert torch.equal(positive, torch.ones(3)) and torch.equal(negative, torch.ones(3))


def ghm_by_hand(logits, targets, bins, before, momentum):
    """Losses and the histogram after, with a loop over bins."""
    z, t = logits.numpy(), targets.numpy().astype(float)
    probability = 1 / (1 + np.exp(-z))
    norms = np.abs(probability - t)
    bce = -(t * np.log(probability) + (1 - t) * np.log(1 - probability))
    after, losses, occupied = before.copy(), np.zeros_like(z), 0
    for i in range(bins):
        inside = (norms >= i / bins) & (norms < (i + 1) / bins)
        if inside.any():
            occupied += 1
            number = inside.sum()
            after[i] = momentum * before[i] + (1 - momentum) * number if before[i] else number
            losses[inside] = bce[inside] * norms.size / after[i]
    return losses / occupied, after


@pytest.mark.parametrize("momentum", [0.0, 0.75])
def test_ghm_is_its_formula_over_two_steps(momentum):
    bins = 10
    before, histogram = np.zeros(bins), torch.zeros(bins, dtype=torch.float64)
    for seed in range(2):
        logits, targets = batch(seed=seed)
        expected, before = ghm_by_hand(logits, targets, bins, before, momentum)
        norms = gradient_norm(logits, targets)
        counts = gradient_histogram(norms, torch.ones(len(norms), 1, dtype=torch.bool), bins)
        histogram = moving_histogram(histogram, counts, momentum)
        actual = weighted_bce(logits, targets, ghm_weights(norms, histogram, counts))
        np.testing.assert_allclose(actual.numpy(), expected)
        np.testing.assert_allclose(histogram.numpy(), before)


def test_the_weights_of_ghm_have_a_mean_of_one_and_one_bin_is_binary_cross_entropy():
    logits, targets = batch()
    norms, all_count = gradient_norm(logits, targets), torch.ones(50, 1, dtype=torch.bool)
    counts = gradient_histogram(norms, all_count, 30)
    assert ghm_weights(norms, counts.double(), counts).mean().item() == pytest.approx(1)
    one = gradient_histogram(norms, all_count, 1)
    assert_close(ghm_weights(norms, one.double(), one), torch.ones_like(norms))


def test_ignored_samples_are_not_in_the_histogram_and_a_norm_of_one_is_in_the_last_bin():
    norms = torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    counted = torch.tensor([[True], [False]])
    assert gradient_histogram(norms, counted, 4).tolist() == [1, 0, 0, 1]


def test_a_norm_that_is_no_number_is_in_no_bin():
    norms = torch.tensor([[0.1, math.nan], [math.nan, 0.9]])
    assert gradient_histogram(norms, torch.ones(2, 1, dtype=torch.bool), 4).tolist() == [1, 0, 0, 1]


def test_weighted_binary_cross_entropy_passes_gradcheck():
    logits, targets = batch(4)
    weight = torch.rand(4, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda z: weighted_bce(z, targets, weight), logits.requires_grad_()
    )
