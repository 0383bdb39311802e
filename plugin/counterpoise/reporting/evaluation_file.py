"""Reading of ``evaluation.json``, back into the dataclasses that it was written from."""

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any

from counterpoise.errors import UserError
from counterpoise.evaluation import Evaluation
from counterpoise.evaluation.error_kinds import KINDS
from counterpoise.files import read_json

#: Name of the file in a run's OUTPUT_DIR.
FILE_NAME = "evaluation.json"

_EXPECTED = {float: "a number", int: "a whole number", str: "text"}


def read_evaluations(path: Path) -> dict[str, Evaluation]:
    """Read the evaluations of a run.

    Keys that the file lacks because an earlier version wrote it are None, or empty where they hold
    several values; keys that it has beyond those of :class:`Evaluation` are left out.

    Args:
        path: of ``evaluation.json``.

    Returns:
        at least one evaluation, by the name of its test set.

    Raises:
        UserError: the file is missing, cut off or no evaluation.
    """
    content = read_json(path, "evaluation")
    if not isinstance(content, dict) or not content:
        raise UserError(
            f"{path} is no evaluation: expected test sets with their results; evaluate the run "
            "with train_net.py --eval-only"
        )
    return {name: _read_one(entry, f"{path}: {name}") for name, entry in content.items()}


def _read_one(entry: Any, where: str) -> Evaluation:
    evaluation = _decoded(entry, Evaluation, where)
    if not evaluation.per_class or any(not c.name for c in evaluation.per_class):
        raise UserError(f"{where} has no named classes in per_class, so it is no evaluation")
    for errors in (evaluation.errors, *(c.errors for c in evaluation.per_class)):
        if errors and errors.keys() != KINDS.keys():
            raise UserError(
                f"{where} has the error kinds {', '.join(errors)}, expected {', '.join(KINDS)}"
            )
    size = len(evaluation.per_class) + 1
    confusion = evaluation.confusion
    if confusion is not None and {size} != {*map(len, (confusion.counts, *confusion.counts))}:
        raise UserError(f"{where}.confusion.counts is not {size} rows of {size} counts")
    return evaluation


def _decoded(value: Any, kind: Any, where: str) -> Any:
    """Turn JSON into a value of a type of the dataclasses; their docstrings say what it holds."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else _decoded(value, arguments[0], where)
    if dataclasses.is_dataclass(kind):
        fields = _checked(value, dict, "keys and values", where)
        return kind(
            **{
                name: _decoded(fields[name], part, f"{where}.{name}")
                if name in fields
                else _absent(part)
                for name, part in typing.get_type_hints(kind).items()
            }
        )
    if origin is dict:
        items = _checked(value, dict, "keys and values", where).items()
        return {key: _decoded(item, arguments[1], f"{where}.{key}") for key, item in items}
    if origin is tuple:
        items = _checked(value, list, "a list", where)
        if arguments[-1] is not Ellipsis and len(items) != len(arguments):
            raise UserError(f"{where} is {items!r:.40}, expected {len(arguments)} numbers")
        return tuple(_decoded(item, arguments[0], f"{where}[{i}]") for i, item in enumerate(items))
    accepted = (int, float) if kind is float else kind
    return _checked(value, accepted, _EXPECTED[kind], where)


def _checked(value: Any, kind: Any, expected: str, where: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, kind):
        raise UserError(
            f"{where} is {value!r:.40}, expected {expected}: evaluate the run again with "
            "train_net.py --eval-only"
        )
    return value


def _absent(kind: Any) -> Any:
    origin = typing.get_origin(kind)
    return origin() if origin in (tuple, dict) else None
