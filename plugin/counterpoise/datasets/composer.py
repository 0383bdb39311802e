"""Which pictures a training image is composed of: other records of the training set, by chance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import detection_utils
from detectron2.data.detection_utils import SizeMismatchError
from torch import Tensor

from counterpoise.datasets.packed import annotations_of, labels
from counterpoise.datasets.pictures import Picture, cut, mixup, mosaic, paste
from counterpoise.datasets.reading import UnusableImageError, read_image
from counterpoise.utils.images import UnreadableImageError

Record = Mapping[str, Any]


class Composer:
    """Mosaic, pasted boxes and mixup by ``INPUT.MOSAIC``, ``COPY_PASTE`` and ``MIXUP``.

    All that is random comes from one number of NumPy's global generator, as Detectron2's own
    augmentations do, so that whoever seeds that has the same picture again.
    """

    def __init__(self, cfg: CfgNode, records: Sequence[Record], draws: Tensor) -> None:
        """
        Args:
            cfg: prepared.
            records: Detectron2's dicts of all training images; read when they are needed.
            draws: (N,), >= 0, in proportion to which other images are drawn: as often as the
                sampler shows them.
        """
        self.format = cfg.INPUT.FORMAT
        self.fill = cfg.MODEL.PIXEL_MEAN
        self.mosaic_prob = cfg.INPUT.MOSAIC.PROB
        self.mixup_prob = cfg.INPUT.MIXUP.PROB
        self.paste_prob = cfg.INPUT.COPY_PASTE.PROB
        self.max_boxes = cfg.INPUT.COPY_PASTE.MAX_BOXES
        self.mirror = cfg.INPUT.RANDOM_FLIP == "horizontal"
        self.records = records
        self.cumulative = np.cumsum(draws.double().numpy())
        self.owners = _boxes_by_class(records, draws.numpy() > 0) if self.paste_prob else ()

    def __call__(self, record: Record) -> Picture:
        """Compose the image of a record.

        Raises:
            UnusableImageError: an image cannot be used.
        """
        rng = np.random.default_rng(np.random.randint(2**31))
        picture = read_picture(record, self.format)
        if rng.random() < self.mosaic_prob:
            picture = mosaic([picture, *(self._other(rng) for _ in range(3))], rng, self.fill)
        if rng.random() < self.paste_prob and self.owners:
            for _ in range(rng.integers(1, self.max_boxes + 1)):
                picture = paste(picture, self._patch(rng), rng, self.mirror)
        if rng.random() < self.mixup_prob:
            picture = mixup(picture, self._other(rng), rng)
        return picture

    def _other(self, rng: np.random.Generator) -> Picture:
        at = np.searchsorted(self.cumulative, rng.random() * self.cumulative[-1], side="right")
        return read_picture(self.records[int(at)], self.format)

    def _patch(self, rng: np.random.Generator) -> Any:
        owners = self.owners[rng.integers(len(self.owners))]
        record, box = owners[rng.integers(len(owners))]
        return cut(read_picture(self.records[int(record)], self.format), box)


def composer(cfg: CfgNode, records: Sequence[Record], draws: Tensor) -> Composer | None:
    """Return the composer of a config, or None where it asks for none."""
    node = cfg.INPUT
    if not (node.MOSAIC.PROB or node.MIXUP.PROB or node.COPY_PASTE.PROB):
        return None
    return Composer(cfg, records, draws)


def read_picture(record: Record, image_format: str) -> Picture:
    """Read the image of a record with its boxes; crowd regions are left out, as in training.

    Args:
        record: Detectron2's dict.
        image_format: of ``INPUT.FORMAT``.

    Raises:
        UnusableImageError: the image cannot be decoded or has another size than stated.
    """
    try:
        pixels = read_image(record["file_name"], image_format)
        detection_utils.check_image_size(dict(record), pixels)
    except (UnreadableImageError, SizeMismatchError) as error:
        raise UnusableImageError.of(record["file_name"], error) from error
    annotations = annotations_of(record)
    boxes = np.array([detection_utils.get_bbox(each) for each in annotations], float)
    classes = np.array([each["category_id"] for each in annotations], int)
    return Picture(pixels, boxes.reshape(-1, 4), classes)


def _boxes_by_class(records: Sequence[Record], drawn: np.ndarray) -> list[np.ndarray]:
    """Of each class with boxes, an array (n, 2) of the record and the number of each box in it.

    Args:
        records: Detectron2's dicts.
        drawn: bool (N,), which of them are ever drawn; boxes of others are left out.
    """
    parts = [(np.empty(0, int), np.empty(0, int)), *labels(records)]
    owner, category = map(np.concatenate, zip(*parts, strict=True))
    in_record = np.arange(len(owner)) - np.searchsorted(owner, owner)
    boxes = np.stack([owner, in_record], axis=1).astype(np.int32)
    boxes, category = boxes[drawn[owner]], category[drawn[owner]]
    order = np.argsort(category, kind="stable")
    firsts = np.unique(category[order], return_index=True)[1]
    return np.split(boxes[order], firsts)[1:]
