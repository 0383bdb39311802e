"""The report of a run as one page."""

import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from counterpoise.evaluation import Evaluation
from counterpoise.evaluation.error_types import ErrorCount, classify_errors
from counterpoise.evaluation.matching import ClassMatches, match
from counterpoise.evaluation.results import (
    ClassResult,
    error_table,
    metric_table,
    proposal_table,
    score_table,
)
from counterpoise.evaluation.stored import TestSet
from counterpoise.pages.plots import MOST_NAMES
from counterpoise.pages.rendering import render
from counterpoise.pages.sections import Figure, Fold, Gallery, Part, Section, Text
from counterpoise.reporting import gallery, result_figures, training_figures
from counterpoise.reporting.config_difference import Difference, from_baseline, from_defaults
from counterpoise.reporting.run_files import Run
from counterpoise.reporting.summary import main_facts
from counterpoise.utils.files import write_atomically
from counterpoise.utils.output_dir import CONFIG
from counterpoise.utils.table import Table
from counterpoise.utils.text import counted, duration, number

#: Name of the file in a run's OUTPUT_DIR.
FILE_NAME = "report.html"

#: Pictures of either gallery, over all test sets: about 20 kB each.
PICTURES = 12


def write_report(
    run_dir: Path, out: Path | None = None, known: Mapping[str, Evaluation] | None = None
) -> Path:
    """Write the page of a run that has evaluated.

    Scores that are not known yet are computed from the detections that the run keeps. Parts whose
    file is missing are left out, and the page says so.

    Args:
        run_dir: OUTPUT_DIR of the run.
        out: file to write; None takes ``report.html`` in `run_dir`.
        known: results by test set, of the evaluation that has just written these detections.

    Returns:
        the file.

    Raises:
        UserError: the run keeps no detections, or a file of it is incomplete or wrong.
    """
    run = Run(run_dir)
    limit = max(PICTURES // len(run.test_set_names), 4)
    test_sets = map(run.test_set, run.test_set_names)
    known = known or {}
    results = [(each, known.get(each.name) or each.evaluate()) for each in test_sets]
    lead, notes, sections = [], [], []
    for test_set, result in results:
        name = test_set.name
        lead.append(Text(" ".join(main_facts(name, result, _lost(result.errors)))))
        notes += [Text(f"{name}: {note}", "note") for note in result.notes]
        parts = list(_results(test_set, result, limit))
        sections.append(Section(f"results-{name}", f"Results on {name}", parts))
    sections += [
        Section("training", "Training", list(_training(run))),
        Section("run", "How to repeat it", list(_command(run))),
        Section("config", "Config", list(_config(run))),
    ]
    page = render(f"Report of {run.name}", lead + notes, sections)
    # A file name of another encoding holds what UTF-8 does not.
    return write_atomically(out or run_dir / FILE_NAME, page.encode(errors="replace"))


def _results(test_set: TestSet, result: Evaluation, limit: int) -> Iterator[Part]:
    classes = result.per_class
    matches = match(test_set.ground_truth, test_set.detections)
    yield score_table(result)
    yield Fold(
        "Other metrics: AP75, AP by size, average recall, Pascal VOC, time of inference",
        [metric_table(result), Text(_other_metrics(result, test_set.seconds_per_image))],
    )
    yield from _against_training_count(classes)
    yield from _precision_and_recall(classes, matches)
    yield from _confusion(result)
    yield from _error_types(result)
    yield Text("Proposals and background" if result.proposals else "Background", "heading")
    yield proposal_table(result)
    yield from _examples(test_set, result, matches, limit)


def _against_training_count(classes: Sequence[ClassResult]) -> Iterator[Part]:
    yield Text("AP against training count", "heading")
    if against_count := result_figures.ap_against_training_boxes(classes):
        uri, unnamed = against_count
        caption = "Bars: 95 % intervals."
        if unnamed:
            caption += f" {counted(unnamed, 'name')} without room; the table has them all."
        yield Figure(uri, "AP of each class against its number of training boxes", caption)
    else:
        yield _left_out("the evaluation does not know the training set")


def _precision_and_recall(
    classes: Sequence[ClassResult], matches: Sequence[ClassMatches]
) -> Iterator[Part]:
    yield Text("Precision and recall", "heading")
    caption = "At IoU 0.50. Dots: at the scores of the table."
    if len(classes) > result_figures.MAX_CURVES:
        many = len(classes)
        caption += f" Of {many} classes, the rarest in training that are found, and the mean."
    yield Figure(
        result_figures.precision_recall_curves(classes, matches),
        "Precision against recall of each class at IoU 0.50",
        caption,
    )


def _confusion(result: Evaluation) -> Iterator[Part]:
    yield Text("Confusion matrix", "heading")
    caption = (
        "Detections of at least the score of their class, matched one to one with boxes of any "
        "class at IoU 0.50. Last column: boxes without a detection. Last row: detections without a "
        "box."
    )
    names = [c.name for c in result.per_class]
    if len(names) >= MOST_NAMES:
        caption += " The axes number the classes in the order of the data."
    heatmap = result_figures.confusion_heatmap(names, result.confusion.counts)
    yield Figure(heatmap, "Confusion matrix", caption)


def _error_types(result: Evaluation) -> Iterator[Part]:
    yield Text("Error types", "heading")
    lost = {c.name: _lost(c.errors) for c in result.most_frequent_first if c.test_boxes}
    yield Figure(
        result_figures.error_bars(lost),
        "AP50 lost by error type and class",
        f"The {result_figures.MAX_BARS} classes that lose most to a single type."
        if len(lost) > result_figures.MAX_BARS
        else "",
    )
    yield error_table(result)


def _examples(
    test_set: TestSet, result: Evaluation, matches: Sequence[ClassMatches], limit: int
) -> Iterator[Part]:
    errors = classify_errors(test_set.ground_truth, test_set.detections, matches)
    yield Text(
        "In the pictures, ground truth is blue and detections are orange; the box in question lies "
        "on top.",
        "note",
    )
    yield Text("False positives of highest score", "heading")
    yield from _pictures(gallery.false_positives(test_set, errors, limit), "There are none.")
    yield Text("Missed boxes, the rarest class first", "heading")
    yield from _pictures(
        gallery.missed_boxes(test_set, matches, result.per_class, limit),
        "There are none: at these scores every box is found.",
    )


def _other_metrics(result: Evaluation, seconds_per_image: float | None) -> str:
    by_size = ", ".join(map(number, (result.APs, result.APm, result.APl)))
    recalls = ", ".join(map(number, (result.AR1, result.AR10, result.AR100)))
    said = (
        f"AP of small, medium and large boxes: {by_size}. Average recall with 1, 10 and 100 "
        f"detections per image: {recalls}. VOC 2007 averages precision at 11 recalls, VOC 2010 "
        "takes the area under the curve; both count IoU above 0.5."
    )
    if seconds_per_image is not None:
        said += f" Inference took {seconds_per_image:.3f} s per image, the model alone."
    return said


def _pictures(found: gallery.Found, otherwise: str) -> Iterator[Part]:
    pictures, unreadable = found
    if pictures:
        yield Gallery(pictures)
    elif not unreadable:
        yield Text(otherwise)
    if unreadable:
        are = "image that is" if len(unreadable) == 1 else "images that are"
        yield _left_out(
            f"{len(unreadable)} {are} no longer where the evaluation read them, such as "
            f"{unreadable[0]}"
        )


def _training(run: Run) -> Iterator[Part]:
    yield Text("Losses", "heading")
    losses = training_figures.loss_curves(run.metrics, _lr_steps(run))
    if losses:
        yield Figure(
            losses,
            "Losses and learning rate over the iterations",
            "Faint: as logged; full: median over a window around it. The axis is logarithmic where "
            "a loss spans more than a factor of ten. Dashed: the learning rate is lowered.",
        )
    else:
        yield _left_out(f"{run.path} has no metrics.json with losses, which training writes")
    yield Text("Classification loss by class", "heading")
    if run.class_losses:
        yield Figure(
            training_figures.class_loss_areas(run.class_losses),
            "Share of each class in the classification loss over the iterations",
            "By the true class of what the classifier is trained on, as a share of the summed loss "
            "since the record before.",
        )
    else:
        yield _left_out(
            f"{run.path} has no class_losses.jsonl, which training writes where the losses of a "
            "model can be told by class"
        )


def _command(run: Run) -> Iterator[Part]:
    record = run.record
    if record:
        yield Text("The command:")
        yield Text(shlex.join(_anew(record.command)), "code")
    else:
        yield _left_out(f"{run.path} has no run.json, so its command, seed and time are not known")
    if run.config:
        config = str(run.path / CONFIG)
        # An evaluation alone has trained nothing, and a training of its config would.
        kind = [] if record or run.metrics else ["--eval-only"]
        again = [*kind, "--config-file", config, "OUTPUT_DIR", f"{run.path}-again"]
        yield Text(
            "From the config that the run has kept, with everything that the command line has set:"
        )
        yield Text(shlex.join([*_program(record.command if record else ""), *again]), "code")
    if record:
        rows = [
            ("seed", str(record.seed)),
            ("started", _moment(record.started)),
            ("finished", _moment(record.finished) if record.finished else "not yet"),
            *([("resumed at iteration", str(record.resumed_from))] if record.resumed_from else []),
            ("time of training, without evaluation", duration(record.training_seconds)),
            ("hardware", record.hardware),
            *((name, version or "not installed") for name, version in record.versions.items()),
        ]
        yield Table(("", ""), rows, left=frozenset({0, 1}))


def _anew(command: str) -> list[str]:
    """Words of a command without those that go on with an earlier run, or remove it."""
    about_earlier = ("--resume", "--force", "--overwrite")
    return [word for word in shlex.split(command) if word not in about_earlier]


def _program(command: str) -> list[str]:
    """Program that trains, as the command of a run has it, with the files that it imports."""
    words = shlex.split(command)
    names = [Path(word).name for word in words]
    if "train_net.py" in names:
        program = words[: names.index("train_net.py") + 1]
    else:
        launcher = words[: words.index("counterpoise")] if words[:1] == ["torchrun"] else []
        program = [*launcher, "counterpoise", "train"]
    for word, following in itertools.pairwise([*words, ""]):
        if word == "--import":
            program += [word, following]
        elif word.startswith("--import="):
            program.append(word)
    return program


def _config(run: Run) -> Iterator[Part]:
    if run.config is None:
        yield _left_out(f"{run.path} has no config.yaml")
        return
    if differences := from_baseline(run.config):
        yield Text(
            "What sets this run apart from its baseline, the same config with every part of "
            "Counterpoise neutral:"
        )
        yield _differences(differences, "baseline")
    else:
        yield Text("This run is a baseline: every part of Counterpoise is neutral.")
    differences = from_defaults(run.config)
    yield Fold(
        f"All {counted(len(differences), 'key')} that differ from the defaults",
        [_differences(differences, "default")],
    )
    yield Fold(
        "All of BALANCE, defaults included",
        [Text(run.config.BALANCE.dump(), "code")],
    )


def _differences(differences: Sequence[Difference], other: str) -> Table:
    return Table(("key", "this run", other), differences, left=frozenset({0, 1, 2}), style="code")


def _left_out(why: str) -> Text:
    return Text(f"Left out: {why}.", "note")


def _lost(errors: Mapping[str, ErrorCount]) -> dict[str, float]:
    """AP50 lost by error type; empty for a class without test boxes."""
    return {name: e.AP50_lost for name, e in errors.items() if e.AP50_lost is not None}


def _lr_steps(run: Run) -> Sequence[int]:
    """Iterations at which the learning rate is lowered; none of a smooth schedule."""
    if run.config is None or run.config.SOLVER.LR_SCHEDULER_NAME != "WarmupMultiStepLR":
        return ()
    return run.config.SOLVER.STEPS


def _moment(text: str) -> str:
    """Make a time in ISO 8601 readable."""
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC"
