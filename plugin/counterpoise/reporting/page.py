"""The report of a run as one page."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from counterpoise.errors import UserError
from counterpoise.evaluation import ClassResult, Evaluation
from counterpoise.evaluation.error_types import ERROR_TYPES, ErrorCount, classify_errors
from counterpoise.evaluation.matching import match
from counterpoise.evaluation.stored import TestSet
from counterpoise.pages import render
from counterpoise.reporting import config_difference, gallery, result_figures, training_figures
from counterpoise.reporting.consistency import check_same_detections
from counterpoise.reporting.gallery import Gallery
from counterpoise.reporting.run_files import Run
from counterpoise.reporting.summary import main_facts
from counterpoise.utils.files import write_whole

#: Name of the file in a run's OUTPUT_DIR.
FILE_NAME = "report.html"

#: Pictures of either gallery, over all test sets: about 20 kB each.
PICTURES = 12


@dataclass(frozen=True)
class _Results:
    """What the page shows of one test set; figures are data URIs, None where they cannot be drawn.

    Attributes:
        name: of the test set.
        evaluation: its numbers.
        classes: the most frequent one in training first.
        facts: the main ones, in sentences.
        ap_figure, unnamed: AP against count, and how many points have no name there.
        curves_figure, confusion_figure, errors_figure: by name.
        false_positives, misses: pictures; None where the detections are not kept, or there are no
            thresholds to miss by.
        seconds_per_image: of inference; None where it was not measured.
    """

    name: str
    evaluation: Evaluation
    classes: list[ClassResult]
    facts: list[str]
    ap_figure: str | None
    unnamed: int
    curves_figure: str | None
    confusion_figure: str | None
    errors_figure: str | None
    false_positives: Gallery | None
    misses: Gallery | None
    seconds_per_image: float | None


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the page of a run that has evaluated.

    It is built from the run's files alone; parts whose file is missing are left out, and the page
    says so.

    Args:
        run_dir: OUTPUT_DIR of the run.
        out: file to write; None takes ``report.html`` in `run_dir`.

    Returns:
        the file.

    Raises:
        UserError: ``evaluation.json`` is missing, or a file of the run is broken.
    """
    run = Run(run_dir)
    limit = max(PICTURES // len(run.evaluations), 4)
    page = render(
        "report.html",
        run=run,
        results=[_results(run, name, each, limit) for name, each in run.evaluations.items()],
        kinds=list(ERROR_TYPES),
        limits=result_figures,
        loss_figure=training_figures.loss_curves(run.metrics, _lr_steps(run)),
        share_figure=training_figures.class_loss_areas(run.class_losses)
        if run.class_losses
        else None,
        from_baseline=config_difference.from_baseline(run.config) if run.config else None,
        from_defaults=config_difference.from_defaults(run.config) if run.config else None,
        again=_command_from_config(run),
        moment=_moment,
        duration=_duration,
    )
    # A file name of another encoding holds what UTF-8 does not.
    return write_whole(out or run_dir / FILE_NAME, page.encode(errors="replace"))


def _results(run: Run, name: str, evaluation: Evaluation, limit: int) -> _Results:
    classes = evaluation.per_class
    test_set = run.test_set(name)
    curves = wrong = missed = None
    if test_set is not None:
        _check_classes(run, test_set, evaluation)
        matches = match(test_set.ground_truth, test_set.detections)
        check_same_detections(evaluation, matches, f"{run.path}, test set {name}")
        errors = classify_errors(test_set.ground_truth, test_set.detections, matches)
        curves = result_figures.precision_recall_curves(classes, matches)
        wrong = gallery.false_positives(test_set, errors, limit)
        if evaluation.thresholds_from is not None:
            missed = gallery.misses(test_set, matches, classes, limit)
    confusion = None
    if evaluation.confusion is not None:
        confusion = result_figures.confusion_heatmap(
            [c.name for c in classes], evaluation.confusion.counts
        )
    against_count = result_figures.ap_against_count(classes)
    frequent_first = sorted(classes, key=lambda c: -result_figures.training_count(c))
    return _Results(
        name=name,
        evaluation=evaluation,
        classes=frequent_first,
        facts=main_facts(name, evaluation, _lost(evaluation.errors)),
        ap_figure=against_count[0] if against_count else None,
        unnamed=against_count[1] if against_count else 0,
        curves_figure=curves,
        confusion_figure=confusion,
        errors_figure=result_figures.error_bars(
            {c.name: lost for c in frequent_first if (lost := _lost(c.errors))}
        ),
        false_positives=wrong,
        misses=missed,
        seconds_per_image=test_set.seconds_per_image if test_set is not None else None,
    )


def _check_classes(run: Run, test_set: TestSet, evaluation: Evaluation) -> None:
    evaluated = tuple(c.name for c in evaluation.per_class)
    if evaluated != test_set.ground_truth.class_names:
        raise UserError(
            f"{run.path}: the ground truth kept of {test_set.name} has the classes "
            f"[{', '.join(test_set.ground_truth.class_names)}], but evaluation.json has "
            f"[{', '.join(evaluated)}]: evaluate the run again with train_net.py --eval-only"
        )


def _lost(errors: Mapping[str, ErrorCount]) -> dict[str, float]:
    """AP50 lost by kind; empty for a class without test boxes."""
    return {kind: e.AP50_lost for kind, e in errors.items() if e.AP50_lost is not None}


def _lr_steps(run: Run) -> Sequence[int]:
    """Iterations at which the learning rate falls; none of a smooth schedule."""
    if run.config is None or run.config.SOLVER.LR_SCHEDULER_NAME != "WarmupMultiStepLR":
        return ()
    return run.config.SOLVER.STEPS


def _command_from_config(run: Run) -> str | None:
    if run.config is None:
        return None
    config = run.path / "config.yaml"
    return shlex.join(
        ["python", "train_net.py", "--config-file", str(config), "OUTPUT_DIR", f"{run.path}-again"]
    )


def _moment(text: str) -> str:
    """Make a time in ISO 8601 readable."""
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
