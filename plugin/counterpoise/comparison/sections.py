"""A comparison for the terminal and as a page, from the same tables."""

from collections.abc import Iterator, Sequence
from itertools import chain

from counterpoise.comparison import figures
from counterpoise.comparison.results import (
    Comparison,
    ErrorComparison,
    MatchedRecall,
    RunCost,
    Value,
    Values,
)
from counterpoise.comparison.sides import Side
from counterpoise.evaluation.error_types import ERROR_TYPES
from counterpoise.evaluation.groups import mean_title
from counterpoise.pages.differences import difference_cell
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
            Text("Errors by type", "heading"), tables.errors(), tables.class_errors(run.name),
            Text("False positives at matched recall", "heading"), tables.matched(),
        ]  # fmt: skip
        sections.append(Section(run.name, f"{run.name} against {comparison.baseline.name}", parts))
    sections.append(Section("cost", "Time", [_times(comparison)]))
    if comparison.settings:
        sections.append(Section("settings", "Settings that differ", [_settings(comparison)]))
    sections.append(Section("findings", "Findings", list(_findings(comparison))))
    return sections_as_text(sections)


def as_page(comparison: Comparison, sides: Sequence[Side]) -> str:
    """Render a comparison as a self-contained page.

    Args:
        comparison: of :func:`~counterpoise.comparison.comparing.compare`; a class has test boxes.
        sides: what it was made from.
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
                    figures.recall_curves(sides, comparison.tested[:CURVES]),
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


class RunTables:
    """Tables that have columns for each of some runs."""

    def __init__(
        self, comparison: Comparison, others: Sequence[RunCost], labels: Sequence[str]
    ) -> None:
        """
        Args:
            comparison: of the runs.
            others: runs to show beside the baseline.
            labels: what the headers call the baseline and these runs.
        """
        self.comparison = comparison
        self.baseline = comparison.baseline.name
        self.runs = [self.baseline, *(run.name for run in others)]
        self.labels = labels
        #: Of the baseline's value, and of value and difference of each other run.
        self.headers = [labels[0], *chain(*((label, "difference") for label in labels[1:]))]
        self.about_intervals = (
            f"In brackets the 95 % interval of the difference to {self.baseline}, by "
            f"{comparison.resamples} resamples of the {comparison.test_images} test images, the "
            "same for all runs; "
            + (
                "it covers the training seed too, where there are several. "
                if comparison.several_seeds
                else "it does not cover the training seed. "
            )
            + "Bold or with a star: 95 % CI excludes 0."
        )

    def _cells(self, values: Values, digits: int = 1) -> list[str | Cell]:
        first, *others = (values[run] for run in self.runs)
        cells: list[str | Cell] = [_value(first, digits)]
        for own in others:
            cells += [_value(own, digits), difference_cell(own, digits)]
        return cells

    def headline(self) -> Table:
        """Means over all classes and over the groups."""
        mean, groups = self.comparison.mean, self.comparison.groups
        means = [(f"AP, {mean.name}", mean.AP), (f"AP50, {mean.name}", mean.AP50)]
        means += [(f"AP, mean of {group.name}", group.AP) for group in groups]
        said = [
            text.sentence(f"{g.name}: {g.rule} ({text.listed(g.classes, _CLASSES_LISTED)})")
            for g in groups
        ]
        return Table(
            ("", *self.headers),
            [(name, *self._cells(values)) for name, values in means],
            note=" ".join([self.about_intervals, *said]),
            style="runs",
        )

    def scores(self) -> Table:
        """AP and AP50 by class and group."""
        rows = [
            (c.name, number(c.train_boxes, 0), c.test_boxes, *self._cells(c.AP),
             *self._cells(c.AP50))
            for c in self.comparison.rarest_first
        ]  # fmt: skip
        groups, mean = self.comparison.groups, self.comparison.mean
        with_boxes = {c.name for c in self.comparison.classes if c.test_boxes}
        means = [(mean_title(group.name, group.classes, with_boxes), group) for group in groups]
        rows += [
            (name, "", "", *self._cells(own.AP), *self._cells(own.AP50))
            for name, own in [*means, (mean.name, mean)]
        ]
        span = len(self.headers)
        return Table(
            ("class", "train", "test", *self.headers, *self.headers),
            rows,
            note=self.about_intervals,
            groups=(("", 1), ("boxes", 2), ("AP", span), ("AP50", span)),
            totals=len(groups) + 1,
            wrap={0: NAME_WIDTH},
            style="runs",
        )

    def errors(self) -> Table:
        """Errors by type, over all classes."""
        errors, span = self.comparison.errors, len(self.headers)
        return Table(
            ("type", *self.headers, *self.headers),
            [
                (name, *self._cells(own.AP50_lost), *self._cells(own.count, 0))
                for name, own in errors.items()
            ],
            note="At IoU 0.50. AP50 lost: what fixing this type alone would gain at any score, "
            "mean over the classes. Counts are of the detections of at least the score at which "
            "each run was evaluated.",
            groups=(("", 1), ("AP50 lost", span), ("count", span)),
            style="runs",
        )

    def class_errors(self, run: str) -> Table:
        """Change of the errors of a run by class."""

        def cell(errors: ErrorComparison) -> Cell:
            lost, count = errors.AP50_lost[run].difference, errors.count[run].difference
            return Cell(signed(lost), f"({signed(count, 0)})")

        return Table(
            ("class", *ERROR_TYPES),
            [(c.name, *map(cell, c.errors.values())) for c in self.comparison.rarest_first],
            note=f"Change of AP50 lost against {self.baseline}, the change of the count in "
            "brackets. Less is better.",
            wrap={0: NAME_WIDTH},
        )

    def matched(self) -> Table:
        """What the same recall costs the runs, by class."""
        span, runs = len(self.headers), len(self.runs)

        def cells(matched: MatchedRecall | None) -> list[str | Cell]:
            if matched is None:
                return [text.NONE] * (1 + span + runs)
            background = self._cells(matched.background_per_image, 2)
            missed = [number(matched.missed[run].value, 0) for run in self.runs]
            return [number(matched.recall, 2), *background, *missed]

        found = [(c.name, c.matched) for c in self.comparison.tested]
        found.append(("sum", self.comparison.matched))
        return Table(
            ("class", "recall", *self.headers, *self.labels),
            [(name, *cells(matched)) for name, matched in found],
            note="False positives on background per image, and missed boxes. Scores of different "
            "losses do not compare, so each run is cut where it reaches the same recall at IoU "
            "0.50: for each class the highest of 0.80, 0.75, ... that all runs reach. Missed are "
            "boxes that no detection left finds, not even with another class or a poor fit: they "
            "differ at equal recall.",
            groups=(("", 2), ("background per image", span), ("missed boxes", runs)),
            totals=1,
            wrap={0: NAME_WIDTH},
            style="runs",
        )


def _value(own: Value, digits: int) -> str | Cell:
    value = number(own.value, digits)
    return value if own.std is None else Cell(value, f"+- {own.std:.{digits}f}")


def _findings(comparison: Comparison) -> Iterator[Part]:
    for first, *others in comparison.findings.values():
        yield Text(first, "strong")
        yield Items(others)
    yield from (Text(f"Note: {note}", "note") for note in comparison.notes)


def _overview(comparison: Comparison) -> Table:
    overall, groups = comparison.mean, comparison.groups
    columns = {"AP": overall.AP, "AP50": overall.AP50, **{f"AP {g.name}": g.AP for g in groups}}
    rows = [
        (
            run.name,
            *([len(run.folders)] if comparison.several_seeds else []),
            *(_value(values[run.name], 1) for values in columns.values()),
        )
        for run in comparison.runs
    ]
    seeds = [] if not comparison.several_seeds else ["seeds"]
    return Table(("run", *seeds, *columns), rows, wrap={0: 30})


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
        yield _fold(tables.class_errors(run.name), f"Change by class: {run.name}")


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
        yield Text(f"{run.name}: {', '.join(run.folders)}")
        if run.command:
            yield Text(run.command, "code")
