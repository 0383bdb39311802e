"""Nested keys: flat with dots, and merged in place."""

import pytest
from detectron2.config import CfgNode

from counterpoise.config.tree import deep_merge, flat_leaves, value_at


@pytest.mark.parametrize("kind", [dict, CfgNode])
def test_leaves_come_in_order_with_dots(kind):
    node = kind({"A": {"Y": 1, "X": {"Z": [2]}}, "B": None})
    assert list(flat_leaves(node)) == [("A.Y", 1), ("A.X.Z", [2]), ("B", None)]


def test_an_empty_node_has_no_leaf():
    assert list(flat_leaves({"A": {}, "B": CfgNode()})) == []


def test_every_leaf_is_found_by_its_key():
    node = {"A": {"Y": 1, "X": {"Z": [2]}}, "B": None}
    assert all(value_at(node, key) is value for key, value in flat_leaves(node))
    with pytest.raises(KeyError):
        value_at(node, "A.W")


def test_merging_keeps_other_leaves_and_takes_copies():
    target, source = {"A": {"X": 1, "Y": 2}, "B": 1}, {"A": {"Y": [3]}, "C": {"Z": [4]}}
    deep_merge(target, source)
    assert target == {"A": {"X": 1, "Y": [3]}, "B": 1, "C": {"Z": [4]}}
    target["C"]["Z"].append(5)
    target["A"]["Y"].append(5)
    assert source == {"A": {"Y": [3]}, "C": {"Z": [4]}}


def test_a_node_and_a_value_replace_each_other():
    target = {"A": {"X": 1}, "B": 1}
    deep_merge(target, {"A": 2, "B": {"X": 3}})
    assert target == {"A": 2, "B": {"X": 3}}
