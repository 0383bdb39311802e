"""A comparison for the terminal and as a page, from the same tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from counterpoise.comparison import figures
from counterpoise.comparison.results import Comparison, Difference, MatchedRecall, RunCost, Scores
from counterpoise.comparison.scoring import RunScores
from counterpoise.evaluation.error_types import ERROR_TYPES
from counterpoise.pages.rendering import render
from counterpoise.pages.sections import Figure, Fold, Items, Part, Section, Text, sections_as_text
from counterpoise.utils import text
from counterpoise.utils.table import Cell, Table
from counterpoise.utils.text import number, signed

#: Columns of the terminal, where names are not excessive.
WIDTH = 120
NAME_WIDTH = 18

#: Classes that the plot of differences has room for.
CLASSES_PLOTTED = 60
#: Classes up to which a reader sees the tables of classes without unfolding them.
CLASSES_UNFOLDED = 20
#: Classes whose curves are shown.
CURVES = 6

_CLASSES_LISTED = 20  # of a group


def as_text(comparison: Comparison) -> str:
    """Format a comparison: the runs, each one against the baseline, and what it all means."""
    images = text.counted(comparison.test_images, "image")
    title = f"Runs on {comparison.test_set}, {images}; the first is the baseline"
    sections = [Section("runs", title, [_overview(comparison)])]
    for run in comparison.others:
        tables = RunTables(comparison, [run], ("base", "run"))
        parts = [
            tables.scores(),
            Text("Errors by type", "heading"), tables.errors(), tables.class_errors(run),
            Text("False positives at matched recall", "heading"), tables.matched(),
        ]  # fmt: skip
        sections.append(Section(run.name, f"{run.name} against {comparison.baseline.name}", parts))
    sections.append(Section("cost", "Time", [_times(comparison)]))
    if comparison.settings:
        sections.append(Section("settings", "Settings that differ", [_settings(comparison)]))
    sections.append(Section("findings", "Findings", list(_findings(comparison))))
    return sections_as_text(sections)


def as_page(comparison: Comparison, scores: Sequence[RunScores]) -> str:
    """Render a comparison as a self-contained page.

    Args:
        comparison: of :func:`~counterpoise.comparison.comparing.compare`; a class has test boxes.
        scores: what it was made from.
    """
    tables = RunTables(comparison, comparison.others, [run.name for run in comparison.runs])
    sections = [
        Section("headline", "Headline", [tables.headline()]),
        Section("classes", "Difference per class", list(_classes(comparison, tables))),
        Section("counts", "AP against training boxes", list(_counts(comparison))),
        Section("errors", "Error types", list(_errors(comparison, tables))),
        Section("matched", "False positives at matched recall", [_fold(tables.matched())]),
        Section(
            "curves",
            "Precision and recall of the rarest classes",
            [
                Figure(
                    figures.recall_curves(comparison, scores, comparison.tested[:CURVES]),
                    "Precision against recall of the rarest classes in all runs",
                    "At IoU 0.50, without interpolation.",
                )
            ],
        ),
        Section("cost", "Time", [_times(comparison)]),
        Section("settings", "Settings that differ", list(_settings_and_commands(comparison))),
    ]
    title = f"Comparison on {comparison.test_set}"
    return render(title, list(_findings(comparison)), sections)


@dataclass(frozen=True)
class RunTables:
    """Tables that have columns for each of some runs.

    Attributes:
        comparison: of the runs.
        others: runs to show beside the baseline.
        labels: what the headers call the baseline and these runs.
    """

    comparison: Comparison
    others: Sequence[RunCost]
    labels: Sequence[str]

    @property
    def _headers(self) -> list[str]:
        """Of the baseline's value, and of value and difference of each other run."""
        return [self.labels[0], *chain(*((label, "difference") for label in self.labels[1:]))]

    def _cells(self, values: Mapping[str, float | None], differences: Mapping) -> list[str | Cell]:
        cells: list[str | Cell] = [number(values[self.comparison.baseline.name])]
        for run in self.others:
            cells += [number(values[run.name]), _difference(differences[run.name])]
        return cells

    def headline(self) -> Table:
        """Means over all classes and over the groups."""
        mean, groups = self.comparison.mean, self.comparison.groups
        rows = [
            ("AP, mean of classes", *self._cells(mean.AP, mean.AP_difference)),
            ("AP50, mean of classes", *self._cells(mean.AP50, mean.AP50_difference)),
            *(
                (f"AP, mean of {g.name}", *self._cells(g.scores.AP, g.scores.AP_difference))
                for g in groups
            ),
        ]
        said = [
            text.sentence(f"{g.name}: {g.rule} ({text.listed(g.classes, _CLASSES_LISTED)})")
            for g in groups
        ]
        note = " ".join([self._about_intervals, *said])
        return Table(("", *self._headers), rows, note=note, style="runs")

    @property
    def _about_intervals(self) -> str:
        known = self.comparison
        return (
            f"In brackets the 95 % interval of the difference to {known.baseline.name}, by "
            f"{known.resamples} resamples of the {known.test_images} test images, the same for all "
            "runs; it does not cover the training seed. Bold or with a star: 95 % CI excludes 0."
        )

    def scores(self) -> Table:
        """AP and AP50 by class and group."""

        def cells(scores: Scores) -> list[str | Cell]:
            return [
                *self._cells(scores.AP, scores.AP_difference),
                *self._cells(scores.AP50, scores.AP50_difference),
            ]

        rows = [
            (c.name, number(c.train_boxes, 0), c.test_boxes, *cells(c.scores))
            for c in self.comparison.rarest_first
        ]
        means = [(f"mean of {g.name} ({len(g.classes)})", g.scores) for g in self.comparison.groups]
        means.append(("mean of classes", self.comparison.mean))
        headers = self._headers
        return Table(
            ("class", "train", "test", *headers, *headers),
            [*rows, *((name, "", "", *cells(scores)) for name, scores in means)],
            note=self._about_intervals,
            groups=(("", 1), ("boxes", 2), ("AP", len(headers)), ("AP50", len(headers))),
            totals=len(means),
            wrap={0: NAME_WIDTH},
            style="runs",
        )

    def errors(self) -> Table:
        """Errors by type, over all classes."""
        baseline, rows = self.comparison.baseline.name, []
        for kind, e in self.comparison.errors.items():
            lost, count = [number(e.AP50_lost[baseline])], [str(e.count[baseline])]
            for run in (other.name for other in self.others):
                lost += [number(e.AP50_lost[run]), signed(e.AP50_lost_difference[run])]
                count += [str(e.count[run]), signed(e.count_difference[run], 0)]
            rows.append((kind, *lost, *count))
        headers = self._headers
        return Table(
            ("type", *headers, *headers),
            rows,
            note="At IoU 0.50. AP50 lost: what fixing this type alone would gain at any score, "
            "mean over the classes. Counts are of the detections of at least the score at which "
            "each run was evaluated.",
            groups=(("", 1), ("AP50 lost", len(headers)), ("count", len(headers))),
            style="runs",
        )

    def class_errors(self, run: RunCost) -> Table:
        """Change of the errors of a run by class."""
        rows = [
            (
                c.name,
                *(
                    Cell(signed(e.AP50_lost_difference[run.name]),
                         f"({signed(e.count_difference[run.name], 0)})")
                    for e in c.errors.values()
                ),
            )
            for c in self.comparison.rarest_first
        ]  # fmt: skip
        note = (
            f"Change of AP50 lost against {self.comparison.baseline.name}, the change of the count "
            "in brackets. Less is better."
        )
        return Table(("class", *ERROR_TYPES), rows, note=note, wrap={0: NAME_WIDTH})

    def matched(self) -> Table:
        """What the same recall costs the runs, by class."""
        baseline = self.comparison.baseline.name
        runs = [baseline, *(run.name for run in self.others)]

        def cells(matched: MatchedRecall | None) -> list[str]:
            if matched is None:
                return [text.NONE] * (3 * len(runs))
            background = [number(matched.background_per_image[baseline], 2)]
            for run in runs[1:]:
                background.append(number(matched.background_per_image[run], 2))
                background.append(signed(matched.background_difference[run], 2))
            missed = [str(matched.missed[run]) for run in runs]
            return [number(matched.recall, 2), *background, *missed]

        found = [(c.name, c.matched) for c in self.comparison.tested]
        found.append(("sum", self.comparison.matched))
        headers = self._headers
        return Table(
            ("class", "recall", *headers, *self.labels),
            [(name, *cells(matched)) for name, matched in found],
            note="False positives on background per image, and missed boxes. Scores of different "
            "losses do not compare, so each run is cut where it reaches the same recall at IoU "
            "0.50: for each class the highest of 0.80, 0.75, ... that all runs reach.",
            groups=(("", 2), ("background per image", len(headers)), ("missed boxes", len(runs))),
            totals=1,
            wrap={0: NAME_WIDTH},
            style="runs",
        )


