"""From JSON back into the dataclasses that it was written from."""

import dataclasses
import sys
import types
import typing
from typing import Any

from counterpoise.errors import UserError

_EXPECTED = {float: "a number", int: "a whole number", str: "text"}
_LARGEST = sys.float_info.max  # JSON's whole numbers may be larger than any float


def decode(value: Any, kind: Any, where: str, fix: str) -> Any:
    """Turn JSON into a value of a type.

    Args:
        value: as JSON has it.
        kind: a dataclass of texts, numbers, tuples, dictionaries, dataclasses and ``... | None``,
            or one of these. Keys that a dataclass lacks are left out; fields that the JSON lacks
            are None, or empty where they hold several values.
        where: name of the value for messages.
        fix: what to do about a wrong one, for messages.

    Raises:
        UserError: a value is of another type, or a number is not finite.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else decode(value, arguments[0], where, fix)
    if dataclasses.is_dataclass(kind):
        fields = _checked(value, dict, "keys and values", where, fix)
        return kind(
            **{
                name: decode(fields[name], part, f"{where}.{name}", fix)
                if name in fields
                else _absent(part)
                for name, part in typing.get_type_hints(kind).items()
            }
        )
    if origin is dict:
        items = _checked(value, dict, "keys and values", where, fix).items()
        return {key: decode(item, arguments[1], f"{where}.{key}", fix) for key, item in items}
    if origin is tuple:
        items = _checked(value, list, "a list", where, fix)
        if arguments[-1] is not Ellipsis and len(items) != len(arguments):
            raise UserError(f"{where} is {items!r:.40}, expected {len(arguments)} numbers")
        return tuple(
            decode(item, arguments[0], f"{where}[{i}]", fix) for i, item in enumerate(items)
        )
    accepted = (int, float) if kind is float else kind
    return _checked(value, accepted, _EXPECTED[kind], where, fix)


def _checked(value: Any, kind: Any, expected: str, where: str, fix: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, kind):
        raise UserError(f"{where} is {value!r:.40}, expected {expected}: {fix}")
    if isinstance(value, int | float) and not abs(value) <= _LARGEST:
        raise UserError(f"{where} is {value!r:.40}, expected a finite number: {fix}")
    return value


def _absent(kind: Any) -> Any:
    origin = typing.get_origin(kind)
    return origin() if origin in (tuple, dict) else None
