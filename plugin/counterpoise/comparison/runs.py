"""The runs of a comparison: read, named, and checked to have been scored on the same thing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from counterpoise.errors import UserError, did_you_mean
from counterpoise.evaluation.inputs import Detections, GroundTruth
from counterpoise.evaluation.matching import ClassMatches, match
from counterpoise.evaluation.stored import read_inference, stored_test_sets
from counterpoise.reporting import Run
from counterpoise.reporting.consistency import check_same_detections


@dataclass(frozen=True)
class Contender:
    """A run with its detections on the test set of the comparison.

    Attributes:
        name: unique among the runs.
        run: its files.
        ground_truth: of the test set, equal for all runs.
        detections: of the run.
        matches: of the detections, in class order.
        thresholds: K scores at which the run was evaluated; None where it has none for a class.
        seconds_per_image: of inference; None where it was not measured.
    """

    name: str
    run: Run
    ground_truth: GroundTruth
    detections: Detections
    matches: tuple[ClassMatches, ...]
    thresholds: tuple[float | None, ...]
    seconds_per_image: float | None


def read_contenders(
    folders: Sequence[Path], test_set: str | None = None
) -> tuple[str, tuple[Contender, ...]]:
    """Read runs to compare.

    Args:
        folders: OUTPUT_DIR of each, the baseline first.
        test_set: to compare them on; None takes the one that they have in common.

    Returns:
        name of the test set; the runs in the order given.

    Raises:
        UserError: there are fewer than two runs, one is given twice, is no run that has been
            evaluated or has a broken file; they have no test set in common, or several and none is
            named; or the ground truth differs between runs or has no box that counts.
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
    runs = [Run(folder) for folder in folders]
    for run in runs:
        _ = run.evaluations  # a folder that is no run is named before anything is missed in it
    test_set = _common_test_set(folders, test_set)
    names = unique_names(resolved)
    contenders = []
    for name, run in zip(names, runs, strict=True):
        stored = read_inference(run.path, test_set)
        # evaluation.json is of the last evaluation, which may have been on another test set.
        evaluation = run.evaluations.get(test_set)
        thresholds = {c.name: c.threshold for c in evaluation.per_class} if evaluation else {}
        contenders.append(
            Contender(
                name=name,
                run=run,
                ground_truth=stored.ground_truth,
                detections=stored.detections,
                matches=match(stored.ground_truth, stored.detections),
                thresholds=tuple(map(thresholds.get, stored.ground_truth.class_names)),
                seconds_per_image=stored.seconds_per_image,
            )
        )
        _check_same(contenders[0], contenders[-1], test_set)
        if evaluation is not None:
            check_same_detections(
                evaluation, contenders[-1].matches, f"{run.path}, test set {test_set}"
            )
    if contenders[0].ground_truth.ignored.all():
        raise UserError(
            f"the test set {test_set} has no boxes, so there is nothing to compare: check its data"
        )
    return test_set, tuple(contenders)


def unique_names(folders: Sequence[Path]) -> list[str]:
    """Name each of some different folders by the end of its path that no other one has."""
    names = []
    for folder in folders:
        others = [other.parts for other in folders if other != folder]
        for length in range(1, len(folder.parts) + 1):
            end = folder.parts[-length:]
            if all(other[-length:] != end for other in others):
                break
        names.append("/".join(end))
    return names


def _common_test_set(folders: Sequence[Path], wanted: str | None) -> str:
    stored = {folder: stored_test_sets(folder) for folder in folders}
    for folder, names in stored.items():
        if not names:
            raise UserError(
                f"{folder} has kept no detections in inference/: evaluate the run again with "
                "train_net.py --eval-only"
            )
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


def _check_same(first: Contender, other: Contender, test_set: str) -> None:
    a, b = first.ground_truth, other.ground_truth
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
        f"{first.run.path} and {other.run.path} were evaluated on different {differs} under the "
        f"name {test_set}: evaluate both on the same data with train_net.py --eval-only"
    )


def _sorted_boxes(truth: GroundTruth) -> np.ndarray:
    """Image, class, flag and corners (G, 7), in an order that is not that of the file."""
    rows = np.column_stack([truth.images, truth.classes, truth.ignored, truth.boxes])
    return rows[np.lexsort(rows.T[::-1])]
