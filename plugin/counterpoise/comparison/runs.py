"""The runs of a comparison: read, named, and checked to have been scored on the same thing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from counterpoise.errors import UserError, did_you_mean
from counterpoise.evaluation import GroundTruth
from counterpoise.evaluation.matching import ClassMatches, match
from counterpoise.evaluation.stored import TestSet
from counterpoise.reporting import Run
from counterpoise.utils.text import unique_ends


@dataclass(frozen=True)
class ComparedRun:
    """A run with its detections on the test set of the comparison.

    Attributes:
        name: unique among the runs.
        files: of the run.
        test_set: its detections, on ground truth that is equal for all runs.
        matches: of the detections, in class order.
    """

    name: str
    files: Run
    test_set: TestSet
    matches: tuple[ClassMatches, ...]


def read_runs(
    folders: Sequence[Path], test_set: str | None = None
) -> tuple[str, tuple[ComparedRun, ...]]:
    """Read runs to compare.

    Args:
        folders: OUTPUT_DIR of each, the baseline first.
        test_set: to compare them on; None takes the one that they have in common.

    Returns:
        name of the test set; the runs in the order given.

    Raises:
        UserError: there are fewer than two runs, one is given twice, has not been evaluated or has
            a file that is incomplete or wrong; they have no test set in common, or several and none
            is named; or the ground truth differs between runs.
    """
    if len(folders) < 2:
        raise UserError(
            f"a comparison needs two runs or more, the baseline first, but there is only "
            f"{folders[0]}: add the OUTPUT_DIR of another"
            if folders
            else "a comparison needs two runs or more: give their OUTPUT_DIRs, the baseline first"
        )
    resolved = [folder.resolve() for folder in folders]
    for i, folder in enumerate(resolved):
        if folder in resolved[:i]:
            raise UserError(f"{folders[i]} is given twice: compare two different runs")
    files = [Run(folder) for folder in folders]
    test_set = _common_test_set(files, test_set)
    runs: list[ComparedRun] = []
    names = map("/".join, unique_ends([folder.parts for folder in resolved]))
    for name, own in zip(names, files, strict=True):
        stored = own.test_set(test_set)
        matches = match(stored.ground_truth, stored.detections)
        runs.append(ComparedRun(name, own, stored, matches))
        _check_same(runs[0], runs[-1])
    return test_set, tuple(runs)


def _common_test_set(files: Sequence[Run], wanted: str | None) -> str:
    stored = {run.path: run.test_set_names for run in files}
    common = sorted(set.intersection(*map(set, stored.values())))
    if not common:
        listed = "; ".join(f"{folder}: {', '.join(names)}" for folder, names in stored.items())
        raise UserError(
            f"the runs have no test set in common ({listed}): evaluate them on the same one with "
            "train_net.py --eval-only"
        )
    if wanted is None and len(common) > 1:
        raise UserError(
            f"the runs have several test sets in common: choose one of [{', '.join(common)}] with "
            "--test-set"
        )
    if wanted is not None and wanted not in common:
        raise UserError(
            f"--test-set {wanted} is not among the test sets that all runs have been evaluated on, "
            f"{did_you_mean(wanted, common)}"
        )
    return wanted or common[0]


def _check_same(first: ComparedRun, other: ComparedRun) -> None:
    a, b = first.test_set.ground_truth, other.test_set.ground_truth
    if a.class_names != b.class_names:
        differs = f"classes ([{', '.join(a.class_names)}] and [{', '.join(b.class_names)}])"
    elif a.image_ids != b.image_ids:
        odd = sorted(map(str, set(a.image_ids) ^ set(b.image_ids)))
        differs = f"images ({a.num_images} and {b.num_images}, only one run has id {odd[0]})"
    elif len(a.boxes) != len(b.boxes):
        differs = f"boxes ({len(a.boxes)} and {len(b.boxes)})"
    elif changed := int((_sorted_boxes(a) != _sorted_boxes(b)).any(axis=1).sum()):
        differs = f"boxes ({changed} of {len(a.boxes)} differ)"
    else:
        return
    raise UserError(
        f"{first.files.path} and {other.files.path} were evaluated on different {differs} under "
        f"the name {first.test_set.name}: evaluate both on the same data with train_net.py "
        "--eval-only"
    )


def _sorted_boxes(truth: GroundTruth) -> np.ndarray:
    """Image, class, flag and corners (G, 7), in an order that is not that of the file."""
    rows = np.column_stack([truth.images, truth.classes, truth.ignored, truth.boxes])
    return rows[np.lexsort(rows.T[::-1])]
