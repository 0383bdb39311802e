"""What a model found in images: drawn, and as a COCO dataset."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from counterpoise.errors import UserError
from counterpoise.pages.drawing import draw_boxes
from counterpoise.pages.figures import palette
from counterpoise.runtime.images import InputImage, read_pixels

#: Pixels that a side of a JPEG file may have.
LONGEST_SIDE = 65_500


@dataclass(frozen=True)
class Predictions:
    """What a model found in one image.

    Attributes:
        image: that was looked at.
        size: (width, height) in pixels, EXIF orientation applied.
        results: as COCO results; empty where nothing was found.
        error: why the image could not be read, or "".
    """

    image: InputImage
    size: tuple[int, int]
    results: tuple[dict[str, Any], ...]
    error: str = ""


def draw(predictions: Predictions, class_names: Sequence[str]) -> np.ndarray:
    """Draw detections into their image.

    Returns:
        (H, W, 3), uint8, RGB.
    """
    pixels = read_pixels(predictions.image.path)
    # The best detection last, on top of the others.
    results = sorted(predictions.results, key=lambda r: r["score"])
    boxes = np.array([r["bbox"] for r in results], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    labels = [f"{class_names[r['category_id']]} {r['score']:.2f}" for r in results]
    colours = palette(len(class_names))
    own = [colours[r["category_id"]] for r in results]
    return draw_boxes(pixels, boxes, labels, own)


def save_drawn(predictions: Predictions, class_names: Sequence[str], folder: Path) -> Path:
    """Write the drawn image as JPEG below a folder, under its name.

    Raises:
        UserError: the file cannot be written.
    """
    target = folder / f"{predictions.image.name}.jpg"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        drawn = Image.fromarray(draw(predictions, class_names))
        drawn.thumbnail((LONGEST_SIDE, LONGEST_SIDE))  # which enlarges nothing
        drawn.save(target, quality=90)
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error}): choose another --out") from error
    return target


def as_coco(
    predictions: Iterable[Predictions], class_names: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Put predictions into a COCO dataset whose annotations have a ``score``.

    Annotation tools and :func:`counterpoise.evaluation.evaluate_detections` read such a file; its
    ``annotations`` alone are COCO results.
    """
    images, annotations = [], []
    for number, each in enumerate(predictions, start=1):
        width, height = each.size
        images.append(
            {"id": number, "file_name": str(each.image.path), "width": width, "height": height}
        )
        for result in each.results:
            _, _, w, h = result["bbox"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": result["category_id"],
                    "bbox": result["bbox"],
                    "area": w * h,
                    "iscrowd": 0,
                    "score": result["score"],
                }
            )
    categories = [{"id": k, "name": name} for k, name in enumerate(class_names)]
    return {"images": images, "annotations": annotations, "categories": categories}
