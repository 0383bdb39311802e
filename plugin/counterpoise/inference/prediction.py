"""Prediction on images: which files, with which model, and what is written."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.data.detection_utils import read_image
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from PIL import Image
from torch import nn

from counterpoise.datasets.files import image_suffixes
from counterpoise.datasets.images import UnreadableImageError, read_image_size
from counterpoise.datasets.mapper import CheckedMapper
from counterpoise.errors import UserError
from counterpoise.evaluation.matching import corners
from counterpoise.inference.augmentation import with_augmentation
from counterpoise.inference.loop import infer
from counterpoise.pages.drawing import draw_boxes
from counterpoise.pages.figures import palette


@dataclass(frozen=True)
class InputImage:
    """An image to look at.

    Attributes:
        path: of the file.
        name: relative path under which its results are written, without a suffix and unique
            among the inputs.
    """

    path: Path
    name: Path


def find_images(inputs: Sequence[Path]) -> list[InputImage]:
    """List image files; folders are searched with their sub-folders, in order of path.

    Raises:
        UserError: an input does not exist or is not an image, or a folder holds none.
    """
    suffixes = image_suffixes()
    found: dict[Path, InputImage] = {}
    taken: set[Path] = set()
    for given in inputs:
        if given.is_dir():
            files = sorted(p for p in given.rglob("*") if p.suffix.lower() in suffixes)
            if not files:
                raise UserError(f"{given} holds no image: give image files or a folder of them")
            names = [file.relative_to(given) for file in files]
        elif not given.exists():
            raise UserError(f"{given} does not exist: give image files or a folder of them")
        elif given.suffix.lower() not in suffixes:
            raise UserError(
                f"{given} does not have the suffix of an image that can be read, such as .jpg or "
                ".png: give image files or a folder of them"
            )
        else:
            files, names = [given], [Path(given.name)]
        for file, name in zip(files, names, strict=True):
            if file.resolve() in found:
                continue
            number, unique = 1, name.with_suffix("")
            while unique in taken:
                number += 1
                unique = name.with_name(f"{name.stem}~{number}")
            taken.add(unique)
            found[file.resolve()] = InputImage(file, unique)
    return list(found.values())


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


def predict(
    cfg: CfgNode, model: nn.Module, images: Sequence[InputImage], min_score: float = 0.0
) -> Iterator[Predictions]:
    """Run a model over images; one that cannot be read is yielded with its error.

    Args:
        cfg: prepared.
        model: with its weights loaded.
        images: to look at.
        min_score: detections below it are left out.
    """
    records, broken = [], []
    for number, image in enumerate(images):
        try:
            width, height = read_image_size(image.path)
        except (UnreadableImageError, OSError) as error:
            broken.append(Predictions(image, (0, 0), (), str(error)))
            continue
        records.append(
            {"file_name": str(image.path), "image_id": number, "width": width, "height": height}
        )
    yield from broken
    if not records:
        return
    mapper = CheckedMapper(cfg, is_train=False)

    def read(record: dict[str, Any]) -> dict[str, Any]:
        try:
            return mapper(record)
        except UserError as error:
            return {**record, "error": str(error)}

    loader = build_detection_test_loader(
        records, mapper=read, num_workers=cfg.DATALOADER.NUM_WORKERS
    )
    model = _SkipUnreadable(with_augmentation(cfg, model))
    for batch, outputs in infer(model, loader, len(records), "predicting"):
        for record, output in zip(batch, outputs, strict=True):
            image, size = images[record["image_id"]], (record["width"], record["height"])
            if output is None:
                yield Predictions(image, size, (), record["error"])
                continue
            found = instances_to_coco_json(output["instances"].to("cpu"), record["image_id"])
            yield Predictions(image, size, tuple(r for r in found if r["score"] >= min_score))


class _SkipUnreadable(nn.Module):
    """A model that gives None for a record with an ``"error"``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, Any] | None]:
        readable = [record for record in batch if "error" not in record]
        outputs = iter(self.model(readable) if readable else ())
        return [None if "error" in record else next(outputs) for record in batch]


def draw(predictions: Predictions, class_names: Sequence[str]) -> np.ndarray:
    """Draw detections into their image.

    Returns:
        (H, W, 3), uint8, RGB.
    """
    pixels = read_image(str(predictions.image.path), format="RGB")
    # The best detection last, on top of the others.
    results = sorted(predictions.results, key=lambda r: r["score"])
    boxes = np.array([r["bbox"] for r in results], dtype=np.float64).reshape(-1, 4)
    labels = [f"{class_names[r['category_id']]} {r['score']:.2f}" for r in results]
    colours = palette(len(class_names))
    own = [colours[r["category_id"]] for r in results]
    return draw_boxes(np.asarray(pixels, dtype=np.uint8), corners(boxes), labels, own)


def save_drawn(predictions: Predictions, class_names: Sequence[str], folder: Path) -> Path:
    """Write the drawn image as JPEG below a folder, under its name.

    Raises:
        UserError: the file cannot be written.
    """
    target = folder / f"{predictions.image.name}.jpg"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(predictions, class_names)).save(target, quality=90)
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
