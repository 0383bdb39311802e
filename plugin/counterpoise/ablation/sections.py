"""An ablation for the terminal, as a page and as Markdown: the same tables."""

from collections.abc import Iterator, Sequence

from counterpoise.ablation import figures
from counterpoise.ablation.summary import DatasetSummary, Estimate
from counterpoise.evaluation.variance import differing_by_chance
from counterpoise.pages.differences import difference_cell, tone
from counterpoise.pages.rendering import render
from counterpoise.pages.sections import Figure, Fold, Items, Part, Section, Text, sections_as_text
from counterpoise.utils import text
from counterpoise.utils.table import Cell, Table
from counterpoise.utils.text import number

#: Classes that the terminal and Markdown have columns for, the rarest ones.
CLASSES = 8
_NAME_WIDTH = 34


def as_text(summaries: Sequence[DatasetSummary]) -> str:
    """Format an ablation for the terminal."""
    datasets = [Section(s.name, _title(s), list(_parts(s, CLASSES))) for s in summaries]
    return sections_as_text([*_across(summaries), *datasets])


def as_page(title: str, summaries: Sequence[DatasetSummary], command: str) -> str:
    """Render an ablation as a self-contained page.

    Args:
        title: its heading.
        summaries: by dataset.
        command: that made it.
    """
    lead: list[Part] = [Text(f"{s.name}: {_best(s)}") for s in summaries]
    sections = [
        Section(f"dataset-{i}", _title(summary), list(_page_parts(summary)))
        for i, summary in enumerate(summaries)
    ]
    repeat = Section("command", "How to repeat it", [Text(command, "code")])
    return render(title, lead, [*_across(summaries), *sections, repeat])


def as_markdown(summaries: Sequence[DatasetSummary]) -> str:
    """Format an ablation as Markdown tables, with what they hold stressed by bold type."""
    blocks = []
    datasets = [Section(s.name, _title(s), list(_parts(s, CLASSES))) for s in summaries]
    for section in [*_across(summaries), *datasets]:
        blocks.append(f"**{section.title}**")
        for part in section.parts:
            match part:
                case Table():
                    blocks += [_markdown(part), part.note]
                case Text():
                    blocks.append(part.text)
                case Items():
                    blocks.append("\n".join(f"- {item}" for item in part.items))
    return text.plus_minus("\n\n".join(block for block in blocks if block))


