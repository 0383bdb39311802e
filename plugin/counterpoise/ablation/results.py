"""Results of an ablation, a JSON line a run: the file from which every table is made."""

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from counterpoise.errors import UserError
from counterpoise.utils.decoding import where_and_why

#: Name of the file in the folder of an ablation.
FILE_NAME = "results.jsonl"

Outcome = Literal["finished", "diverged", "failed"]


@dataclass(frozen=True)
class ClassScore:
    """A class of a run; AP and AP50 are 0-100, None without test boxes."""

    name: str
    train_boxes: int | None
    test_boxes: int
    AP: float | None
    AP50: float | None


@dataclass(frozen=True)
class GroupScore:
    """Mean over the classes of a frequency group, the most frequent group first."""

    name: str
    classes: tuple[str, ...]
    AP: float | None
    AP50: float | None


@dataclass(frozen=True)
class Scores:
    """Evaluation of a run.

    Attributes:
        test_set, test_images: name and size.
        AP, AP50: COCO's, 0-100, means over the classes with test boxes.
        per_class: in class order.
        groups: by training frequency; empty where it is not known.
        seconds_per_image: of the model at inference; None where it was not measured.
    """

    test_set: str
    test_images: int
    AP: float
    AP50: float
    per_class: tuple[ClassScore, ...]
    groups: tuple[GroupScore, ...]
    seconds_per_image: float | None


@dataclass(frozen=True)
class RunResult:
    """A run of an ablation, one line of the file.

    Attributes:
        config: id of the config, a hash of its content without seed and OUTPUT_DIR.
        dataset, variant: names.
        settings: keys in which the config differs from the baseline's, with its values as text.
        seed: of the training.
        outcome: ``finished``; ``diverged`` where the loss became infinite; ``failed`` otherwise.
        reason: of an outcome that is not ``finished``.
        scores: None unless ``finished``, as is what follows where it was not kept.
        iterations: of the config.
        training_seconds: of all iterations, evaluation not included.
        wall_seconds: of the process that ended the run, evaluation included; of a run that was
            resumed not its earlier processes.
        resumed_from: iteration at which the run was resumed the last time.
        peak_memory_MB: largest resident memory of its process, in 2^20 bytes, without a GPU's.
        machine: processors and GPUs.
        versions: package -> version.
        commit: of the checkout, with ``-dirty`` where it has changes; None outside of one.
    """

    config: str
    dataset: str
    variant: str
    settings: dict[str, str]
    seed: int
    outcome: Outcome
    reason: str | None
    scores: Scores | None
    iterations: int
    training_seconds: float | None
    wall_seconds: float | None
    resumed_from: int | None
    peak_memory_MB: int | None
    machine: str | None
    versions: dict[str, str | None]
    commit: str | None


def append_result(path: Path, result: RunResult) -> None:
    """Append a line, all of it or nothing, also where an earlier one was cut short.

    Raises:
        UserError: the file cannot be written.
    """
    line = json.dumps(dataclasses.asdict(result), allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            _remove_incomplete_line(file.fileno(), file.tell())
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): make room for it") from error


def read_results(paths: Sequence[Path]) -> list[RunResult]:
    """Read files of results; the incomplete last line of a process that was killed is left out.

    Returns:
        of every config and seed its last line, in the order of the files.

    Raises:
        UserError: a file cannot be read, or a line is not the result of a run.
    """
    found: dict[tuple[str, str, int], RunResult] = {}
    for path in paths:
        for result in _lines(path):
            key = (result.dataset, result.config, result.seed)
            found.pop(key, None)
            found[key] = result
    return list(found.values())


def _lines(path: Path) -> Iterable[RunResult]:
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): give a {FILE_NAME} of counterpoise ablate"
        ) from error
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            return
        try:
            yield msgspec.json.decode(line, type=RunResult)
        except msgspec.ValidationError as error:
            raise UserError(
                f"{path}, line {number}{where_and_why(error)}: remove the line"
            ) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path}, line {number} is not the result of a run ({error}): remove the line"
            ) from error


def _remove_incomplete_line(file: int, size: int) -> None:
    """Cut a file that is open for appending after its last line break."""
    content = os.pread(file, size, 0)
    if content and not content.endswith(b"\n"):
        os.ftruncate(file, content.rfind(b"\n") + 1)
