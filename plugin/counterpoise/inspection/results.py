"""What an inspection finds, as plain frozen dataclasses; ``inspect.json`` holds them as they are.

Lists "per class" are in the order of :attr:`Inspection.class_names`. Crowd regions are counted
apart from boxes, but for the repeat factors, where Detectron2 counts them too.
"""

from dataclasses import dataclass, field
from typing import Any

from counterpoise.datasets import InvalidAnnotation
from counterpoise.inspection.anchor_changes import Anchors

#: Quantiles in which box sizes are given.
SIZE_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class ClassCount:
    """One class in one split.

    Attributes:
        images: images that hold at least one box of the class.
        boxes: its boxes.
        share: of all boxes of the split, in [0, 1].
        crowds: crowd regions of the class, which are no boxes.
    """

    images: int
    boxes: int
    share: float
    crowds: int


@dataclass(frozen=True)
class Split:
    """Counts of one split.

    Attributes:
        name: of its dataset, or one for several together.
        role: ``train``, ``val``, ``test``, or None where neither config nor folder says.
        datasets: under which it is registered.
        images: usable images.
        empty_images: those without any box.
        boxes: usable boxes.
        clipped: boxes that reached over the border of their image and were clipped to it; in a part
            of a ``HOLDOUT`` those of all of it.
        imbalance: boxes of the most frequent class over those of the rarest that has any, >= 1;
            None without boxes.
        classes: per class.
        notes: remarks of the reader, one sentence each.
    """

    name: str
    role: str | None
    datasets: tuple[str, ...]
    images: int
    empty_images: int
    boxes: int
    clipped: int
    imbalance: float | None
    classes: tuple[ClassCount, ...]
    notes: tuple[str, ...]

    @property
    def crowds(self) -> int:
        """Crowd regions, which are no boxes."""
        return sum(count.crowds for count in self.classes)


@dataclass(frozen=True)
class Sizes:
    """Sizes of boxes, a size being the square root of the area.

    Attributes:
        boxes: how many there are.
        pixels: :data:`SIZE_QUANTILES` of the size in pixels of the image file; empty without boxes.
        relative: the same of the size over that of the image, in (0, 1].
        small: boxes below 32 x 32 pixels (COCO's cut-offs, in the image file).
        medium: boxes from there to below 96 x 96.
        large: the others.
    """

    boxes: int
    pixels: tuple[float, ...]
    relative: tuple[float, ...]
    small: int
    medium: int
    large: int


@dataclass(frozen=True)
class RuleWeights:
    """The class weights that one rule gives.

    Attributes:
        rule: value of ``BALANCE.CLASS_WEIGHTS.RULE``.
        weights: per class; empty where the rule cannot be applied.
        background_sum_div3: the background's weight for ``BACKGROUND: sum_div3``.
        background_mean: the same for ``BACKGROUND: mean``.
        spread: largest class weight over the smallest.
        problem: why the rule cannot be applied, or None.
    """

    rule: str
    weights: tuple[float, ...] = ()
    background_sum_div3: float | None = None
    background_mean: float | None = None
    spread: float | None = None
    problem: str | None = None


@dataclass(frozen=True)
class RepeatFactors:
    """Repeat-factor sampling at one ``DATALOADER.REPEAT_THRESHOLD``.

    Attributes:
        threshold: t, a share of images.
        factors: per class max(1, sqrt(t / f)), f being the share of images that hold the class;
            None for a class without images. An image is repeated by the largest factor among its
            classes.
        epoch_growth: images of an epoch over those without repetition, >= 1; 1 means that the
            threshold does nothing.
        imbalance: imbalance ratio of the boxes that training then sees; None without boxes.
    """

    threshold: float
    factors: tuple[float | None, ...]
    epoch_growth: float
    imbalance: float | None


@dataclass(frozen=True)
class InvalidAnnotations:
    """Everything that was left out when one source was read.

    Attributes:
        splits: datasets read from this source: several where a part of it is held out.
        source: folder, file or list that was read.
        annotations: all of them, in reading order.
    """

    splits: tuple[str, ...]
    source: str
    annotations: tuple[InvalidAnnotation, ...]