def _markdown(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"

    def shown(cell: str | int | Cell) -> str:
        if not isinstance(cell, Cell):
            return str(cell)
        value = f"**{cell.text}**" if cell.tone else cell.text
        return f"{value} {cell.note}".strip()

    above = [name for name, span in table.groups for _ in range(span)] or [""] * len(table.headers)
    headers = [f"{a} {b}".strip() for a, b in zip(above, table.headers, strict=True)]
    rule = ["---" if i in table.left else "---:" for i in range(len(headers))]
    rows = [[shown(cell) for cell in row] for row in table.rows]
    return "\n".join(map(line, [headers, rule, *rows]))


def _title(summary: DatasetSummary) -> str:
    return f"{summary.name}: {_about(summary)}"


def _about(summary: DatasetSummary) -> str:
    iterations = " or ".join(f"{n:,}" for n in summary.iterations)
    images = text.counted(summary.test_images, "image")
    return f"{iterations} iterations, {summary.test_set} with {images}"


def _parts(summary: DatasetSummary, most_classes: int) -> Iterator[Part]:
    yield _overview(summary)
    yield _by_class(summary, most_classes)
    yield _cost(summary)
    yield from _missing(summary)
    yield from (Text(f"Note: {note}", "note") for note in summary.notes)


def _page_parts(summary: DatasetSummary) -> Iterator[Part]:
    overview, by_class, *others = _parts(summary, len(summary.train_boxes))
    yield overview
    if len(summary.variants) > 1 and summary.baseline.seeds:
        yield Figure(
            figures.differences(summary),
            "Difference in AP of every variant with its interval, by frequency group",
            "Of the mean of all classes and of the groups. Filled: 95 % CI excludes 0.",
        )
    yield Text("By class", "heading")
    yield by_class
    if len(summary.variants) > 1 and summary.baseline.seeds:
        yield Fold("Differences by group and class", [_differences(summary)])
    yield Text("Settings", "heading")
    yield _settings(summary)
    yield Text("Time and memory", "heading")
    yield from others


def _across(summaries: Sequence[DatasetSummary]) -> list[Section]:
    """Differences on all datasets beside each other, where there are several."""
    if len(summaries) < 2:
        return []
    names = dict.fromkeys(variant.name for s in summaries for variant in s.variants[1:])
    rows: list[list[str | Cell]] = [[name] for name in names]
    headers, groups = ["variant"], [("", 1)]
    for summary in summaries:
        rarest = list(summary.groups)[-1:]
        headers += ["AP", *rarest]
        groups.append((summary.name, 1 + len(rarest)))
        own = {variant.name: variant for variant in summary.variants[1:]}
        for row in rows:
            variant = own.get(str(row[0]))
            if variant is None:
                row += [text.NONE] * (1 + len(rarest))
            else:
                estimates = [variant.AP, *(variant.groups[group] for group in rarest)]
                row += map(difference_cell, estimates)
    covers = " or ".join(dict.fromkeys(summary.covers for summary in summaries))
    note = "Differences in AP to the baseline, of all classes and of the rarest group, with 95 % "
    note += f"intervals that cover {covers}. Bold or with a star: the interval excludes 0."
    table = Table(headers, rows, groups=groups, note=note, wrap={0: _NAME_WIDTH}, style="runs")
    return [Section("datasets", "All datasets", [table])]


def _overview(summary: DatasetSummary) -> Table:
    """Mean AP, AP50 and AP of the rarest group, with the differences."""
    rarest = list(summary.groups)[-1:]
    rows = []
    for variant in summary.variants:
        cells = [*_value_and_difference(variant.AP), *_value_and_difference(variant.AP50)[:1]]
        for group in rarest:
            cells += _value_and_difference(variant.groups[group])
        of_all = f" of {len(variant.seeds) + len(variant.missing)}" if variant.missing else ""
        rows.append([variant.name, f"{len(variant.seeds)}{of_all}", *cells])
    spans = [("", 2), ("AP", 2), ("AP50", 1), *((f"AP of {group}", 2) for group in rarest)]
    headers = ["variant", "seeds", "mean", "difference", "mean"]
    headers += ["mean", "difference"] * len(rarest)
    return Table(headers, rows, groups=spans, note=_note(summary), wrap={0: _NAME_WIDTH})


def _by_class(summary: DatasetSummary, most: int) -> Table:
    names = list(summary.train_boxes)[:most]
    rows = [
        [variant.name, *(_value_with_tone(variant.classes[name]) for name in names)]
        for variant in summary.variants
    ]
    headers = [
        name if (boxes := summary.train_boxes[name]) is None else f"{name} ({boxes})"
        for name in names
    ]
    left_out = len(summary.train_boxes) - len(names)
    note = "AP by class, the rarest first, with the number of training boxes. Bold or with a star: "
    note += f"the interval of the difference to {summary.baseline.name} excludes 0."
    if left_out:
        note += f" The {left_out} most frequent classes are left out here."
    return Table(["variant", *headers], rows, note=note, wrap={0: _NAME_WIDTH})


def _differences(summary: DatasetSummary) -> Table:
    """Differences of the groups and classes, with their intervals."""
    groups, classes = list(summary.groups), list(summary.train_boxes)
    rows = [
        [
            variant.name,
            *(difference_cell(variant.groups[name]) for name in groups),
            *(difference_cell(variant.classes[name]) for name in classes),
        ]
        for variant in summary.variants[1:]
    ]
    spans = [("", 1), ("mean of a group", len(groups)), ("class", len(classes))]
    return Table(
        ["variant", *groups, *classes], rows, groups=[span for span in spans if span[1]],
        note=f"AP minus that of {summary.baseline.name}, with the 95 % interval.", style="runs",
    )  # fmt: skip


def _cost(summary: DatasetSummary) -> Table:
    first = summary.baseline.minutes
    rows = [
        [
            variant.name,
            number(variant.minutes),
            number(variant.minutes / first if variant.minutes and first else None, 2),
            number(variant.peak_memory_MB, 0),
        ]
        for variant in summary.variants
    ]
    note = "Minutes of training, evaluation not included, mean over the seeds. MB: largest "
    note += "resident memory of a run's process, without that of a GPU."
    if summary.machines:
        note += f" Machine: {'; '.join(summary.machines)}."
    return Table(["variant", "minutes", "ratio", "MB"], rows, note=note, wrap={0: _NAME_WIDTH})


def _settings(summary: DatasetSummary) -> Table:
    rows = [
        [v.name, ", ".join(f"{key} {own}" for key, own in v.settings.items()) or text.NONE,
         v.config]
        for v in summary.variants
    ]  # fmt: skip
    return Table(
        ["variant", f"differs from {summary.baseline.name} in", "config"],
        rows, left=frozenset({0, 1, 2}), style="code",
    )  # fmt: skip


def _missing(summary: DatasetSummary) -> Iterator[Part]:
    missing = [
        f"{variant.name}, seed {seed}, {outcome}: {reason}"
        for variant in summary.variants
        for seed, outcome, reason in variant.missing
    ]
    if missing:
        yield Text("Runs without a result, which do not count above:")
        yield Items(missing)


def _note(summary: DatasetSummary) -> str:
    seeds = max(len(variant.seeds) for variant in summary.variants)
    said = "AP is COCO's, 0 to 100"
    said += ", mean over the seeds +- standard deviation." if seeds > 1 else "."
    if len(summary.variants) > 1:
        said += (
            f" In brackets the 95 % interval of the difference to {summary.baseline.name}, in "
            f"pairs of equal seed where there are several; it covers {summary.covers}. Bold or "
            "with a star: it excludes 0."
        )
        if not any(variant.AP.interval for variant in summary.variants):
            said += " A single seed without detections has none."
    others = len(summary.variants) - 1
    if expected := differing_by_chance(others):
        said += (
            f" About 1 in 20 excludes 0 by chance: of {others} variants expect {expected} to do so "
            "in each column even if none changes anything."
        )
    for group, classes in list(summary.groups.items())[-1:]:
        said += f" {text.sentence(f'{group}: {text.listed(classes, 10)}')}"
    return said


def _best(summary: DatasetSummary) -> str:
    """One sentence: which variants are shown to differ from the baseline."""
    if not any(variant.AP.interval for variant in summary.variants):
        return "there is no interval by which a variant could be told from the baseline."
    better = [v.name for v in summary.variants if v.AP.excludes_zero and v.AP.difference > 0]
    worse = [v.name for v in summary.variants if v.AP.excludes_zero and v.AP.difference < 0]
    parts = [
        f"{word} than {summary.baseline.name}: {text.listed(names, 10)}"
        for word, names in (("better", better), ("worse", worse))
        if names
    ]
    found = "; ".join(parts) or f"no variant is shown to differ from {summary.baseline.name}"
    return f"by a 95 % interval of AP that excludes 0, {found}."


def _mean(own: Estimate) -> str:
    spread = "" if own.std is None else f" +- {own.std:.1f}"
    return f"{number(own.mean)}{spread}"


def _value_and_difference(own: Estimate) -> list[str | Cell]:
    return [_mean(own), difference_cell(own)]


def _value_with_tone(own: Estimate) -> Cell:
    return Cell(_mean(own), "", tone(own))
