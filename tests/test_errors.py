"""Hints on unknown names."""

import pytest

from counterpoise.errors import did_you_mean


@pytest.mark.parametrize(
    "word, hint",
    [
        ("focla", "did you mean 'focal'? (known: cross_entropy, focal)"),
        ("FOCAL", "did you mean 'focal'? (known: cross_entropy, focal)"),
        ("xyz", "known: cross_entropy, focal"),
    ],
)
def test_the_closest_name_is_offered_and_all_are_listed(word, hint):
    assert did_you_mean(word, ["focal", "cross_entropy"]) == hint


def test_of_very_many_names_the_closest_are_listed_and_the_others_counted():
    hint = did_you_mean("set_7_trian", [f"set_{i}_train" for i in range(50)])
    assert hint.startswith("did you mean 'set_7_train'?") and hint.endswith("and 42 more)")
    assert hint.count("set_") == 9
