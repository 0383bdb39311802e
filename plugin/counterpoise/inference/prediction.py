"""Prediction on images with a model of Detectron2."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from torch import nn

from counterpoise.datasets.mapper import CheckedMapper
from counterpoise.errors import UserError
from counterpoise.inference.augmentation import with_augmentation
from counterpoise.inference.batches import batched_loader
from counterpoise.inference.loop import infer
from counterpoise.runtime.images import InputImage
from counterpoise.runtime.results import Predictions
from counterpoise.utils.images import (
    UnreadableImageError,
    read_image_header,
    remarks_on_pixels,
)

_logger = logging.getLogger(__name__)


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
    records, headers, broken = [], [], []
    for number, image in enumerate(images):
        try:
            header = read_image_header(image.path)
        except (UnreadableImageError, OSError) as error:
            broken.append(Predictions(image, (0, 0), (), str(error)))
            continue
        headers.append(header)
        width, height = header.size
        records.append(
            {"file_name": str(image.path), "image_id": number, "width": width, "height": height}
        )
    for remark in remarks_on_pixels(headers):
        _logger.info("%s", remark)
    yield from broken
    if not records:
        return
    mapper = CheckedMapper(cfg, is_train=False)

    def read(record: dict[str, Any]) -> dict[str, Any]:
        try:
            return mapper(record)
        except UserError as error:
            return {**record, "error": str(error)}

    loader = batched_loader(cfg, model, records, read, keep_order=True)
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
