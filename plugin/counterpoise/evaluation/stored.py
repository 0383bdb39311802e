"""What a run keeps of an evaluation: ground truth and detections, to be scored again any time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from counterpoise.errors import UserError
from counterpoise.evaluation.inputs import (
    Detections,
    GroundTruth,
    parse_detections,
    parse_ground_truth,
    read_detections,
    read_ground_truth,
)
from counterpoise.utils.files import read_json, write_json

#: Folder in OUTPUT_DIR with a folder per test set.
FOLDER = "inference"


@dataclass(frozen=True)
class TestSet:
    """A test set with a run's detections on it, as arrays.

    Attributes:
        name: of the test set.
        ground_truth, detections: on it.
        seconds_per_image: that the model took alone; None where it was not measured.
    """

    __test__ = False  # no test case of pytest

    name: str
    ground_truth: GroundTruth
    detections: Detections
    seconds_per_image: float | None = None


def write_inference(
    run_dir: Path,
    name: str,
    coco: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    seconds_per_image: float | None = None,
) -> None:
    """Write ``ground_truth.json``, ``detections.json`` and ``time.json`` to ``inference/<name>/``.

    Time has a file of its own, so that the others are equal to the byte where a run is repeated.

    Args:
        run_dir: OUTPUT_DIR.
        name: of the test set.
        coco: ground truth as a COCO dataset.
        results: detections as COCO results.
        seconds_per_image: that the model took alone, or None.

    Raises:
        UserError: a file cannot be written.
    """
    folder = run_dir / FOLDER / quote(name, safe=" ")
    write_json(folder / "ground_truth.json", coco, indent=None)
    write_json(folder / "detections.json", results, indent=None)
    write_json(folder / "time.json", {"seconds_per_image": seconds_per_image})


def stored_test_sets(run_dir: Path) -> list[str]:
    """Names of the test sets whose detections a run holds, sorted."""
    return sorted(unquote(p.parent.name) for p in (run_dir / FOLDER).glob("*/detections.json"))


def read_inference(run_dir: Path, name: str) -> TestSet:
    """Read what :func:`write_inference` wrote.

    Raises:
        UserError: a file is missing, incomplete or invalid.
    """
    folder = run_dir / FOLDER / quote(name, safe=" ")
    if not folder.is_dir():
        raise UserError(
            f"{run_dir} holds no detections on {name}: evaluate it with train_net.py --eval-only"
        )
    coco = read_ground_truth(folder / "ground_truth.json")
    truth = parse_ground_truth(coco, str(folder / "ground_truth.json"))
    results = read_detections(folder / "detections.json")
    found = parse_detections(results, coco, truth, str(folder / "detections.json"))
    return TestSet(name, truth, found, _seconds_per_image(folder / "time.json"))


def _seconds_per_image(path: Path) -> float | None:
    if not path.is_file():
        return None
    content = read_json(path, "time of inference")
    seconds = content.get("seconds_per_image") if isinstance(content, dict) else ""
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float)):
        raise UserError(f"{path} holds no seconds_per_image: remove it, or evaluate the run again")
    return seconds
