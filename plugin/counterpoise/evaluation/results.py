"""What an evaluation found, as documented dataclasses that print themselves as tables."""

from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

from counterpoise.evaluation.confusion import ConfusionMatrix
from counterpoise.evaluation.error_types import ERROR_TYPES, BackgroundRate, ErrorCount
from counterpoise.evaluation.proposals import ProposalResult

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

    def __str__(self) -> str:
        legend = (
            f"AP is COCO's, its interval from {self.resamples} resamples of the {self.test_images} "
            f"test images.\nPrecision and recall are at IoU 0.50 and the scores of "
            f"{self.thresholds_from}."
        )
        parts = [f"{self._class_table()}\n{legend}", self._error_table()]
        parts += [f"Note: {note}" for note in self.notes]
        return "\n\n".join(parts)

    def _class_table(self) -> str:
        rows = [
            (
                c.name,
                _counts(c.train_boxes, c.train_images),
                _counts(c.test_boxes, c.test_images),
                _number(c.AP),
                _interval(c.AP_interval),
                _number(c.AP50),
                _number(c.precision),
                _number(c.recall),
                _number(c.threshold, 2),
            )
            for c in self.per_class
        ]
        means = [
            (f"mean of {g.name} ({len(g.classes)})", g.AP, g.AP_interval, g.AP50)
            for g in self.groups
        ]
        means.append(("mean of classes", self.AP, self.AP_interval, self.AP50))
        rows += [
            (name, "", "", _number(ap), _interval(spread), _number(ap50), "", "", "")
            for name, ap, spread, ap50 in means
        ]
        headers = (
            "class", "train boxes (images)", "test boxes (images)", "AP", "95 % interval", "AP50",
            "precision", "recall", "at score",
        )  # fmt: skip
        return _table(rows, headers)

    def _error_table(self) -> str:
        found = [(c.name, c.errors) for c in self.per_class] + [("all", self.errors)]
        rows = [
            (name, *(f"{errors[k].count} ({_number(errors[k].AP50_lost)})" for k in ERROR_TYPES))
            for name, errors in found
        ]
        title = "Errors at these scores: count (AP50 lost to the kind, at any score)"
        return f"{title}\n{_table(rows, ('class', *ERROR_TYPES))}"


def _table(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    alignment = ("left", *["right"] * (len(headers) - 1))
    return tabulate(rows, headers, tablefmt="simple", disable_numparse=True, colalign=alignment)


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _interval(value: Interval | None) -> str:
    return "-" if value is None else f"{value[0]:.1f} to {value[1]:.1f}"


def _counts(boxes: int | None, images: int | None) -> str:
    return "-" if boxes is None else f"{boxes} ({images})"
