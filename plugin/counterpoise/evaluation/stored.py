"""What a run keeps of an evaluation: ground truth and detections, to be scored again any time."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from counterpoise.balance.class_counts import ClassCounts
from counterpoise.errors import UserError
from counterpoise.evaluation.inputs import (
    Detections,
    GroundTruth,
    parse_detections,
    parse_ground_truth,
    read_detections,
    read_ground_truth,
)
from counterpoise.evaluation.proposals import ProposalResult
from counterpoise.evaluation.results import Evaluation
from counterpoise.evaluation.scoring import evaluate_arrays
from counterpoise.utils.decoding import read_record
from counterpoise.utils.files import write_json

#: Folder in OUTPUT_DIR with a folder per test set.
FOLDER = "inference"

#: What to do about a file that is missing or wrong.
FIX = "evaluate the run again with train_net.py --eval-only"


@dataclass(frozen=True)
class Context:
    """What an evaluation knew besides ground truth and detections.

    Attributes:
        training: counts over the training set; None where they are not known.
        thresholds: score by class name at which precision and recall were measured; None takes
            those of maximal F1.
        thresholds_from: where they came from, in words.
        proposals: recall of the RPN's proposals; None without one.
    """

    training: ClassCounts | None = None
    thresholds: dict[str, float] | None = None
    thresholds_from: str = ""
    proposals: ProposalResult | None = None


@dataclass(frozen=True)
class _Time:
    seconds_per_image: float | None


@dataclass(frozen=True)
class TestSet:
    """A test set with a run's detections on it, as arrays.

    Attributes:
        name: of the test set.
        ground_truth, detections: on it.
        context: of the evaluation.
        seconds_per_image: that the model took alone; None where it was not measured.
    """

    __test__ = False  # no test case of pytest

    name: str
    ground_truth: GroundTruth
    detections: Detections
    context: Context = Context()
    seconds_per_image: float | None = None

    def evaluate(self) -> Evaluation:
        """Score the detections again: the numbers are those that ``evaluation.json`` has."""
        known = self.context
        return evaluate_arrays(
            self.ground_truth, self.detections, known.training, known.thresholds,
            known.thresholds_from, known.proposals,
        )  # fmt: skip


def write_inference(
    run_dir: Path,
    name: str,
    coco: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    evaluation: Evaluation | None = None,
    training: ClassCounts | None = None,
    seconds_per_image: float | None = None,
) -> None:
    """Write what :func:`read_inference` reads to ``inference/<name>/``, four JSON files.

    They are ``ground_truth.json``, ``detections.json``, ``context.json`` and ``time.json``. Time
    has a file of its own, so that the others are byte-identical where a run is repeated.

    Args:
        run_dir: OUTPUT_DIR.
        name: of the test set.
        coco: ground truth as a COCO dataset.
        results: detections as COCO results.
        evaluation: of them, for the thresholds and the proposals; None keeps neither.
        training: counts over the training set.
        seconds_per_image: that the model took alone, or None.

    Raises:
        UserError: a file cannot be written.
    """
    context = Context(training)
    if evaluation is not None:
        thresholds = {c.name: c.threshold for c in evaluation.per_class}
        context = Context(training, thresholds, evaluation.thresholds_from, evaluation.proposals)
    folder = _folder(run_dir, name)
    write_json(folder / "ground_truth.json", coco, indent=None)
    write_json(folder / "detections.json", results, indent=None)
    write_json(folder / "context.json", asdict(context))
    write_json(folder / "time.json", asdict(_Time(seconds_per_image)))


def stored_test_sets(run_dir: Path) -> list[str]:
    """Names of the test sets that a run has been evaluated on, sorted."""
    return sorted({unquote(path.parent.name) for path in (run_dir / FOLDER).glob("*/*.json")})


def read_inference(run_dir: Path, name: str) -> TestSet:
    """Read what :func:`write_inference` wrote; an earlier version wrote no ``context.json``.

    Raises:
        UserError: a file is missing, incomplete or invalid.
    """
    folder = _folder(run_dir, name)
    if not folder.is_dir():
        raise UserError(f"{run_dir} holds no detections on {name}: {FIX}")
    try:
        coco = read_ground_truth(folder / "ground_truth.json")
        truth = parse_ground_truth(coco, str(folder / "ground_truth.json"))
        results = read_detections(folder / "detections.json")
        found = parse_detections(results, coco, truth, str(folder / "detections.json"))
    except UserError as error:
        raise UserError(f"{error}, or {FIX}") from error
    if truth.ignored.all():
        raise UserError(f"{folder / 'ground_truth.json'} has no box that counts: {FIX}")
    context, time = folder / "context.json", folder / "time.json"
    return TestSet(
        name,
        truth,
        found,
        _read_context(context, truth.class_names) if context.is_file() else Context(),
        read_record(time, _Time, FIX).seconds_per_image if time.is_file() else None,
    )


def _read_context(path: Path, class_names: Sequence[str]) -> Context:
    context = read_record(path, Context, FIX)
    known, proposals = context.thresholds, context.proposals
    if known is not None and known.keys() != set(class_names):
        raise UserError(
            f"{path} has thresholds for the classes [{', '.join(known)}], but ground_truth.json "
            f"has [{', '.join(class_names)}]: {FIX}"
        )
    if proposals is not None and {len(class_names)} != {
        len(proposals.per_class_AR100), len(proposals.per_class_AR1000)
    }:  # fmt: skip
        raise UserError(f"{path}.proposals has not one recall for each class: {FIX}")
    training = context.training
    if training is not None and not (
        len(training.names) == len(training.images) == len(training.boxes)
    ):
        raise UserError(f"{path}.training has not as many counts as names: {FIX}")
    return context


def folder_name(test_set: str) -> str:
    """Name of the folder of a test set, whatever its name holds."""
    return quote(test_set, safe=" ")


def _folder(run_dir: Path, name: str) -> Path:
    return run_dir / FOLDER / folder_name(name)
