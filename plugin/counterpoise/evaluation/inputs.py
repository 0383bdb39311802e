"""Ground truth and detections in COCO form, checked and held as arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from counterpoise.errors import UserError
from counterpoise.utils.files import read_json
from counterpoise.utils.text import listed


@dataclass(frozen=True)
class GroundTruth:
    """Boxes of a test set.

    Attributes:
        class_names: K names; a class is an index into them.
        image_ids: I ids, sorted; an image is an index into them.
        file_names: of the images, "" where the data do not say.
        boxes: (G, 4) float64, XYWH in pixels.
        areas: (G,) float64, pixels squared; of the segment where there is one.
        classes: (G,) int64, in [0, K).
        images: (G,) int64, in [0, I).
        ignored: (G,) bool; crowd regions and difficult objects, in which a detection is neither a
            true nor a false positive.
        image_sizes: (I, 2) float64, width and height in pixels; None where an image has none.
    """

    class_names: tuple[str, ...]
    image_ids: tuple[int | str, ...]
    file_names: tuple[str, ...]
    boxes: np.ndarray
    areas: np.ndarray
    classes: np.ndarray
    images: np.ndarray
    ignored: np.ndarray
    image_sizes: np.ndarray | None = None

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def num_images(self) -> int:
        """I."""
        return len(self.image_ids)

    def boxes_per_class(self) -> np.ndarray:
        """Boxes that count, (K,) int64."""
        return np.bincount(self.classes[~self.ignored], minlength=self.num_classes)

    def images_per_class(self) -> np.ndarray:
        """Images with at least one box that counts, (K,) int64."""
        counted = ~self.ignored
        pairs = np.unique(self.classes[counted] * self.num_images + self.images[counted])
        return np.bincount(pairs // max(self.num_images, 1), minlength=self.num_classes)


@dataclass(frozen=True)
class Detections:
    """Detections on a test set, D in any order.

    Attributes:
        boxes: (D, 4) float64, XYWH in pixels.
        scores: (D,) float64, finite.
        classes: (D,) int64, in [0, K).
        images: (D,) int64, in [0, I).
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    images: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


def parse_ground_truth(coco: Mapping[str, Any], what: str = "ground truth") -> GroundTruth:
    """Check a COCO dataset and turn it into arrays.

    Args:
        coco: with ``images``, ``annotations`` and ``categories``. Annotations with ``iscrowd`` 1 or
            ``difficult`` 1 are ignored regions; annotation ids are not read.
        what: name of the data for messages.

    Raises:
        UserError: a part is missing, an id appears twice or is unknown, or a box is not four finite
            numbers with a width and height >= 0.
    """
    for part in ("images", "annotations", "categories"):
        if not isinstance(coco, Mapping) or not isinstance(coco.get(part), list | tuple):
            raise UserError(f"{what}: expected a COCO dataset with a list '{part}'")
    try:
        categories = [(c["id"], str(c["name"])) for c in coco["categories"]]
        images = [(image["id"], image) for image in coco["images"]]
        annotations = coco["annotations"]
        category_ids = [a["category_id"] for a in annotations]
        image_ids = [a["image_id"] for a in annotations]
        boxes = [a["bbox"] for a in annotations]
    except (KeyError, TypeError) as error:
        raise UserError(f"{what}: a record lacks the key {error}, or is not a mapping") from error
    _check_ids([i for i, _ in categories], f"{what}: category id")
    _check_ids([name for _, name in categories], f"{what}: category name")
    _check_ids([i for i, _ in images], f"{what}: image id")
    images.sort(key=lambda image: (isinstance(image[0], str), image[0]))
    ordered = tuple(i for i, _ in images)
    boxes = _boxes(boxes, what, "annotation")
    areas = [a.get("area") for a in annotations]
    areas = [
        w * h if area is None else area for area, (_, _, w, h) in zip(areas, boxes, strict=True)
    ]
    return GroundTruth(
        class_names=tuple(name for _, name in categories),
        image_ids=ordered,
        file_names=tuple(str(image.get("file_name", "")) for _, image in images),
        boxes=boxes,
        areas=_areas(areas, what),
        classes=_indices(category_ids, [i for i, _ in categories], f"{what}: category_id"),
        images=_indices(image_ids, ordered, f"{what}: image_id"),
        ignored=np.array(
            [bool(a.get("iscrowd") or a.get("difficult")) for a in annotations], dtype=bool
        ),
        image_sizes=_image_sizes([image for _, image in images], what),
    )  # fmt: skip