def _difference(difference: Difference) -> Cell:
    spread, tone = difference.interval, ""
    if difference.excludes_zero:
        tone = "good" if difference.value > 0 else "bad"
    note = "" if spread is None else f"({text.signed_interval(spread)})"
    return Cell(signed(difference.value), note, tone)


def _findings(comparison: Comparison) -> Iterator[Part]:
    for first, *others in comparison.findings.values():
        yield Text(first, "strong")
        yield Items(others)
    yield from (Text(f"Note: {note}", "note") for note in comparison.notes)


def _overview(comparison: Comparison) -> Table:
    scores = [group.scores for group in comparison.groups]
    rows = [
        (run.name, *(number(values[run.name]) for values in
                     (comparison.mean.AP, comparison.mean.AP50, *(s.AP for s in scores))))
        for run in comparison.runs
    ]  # fmt: skip
    headers = ("run", "AP", "AP50", *(f"AP {group.name}" for group in comparison.groups))
    return Table(headers, rows, wrap={0: 30})


def _fold(table: Table, summary: str = "All classes as a table") -> Fold:
    return Fold(summary, [table], is_open=len(table.rows) - table.totals <= CLASSES_UNFOLDED)


def _classes(comparison: Comparison, tables: RunTables) -> Iterator[Part]:
    tested = comparison.tested
    plotted = tested[:CLASSES_PLOTTED]
    which = "Classes" if plotted == tested else f"The {len(plotted)} rarest of {len(tested)} tested"
    yield Figure(
        figures.class_differences(comparison, plotted),
        "Difference in AP per class with its interval",
        f"{which}, from the rarest in training (number of training boxes in brackets) to the most "
        "frequent, then the means. Filled: 95 % CI excludes 0.",
    )
    yield _fold(tables.scores())


