"""An inspection as text for the terminal."""

from collections.abc import Callable, Iterator, Sequence
from textwrap import fill, indent

from tabulate import tabulate

from counterpoise.inspection.recommendation import as_yaml
from counterpoise.inspection.results import Anchors, Inspection

_MOST_CLASSES = 40  # rows of a table; the page and the JSON hold all
_MOST_COLUMNS = 12  # classes of the co-occurrence matrix
_WIDTH = 100  # of running text
_EXAMPLES = 3  # invalid per kind, and pairs of files per two splits


def as_text(inspection: Inspection) -> str:
    """All findings, one section each, the recommendation last."""
    sections = (
        ("Boxes per class", _counts),
        ("Size of the boxes", _sizes),
        ("Boxes against anchors", _anchors),
        ("Images that hold both classes", _cooccurrence),
        ("Class weights", _weights),
        ("Repeat-factor sampling", _repeat_factors),
        ("Invalid annotations", _faults),
        ("Files that occur twice", _overlap),
        ("Recommendation", _recommendation),
    )
    blocks = ["\n".join(_head(inspection))]
    for title, lines_of in sections:
        if lines := list(lines_of(inspection)):
            blocks.append("\n".join([title, "=" * len(title), *lines]))
    return "\n\n".join(blocks)


def _head(inspection: Inspection) -> Iterator[str]:
    subject = inspection.subject
    parts = [f"{subject.images} images", f"{subject.boxes} boxes"]
    parts.append(f"{len(inspection.class_names)} classes")
    if subject.imbalance is not None:
        parts.append(f"imbalance {subject.imbalance:.1f} to 1")
    yield f"{subject.name}: {', '.join(parts)}"
    if len(inspection.splits) > 1:
        yield f"All but the counts, the invalid and the files is about {subject.name} alone."
    yield from (f"note: {note}" for note in inspection.notes)
    for split in inspection.splits:
        yield from (f"note on {split.name}: {note}" for note in split.notes)


def _shown(inspection: Inspection) -> list[int]:
    """Classes to show, by descending number of boxes; of many the first and the last ones."""
    order = inspection.by_boxes
    half = _MOST_CLASSES // 2
    return order if len(order) <= _MOST_CLASSES else order[:half] + order[-half:]


def _class_table(
    inspection: Inspection,
    headers: Sequence[str],
    row: Callable[[int], Sequence[str]],
    footer: Sequence[Sequence[str]] = (),
) -> Iterator[str]:
    shown = _shown(inspection)
    yield _table(
        [(inspection.class_names[i], *row(i)) for i in shown] + list(footer), ("class", *headers)
    )
    if left_out := len(inspection.class_names) - len(shown):
        yield f"({left_out} classes between are left out here)"