def parse_detections(
    results: Sequence[Mapping[str, Any]],
    coco: Mapping[str, Any],
    ground_truth: GroundTruth,
    what: str = "predictions",
) -> Detections:
    """Check COCO results against the ground truth that they belong to and turn them into arrays.

    Args:
        results: with ``image_id``, ``category_id``, ``bbox`` (XYWH, pixels) and ``score``.
        coco: the dataset, for its category ids.
        ground_truth: `coco` as arrays.
        what: name of the results for messages.

    Raises:
        UserError: a record lacks a key, names an unknown image or category, or has a box or score
            that is not finite.
    """
    if not isinstance(results, list | tuple):
        raise UserError(
            f"{what}: expected a list of COCO results (image_id, category_id, bbox, score), not "
            f"{type(results).__name__}"
        )
    if strange := [r for r in results if not isinstance(r, Mapping)][:1]:
        raise UserError(
            f"{what}: expected COCO results (image_id, category_id, bbox, score), not "
            f"{strange[0]!r:.40}"
        )
    try:
        rows = [(r["image_id"], r["category_id"], r["bbox"], r["score"]) for r in results]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{what}: a record lacks the key {error}; each needs image_id, category_id, bbox, score"
        ) from error
    image_ids, category_ids, boxes, scores = zip(*rows, strict=True) if rows else ((), (), (), ())
    known = [c["id"] for c in coco["categories"]]
    named = ", ".join(f"{c['id']} {c['name']}" for c in coco["categories"][:20])
    try:
        scores = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{what}: a score is not a number ({error})") from error
    if len(wrong := np.flatnonzero(~np.isfinite(scores))):
        raise UserError(
            f"{what}: {len(wrong)} of {len(scores)} scores are NaN or infinite, the first in "
            f"record {wrong[0]} (image {image_ids[wrong[0]]}): the model they are from has diverged"
        )
    return Detections(
        boxes=_boxes(boxes, what, "record"),
        scores=scores,
        classes=_indices(
            category_ids, known, f"{what}: category_id", hint=f", which has {named}"
        ),
        images=_indices(image_ids, ground_truth.image_ids, f"{what}: image_id"),
    )  # fmt: skip


def read_ground_truth(path: Path) -> dict[str, Any]:
    """Read a COCO dataset; :func:`parse_ground_truth` checks it.

    Raises:
        UserError: the file is missing, incomplete or not JSON.
    """
    return read_json(path, "ground truth")


def read_detections(path: Path) -> list[dict[str, Any]]:
    """Read COCO results; :func:`parse_detections` checks them.

    Raises:
        UserError: the file is missing, incomplete or not JSON.
    """
    return read_json(path, "predictions")


def _check_ids(ids: Sequence[Any], what: str) -> None:
    seen: set[Any] = set()
    for each in ids:
        if not isinstance(each, Integral | str):
            raise UserError(f"{what} {each!r:.40} is neither a whole number nor text")
        if each in seen:
            raise UserError(f"{what} {each!r} appears twice: give every one its own")
        seen.add(each)


def _boxes(boxes: Sequence[Any], what: str, record: str) -> np.ndarray:
    try:
        array = np.asarray(boxes, dtype=np.float64).reshape(len(boxes), 4)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{what}: every bbox must be four numbers, x y width height") from error
    wrong = np.flatnonzero(~np.isfinite(array).all(axis=1) | (array[:, 2:] < 0).any(axis=1))
    if len(wrong):
        raise UserError(
            f"{what}: the bbox of {record} {wrong[0]} is {list(boxes[wrong[0]])}, expected finite "
            "x y width height with a width and height >= 0"
        )
    return array


def _image_sizes(images: Sequence[Mapping[str, Any]], what: str) -> np.ndarray | None:
    sizes = [(image.get("width"), image.get("height")) for image in images]
    if any(None in size for size in sizes):
        return None
    try:
        return np.asarray(sizes, dtype=np.float64).reshape(len(images), 2)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{what}: the width or height of an image is not a number ({error})") from (
            error
        )


def _areas(areas: Sequence[Any], what: str) -> np.ndarray:
    try:
        array = np.asarray(areas, dtype=np.float64).reshape(len(areas))
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{what}: an area is not a number ({error})") from error
    if len(wrong := np.flatnonzero(~np.isfinite(array) | (array < 0))):
        raise UserError(
            f"{what}: the area of annotation {wrong[0]} is {array[wrong[0]]:g}, expected a finite "
            "number >= 0, or no area at all for that of the box"
        )
    return array


def _indices(ids: Sequence[Any], known: Sequence[Any], what: str, hint: str = "") -> np.ndarray:
    at = {each: i for i, each in enumerate(known)}
    try:
        return np.fromiter((at[i] for i in ids), dtype=np.int64, count=len(ids))
    except TypeError as error:
        raise UserError(f"{what} is neither a whole number nor text in some record") from error
    except KeyError:
        shown = listed([repr(i) for i in dict.fromkeys(ids) if i not in at], most=3)
        raise UserError(
            f"{what} {shown} is not in the ground truth{hint}: score predictions against the "
            "dataset that they were made on"
        ) from None
