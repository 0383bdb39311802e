"""A dataset's boxes as arrays, and what is counted on them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from counterpoise.datasets.counting import load_dataset
from counterpoise.datasets.ground_truth import coco_ground_truth
from counterpoise.errors import UserError
from counterpoise.evaluation import GroundTruth, parse_ground_truth
from counterpoise.evaluation.matching import corners
from counterpoise.inspection.results import SIZE_QUANTILES, ClassCount, Sample, Sizes

_CHUNK = 4096  # images whose class presence is held as a matrix at once


def read_ground_truth(name: str) -> GroundTruth:
    """Bring a dataset of Detectron2's catalogue into arrays.

    Args:
        name: in ``DatasetCatalog``.

    Returns:
        its ground truth with the image sizes; crowd regions are `ignored`, difficult objects are
        boxes like any other, because training learns from them.

    Raises:
        UserError: the dataset cannot be read, or its records lack what an inspection needs.
    """
    records, class_names = load_dataset(name)
    for annotation in (a for record in records for a in record.get("annotations", ())):
        if len(annotation["bbox"]) != 4:
            raise UserError(f"dataset '{name}' has rotated boxes, expected boxes along the axes")
        if not 0 <= annotation["category_id"] < len(class_names):
            raise UserError(
                f"dataset '{name}' holds a box of category_id {annotation['category_id']}, but its "
                f"thing_classes are {len(class_names)} names (0 to {len(class_names) - 1})"
            )
    try:
        coco = coco_ground_truth(name)
    except KeyError as error:
        raise UserError(
            f"dataset '{name}' has a record without {error}: let its loader set it, as "
            "Detectron2's standard dataset dicts have it"
        ) from error
    annotations = [{**annotation, "difficult": 0} for annotation in coco["annotations"]]
    return parse_ground_truth({**coco, "annotations": annotations}, f"dataset '{name}'")


def of_classes(truth: GroundTruth, class_names: Sequence[str]) -> GroundTruth:
    """Number the classes by another list of names, which holds all those of the dataset."""
    index = {name: i for i, name in enumerate(class_names)}
    ids = np.array([index[own] for own in truth.class_names], dtype=np.int64)
    return replace(truth, class_names=tuple(class_names), classes=ids[truth.classes])


def joined(truths: Sequence[GroundTruth]) -> GroundTruth:
    """Put datasets of the same classes together; an image id is then its number."""
    if len(truths) == 1:
        return truths[0]
    starts = np.cumsum([0, *(truth.num_images for truth in truths)])
    images = [truth.images + start for truth, start in zip(truths, starts, strict=False)]
    arrays = ("boxes", "areas", "classes", "ignored", "image_sizes")
    return GroundTruth(
        class_names=truths[0].class_names,
        image_ids=tuple(range(starts[-1])),
        file_names=tuple(name for truth in truths for name in truth.file_names),
        images=np.concatenate(images),
        **{name: np.concatenate([getattr(truth, name) for truth in truths]) for name in arrays},
    )


def without_ignored(truth: GroundTruth) -> GroundTruth:
    """Leave out the regions that are no boxes."""
    kept = ~truth.ignored
    arrays = ("boxes", "areas", "classes", "images", "ignored")
    return replace(truth, **{name: getattr(truth, name)[kept] for name in arrays})


def class_counts(truth: GroundTruth) -> tuple[ClassCount, ...]:
    """Images, boxes and crowd regions per class, and the share of the boxes."""
    boxes = truth.boxes_per_class()
    crowds = np.bincount(truth.classes[truth.ignored], minlength=truth.num_classes)
    columns = (column.tolist() for column in (truth.images_per_class(), boxes, crowds))
    return tuple(
        ClassCount(images=i, boxes=b, share=b / max(int(boxes.sum()), 1), crowds=c)
        for i, b, c in zip(*columns, strict=True)
    )


def imbalance(counts: Sequence[float]) -> float | None:
    """Return the largest count over the smallest positive one; None without any."""
    positive = [count for count in counts if count > 0]
    return max(positive) / min(positive) if positive else None


def cooccurrence(truth: GroundTruth) -> tuple[tuple[int, ...], ...]:
    """Count the images that hold both classes, for each two classes: (K, K)."""
    matrix = np.zeros((truth.num_classes, truth.num_classes))
    for start in range(0, truth.num_images, _CHUNK):
        inside = (truth.images >= start) & (truth.images < start + _CHUNK)
        present = np.zeros((_CHUNK, truth.num_classes), dtype=np.float32)
        present[truth.images[inside] - start, truth.classes[inside]] = 1
        matrix += present.T @ present
    return tuple(tuple(row) for row in matrix.astype(int).tolist())


def class_sizes(truth: GroundTruth) -> tuple[tuple[Sizes, ...], Sizes]:
    """Return the box sizes per class, and those of all boxes together."""
    pixels = np.sqrt(truth.boxes[:, 2:].prod(axis=1))
    relative = pixels / np.sqrt(truth.image_sizes.prod(axis=1))[truth.images]
    by_class = [truth.classes == c for c in range(truth.num_classes)]
    per_class = tuple(_sizes(pixels[chosen], relative[chosen]) for chosen in by_class)
    return per_class, _sizes(pixels, relative)


def _sizes(pixels: np.ndarray, relative: np.ndarray) -> Sizes:
    small, large = int((pixels < 32).sum()), int((pixels >= 96).sum())
    quantiles = (
        tuple(np.quantile(values, SIZE_QUANTILES).tolist()) if len(values) else ()
        for values in (pixels, relative)
    )
    return Sizes(len(pixels), *quantiles, small, len(pixels) - small - large, large)


def rare_samples(
    truth: GroundTruth, num_classes: int = 3, per_class: int = 2
) -> tuple[Sample, ...]:
    """Choose images of the rarest classes that have boxes, those in which they are largest.

    Args:
        truth: of the split.
        num_classes: classes to show.
        per_class: images of each; an image is shown once.
    """
    counts = truth.boxes_per_class()
    rarest = [c for c in np.argsort(counts, kind="stable") if counts[c]][:num_classes]
    largest_first = np.argsort(-truth.boxes[:, 2:].prod(axis=1), kind="stable")
    shown: dict[int, str] = {}
    for c in rarest:
        own = largest_first[truth.classes[largest_first] == c]
        images = dict.fromkeys(truth.images[own].tolist())
        new = [image for image in images if image not in shown][:per_class]
        shown |= dict.fromkeys(new, truth.class_names[c])
    return tuple(_sample(truth, image, name) for image, name in shown.items())


def _sample(truth: GroundTruth, image: int, class_name: str) -> Sample:
    own = truth.images == image
    names = [truth.class_names[k] for k in truth.classes[own]]
    boxes = tuple(zip(names, map(tuple, corners(truth.boxes[own]).tolist()), strict=True))
    return Sample(class_name, truth.file_names[image], boxes)
