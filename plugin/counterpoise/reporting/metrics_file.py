"""Reading of ``metrics.json``, the scalars that Detectron2 logs while it trains."""

import json
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from counterpoise.errors import UserError
from counterpoise.utils.files import check_is_file


class Series(NamedTuple):
    """A scalar over training, N values."""

    iterations: np.ndarray
    """(N,) int64, ascending."""
    values: np.ndarray
    """(N,) float64; may hold NaN, as of a training that diverged."""


def read_metrics(path: Path) -> dict[str, Series]:
    """Read Detectron2's log of scalars.

    A resumed run repeats iterations: what a scalar was before them is kept, what it had been from
    there on is not. An incomplete last line is left out.

    Args:
        path: of ``metrics.json``, one JSON object per line.

    Returns:
        scalars by name, such as ``total_loss``; none of an empty file.

    Raises:
        UserError: the file cannot be read, or a line before the last is not a record.
    """
    try:
        check_is_file(path)
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as training metrics ({error})") from error
    scalars: dict[str, list[tuple[int, float]]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            # Detectron2 writes NaN, which is not JSON to msgspec, so it checks what json has read.
            values = msgspec.convert(json.loads(line), dict[str, float])
            iteration = int(values.pop("iteration"))
        except (
            ValueError,
            KeyError,
            OverflowError,
            RecursionError,
        ) as error:  # msgspec's errors are ValueErrors
            if number == len(lines):
                break
            raise UserError(
                f"{path}, line {number} is not a record of Detectron2's metrics: remove the line"
            ) from error
        # By scalar: Detectron2 may log an evaluation after later iterations of the losses.
        for name, value in values.items():
            series = scalars.setdefault(name, [])
            while series and series[-1][0] >= iteration:
                series.pop()
            series.append((iteration, value))
    return {
        name: Series(*map(np.array, zip(*series, strict=True))) for name, series in scalars.items()
    }
