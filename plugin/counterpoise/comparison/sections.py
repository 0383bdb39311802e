"""A comparison for the terminal and as a page, from the same tables."""

from collections.abc import Iterator, Sequence

from counterpoise.comparison.figures import (
    ap_against_count,
    class_differences,
    error_bars,
    recall_curves,
)
from counterpoise.comparison.results import Comparison, Difference, MatchedRecall, RunCost, Scores
from counterpoise.comparison.scoring import RunScores
from counterpoise.evaluation.error_types import ERROR_TYPES
from counterpoise.pages.rendering import render
from counterpoise.pages.sections import (
    Figure,
    Fold,
    Items,
    Part,
    Section,
    Text,
    sections_as_text,
)
from counterpoise.utils.table import Cell, Table
from counterpoise.utils.text import (
    counted,
    duration,
    listed,
    number,
    sentence,
    signed,
    signed_interval,
)

#: Columns of the terminal, where names are not excessive.
WIDTH = 120
NAME_WIDTH = 18

#: Classes that the plot of differences has room for.
CLASSES_PLOTTED = 60
#: Classes up to which a reader sees the tables of classes without unfolding them.
CLASSES_UNFOLDED = 20
#: Classes whose curves are shown.
CURVES = 6

_CLASSES_LISTED = 20


def as_text(comparison: Comparison) -> str:
    """Format a comparison: the runs, each one against the baseline, and what it all means."""
    baseline = comparison.baseline.name
    title = (
        f"Runs on {comparison.test_set}, {counted(comparison.test_images, 'image')}; the first is "
        "the baseline"
    )
    sections = [Section("", title, [_overview(comparison)])]
    for run in comparison.others:
        tables = [
            score_table(comparison, run),
            _error_table(comparison, [run], terminal=True),
            _class_error_table(comparison, run),
            _matched_table(comparison, [run], terminal=True),
        ]
        sections.append(Section("", f"{run.name} against {baseline}", tables))
    sections.append(Section("", "Time", [_time_table(comparison)]))
    if comparison.settings:
        sections.append(Section("", "Settings that differ", [_settings_table(comparison)]))
    sections.append(Section("", "Findings", list(_lead(comparison))))
    return sections_as_text(sections)


def score_table(comparison: Comparison, run: RunCost) -> Table:
    """AP and AP50 of a run and the baseline by class and group, for the terminal."""
    return _score_table(comparison, [run], terminal=True)


def as_page(comparison: Comparison, scores: Sequence[RunScores]) -> str:
    """Render a comparison as a self-contained page.

    Args:
        comparison: of :func:`~counterpoise.comparison.comparing.compare`; a class has test boxes.
        scores: what it was made from.
    """
    tested = [c for c in comparison.rarest_first if c.test_boxes]
    unfolded, others = len(tested) <= CLASSES_UNFOLDED, comparison.others
    plotted = tested[:CLASSES_PLOTTED]
    which = "Classes" if plotted == tested else f"The {len(plotted)} rarest of {len(tested)} tested"
    sections = [
        Section("headline", "Headline", [_headline(comparison)]),
        Section(
            "classes",
            "Difference per class",
            [
                Figure(
                    class_differences(comparison, plotted),
                    "Difference in AP per class with its interval",
                    f"{which}, from the rarest in training (number of training boxes in brackets) "
                    "to the most frequent, then the means. Filled: 95 % CI excludes 0.",
                ),
                Fold("All classes as a table", [_score_table(comparison, others)], unfolded),
            ],
        ),
        Section("counts", "AP against training boxes", list(_counts(comparison))),
        Section(
            "errors",
            "Error types",
            [
                Figure(
                    error_bars(comparison),
                    "AP50 lost to each error type, and their counts, by run",
                ),
                _error_table(comparison, others),
                *(
                    Fold(
                        f"Change by class: {run.name}",
                        [_class_error_table(comparison, run)],
                        unfolded,
                    )
                    for run in others
                ),
            ],
        ),
        Section(
            "matched",
            "False positives at matched recall",
            [Fold("All classes as a table", [_matched_table(comparison, others)], unfolded)],
        ),
        Section(
            "curves",
            "Precision and recall of the rarest classes",
            [
                Figure(
                    recall_curves(comparison, scores, tested[:CURVES]),
                    "Precision against recall of the rarest classes in all runs",
                    "At IoU 0.50, without interpolation.",
                )
            ],
        ),
        Section("cost", "Time", [_time_table(comparison)]),
        Section("settings", "Settings that differ", list(_settings(comparison))),
    ]
    title = f"Comparison on {comparison.test_set}"
    return render(title, list(_lead(comparison)), sections)


