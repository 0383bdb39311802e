"""Fields of one object in a JSON file; a ValueError says what is wrong with one."""

from reprlib import repr  # bounded in length and depth, whatever the file holds
from typing import Any


def get_field(item: Any, key: str) -> Any:
    """Return the value of a key that must be there."""
    if not isinstance(item, dict):
        raise ValueError(f"it is {repr(item)}, not an object")
    if key not in item:
        raise ValueError(f"it has no '{key}'")
    return item[key]


def get_identifier(item: Any, key: str) -> int | str:
    """Return a whole number or text."""
    value = get_field(item, key)
    if isinstance(value, float) and value.is_integer():  # as tables write whole numbers with gaps
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"its '{key}' is {repr(value)}, neither a whole number nor text")
    return value


def get_text(item: Any, key: str) -> str:
    """Return stripped text that is not empty; a number is taken as text."""
    text = str(get_identifier(item, key)).strip()
    if not text:
        raise ValueError(f"its '{key}' is empty")
    return text


def get_size(width: Any, height: Any) -> tuple[int, int] | None:
    """Return the two sides; None where they are not stated, or stated as 0."""
    if (width, height) in ((None, None), (0, 0)):
        return None
    if not (is_number(width) and is_number(height)):
        raise ValueError(f"its size is {repr(width)} x {repr(height)}")
    return width, height


def get_crowd_flag(item: dict[str, Any]) -> int:
    """Return ``iscrowd``, which may be missing, as 0 or 1."""
    value = item.get("iscrowd")
    value = 0 if value is None else value
    if value not in (0, 1):
        raise ValueError(f"its 'iscrowd' is {repr(value)}, expected 0 or 1")
    return int(value)


def get_bbox(item: Any) -> tuple[float, float, float, float]:
    """Return ``bbox``, which is [x, y, width, height]."""
    value = get_field(item, "bbox")
    if not isinstance(value, list) or len(value) != 4 or not all(map(is_number, value)):
        raise ValueError(f"its 'bbox' is {repr(value)}, expected [x, y, width, height]")
    try:
        x, y, width, height = map(float, value)
    except OverflowError:
        raise ValueError("its 'bbox' holds a number that is too large") from None
    return x, y, width, height


def is_number(value: object) -> bool:
    """Whether a value of JSON or YAML is a number, which True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
