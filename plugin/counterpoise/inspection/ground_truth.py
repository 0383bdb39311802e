"""A dataset's boxes as arrays, and what is counted on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from counterpoise.errors import UserError
from counterpoise.inspection.results import SIZE_QUANTILES, ClassCount, Sample, SampleBox, Sizes

_CHUNK = 4096  # images whose class presence is held as a matrix at once


@dataclass(frozen=True)
class GroundTruth:
    """All boxes of one dataset.

    Attributes:
        files: (M) image files.
        image_sizes: (M, 2) float64, width and height in pixels.
        boxes: (N, 4) float64, x0, y0, x1, y1 in pixels; crowd regions are left out.
        classes: (N,) int64, index into the class names.
        images: (N,) int64, index of each box's image.
        crowd_classes, crowd_images: the same of the crowd regions.
        num_classes: K.
    """

    files: tuple[str, ...]
    image_sizes: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    images: np.ndarray
    crowd_classes: np.ndarray
    crowd_images: np.ndarray
    num_classes: int

    def counts(self) -> tuple[ClassCount, ...]:
        """Images and boxes per class."""
        boxes = np.bincount(self.classes, minlength=self.num_classes)
        pairs = np.unique(np.stack([self.images, self.classes], 1), axis=0)
        images = np.bincount(pairs[:, 1], minlength=self.num_classes)
        total = max(len(self.boxes), 1)
        return tuple(
            ClassCount(int(i), int(b), b / total)
            for i, b in zip(images, boxes.tolist(), strict=True)
        )

    def num_empty(self) -> int:
        """Number of images without a box."""
        return len(self.files) - len(np.unique(self.images))


def ground_truth(
    name: str,
    dicts: Sequence[Mapping[str, Any]],
    own_names: Sequence[str],
    class_names: Sequence[str],
) -> GroundTruth:
    """Bring the records of a dataset into arrays.

    Args:
        name: of the dataset, for messages.
        dicts: its records, in Detectron2's standard form.
        own_names: its class names, by category id.
        class_names: the K names by which classes are numbered here; they hold all `own_names`.

    Raises:
        UserError: the records lack what an inspection needs.
    """
    index = {class_name: i for i, class_name in enumerate(class_names)}
    ids = np.array([index[own] for own in own_names], dtype=np.int64)
    rows = [
        (i, annotation)
        for i, record in enumerate(dicts)
        for annotation in record.get("annotations", ())
    ]
    images = np.array([i for i, _ in rows], dtype=np.int64)
    categories = np.array([a["category_id"] for _, a in rows], dtype=np.int64)
    if len(wrong := categories[(categories < 0) | (categories >= len(ids))]):
        raise UserError(
            f"dataset '{name}' holds a box of category_id {wrong[0]}, but its thing_classes are "
            f"{len(ids)} names (0 to {len(ids) - 1})"
        )
    crowd = np.array([bool(a.get("iscrowd", 0)) for _, a in rows], dtype=bool)
    return GroundTruth(
        files=tuple(str(record["file_name"]) for record in dicts),
        image_sizes=_image_sizes(dicts, name),
        boxes=_boxes([a for _, a in rows], name)[~crowd],
        classes=ids[categories[~crowd]],
        images=images[~crowd],
        crowd_classes=ids[categories[crowd]],
        crowd_images=images[crowd],
        num_classes=len(class_names),
    )


def _image_sizes(dicts: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    if any("width" not in record or "height" not in record for record in dicts):
        raise UserError(
            f"dataset '{name}' has images without 'width' and 'height': let its loader set them, "
            "as Detectron2's standard dataset dicts have them"
        )
    sizes = [(record["width"], record["height"]) for record in dicts]
    return np.array(sizes, dtype=np.float64).reshape(-1, 2)


def _boxes(annotations: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    if any(len(annotation["bbox"]) != 4 for annotation in annotations):
        raise UserError(f"dataset '{name}' has rotated boxes, expected boxes along the axes")
    boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)
    modes = np.array([a["bbox_mode"] for a in annotations], dtype=np.int64)
    for mode in np.unique(modes):
        found = modes == mode
        boxes[found] = BoxMode.convert(boxes[found], BoxMode(mode), BoxMode.XYXY_ABS)
    return boxes


def imbalance(counts: Sequence[float]) -> float | None:
    """Return the largest count over the smallest positive one; None without any."""
    positive = [count for count in counts if count > 0]
    return max(positive) / min(positive) if positive else None


def cooccurrence(truth: GroundTruth) -> tuple[tuple[int, ...], ...]:
    """Count the images that hold both classes, for each two classes: (K, K)."""
    matrix = np.zeros((truth.num_classes, truth.num_classes))
    for start in range(0, len(truth.files), _CHUNK):
        inside = (truth.images >= start) & (truth.images < start + _CHUNK)
        present = np.zeros((_CHUNK, truth.num_classes), dtype=np.float32)
        present[truth.images[inside] - start, truth.classes[inside]] = 1
        matrix += present.T @ present
    return tuple(tuple(row) for row in matrix.astype(int).tolist())


def class_sizes(truth: GroundTruth) -> tuple[tuple[Sizes, ...], Sizes]:
    """Return the box sizes per class, and those of all boxes together."""
    pixels = _size(truth.boxes[:, 2:] - truth.boxes[:, :2])
    relative = pixels / _size(truth.image_sizes)[truth.images]
    by_class = [truth.classes == c for c in range(truth.num_classes)]
    per_class = tuple(_sizes(pixels[chosen], relative[chosen]) for chosen in by_class)
    return per_class, _sizes(pixels, relative)


def _size(width_and_height: np.ndarray) -> np.ndarray:
    return np.sqrt(width_and_height.prod(axis=1))


def _sizes(pixels: np.ndarray, relative: np.ndarray) -> Sizes:
    small, large = int((pixels < 32).sum()), int((pixels >= 96).sum())
    return Sizes(
        boxes=len(pixels),
        pixels=_quantiles(pixels),
        relative=_quantiles(relative),
        small=small,
        medium=len(pixels) - small - large,
        large=large,
    )


def _quantiles(values: np.ndarray) -> tuple[float, ...]:
    return tuple(np.quantile(values, SIZE_QUANTILES).tolist()) if len(values) else ()


def rare_samples(
    truth: GroundTruth, class_names: Sequence[str], num_classes: int = 3, per_class: int = 2
) -> tuple[Sample, ...]:
    """Choose images of the rarest classes that have boxes, those in which they are largest.

    Args:
        truth: of the split.
        class_names: K names.
        num_classes: classes to show.
        per_class: images of each; an image is shown once.
    """
    counts = np.bincount(truth.classes, minlength=truth.num_classes)
    rarest = [int(c) for c in np.argsort(counts, kind="stable") if counts[c]][:num_classes]
    areas = (truth.boxes[:, 2:] - truth.boxes[:, :2]).prod(axis=1)
    samples: list[Sample] = []
    shown: set[int] = set()
    for c in rarest:
        own = np.flatnonzero(truth.classes == c)
        largest_first = truth.images[own[np.argsort(-areas[own], kind="stable")]].tolist()
        chosen = [i for i in dict.fromkeys(largest_first) if i not in shown][:per_class]
        shown.update(chosen)
        samples += [_sample(truth, i, class_names[c], class_names) for i in chosen]
    return tuple(samples)


def _sample(truth: GroundTruth, image: int, class_name: str, class_names: Sequence[str]) -> Sample:
    boxes = tuple(
        SampleBox(class_names[truth.classes[i]], tuple(truth.boxes[i].tolist()))
        for i in np.flatnonzero(truth.images == image)
    )
    return Sample(class_name, truth.files[image], boxes)
