"""YAML of strangers: no key twice, no value that grows without bound."""

from collections.abc import Mapping
from typing import Any

import yaml

#: Bytes of a file, and values that it may stand for once its aliases are written out.
MAX_BYTES = 10_000_000
MAX_VALUES = 1_000_000


class StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which also refuses a mapping with one key twice.

    Of two equal keys PyYAML takes the last one silently; keys that come from a merge (``<<``) may
    be overridden, as YAML means it.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node.

        Raises:
            yaml.YAMLError: a key stands in it twice.
        """
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge" or not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key.value:.60}' stands twice in one mapping",
                    key.start_mark,
                )  # fmt: skip
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def load_yaml(text: str, loader: type[yaml.SafeLoader] = StrictLoader) -> Any:
    """Read YAML from text.

    Args:
        text: of a file.
        loader: to read it with.

    Raises:
        yaml.YAMLError: it is not YAML, is too large or too deep, or stands for too many values.
    """
    if len(text) > MAX_BYTES:
        raise yaml.YAMLError(f"it has {len(text):,} characters, more than {MAX_BYTES:,}")
    try:
        tree = yaml.load(text, loader)
        values = _expanded_size(tree, {})
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply, or refers to itself") from error
    except ValueError as error:  # a number of thousands of digits, a date that does not exist
        raise yaml.YAMLError(f"it holds a value that cannot be read: {error}") from error
    if values > MAX_VALUES:
        raise yaml.YAMLError(
            f"with its aliases written out it holds {values:.2g} values, more than {MAX_VALUES:,}"
        )
    return tree


def _expanded_size(value: Any, known: dict[int, int]) -> int:
    """Number of values in `value` and itself; shared parts count as often as they stand in it."""
    if not isinstance(value, (Mapping, list)):
        return 1
    if id(value) not in known:
        parts = value.values() if isinstance(value, Mapping) else value
        known[id(value)] = 1 + sum(_expanded_size(part, known) for part in parts)
    return known[id(value)]
