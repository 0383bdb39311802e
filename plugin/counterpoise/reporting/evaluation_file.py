"""Reading of ``evaluation.json``, back into the dataclasses that it was written from."""

from pathlib import Path
from typing import Any

from counterpoise.errors import UserError
from counterpoise.evaluation import Evaluation
from counterpoise.evaluation.error_types import ERROR_TYPES
from counterpoise.utils.decoding import decode
from counterpoise.utils.files import read_json

#: Name of the file in a run's OUTPUT_DIR.
FILE_NAME = "evaluation.json"

FIX = "evaluate the run again with train_net.py --eval-only"


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
    evaluation = decode(entry, Evaluation, where, FIX)
    if not evaluation.per_class or any(not c.name for c in evaluation.per_class):
        raise UserError(f"{where} has no named classes in per_class, so it is no evaluation")
    for errors in (evaluation.errors, *(c.errors for c in evaluation.per_class)):
        if errors and errors.keys() != ERROR_TYPES.keys():
            raise UserError(
                f"{where} has the error types {', '.join(errors)}, expected "
                f"{', '.join(ERROR_TYPES)}"
            )
    size = len(evaluation.per_class) + 1
    confusion = evaluation.confusion
    if confusion is not None and {size} != {*map(len, (confusion.counts, *confusion.counts))}:
        raise UserError(f"{where}.confusion.counts is not {size} rows of {size} counts")
    return evaluation
