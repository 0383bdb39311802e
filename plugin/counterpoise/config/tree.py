"""Nested mappings of config keys."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any


def flat_leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Walk a config, in its order.

    Args:
        node: a ``CfgNode`` or any nested mapping.
        prefix: put before every key.

    Yields:
        (key with dots, value); an empty mapping yields nothing.
    """
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from flat_leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def value_at(node: Mapping[str, Any], key: str) -> Any:
    """Return the value of a key with dots, such as ``"SOLVER.BASE_LR"``.

    Raises:
        KeyError: there is no such key.
    """
    for part in key.split("."):
        node = node[part]
    return node


def nested(key: str, value: Any) -> dict[str, Any]:
    """Return the mapping in which a key with dots has a value."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def deep_merge(target: dict[str, Any], source: Mapping[str, Any]) -> None:
    """Put the leaves of `source` into `target`, in place, whose other leaves stay.

    Args:
        target: changed; holds copies of what it takes over.
        source: left as it is.
    """
    for key, value in source.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            deep_merge(target[key], value)
        else:
            target[key] = copy.deepcopy(value)
