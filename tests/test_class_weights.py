"""Class weights against the documents' formula and computed figures."""

import math
import warnings

import pytest
import torch
from torch.testing import assert_close

from counterpoise.balance.class_weights import (
    BACKGROUNDS,
    RULES,
    ClassWeightWarning,
    append_background,
    batch_class_weights,
    class_weights,
)

BCCD = [4155, 372, 361]


def test_default_is_the_documents_rule_with_the_background_last():
    weights = class_weights(BCCD)
    assert weights.dtype == torch.float32
    expected = [1.49734142, 6.16492726, 6.23858963, 4.63361944]
    assert_close(weights, torch.tensor(expected), rtol=1e-7, atol=0)


@pytest.mark.parametrize(
    "rule, formula",
    [
        ("log", lambda n, f: 1 / math.log(1.10 + f)),
        ("inverse", lambda n, f: 1 / f),
        ("inv_sqrt", lambda n, f: f**-0.5),
        ("effective_num", lambda n, f: (1 - 0.999) / (1 - 0.999**n)),
        ("none", lambda n, f: 1.0),
    ],
)
def test_rules(rule, formula):
    weights = class_weights(BCCD, rule=rule, background="min")
    expected = [formula(n, n / sum(BCCD)) for n in BCCD]
    assert_close(weights, torch.tensor([*expected, min(expected)]), rtol=1e-6, atol=0)


def test_background_policies():
    foreground = class_weights(BCCD)[:3].double()
    expected = {
        "sum_div3": foreground.sum() / 3,
        "mean": foreground.mean(),
        "mean_div3": foreground.mean() / 3,
        "one": 1.0,
        "min": foreground.min(),
        "value": 0.3,
        "frequency": 1 / math.log(1.10 + 0.75),
    }
    assert set(expected) == set(BACKGROUNDS)
    for background, value in expected.items():
        weights = class_weights(BCCD, background=background, background_value=0.3)
        assert weights[-1].item() == pytest.approx(float(value), rel=1e-6)


def test_mean_one_divides_by_the_mean_over_all_classes():
    expected = torch.tensor([0.32314726, 1.33047768, 1.34637506, 1.0])
    assert_close(class_weights(BCCD, normalize="mean_one"), expected, rtol=1e-6, atol=0)


def test_sum_div3_is_k_thirds_of_the_mean_foreground_weight():
    for classes, background in [(2, 1.418), (7, 10.73), (20, 47.7)]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ClassWeightWarning)
            weights = class_weights([10] * classes)
        assert weights[-1].item() == pytest.approx(background, rel=1e-3)
        assert (weights[-1] / weights[:-1].mean()).item() == pytest.approx(classes / 3, rel=1e-6)


def test_a_dominating_background_warns_and_names_the_alternatives():
    with pytest.warns(ClassWeightWarning, match=r"weight_sum.*mean_div3"):
        class_weights([10] * 7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        class_weights([10] * 6)
        class_weights([10] * 80, background="mean_div3")


def test_a_class_without_boxes_warns_under_log_and_raises_where_its_weight_is_infinite():
    with pytest.warns(ClassWeightWarning, match=r"\[1\] have no boxes"):
        weights = class_weights([5, 0, 5])
    assert weights[1].item() == pytest.approx(10.492058687257062, rel=1e-6)
    for rule in set(RULES) - {"log", "none"}:
        with pytest.raises(ValueError, match=r"\[1\] have no boxes"):
            class_weights([5, 0, 5], rule=rule)
    assert_close(class_weights([5, 0, 5], rule="none", background="one"), torch.ones(4))


def test_a_function_may_be_the_rule():
    weights = class_weights([8, 2], rule=lambda f, **_: 1 - f, background="one")
    assert_close(weights, torch.tensor([0.2, 0.8, 1.0]))


def test_batch_weights_count_the_background_as_a_class_and_leave_absent_classes_alone():
    counts = torch.tensor([3.0, 0, 1, 12])
    weights = batch_class_weights(counts)
    expected = [1 / math.log(1.10 + n / 16) if n else 1.0 for n in counts.tolist()]
    assert_close(weights, torch.tensor(expected))
    normalized = batch_class_weights(counts, normalize="mean_one")
    assert normalized[counts > 0].mean().item() == pytest.approx(1)
    assert normalized[1] == 1
    assert_close(batch_class_weights(torch.tensor([0.0, 0, 7])), torch.ones(3))
    assert_close(batch_class_weights(torch.zeros(3)), torch.ones(3))


def test_given_foreground_weights_get_a_background():
    assert_close(append_background([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0, 2.0]))
    for value in (-5.0, float("nan")):
        with pytest.raises(ValueError, match="background_value must be finite and >= 0"):
            append_background([1.0, 2.0], "value", background_value=value)
    with pytest.raises(ValueError, match="all 0 have no mean of 1"):
        append_background([0.0, 0.0], "min", "mean_one")


@pytest.mark.parametrize(
    "counts", [[], [[1, 2]], [1, -1], [1, math.nan], [1, math.inf], [0, 0]], ids=str
)
def test_bad_counts_raise(counts):
    with pytest.raises(ValueError, match="counts"):
        class_weights(counts)


@pytest.mark.parametrize(
    "change",
    [
        {"rule": "logg"},
        {"background": "sum"},
        {"normalize": "yes"},
        {"log_offset": 1.0},
        {"beta": 1.0},
        {"background_fraction": 0.0},
        {"background_fraction": 1.01},
        {"background_value": math.nan},
    ],
    ids=str,
)
def test_bad_arguments_are_named(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        class_weights(BCCD, **change)