@dataclass(frozen=True)
class SharedFiles:
    """Two splits that hold files with the same bytes, or one split that does.

    Attributes:
        first, second: names of the splits; the same name for duplicates within one.
        images: files of `first` that are in `second` as well; within one split, surplus copies.
        pairs: a file of `first` and one of `second` with the same bytes; each file of `first` once.
    """

    first: str
    second: str
    images: int
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class DuplicateFiles:
    """Files with the same bytes.

    Attributes:
        files: files compared.
        hashed: those among them whose size another one has too, and whose bytes were read.
        unreadable: files that could not be compared.
        shared: one entry per two splits that share files, and per split that holds copies.
    """

    files: int
    hashed: int
    unreadable: tuple[str, ...]
    shared: tuple[SharedFiles, ...]


@dataclass(frozen=True)
class SimilarFiles:
    """Images of a split that look like one of another split.

    Attributes:
        first, second: names of the splits.
        compared: images of `second`.
        pairs: a file of `second`, the file of `first` most like it, and the bits of 256 in which
            their hashes differ; each file of `second` once.
    """

    first: str
    second: str
    compared: int
    pairs: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True)
class NearDuplicates:
    """Images that look alike in two splits, without files of the same bytes.

    Attributes:
        images: that were compared; 0 where there is one split only.
        sampled: splits with so many images that only a part of them was compared.
        unreadable: files that could not be decoded.
        similar: one entry per two splits with such images.
    """

    images: int
    sampled: tuple[str, ...]
    unreadable: tuple[str, ...]
    similar: tuple[SimilarFiles, ...]


@dataclass(frozen=True)
class Sample:
    """An image that shows a rare class.

    Attributes:
        class_name: the rare class.
        file: path of the image.
        boxes: class name and x0, y0, x1, y1 in pixels of the file, of all boxes of the image.
    """

    class_name: str
    file: str
    boxes: tuple[tuple[str, tuple[float, float, float, float]], ...]


@dataclass(frozen=True)
class Recommendation:
    """One piece of advice.

    Attributes:
        title: what to do.
        reason: why, with the number it follows from.
        settings: config keys, nested; empty where no key helps.
        optional: an alternative that is not part of :attr:`Inspection.config`.
    """

    title: str
    reason: str
    settings: dict[str, Any] = field(default_factory=dict)
    optional: bool = False


@dataclass(frozen=True)
class Inspection:
    """Everything that an inspection finds out.

    Attributes:
        name: of the dataset or folder.
        format: ``voc``, ``yolo``, ``coco``, or None for a dataset that Detectron2 registers.
        class_names: in the order of the category ids.
        splits: the inspected one first. All that follows is about that one, but for
            `invalid_annotations`, `duplicate_files` and `near_duplicates`.
        sizes: per class.
        all_sizes: of all boxes together.
        anchors: None where the model has no such anchors, or the split no boxes.
        cooccurrence: (K, K), images that hold both classes; the diagonal has the images per class.
        invalid_annotations: what was left out, by source; empty where nothing was checked.
        duplicate_files: files that occur more than once.
        near_duplicates: images of two splits that look alike.
        weights: by rule; empty without boxes.
        least_frequency: share of images that hold the rarest class that has any; repeat-factor
            sampling does nothing for thresholds up to it. None without boxes.
        repeat_factors: by threshold; empty without boxes.
        samples: images of the rarest classes.
        notes: remarks on the inspection itself.
        recommendations: what follows from all that.
        config: YAML of the recommended settings together, and for a folder of its datasets.
    """

    name: str
    format: str | None
    class_names: tuple[str, ...]
    splits: tuple[Split, ...]
    sizes: tuple[Sizes, ...]
    all_sizes: Sizes
    anchors: Anchors | None
    cooccurrence: tuple[tuple[int, ...], ...]
    invalid_annotations: tuple[InvalidAnnotations, ...]
    duplicate_files: DuplicateFiles
    near_duplicates: NearDuplicates
    weights: tuple[RuleWeights, ...]
    least_frequency: float | None
    repeat_factors: tuple[RepeatFactors, ...]
    samples: tuple[Sample, ...]
    notes: tuple[str, ...] = ()
    recommendations: tuple[Recommendation, ...] = ()
    config: str = ""

    @property
    def subject(self) -> Split:
        """The inspected split."""
        return self.splits[0]

    @property
    def by_boxes(self) -> list[int]:
        """Class indices from the most to the least frequent in the inspected split."""
        counts = [count.boxes for count in self.subject.classes]
        return sorted(range(len(counts)), key=lambda i: -counts[i])
