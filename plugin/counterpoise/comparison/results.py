"""What a comparison of runs finds, as plain frozen dataclasses; ``compare.json`` holds them so."""

from dataclasses import dataclass

from counterpoise.evaluation.results import Interval


@dataclass(frozen=True)
class Value:
    """A number of one run beside the baseline's.

    Attributes:
        value: None where there is none, such as an AP without test boxes. Of several seeds it is
            the mean, as everything here is.
        difference: minus the baseline's, of seeds that both have; None for the baseline.
        interval: of an AP, the 95 % interval of the difference by paired bootstrap over test
            images: both runs are scored on the same resamples. Where there are several seeds it
            covers them too, see :mod:`counterpoise.evaluation.seeds`. None where no class is in
            two test images.
        excludes_zero: the interval excludes 0, so other test images would hardly turn the sign. It
            says nothing of another training seed unless there are several.
        std: standard deviation over the seeds; None of a single one.
    """

    value: float | None
    difference: float | None = None
    interval: Interval | None = None
    excludes_zero: bool = False
    std: float | None = None


#: By run, in the order of :attr:`Comparison.runs`.
Values = dict[str, Value]


@dataclass(frozen=True)
class Scores:
    """Average precision of a class, or the mean over several.

    Attributes:
        name: of the class or group.
        AP: COCO's, IoU 0.50:0.95 and 101 recalls, 0-100.
        AP50: the same at IoU 0.50.
    """

    name: str
    AP: Values
    AP50: Values


@dataclass(frozen=True)
class GroupComparison(Scores):
    """Means over classes of similar frequency in training that have test boxes.

    Attributes:
        rule: what puts a class into the group.
        classes: their names.
    """

    rule: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class ErrorComparison:
    """Errors of one type, see :class:`counterpoise.evaluation.error_types.ErrorCount`.

    Attributes:
        count: among the detections of at least the score at which the run was evaluated.
        AP50_lost: AP50 that fixing them would gain, 0-100.
    """

    count: Values
    AP50_lost: Values


@dataclass(frozen=True)
class MatchedRecall:
    """What a recall that every run reaches costs; scores of different losses do not compare.

    Attributes:
        recall: 0-1, the highest of 0.80, 0.75, ... 0.05 that every run reaches at IoU 0.50; None
            for a sum over classes with different ones.
        background_per_image: false positives on background per image of the test set, with each
            run's detections cut where it reaches the recall.
        missed: boxes that none of the detections left finds, nor would if its class or location
            were right.
    """

    recall: float | None
    background_per_image: Values
    missed: Values


@dataclass(frozen=True)
class ClassComparison(Scores):
    """One class.

    Attributes:
        train_images, train_boxes: in the training set; None where it is not known.
        test_images, test_boxes: in the test set, crowd and difficult boxes not counted.
        missing_resamples: resamples without a box of the class, which the intervals leave out.
        errors: by type.
        matched: at matched recall; None where a run reaches no recall of 0.05.
    """

    train_images: int | None
    train_boxes: int | None
    test_images: int
    test_boxes: int
    missing_resamples: int
    errors: dict[str, ErrorComparison]
    matched: MatchedRecall | None


@dataclass(frozen=True)
class RunCost:
    """A run, or the runs of one config with several seeds, and what it took.

    Attributes:
        name: folder, with as much of its path as tells the runs apart.
        folders: of the runs, as given.
        seeds: of the runs; None where it was not kept, as everything below.
        command: that started it, of several the first.
        hardware: processors and GPUs that it ran on.
        seconds_per_iteration: median after warm-up, loading of data included.
        training_seconds: over all iterations, evaluation not included.
        seconds_per_image: of the model at inference, median over the test images.
        iteration_ratio, training_ratio, inference_ratio: each over the baseline's.
    """

    name: str
    folders: tuple[str, ...]
    seeds: tuple[int, ...] | None
    command: str | None
    hardware: str | None
    seconds_per_iteration: float | None
    training_seconds: float | None
    seconds_per_image: float | None
    iteration_ratio: float | None
    training_ratio: float | None
    inference_ratio: float | None


@dataclass(frozen=True)
class Comparison:
    """Runs on one test set.

    Attributes:
        test_set: its name.
        test_images: in it.
        resamples, bootstrap_seed: of the bootstrap.
        runs: at least two, the baseline first.
        mean: over the classes with test boxes.
        groups: by training frequency, the most frequent first; empty where it is not known.
        classes: in class order.
        errors: by type, over all classes.
        matched: sums over the classes that have one; None where none has.
        settings: config keys in which runs differ, with the value by run as text; None where the
            config of a run lacks the key or was not kept. Without SEED where a run has several.
        same_training_data: the runs that say so had equal training images and boxes per class.
        findings: by run but the baseline, in words, one sentence each.
        notes: what a reader must know, one sentence each.
    """

    test_set: str
    test_images: int
    resamples: int
    bootstrap_seed: int
    runs: tuple[RunCost, ...]
    mean: Scores
    groups: tuple[GroupComparison, ...]
    classes: tuple[ClassComparison, ...]
    errors: dict[str, ErrorComparison]
    matched: MatchedRecall | None
    settings: dict[str, dict[str, str | None]]
    same_training_data: bool
    findings: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]

    @property
    def baseline(self) -> RunCost:
        """The first run."""
        return self.runs[0]

    @property
    def others(self) -> tuple[RunCost, ...]:
        """All runs but the first."""
        return self.runs[1:]

    @property
    def several_seeds(self) -> bool:
        """Whether a side has several runs."""
        return any(len(run.folders) > 1 for run in self.runs)

    @property
    def rarest_first(self) -> list[ClassComparison]:
        """Classes by number of training boxes, or of test boxes where those are unknown."""
        known = all(c.train_boxes is not None for c in self.classes)
        return sorted(self.classes, key=lambda c: c.train_boxes if known else c.test_boxes)

    @property
    def tested(self) -> list[ClassComparison]:
        """Those of :attr:`rarest_first` that have test boxes."""
        return [c for c in self.rarest_first if c.test_boxes]
