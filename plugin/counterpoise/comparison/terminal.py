"""A comparison for the terminal, at most 120 columns wide where names are not excessive."""

import textwrap
from collections.abc import Sequence

from tabulate import tabulate

from counterpoise.comparison.results import Comparison, Difference, MatchedRecall, Scores
from counterpoise.comparison.words import duration, signed
from counterpoise.evaluation.error_types import ERROR_TYPES

WIDTH = 120
NAME_WIDTH = 18

BEYOND_NOISE = (
    "* beyond the noise of the test images: the 95 % interval in brackets leaves out 0. The "
    "interval does not cover the training seed."
)


def as_text(comparison: Comparison) -> str:
    """Format a comparison: the runs, each one against the baseline, and what it all means."""
    parts = [
        f"Runs on {comparison.test_set}, {comparison.test_images} images; the first is the "
        f"baseline\n{_runs(comparison)}"
    ]
    for run in comparison.others:
        pair = (comparison.baseline.name, run.name)
        title = f"{run.name} against {comparison.baseline.name}"
        parts += [
            f"{title}\n{'=' * len(title)}\n{scores_table(comparison, *pair)}\n"
            + _wrapped(BEYOND_NOISE),
            "Errors at IoU 0.50, counted at the scores at which the runs were evaluated\n"
            + _errors(comparison, *pair),
            f"Change of errors by class: count (AP50 lost)\n{_errors_by_class(comparison, *pair)}",
            "False positives on background per image, and missed boxes, where all runs reach the "
            f"recall\n{_matched(comparison, *pair)}",
        ]
    parts.append(f"Time: training, and inference by the model alone\n{_times(comparison)}")
    if comparison.settings:
        parts.append(f"Settings that differ\n{_settings(comparison)}")
    parts += [
        "\n".join(_wrapped(sentence) for sentence in sentences)
        for sentences in comparison.findings.values()
    ]
    parts += [_wrapped(f"Note: {note}") for note in comparison.notes]
    return "\n\n".join(parts)


def _runs(comparison: Comparison) -> str:
    rows = [
        (
            run.name,
            _number(comparison.mean.AP[run.name]), _number(comparison.mean.AP50[run.name]),
            *(_number(group.scores.AP[run.name]) for group in comparison.groups),
        )
        for run in comparison.runs
    ]  # fmt: skip
    headers = (
        "run", "AP", "AP50", *(f"AP {group.name}" for group in comparison.groups),
    )  # fmt: skip
    return _table(rows, headers, name_width=30)


def _times(comparison: Comparison) -> str:
    rows = [
        (
            run.name,
            _number(run.seconds_per_iteration, 3), _number(run.iteration_ratio, 2),
            "-" if run.training_seconds is None else duration(run.training_seconds),
            _number(run.training_ratio, 2),
            _number(run.seconds_per_image, 3), _number(run.inference_ratio, 2),
        )
        for run in comparison.runs
    ]  # fmt: skip
    headers = ("run", "s/iteration", "ratio", "training", "ratio", "s/image", "ratio")
    return _table(rows, headers, name_width=30)


def scores_table(comparison: Comparison, baseline: str, run: str) -> str:
    """AP and AP50 of two runs per class and group, with the differences and their intervals."""
    rows = [
        (c.name, _count(c.train_boxes), str(c.test_boxes), *_score_cells(c.scores, baseline, run))
        for c in comparison.classes
    ]
    means = [(f"mean of {g.name} ({len(g.classes)})", g.scores) for g in comparison.groups]
    means.append(("mean of classes", comparison.mean))
    rows += [(name, "", "", *_score_cells(scores, baseline, run)) for name, scores in means]
    headers = (
        "class", "train\nboxes", "test\nboxes",
        "AP\nbase", "AP\nrun", "difference\n(95 % interval)",
        "AP50\nbase", "AP50\nrun", "difference\n(95 % interval)",
    )  # fmt: skip
    return _table(rows, headers)


def _score_cells(scores: Scores, baseline: str, run: str) -> tuple[str, ...]:
    return (
        _number(scores.AP[baseline]), _number(scores.AP[run]),
        _difference(scores.AP_difference[run]),
        _number(scores.AP50[baseline]), _number(scores.AP50[run]),
        _difference(scores.AP50_difference[run]),
    )  # fmt: skip


def _difference(difference: Difference) -> str:
    if difference.value is None:
        return "-"
    mark = "*" if difference.beyond_noise else " "
    if difference.interval is None:
        return f"{signed(difference.value)} {mark}"
    low, high = map(signed, difference.interval)
    return f"{signed(difference.value)} ({low} to {high}) {mark}"


def _errors(comparison: Comparison, baseline: str, run: str) -> str:
    rows = [
        (
            kind, str(e.count[baseline]), str(e.count[run]), f"{e.count_difference[run]:+d}",
            _number(e.AP50_lost[baseline]), _number(e.AP50_lost[run]),
            _signed(e.AP50_lost_difference[run]),
        )
        for kind, e in comparison.errors.items()
    ]  # fmt: skip
    headers = (
        "kind", "count\nbaseline", "count\nrun", "difference",
        "AP50 lost\nbaseline", "AP50 lost\nrun", "difference",
    )  # fmt: skip
    return _table(rows, headers)


def _errors_by_class(comparison: Comparison, baseline: str, run: str) -> str:
    rows = [
        (
            c.name,
            *(
                f"{e.count_difference[run]:+d} ({_signed(e.AP50_lost_difference[run])})"
                for e in c.errors.values()
            ),
        )
        for c in comparison.classes
    ]
    return _table(rows, ("class", *ERROR_TYPES))


def _matched(comparison: Comparison, baseline: str, run: str) -> str:
    found: list[tuple[str, MatchedRecall | None]] = [
        (c.name, c.matched) for c in comparison.classes if c.test_boxes
    ]
    found.append(("sum of classes", comparison.matched))
    rows = [
        (
            name, _number(m.recall, 2),
            f"{m.background_per_image[baseline]:.2f}", f"{m.background_per_image[run]:.2f}",
            signed(m.background_difference[run], 2),
            str(m.missed[baseline]), str(m.missed[run]),
        )
        if m
        else (name, *["-"] * 6)
        for name, m in found
    ]  # fmt: skip
    headers = (
        "class", "recall", "background\nbaseline", "background\nrun", "difference",
        "missed\nbaseline", "missed\nrun",
    )  # fmt: skip
    return _table(rows, headers)


def _settings(comparison: Comparison) -> str:
    rows = [
        (key, *(value or "-" for value in by_run.values()))
        for key, by_run in comparison.settings.items()
    ]
    names = [run.name for run in comparison.runs]
    keys = max(map(len, comparison.settings))
    width = max((WIDTH - keys) // len(names) - 2, 12)
    return tabulate(
        rows, ("key", *names), disable_numparse=True, maxcolwidths=[None, *[width] * len(names)],
        maxheadercolwidths=[None, *[width] * len(names)],
    )  # fmt: skip


def _table(
    rows: Sequence[Sequence[str]], headers: Sequence[str], name_width: int = NAME_WIDTH
) -> str:
    alignment = ("left", *["right"] * (len(headers) - 1))
    return tabulate(
        rows, headers, disable_numparse=True, colalign=alignment,
        maxcolwidths=[name_width, *[None] * (len(headers) - 1)],
    )  # fmt: skip


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH)


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else signed(value)


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)