def _lead(comparison: Comparison) -> Iterator[Part]:
    for first, *others in comparison.findings.values():
        yield Text(first, "strong")
        yield Items(others)
    yield from (Text(f"Note: {note}", "note") for note in comparison.notes)


def _overview(comparison: Comparison) -> Table:
    groups = comparison.groups
    rows = [
        (
            run.name,
            number(comparison.mean.AP[run.name]), number(comparison.mean.AP50[run.name]),
            *(number(group.scores.AP[run.name]) for group in groups),
        )
        for run in comparison.runs
    ]  # fmt: skip
    headers = ("run", "AP", "AP50", *(f"AP {group.name}" for group in groups))
    return Table(headers, rows, wrap={0: 30})


def _headline(comparison: Comparison) -> Table:
    mean = comparison.mean
    found = [
        ("AP, mean of classes", mean.AP, mean.AP_difference),
        ("AP50, mean of classes", mean.AP50, mean.AP50_difference),
        *(
            (f"AP, mean of {group.name}", group.scores.AP, group.scores.AP_difference)
            for group in comparison.groups
        ),
    ]
    rows = [
        (name, *_values(comparison, values, differences, comparison.others))
        for name, values, differences in found
    ]
    groups = [
        sentence(f"{group.name}: {group.rule} ({listed(group.classes, _CLASSES_LISTED)})")
        for group in comparison.groups
    ]
    note = " ".join([_interval_note(comparison), *groups])
    headers = ("", *_run_headers(comparison, comparison.others))
    return Table(headers, rows, note=note, style="runs")


def _interval_note(comparison: Comparison) -> str:
    return (
        f"In brackets the 95 % interval of the difference to {comparison.baseline.name}, by "
        f"{comparison.resamples} resamples of the {comparison.test_images} test images, the same "
        "for all runs; it does not cover the training seed. Stressed (* in the terminal): 95 % CI "
        "excludes 0."
    )


def _run_headers(
    comparison: Comparison, others: Sequence[RunCost], terminal: bool = False
) -> list[str]:
    """Headers of the baseline's value, and of value and difference of each other run."""
    if terminal:  # of one run, which the title names
        return ["base", "run", "difference"]
    return [comparison.baseline.name, *(h for run in others for h in (run.name, "difference"))]


def _values(
    comparison: Comparison,
    values: dict[str, float | None],
    differences: dict[str, Difference],
    others: Sequence[RunCost],
) -> list[str | Cell]:
    cells: list[str | Cell] = [number(values[comparison.baseline.name])]
    for run in others:
        cells += [number(values[run.name]), _difference(differences[run.name])]
    return cells


def _difference(difference: Difference) -> Cell:
    spread, tone = difference.interval, ""
    if difference.excludes_zero:
        tone = "good" if difference.value > 0 else "bad"
    note = "" if spread is None else f"({signed_interval(spread)})"
    return Cell(signed(difference.value), note, tone)


def _score_table(
    comparison: Comparison, others: Sequence[RunCost], terminal: bool = False
) -> Table:
    def cells(scores: Scores) -> list[str | Cell]:
        return [
            *_values(comparison, scores.AP, scores.AP_difference, others),
            *_values(comparison, scores.AP50, scores.AP50_difference, others),
        ]

    rows = [
        (c.name, number(c.train_boxes, 0), c.test_boxes, *cells(c.scores))
        for c in comparison.rarest_first
    ]
    means = [
        *((f"mean of {g.name} ({len(g.classes)})", g.scores) for g in comparison.groups),
        ("mean of classes", comparison.mean),
    ]
    headers = _run_headers(comparison, others, terminal)
    return Table(
        ("class", "train", "test", *headers, *headers),
        [*rows, *((name, "", "", *cells(scores)) for name, scores in means)],
        note=_interval_note(comparison) if terminal else "",
        groups=(("", 1), ("boxes", 2), ("AP", len(headers)), ("AP50", len(headers))),
        totals=len(means),
        wrap={0: NAME_WIDTH},
        style="runs",
    )


def _counts(comparison: Comparison) -> Iterator[Part]:
    if any(c.train_boxes is None for c in comparison.classes):
        return
    uri, unnamed = ap_against_count(comparison)
    caption = "A point per class and run; a line joins the runs of a class."
    if unnamed:
        caption += f" There is no room for the names of {counted(unnamed, 'class')}."
    yield Figure(
        uri, "AP of every class in every run against its number of training boxes", caption
    )


