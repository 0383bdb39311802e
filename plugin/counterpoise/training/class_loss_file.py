"""The classification loss by target class: the file that training writes, and its reader."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import numpy as np

from counterpoise.errors import UserError
from counterpoise.utils.decoding import where_and_why
from counterpoise.utils.files import check_is_file

#: Name of the file in a run's OUTPUT_DIR.
FILE_NAME = "class_losses.jsonl"

_Loss = Annotated[float, msgspec.Meta(ge=0)]  # refuses NaN, too


class ClassLosses(NamedTuple):
    """What part of the classification loss each class causes, over a training."""

    iterations: tuple[int, ...]
    """Last iteration of each record, ascending."""
    names: tuple[str, ...]
    """Classes in the order of the data, then ``"background"``."""
    shares: np.ndarray
    """float64 (N, K + 1), in [0, 1], each row with sum 1."""


@dataclass(frozen=True)
class _Record:
    """Sums of the loss since the record before."""

    iteration: int
    per_class_loss: dict[str, _Loss]
    background: _Loss

    def __post_init__(self) -> None:
        if not 0 < sum(self.per_class_loss.values()) + self.background < math.inf:
            raise ValueError("expected losses of a finite sum above 0")


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
        check_is_file(path)
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as per-class losses ({error}): train the run again"
        ) from error
    records: list[_Record] = []
    for line in lines:
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):  # also of a number with thousands of digits
            continue
        try:
            record = msgspec.convert(content, _Record)
        except msgspec.ValidationError as error:
            raise UserError(
                f"{path} is not a file of per-class losses: it holds {line:.60} "
                f"({where_and_why(error)}): remove the file"
            ) from error
        while records and records[-1].iteration >= record.iteration:
            records.pop()
        records.append(record)
    if not records:
        raise UserError(f"{path} holds no record of per-class losses: train the run again")
    names = tuple(records[-1].per_class_loss)
    if any(tuple(record.per_class_loss) != names for record in records):
        raise UserError(f"{path} mixes runs of different classes: remove the file and train anew")
    sums = np.array([[*record.per_class_loss.values(), record.background] for record in records])
    iterations = tuple(record.iteration for record in records)
    return ClassLosses(iterations, (*names, "background"), sums / sums.sum(axis=1, keepdims=True))