def _table(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    return tabulate(
        rows, headers, tablefmt="simple", disable_numparse=True,
        colalign=("left", *["right"] * (len(headers) - 1)),
    )  # fmt: skip


def _counts(inspection: Inspection) -> Iterator[str]:
    splits = inspection.splits

    def row(i: int) -> list[str]:
        first = splits[0].classes[i]
        return [
            f"{first.share:.1%}",
            *(f"{n}" for s in splits for n in (s.classes[i].boxes, s.classes[i].images)),
        ]

    headers = [h for s in splits for h in (f"{s.role or s.name}\nboxes", "\nimages")]
    footer = [
        ("all", "", *(f"{n}" for s in splits for n in (s.boxes, s.images))),
        ("without boxes", "", *(f for s in splits for f in ("", f"{s.empty_images}"))),
        ("most : least", "", *(f for s in splits for f in (_number(s.imbalance), ""))),
    ]
    yield from _class_table(inspection, ["\nshare", *headers], row, footer)


def _sizes(inspection: Inspection) -> Iterator[str]:
    if not inspection.all_sizes.boxes:
        return
    rows = [*inspection.sizes, inspection.all_sizes]

    def row(i: int) -> list[str]:
        size = rows[i]
        if not size.boxes:
            return ["-"] * 7
        low, _, median, _, high = size.pixels
        shares = (size.small, size.medium, size.large)
        return [
            *(f"{value:.0f}" for value in (low, median, high)),
            f"{size.relative[2]:.1%}",
            *(f"{n / size.boxes:.0%}" for n in shares),
        ]

    yield "Square root of the area in pixels of the file; COCO's small, medium and large."
    headers = ("5 %", "median", "95 %", "of image", "small", "medium", "large")
    yield from _class_table(inspection, headers, row, [("all", *row(-1))])


def _anchors(inspection: Inspection) -> Iterator[str]:
    anchors = inspection.anchors
    if anchors is None:
        return
    rows = [*anchors.classes, anchors.overall]

    def row(i: int) -> list[str]:
        fit = rows[i]
        return [_percent(fit.at_50), _percent(fit.at_70), _number(fit.median_iou, 2)]

    yield _wrapped(
        "Share of the boxes whose best anchor has an IoU of at least 0.5 and 0.7, for "
        f"{_model(anchors)}"
    )
    headers = ("IoU >= 0.5", "IoU >= 0.7", "median IoU")
    yield from _class_table(inspection, headers, row, [("all", *row(-1))])


def _model(anchors: Anchors) -> str:
    levels = ", ".join(" ".join(f"{size:g}" for size in level) for level in anchors.sizes)
    resize = f"short side {anchors.min_size}, long side at most {anchors.max_size}"
    return (
        f"{anchors.model}: anchors of {levels} pixels, images "
        f"{'resized to ' + resize if anchors.min_size else 'as they are'}"
    )


def _cooccurrence(inspection: Inspection) -> Iterator[str]:
    names = inspection.class_names
    if len(names) < 2:
        return
    if len(names) > _MOST_COLUMNS:
        yield f"{len(names)} classes: see the matrix in inspect.html or inspect.json."
        return
    order = inspection.by_boxes
    rows = [(names[i], *(f"{inspection.cooccurrence[i][j]}" for j in order)) for i in order]
    yield _table(rows, ["", *(names[j] for j in order)])


def _weights(inspection: Inspection) -> Iterator[str]:
    rules = [rule for rule in inspection.weights if rule.problem is None]
    if not inspection.weights:
        return

    def row(i: int) -> list[str]:
        return [f"{rule.weights[i]:.4g}" for rule in rules]

    footer = [
        ("(background, sum_div3)", *(f"{rule.background_sum_div3:.4g}" for rule in rules)),
        ("(background, mean)", *(f"{rule.background_mean:.4g}" for rule in rules)),
        ("largest : smallest", *(f"{rule.spread:.1f}" for rule in rules)),
    ]
    if rules:
        yield from _class_table(inspection, [rule.rule for rule in rules], row, footer)
    yield from (f"{r.rule}: {r.problem}" for r in inspection.weights if r.problem is not None)


def _repeat_factors(inspection: Inspection) -> Iterator[str]:
    results = inspection.repeat_factors
    if not results:
        return
    yield (
        f"Thresholds up to {inspection.least_frequency:.3g}, the share of images that hold the "
        "rarest class, do nothing."
    )
    footer = [
        ("epoch, times as long", *(f"{r.epoch_growth:.2f}" for r in results)),
        ("most : least boxes", *(_number(r.imbalance) for r in results)),
    ]
    headers = [f"t = {r.threshold:g}" for r in results]
    yield from _class_table(
        inspection, headers, lambda i: [_number(r.factors[i], 2) for r in results], footer
    )


def _faults(inspection: Inspection) -> Iterator[str]:
    for source in inspection.invalid:
        for kind in dict.fromkeys(entry.kind for entry in source.invalid):
            found = [entry for entry in source.invalid if entry.kind is kind]
            yield f"{', '.join(source.splits)}: {len(found)} x {kind}"
            yield from (f"    {entry}" for entry in found[:_EXAMPLES])
            if len(found) > _EXAMPLES:
                yield f"    ... and {len(found) - _EXAMPLES} more in inspect.json and inspect.html"
    if not any(source.invalid for source in inspection.invalid):
        yield "none" if inspection.invalid else "not checked: the dataset is not one of CUSTOM"


def _overlap(inspection: Inspection) -> Iterator[str]:
    overlap = inspection.overlap
    for shared in overlap.shared:
        within = shared.first == shared.second
        where = f"within {shared.first}" if within else f"{shared.first} and {shared.second}"
        yield f"{where}: {shared.images}"
        yield from (f"    {a.file} = {b.file}" for a, b in shared.pairs[:_EXAMPLES])
        if len(shared.pairs) > _EXAMPLES:
            yield f"    ... and {len(shared.pairs) - _EXAMPLES} more"
    if not overlap.shared:
        yield f"none among {overlap.files} files; neighbouring frames of a video differ in content"
    if overlap.unreadable:
        yield f"{len(overlap.unreadable)} files could not be read, such as {overlap.unreadable[0]}"


def _recommendation(inspection: Inspection) -> Iterator[str]:
    for number, advice in enumerate(inspection.recommendations, start=1):
        yield f"{number}. {advice.title}{' (optional)' if advice.optional else ''}"
        yield _wrapped(advice.reason, "   ")
        if advice.settings:
            yield indent(as_yaml(advice.settings).rstrip(), " " * 7)
    if inspection.config:
        yield (
            "\nAll of it but what is optional, in one file to be given as the last --config-file, "
            "after one of\nconfigs/:\n"
        )
        yield indent(inspection.config.rstrip(), " " * 4)


def _wrapped(text: str, margin: str = "") -> str:
    return fill(text, _WIDTH, initial_indent=margin, subsequent_indent=margin)


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
