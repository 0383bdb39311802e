"""What an evaluation found, as documented dataclasses that print themselves as tables."""

from collections.abc import Sequence
from dataclasses import dataclass

from counterpoise.evaluation.confusion import ConfusionMatrix
from counterpoise.evaluation.error_types import ERROR_TYPES, BackgroundRate, ErrorCount
from counterpoise.evaluation.groups import mean_title
from counterpoise.evaluation.proposals import LIMITS, ProposalResult
from counterpoise.utils.table import Cell, Table
from counterpoise.utils.text import interval, number, sentence

Interval = tuple[float, float]


@dataclass(frozen=True)
class ClassResult:
    """Result of one class. Rates lie in 0-100; what cannot be said is None.

    Attributes:
        name: of the class.
        AP: COCO's average precision, IoU 0.50:0.95 and 101 recalls; None without test boxes.
        AP50, AP75: the same at one IoU.
        AR100: COCO's average recall with at most 100 detections per image.
        VOC07_AP50: Pascal VOC 2007's average precision, IoU > 0.5 and 11 recalls.
        VOC10_AP50: that of Pascal VOC since 2010, IoU > 0.5 and the area under the curve.
        AP_interval, AP50_interval: 95 % interval by bootstrap over test images; None for a class
            in fewer than two of them.
        missing_resamples: resamples without a box of the class, which the intervals leave out.
        threshold: score in [0, 1] at which the next four are measured, see
            :attr:`Evaluation.thresholds_from`. A class of which nothing is found takes the best
            threshold for all classes together.
        precision, recall, F1: at IoU 0.50.
        detections: detections of at least `threshold`.
        background_at_recall: false positives on background per image at the score that reaches a
            recall of 0.5 and of 0.8, by that recall; models can be compared there, whatever their
            scores mean.
        errors: by type, see :mod:`counterpoise.evaluation.error_types`; counted among the
            detections of at least `threshold`.
        proposal_AR100, proposal_AR1000: average recall of the first 100 and 1,000 proposals per
            image; None without an RPN.
        train_images, train_boxes: in the training set; None where it is not known.
        test_images, test_boxes: in the test set, crowd and difficult boxes not counted.
    """

    name: str
    AP: float | None
    AP50: float | None
    AP75: float | None
    AR100: float | None
    VOC07_AP50: float | None
    VOC10_AP50: float | None
    AP_interval: Interval | None
    AP50_interval: Interval | None
    missing_resamples: int
    threshold: float
    precision: float | None
    recall: float | None
    F1: float | None
    detections: int
    background_at_recall: dict[str, BackgroundRate]
    errors: dict[str, ErrorCount]
    proposal_AR100: float | None
    proposal_AR1000: float | None
    train_images: int | None
    train_boxes: int | None
    test_images: int
    test_boxes: int


@dataclass(frozen=True)
class GroupResult:
    """Means over the classes of a frequency group that have test boxes.

    Attributes:
        name: rare, common, frequent, head or tail.
        rule: what puts a class into it.
        classes: their names.
        AP, AP50: 0-100; None where no class has test boxes.
        AP_interval: 95 % interval by bootstrap over test images.
    """

    name: str
    rule: str
    classes: tuple[str, ...]
    AP: float | None
    AP50: float | None
    AP_interval: Interval | None


@dataclass(frozen=True)
class Evaluation:
    """Result on one test set. Rates lie in 0-100.

    Attributes:
        AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100: COCO's summary, means over the classes with
            test boxes; None where no box has that size.
        VOC07_AP50, VOC10_AP50: Pascal VOC's means, see :class:`ClassResult`.
        AP_interval, AP50_interval: 95 % interval by bootstrap over test images. It says how far
            another choice of test images would move the mean, not another training seed.
        resamples, bootstrap_seed: of the bootstrap.
        test_images: in the test set.
        thresholds_from: where the thresholds of the classes come from.
        per_class: in class order.
        groups: by training frequency; empty where the training set is not known.
        errors: by type, over all classes; counted as in the classes.
        confusion: matched detections of at least their class's threshold.
        proposals: recall of the RPN; None without one.
        notes: what a reader must know, one sentence each.
    """

    AP: float | None
    AP50: float | None
    AP75: float | None
    APs: float | None
    APm: float | None
    APl: float | None
    AR1: float | None
    AR10: float | None
    AR100: float | None
    VOC07_AP50: float | None
    VOC10_AP50: float | None
    AP_interval: Interval | None
    AP50_interval: Interval | None
    resamples: int
    bootstrap_seed: int
    test_images: int
    thresholds_from: str
    per_class: tuple[ClassResult, ...]
    groups: tuple[GroupResult, ...]
    errors: dict[str, ErrorCount]
    confusion: ConfusionMatrix
    proposals: ProposalResult | None
    notes: tuple[str, ...]

    @property
    def most_frequent_first(self) -> list[ClassResult]:
        """Classes by descending number of training boxes, of test boxes where it is not known."""
        return sorted(self.per_class, key=lambda c: -training_count(c))

    def __str__(self) -> str:
        notes = [f"Note: {note}" for note in self.notes]
        return "\n\n".join([score_table(self).as_text(), error_table(self).as_text(), *notes])


