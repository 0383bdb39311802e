"""An inspection for the terminal and as a page, from the same sections."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from counterpoise.inspection.figures import (
    draw_cooccurrence,
    draw_counts,
    draw_sample,
    draw_sizes,
)
from counterpoise.inspection.near_duplicates import MOST_IMAGES
from counterpoise.inspection.recommendation import as_yaml
from counterpoise.inspection.results import Inspection, Sizes
from counterpoise.pages.rendering import render
from counterpoise.pages.sections import (
    Figure,
    Fold,
    Gallery,
    Part,
    Picture,
    Section,
    Text,
    parts_as_text,
    sections_as_text,
)
from counterpoise.utils.table import Table
from counterpoise.utils.text import counted, number, percent

_MOST_COLUMNS = 12  # classes of the co-occurrence matrix as a table
_EXAMPLES = 3  # in the terminal: invalid annotations of a kind, and pairs of files of two splits
_MOST_UNFOLDED = 20  # pairs of files


def as_text(inspection: Inspection) -> str:
    """All findings for the terminal, one section each, the recommendation last."""
    lead = parts_as_text(_lead(inspection))
    return f"{lead}\n\n{sections_as_text(_sections(inspection, page=False))}"


def as_page(inspection: Inspection) -> str:
    """Render ``inspect.html``, one file that needs no other, the recommendation first."""
    *findings, recommendation = _sections(inspection, page=True)
    title = f"Inspection of {inspection.name}"
    return render(title, list(_lead(inspection)), [recommendation, *findings])


def _sections(inspection: Inspection, page: bool) -> list[Section]:
    """All sections; `page` adds figures, and lists that are too long for the terminal."""
    subject = inspection.subject
    sections = [("classes", "Boxes per class", _counts)]
    if subject.boxes:
        sections.append(("sizes", "Size of the boxes", _sizes))
    if inspection.anchors:
        sections.append(("anchors", "Boxes against anchors", _anchors))
    if subject.boxes and len(inspection.class_names) > 1:
        sections.append(("cooccurrence", "Images that hold both classes", _cooccurrence))
    sections += [
        ("weights", "Class weights by rule", _weights),
        ("repeat", "Repeat-factor sampling", _repeat_factors),
        ("invalid", "Invalid annotations", _invalid_annotations),
        ("duplicate-files", "Files that occur twice", _duplicate_files),
        ("near-duplicates", "Images that look alike in two splits", _near_duplicates),
        ("samples", "The rarest classes", _samples),
        ("recommendation", "Recommendation", _recommendation),
    ]
    return [Section(id, title, list(parts(inspection, page))) for id, title, parts in sections]


def _lead(inspection: Inspection) -> Iterator[Part]:
    subject = inspection.subject
    counts = [
        counted(subject.images, "image"),
        counted(subject.boxes, "box"),
        *([f"{counted(subject.crowds, 'crowd region')} beside them"] if subject.crowds else []),
        counted(len(inspection.class_names), "class"),
    ]
    if subject.imbalance is not None:
        counts.append(f"imbalance {subject.imbalance:.1f} to 1 (most to least frequent class)")
    yield Text(f"{subject.name}: {', '.join(counts)}")
    if len(inspection.splits) > 1:
        yield Text(
            "Counts, invalid annotations and files are of all splits, everything else is of "
            f"{subject.name} alone."
        )
    for split in inspection.splits:
        if len(split.datasets) > 1:
            yield Text(f"{split.name} is {', '.join(split.datasets)} together.")
    yield from (Text(f"Note: {note}", "note") for note in inspection.notes)
    noted: dict[str, list[str]] = defaultdict(list)
    for split in inspection.splits:
        for note in split.notes:
            noted[note].append(split.name)
    for note, names in noted.items():
        of_each = "each of " if len(names) > 1 else ""
        yield Text(f"Note on {of_each}{', '.join(names)}: {note}", "note")


def _class_table(
    inspection: Inspection,
    headers: Sequence[str],
    row: Callable[[int], Sequence[str]],
    totals: Sequence[Sequence[str]],
    groups: Sequence[tuple[str, int]] = (),
) -> Table:
    """A table with a row per class, by descending number of boxes, and totals below."""
    rows = [(inspection.class_names[i], *row(i)) for i in inspection.by_boxes]
    return Table(("class", *headers), [*rows, *totals], groups=groups, totals=len(totals))


def _counts(inspection: Inspection, page: bool) -> Iterator[Part]:
    splits = inspection.splits
    if page and inspection.subject.boxes:
        yield Figure(draw_counts(inspection), "Boxes per class and split on a logarithmic axis")

    def row(i: int) -> list[str]:
        counts = [split.classes[i] for split in splits]
        return [percent(counts[0].share), *(str(n) for c in counts for n in (c.boxes, c.images))]

    crowds = [cell for split in splits for cell in (str(split.crowds), "")]
    yield _class_table(
        inspection,
        ["share", *["boxes", "images"] * len(splits)],
        row,
        [
            ("all", "", *(str(n) for s in splits for n in (s.boxes, s.images))),
            ("without boxes", "", *(n for s in splits for n in ("", str(s.empty_images)))),
            ("most : least", "", *(n for s in splits for n in (number(s.imbalance), ""))),
            *([("crowd regions", "", *crowds)] if any(s.crowds for s in splits) else []),
        ],
        [("", 2), *((f"{s.name} ({s.role})" if s.role else s.name, 2) for s in splits)],
    )


def _sizes(inspection: Inspection, page: bool) -> Iterator[Part]:
    yield Text(
        "The size is the square root of the area, in pixels of the image file, and of the median "
        "also as a share of the same of the image. Small, medium and large are COCO's: below 32, "
        "below 96, and above."
    )

    def cells(size: Sizes) -> list[str]:
        if not size.boxes:
            return ["-"] * 9
        shares = (size.small, size.medium, size.large)
        return [
            *(number(value, 0) for value in size.pixels),
            percent(size.relative[2]),
            *(percent(n / size.boxes, 0) for n in shares),
        ]

    yield _class_table(
        inspection,
        ("5 %", "25 %", "median", "75 %", "95 %", "of image", "small", "medium", "large"),
        lambda i: cells(inspection.sizes[i]),
        [("all", *cells(inspection.all_sizes))],
    )


def _anchors(inspection: Inspection, page: bool) -> Iterator[Part]:
    anchors, setting = inspection.anchors, inspection.anchors.setting
    levels = ", ".join(" ".join(f"{size:g}" for size in level) for level in setting.sizes)
    resize = f"resized to a short side of {setting.min_size} and a long side of at most "
    yield Text(
        "The share of the boxes whose best anchor has an IoU of at least 0.5 and 0.7, for "
        f"{setting.model}: anchors of {levels} pixels, images "
        + (f"{resize}{setting.max_size}." if setting.min_size else "as they are.")
    )
    if page:
        alt = "Histogram of box sizes with the anchors' sizes marked"
        yield Figure(draw_sizes(anchors), alt)
    change = anchors.change
    fits = [*anchors.classes, anchors.overall]
    changed = [*change.classes, change.overall] if change else []

    def row(i: int) -> list[str]:
        fit = fits[i]
        shares = [percent(fit.at_50), percent(fit.at_70), number(fit.median_iou, 2)]
        return [str(fit.boxes), *shares, *([percent(changed[i].at_50)] if change else [])]

    headers = ["boxes", "IoU >= 0.5", "IoU >= 0.7", "median IoU"]
    headers += ["IoU >= 0.5 after the change"] if change else []
    yield _class_table(inspection, headers, row, [("all", *row(-1))])
    if change:
        yield Text(f"The change: {change.what}.", "note")


def _cooccurrence(inspection: Inspection, page: bool) -> Iterator[Part]:
    names, order = inspection.class_names, inspection.by_boxes
    if page:
        yield Figure(
            draw_cooccurrence(inspection),
            "Co-occurrence of classes",
            "Numbers are images, the diagonal being all images of the class; the colour is their "
            "share of the row's images. Repeating an image for a rare class repeats what else is "
            "in it.",
        )
    elif len(names) > _MOST_COLUMNS:
        yield Text(f"{len(names)} classes: see the matrix in inspect.html or inspect.json.")
    else:
        rows = [(names[i], *(str(inspection.cooccurrence[i][j]) for j in order)) for i in order]
        yield Table(["", *(names[j] for j in order)], rows)


def _weights(inspection: Inspection, page: bool) -> Iterator[Part]:
    rules = [rule for rule in inspection.weights if rule.problem is None]
    if rules:
        yield _class_table(
            inspection,
            [rule.rule for rule in rules],
            lambda i: [f"{rule.weights[i]:.4g}" for rule in rules],
            [
                ("background, sum_div3", *(f"{rule.background_sum_div3:.4g}" for rule in rules)),
                ("background, mean", *(f"{rule.background_mean:.4g}" for rule in rules)),
                ("largest : smallest", *(number(rule.spread) for rule in rules)),
            ],
        )
    for rule in inspection.weights:
        if rule.problem is not None:
            yield Text(f"{rule.rule}: {rule.problem}", "note")
    if inspection.weights:
        yield Text("With the normaliser `weight_sum` only the ratios matter.", "note")


def _repeat_factors(inspection: Inspection, page: bool) -> Iterator[Part]:
    results = inspection.repeat_factors
    if not results:
        return
    yield Text(
        "How often images of a class are repeated at a `DATALOADER.REPEAT_THRESHOLD` of t. "
        f"Thresholds up to {inspection.least_frequency:.3g}, the share of images that hold the "
        "rarest class, do nothing."
    )
    yield _class_table(
        inspection,
        [f"t = {result.threshold:g}" for result in results],
        lambda i: [number(result.factors[i], 2) for result in results],
        [
            ("epoch, times as long", *(number(result.epoch_growth, 2) for result in results)),
            ("most : least boxes", *(number(result.imbalance) for result in results)),
        ],
    )


def _invalid_annotations(inspection: Inspection, page: bool) -> Iterator[Part]:
    sources = inspection.invalid_annotations
    if not sources:
        yield Text("Not checked: the dataset is not one of `DATASETS.CUSTOM`.")
    elif not any(source.annotations for source in sources):
        yield Text("None.")
    elif page:
        rows = [
            (", ".join(source.splits), invalid.kind.value, invalid.where, invalid.reason[:500])
            for source in sources
            for invalid in source.annotations
        ]
        headers = ("split", "what", "where", "found")
        yield Table(headers, rows, left=frozenset(range(4)), style="files")
    else:
        for source in sources:
            by_kind = sorted(source.annotations, key=lambda invalid: invalid.kind)
            for kind, group in groupby(by_kind, key=lambda invalid: invalid.kind):
                found = [str(invalid) for invalid in group]
                yield Text(f"{', '.join(source.splits)}: {len(found)} x {kind}")
                yield _examples(found)


def _duplicate_files(inspection: Inspection, page: bool) -> Iterator[Part]:
    duplicates = inspection.duplicate_files
    for shared in duplicates.shared:
        within = shared.first == shared.second
        where = f"within {shared.first}" if within else f"{shared.first} and {shared.second}"
        summary = f"{where}: {shared.images}"
        if page:
            headers = (shared.first, shared.second)
            table = Table(headers, shared.pairs, left=frozenset({0, 1}), style="files")
            yield Fold(summary, [table], is_open=len(shared.pairs) <= _MOST_UNFOLDED)
        else:
            yield Text(summary)
            yield _examples([f"{first} = {second}" for first, second in shared.pairs])
    if not duplicates.shared:
        yield Text(
            f"None among {counted(duplicates.files, 'file')}, which are compared by their bytes."
        )
    if unreadable := duplicates.unreadable:
        yield Text(f"{counted(len(unreadable), 'file')} could not be read:", "note")
        yield _examples(unreadable, most=len(unreadable) if page else _EXAMPLES)


def _near_duplicates(inspection: Inspection, page: bool) -> Iterator[Part]:
    found = inspection.near_duplicates
    if len(inspection.splits) < 2:
        yield Text("Not compared: there is one split only.")
        return
    yield Text(
        "Images that are compared by their looks: other encodings, sizes and brightness, mirrored "
        "and turned copies and the frames of a still camera are found, crops and the frames of a "
        "moving camera are not."
    )
    if found.similar:
        rows = [
            (
                s.second,
                s.first,
                str(len(s.pairs)),
                str(s.compared),
                percent(len(s.pairs) / s.compared),
            )
            for s in found.similar
        ]
        headers = ("images of", "look like one of", "images", "compared", "share")
        yield Table(headers, rows, left=frozenset({0, 1}))
    else:
        yield Text(f"None among {counted(found.images, 'image')}.")
    for similar in found.similar:
        if page:
            rows = [(own, other, str(bits)) for own, other, bits in similar.pairs]
            headers = (similar.second, similar.first, "bits apart, of 256")
            table = Table(headers, rows, left=frozenset({0, 1}), style="files")
            summary = f"{similar.second} and {similar.first}: {len(rows)}"
            yield Fold(summary, [table], is_open=len(rows) <= _MOST_UNFOLDED)
        else:
            yield _examples([f"{own} ~ {other}" for own, other, _ in similar.pairs])
    for name in found.sampled:
        yield Text(f"Of {name} only {MOST_IMAGES} images were compared, evenly spaced.", "note")
    if found.unreadable:
        yield Text(f"{counted(len(found.unreadable), 'image')} could not be decoded.", "note")


def _examples(lines: Sequence[str], most: int = _EXAMPLES) -> Text:
    more = len(lines) - most
    ending = [f"... and {more} more in inspect.json and inspect.html"] if more > 0 else []
    return Text("\n".join([*lines[:most], *ending]), "code")


def _samples(inspection: Inspection, page: bool) -> Iterator[Part]:
    if page and inspection.samples:
        yield Gallery(
            [
                Picture(draw_sample(sample), sample.class_name, sample.file)
                for sample in inspection.samples
            ]
        )
        yield Text("The named class is drawn in orange, other classes in thin lines.", "note")


def _recommendation(inspection: Inspection, page: bool) -> Iterator[Part]:
    for i, advice in enumerate(inspection.recommendations, start=1):
        yield Text(f"{i}. {advice.title}{' (optional)' if advice.optional else ''}", "heading")
        yield Text(advice.reason)
        if advice.settings:
            yield Text(as_yaml(advice.settings), "code")
    if inspection.config:
        yield Text("The config", "heading")
        yield Text(
            "All of it but what is optional, in one file to be given as the last `--config-file`, "
            "after the config that was given, or else after the base.yaml of one of `configs/`:"
        )
        yield Text(inspection.config, "code")
