"""The classification loss by target class: the file that training writes, and its reader."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from counterpoise.errors import UserError

#: Name of the file in a run's OUTPUT_DIR.
FILE_NAME = "class_losses.jsonl"


class ClassLosses(NamedTuple):
    """What part of the classification loss each class causes, over a training."""

    iterations: tuple[int, ...]
    """Last iteration of each record, ascending."""
    names: tuple[str, ...]
    """Classes in the order of the data, then ``"background"``."""
    shares: np.ndarray
    """float64 (N, K + 1), in [0, 1], each row with sum 1."""


def append_class_losses(
    path: Path, iteration: int, class_names: Sequence[str], sums: Sequence[float]
) -> None:
    """Append one record to a file of per-class losses.

    Args:
        path: of the file, made where it is missing.
        iteration: the last one that `sums` covers.
        class_names: K names.
        sums: K + 1 numbers, background last.
    """
    *foreground, background = sums
    record = {
        "iteration": iteration,
        "per_class_loss": dict(zip(class_names, foreground, strict=True)),
        "background": background,
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read_class_losses(path: Path) -> ClassLosses:
    """Read a file of per-class losses.

    A run that was resumed repeats iterations: what it recorded before them is kept, what it had
    recorded of them is not. An incomplete line is left out.

    Args:
        path: of the file that training wrote, ``OUTPUT_DIR/class_losses.jsonl``.

    Raises:
        UserError: the file is missing, or holds no records of one list of classes.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as per-class losses ({error})") from error
    records: list[tuple[int, dict[str, float], float]] = []
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        iteration, by_class, background = _checked(record, path)
        while records and records[-1][0] >= iteration:
            records.pop()
        records.append((iteration, by_class, background))
    if not records:
        raise UserError(f"{path} holds no record of per-class losses: was this run trained?")
    names = tuple(records[-1][1])
    if any(tuple(by_class) != names for _, by_class, _ in records):
        raise UserError(f"{path} mixes runs of different classes: remove the file and train anew")
    sums = np.array([[*by_class.values(), background] for _, by_class, background in records])
    iterations = tuple(iteration for iteration, *_ in records)
    return ClassLosses(iterations, (*names, "background"), sums / sums.sum(axis=1, keepdims=True))


def _checked(record: Any, path: Path) -> tuple[int, dict[str, float], float]:
    if isinstance(record, Mapping):
        iteration, by_class = record.get("iteration"), record.get("per_class_loss")
        background = record.get("background")
        if isinstance(iteration, int) and isinstance(by_class, dict):
            sums = [*by_class.values(), background]
            numbers = all(isinstance(s, (int, float)) and math.isfinite(s) for s in sums)
            if numbers and min(sums) >= 0 and sum(sums) > 0:
                return iteration, by_class, background
    raise UserError(f"{path} is no file of per-class losses: it holds {record!s:.60}")