def training_count(result: ClassResult) -> int:
    """Boxes in the training set, or in the test set where that is not known."""
    return result.test_boxes if result.train_boxes is None else result.train_boxes


def score_table(result: Evaluation) -> Table:
    """Average precision, precision and recall by class, and the means of groups and classes."""
    rows = [
        (
            c.name,
            *(number(n, 0) for n in (c.train_images, c.train_boxes, c.test_images, c.test_boxes)),
            number(c.AP), interval(c.AP_interval), number(c.AP50),
            number(c.precision), number(c.recall), number(c.threshold, 2),
        )
        for c in result.most_frequent_first
    ]  # fmt: skip
    with_boxes = {c.name for c in result.per_class if c.test_boxes}
    means = [(mean_title(g.name, g.classes, with_boxes), g) for g in result.groups]
    means.append(("mean of classes", result))
    rows += [
        (
            name, "", "", "", "",
            number(mean.AP), interval(mean.AP_interval), number(mean.AP50), "", "", "",
        )
        for name, mean in means
    ]  # fmt: skip
    return Table(
        ("class", *["images", "boxes"] * 2, "AP", "95 % interval", "AP50", "precision", "recall",
         "at score"),
        rows,
        note="AP is COCO's, 0 to 100, over IoU 0.50 to 0.95. Intervals are 95 %, by "
        f"{result.resamples} resamples of the {result.test_images} test images; they do not cover "
        "the training seed. Precision and recall are at IoU 0.50 and the score beside them; "
        f"thresholds: {result.thresholds_from}. Most frequent class first. "
        + " ".join(sentence(f"{group.name}: {group.rule}") for group in result.groups),
        groups=(("", 1), ("training", 2), ("test", 2), ("", 6)),
        totals=len(means),
    )  # fmt: skip


def metric_table(result: Evaluation) -> Table:
    """The metrics by class that :func:`score_table` leaves out."""
    names = ("AP75", "AR100", "VOC07_AP50", "VOC10_AP50", "F1")
    rows = [
        (c.name, *(number(getattr(c, metric)) for metric in names), interval(c.AP50_interval))
        for c in result.most_frequent_first
    ]
    means = [number(getattr(result, metric)) for metric in names[:-1]]
    rows.append(("mean of classes", *means, "", interval(result.AP50_interval)))
    headers = (
        "class", "AP75", "AR at 100", "VOC 2007 AP50", "VOC 2010 AP50", "F1",
        "AP50, 95 % interval",
    )  # fmt: skip
    return Table(headers, rows, totals=1)


def error_table(result: Evaluation) -> Table:
    """The AP50 that each error type costs, and how many errors there are of it."""
    found = [(c.name, c.errors) for c in result.most_frequent_first] + [("all", result.errors)]
    return Table(
        ("class", *ERROR_TYPES),
        [
            (name, *(Cell(number(e.AP50_lost), f"({e.count})") for e in errors.values()))
            for name, errors in found
        ],
        note="The AP50 that fixing the errors of one type alone would gain, at any score; the "
        "types do not add up to 100 - AP50. In brackets the number of errors among the detections "
        "of at least the score of their class, in the row of the class that was predicted, or of "
        "missed boxes.",
        totals=1,
    )


def proposal_table(result: Evaluation) -> Table:
    """Recall of the proposals, if any, and false positives where a recall is reached."""
    proposals, recalls = result.proposals, list(result.per_class[0].background_at_recall)
    rows: list[Sequence[str]] = [
        (
            c.name,
            *((number(c.proposal_AR100), number(c.proposal_AR1000)) if proposals else ()),
            *(number(c.background_at_recall[recall].per_image, 2) for recall in recalls),
        )
        for c in result.most_frequent_first
    ]
    note = (
        "False positives on background per image are counted at the score where a class reaches a "
        "recall, so that models can be compared whose scores cannot."
    )
    if proposals:
        overall = (number(proposals.proposal_AR100), number(proposals.proposal_AR1000))
        rows.append(("all boxes", *overall, *[""] * len(recalls)))
        note = (
            "Average recall of the RPN's proposals over IoU 0.50 to 0.95; an image has at most "
            f"{proposals.max_proposals} of them. {note}"
        )
    limits = [f"{limit:,}" for limit in LIMITS] if proposals else []
    return Table(
        ("class", *limits, *recalls),
        rows,
        note=note,
        groups=(
            ("", 1),
            *([("average recall at", len(limits))] if limits else []),
            ("background per image at recall", len(recalls)),
        ),
        totals=1 if proposals else 0,
    )