def _error_table(
    comparison: Comparison, others: Sequence[RunCost], terminal: bool = False
) -> Table:
    baseline = comparison.baseline.name
    rows = []
    for kind, e in comparison.errors.items():
        lost, count = [number(e.AP50_lost[baseline])], [str(e.count[baseline])]
        for run in (other.name for other in others):
            lost += [number(e.AP50_lost[run]), signed(e.AP50_lost_difference[run])]
            count += [str(e.count[run]), signed(e.count_difference[run], 0)]
        rows.append((kind, *lost, *count))
    headers = _run_headers(comparison, others, terminal)
    return Table(
        ("type", *headers, *headers),
        rows,
        title="Errors by type" if terminal else "",
        note="At IoU 0.50. AP50 lost: what fixing this type alone would gain at any score, mean "
        "over the classes. Counts are of the detections of at least the score at which each run "
        "was evaluated.",
        groups=(("", 1), ("AP50 lost", len(headers)), ("count", len(headers))),
        style="runs",
    )


def _class_error_table(comparison: Comparison, run: RunCost) -> Table:
    rows = [
        (
            c.name,
            *(
                Cell(
                    signed(e.AP50_lost_difference[run.name]),
                    f"({signed(e.count_difference[run.name], 0)})",
                )
                for e in c.errors.values()
            ),
        )
        for c in comparison.rarest_first
    ]
    return Table(
        ("class", *ERROR_TYPES),
        rows,
        note=f"Change of AP50 lost against {comparison.baseline.name}, the change of the count in "
        "brackets. Less is better.",
        wrap={0: NAME_WIDTH},
    )


def _matched_table(
    comparison: Comparison, others: Sequence[RunCost], terminal: bool = False
) -> Table:
    baseline = comparison.baseline.name
    runs = [baseline, *(run.name for run in others)]
    headers = _run_headers(comparison, others, terminal)

    def cells(matched: MatchedRecall | None) -> list[str]:
        if matched is None:
            return ["-"] * (1 + len(headers) + len(runs))
        background = [number(matched.background_per_image[baseline], 2)]
        for run in runs[1:]:
            background.append(number(matched.background_per_image[run], 2))
            background.append(signed(matched.background_difference[run], 2))
        missed = [str(matched.missed[run]) for run in runs]
        return [number(matched.recall, 2), *background, *missed]

    found = [(c.name, c.matched) for c in comparison.rarest_first if c.test_boxes]
    return Table(
        ("class", "recall", *headers, *(headers[:2] if terminal else runs)),
        [(name, *cells(matched)) for name, matched in [*found, ("sum", comparison.matched)]],
        title="False positives at matched recall" if terminal else "",
        note="Scores of different losses do not compare, so each run is cut where it reaches the "
        "same recall at IoU 0.50: for each class the highest of 0.80, 0.75, ... that all runs "
        "reach.",
        groups=(
            ("", 2),
            ("false positives on background per image", len(headers)),
            ("missed boxes", len(runs)),
        ),
        totals=1,
        wrap={0: NAME_WIDTH},
        style="runs",
    )


def _time_table(comparison: Comparison) -> Table:
    rows = [
        (
            run.name,
            number(run.seconds_per_iteration, 3), number(run.iteration_ratio, 2),
            duration(run.training_seconds), number(run.training_ratio, 2),
            number(run.seconds_per_image, 3), number(run.inference_ratio, 2),
            run.hardware or "-",
        )
        for run in comparison.runs
    ]  # fmt: skip
    return Table(
        ("run", "s / iteration", "ratio", "training", "ratio", "s / image", "ratio", "hardware"),
        rows,
        note="Seconds per iteration: median after warm-up, loading of data included. Training: all "
        "iterations, evaluation not included. Seconds per image: inference by the model alone, "
        f"median over the test images. Ratios are to {comparison.baseline.name}.",
        left=frozenset({0, 7}),
        wrap={0: 30, 7: 30},
    )


def _settings_table(comparison: Comparison) -> Table:
    names = [run.name for run in comparison.runs]
    width = max((WIDTH - max(map(len, comparison.settings))) // len(names) - 2, 12)
    return Table(
        ("key", *names),
        [
            (key, *(value or "-" for value in by_run.values()))
            for key, by_run in comparison.settings.items()
        ],
        left=frozenset(range(len(names) + 1)),
        wrap=dict.fromkeys(range(1, len(names) + 1), width),
        style="code",
    )


def _settings(comparison: Comparison) -> Iterator[Part]:
    if comparison.settings:
        yield _settings_table(comparison)
    else:
        yield Text("None but the output folder.")
    yield Text("Commands", "heading")
    for run in comparison.runs:
        yield Text(f"{run.name}: {run.folder}")
        if run.command:
            yield Text(run.command, "code")