def _counts(comparison: Comparison) -> Iterator[Part]:
    if any(c.train_boxes is None for c in comparison.classes):
        return
    uri, unnamed = figures.ap_against_training_boxes(comparison)
    caption = "A point per class and run; a line joins the runs of a class."
    if unnamed:
        caption += f" There is no room for the names of {text.counted(unnamed, 'class')}."
    yield Figure(
        uri, "AP of every class in every run against its number of training boxes", caption
    )


def _errors(comparison: Comparison, tables: RunTables) -> Iterator[Part]:
    alt = "AP50 lost to each error type, and their counts, by run"
    yield Figure(figures.error_bars(comparison), alt)
    yield tables.errors()
    for run in comparison.others:
        yield _fold(tables.class_errors(run), f"Change by class: {run.name}")


def _times(comparison: Comparison) -> Table:
    rows = [
        (
            run.name,
            number(run.seconds_per_iteration, 3), number(run.iteration_ratio, 2),
            text.duration(run.training_seconds), number(run.training_ratio, 2),
            number(run.seconds_per_image, 3), number(run.inference_ratio, 2),
            run.hardware or text.NONE,
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


def _settings(comparison: Comparison) -> Table:
    names = [run.name for run in comparison.runs]
    rows = [
        (key, *(value or text.NONE for value in by_run.values()))
        for key, by_run in comparison.settings.items()
    ]
    columns = range(1, len(names) + 1)
    width = max((WIDTH - max(map(len, comparison.settings))) // len(names) - 2, 12)
    left, wrap = frozenset({0, *columns}), dict.fromkeys(columns, width)
    return Table(("key", *names), rows, left=left, wrap=wrap, style="code")


def _settings_and_commands(comparison: Comparison) -> Iterator[Part]:
    if comparison.settings:
        yield _settings(comparison)
    else:
        yield Text("None but the output folder.")
    yield Text("Commands", "heading")
    for run in comparison.runs:
        yield Text(f"{run.name}: {run.folder}")
        if run.command:
            yield Text(run.command, "code")
