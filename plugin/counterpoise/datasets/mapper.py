"""From a dataset's record to the image that a model sees."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError, get_bbox
from detectron2.structures import BoxMode

from counterpoise.datasets.cache import cache_folder
from counterpoise.datasets.damaged import remember_damaged
from counterpoise.datasets.last_phase import PLAIN
from counterpoise.datasets.pictures import Picture, visible
from counterpoise.datasets.reading import UnusableImageError, reading_in_full
from counterpoise.utils.images import UnreadableImageError

#: Set in what a model takes where the image could not be read and a blank one stands for it.
UNREADABLE = "unreadable"

#: Unusable images one after the other with which a data set is given up.
MOST_IN_A_ROW = 50

_logger = logging.getLogger("counterpoise.datasets")


class CheckedMapper(DatasetMapper):
    """Detectron2's mapper that names the file of an image it cannot use.

    Attributes:
        compose: makes the picture of a record, of this image and others, unless the record is
            plain (:mod:`counterpoise.datasets.last_phase`); None reads its image.
        drop_cut_boxes: leave out boxes of which a crop has left too little
            (:data:`counterpoise.datasets.pictures.VISIBLE`).
        skip_unusable: name an image that cannot be used in the log and go on without it: a
            training takes another one, an evaluation counts it as one without detections.
    """

    compose: Callable[[dict[str, Any]], Picture] | None = None
    drop_cut_boxes = False
    skip_unusable = False

    def __init__(self, cfg: CfgNode, is_train: bool) -> None:
        """
        Args:
            cfg: prepared.
            is_train: with the augmentations and boxes of a training.
        """
        super().__init__(cfg, is_train=is_train)
        augmentations = self.augmentations.augs
        for i, augmentation in enumerate(augmentations):
            if type(augmentation) is T.ResizeShortestEdge:
                augmentations[i] = ResizeToAPixel.like(augmentation)
        self._cache = cache_folder(cfg.DATASETS.CACHE)
        self._said: set[str] = set()
        self._in_a_row = 0

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any] | None:
        """Read and transform one image, as :class:`DatasetMapper` does.

        Returns:
            what the model takes; None for an image of a training that cannot be used, for which
            Detectron2's loader draws another one.

        Raises:
            UnusableImageError: the image cannot be decoded or has another size than stated, and
                :attr:`skip_unusable` is off or hardly any image can be used.
        """
        try:
            mapped = self._mapped(dataset_dict)
        except UnusableImageError as error:
            remember_damaged(self._cache, error.file, error.reason)
            self._in_a_row += 1
            if not self.skip_unusable or self._in_a_row == MOST_IN_A_ROW:
                raise
            after = "left out of the training" if self.is_train else "taken to show nothing"
            if str(error) not in self._said:
                self._said.add(str(error))
                _logger.warning("%s; until then it is %s", error, after)
            return None if self.is_train else self._blank(dataset_dict)
        self._in_a_row = 0
        return mapped

    def _mapped(self, record: dict[str, Any]) -> dict[str, Any]:
        if self.compose is not None and PLAIN not in record:
            return self._transformed(record, self.compose(record))
        try:
            with reading_in_full():
                return super().__call__(record)
        except (UnreadableImageError, SizeMismatchError) as error:
            raise UnusableImageError.of(record["file_name"], error) from error

    def _blank(self, record: dict[str, Any]) -> dict[str, Any]:
        """An image of zeros, as large as the model would have seen."""
        image = T.AugInput(np.zeros((record["height"], record["width"], 3), np.uint8))
        self.augmentations(image)
        pixels = torch.as_tensor(np.ascontiguousarray(image.image.transpose(2, 0, 1)))
        kept = {key: value for key, value in record.items() if key != "annotations"}
        return {**kept, "image": pixels, UNREADABLE: True}

    def _transformed(self, record: dict[str, Any], picture: Picture) -> dict[str, Any]:
        """What Detectron2's mapper does with an image once it is read."""
        image = T.AugInput(picture.pixels)
        transforms = self.augmentations(image)
        pixels = np.ascontiguousarray(image.image.transpose(2, 0, 1))
        annotations = [
            {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": category}
            for box, category in zip(picture.boxes, picture.classes.tolist(), strict=True)
        ]
        mapped = {**record, "image": torch.as_tensor(pixels), "annotations": annotations}
        self._transform_annotations(mapped, transforms, image.image.shape[:2])
        return mapped

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: T.TransformList, image_shape: Any
    ) -> None:
        if self.drop_cut_boxes and dataset_dict["annotations"]:
            boxes = np.array([get_bbox(each) for each in dataset_dict["annotations"]], float)
            height, width = image_shape
            enough = visible(transforms.apply_box(boxes), (0, 0, width, height))[1]
            dataset_dict["annotations"] = [
                each for each, kept in zip(dataset_dict["annotations"], enough, strict=True) if kept
            ]
        recompute, annotations = self.recompute_boxes, dataset_dict["annotations"]
        # Without a box Detectron2 makes instances without masks, and then asks for theirs.
        self.recompute_boxes = recompute and not all(a.get("iscrowd") for a in annotations)
        try:
            super()._transform_annotations(dataset_dict, transforms, image_shape)
        finally:
            self.recompute_boxes = recompute


class ResizeToAPixel(T.ResizeShortestEdge):
    """Detectron2's resize, which leaves nothing of a very narrow image, to a pixel at least."""

    @classmethod
    def like(cls, stock: T.ResizeShortestEdge) -> "ResizeToAPixel":
        """Build one with the settings of a stock one."""
        style = "range" if stock.is_range else "choice"
        return cls(stock.short_edge_length, stock.max_size, style, stock.interp)

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Resize of an image (H, W, 3)."""
        return _to_a_pixel(super().get_transform(image))


class ResizeScaleToAPixel(T.ResizeScale):
    """Detectron2's resize by a random scale, to a pixel at least."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Resize of an image (H, W, 3)."""
        return _to_a_pixel(super().get_transform(image))


def _to_a_pixel(resize: T.Transform) -> T.Transform:
    if not isinstance(resize, T.ResizeTransform) or min(resize.new_h, resize.new_w) > 0:
        return resize
    height, width = max(resize.new_h, 1), max(resize.new_w, 1)
    return T.ResizeTransform(resize.h, resize.w, height, width, resize.interp)


class ScaleJitter(T.Augmentation):
    """Resize by a random factor of the usual size, and crop at random to the usual size.

    Large-scale jitter of Ghiasi et al. 2021 (arXiv:2012.07177) is the range [0.1, 2]. An image that
    became smaller stays so: Detectron2 pads the batch with the pixel mean.
    """

    def __init__(self, low: float, high: float, usual: T.ResizeShortestEdge) -> None:
        """
        Args:
            low, high: range of the factor.
            usual: says the usual sizes of the shorter side, one of which is drawn, and the largest
                of the longer side.
        """
        super().__init__()
        self._init(locals())

    def __call__(self, aug_input: T.AugInput) -> T.Transform:
        """Change the input, and return the transform of its boxes."""
        height, width = aug_input.image.shape[:2]
        sizes, longest = self.usual.short_edge_length, self.usual.max_size
        if self.usual.is_range:
            short = np.random.randint(sizes[0], sizes[1] + 1)
        else:
            short = int(np.random.choice(sizes))
        canvas = (short, longest) if height <= width else (longest, short)
        steps = [
            ResizeScaleToAPixel(self.low, self.high, *canvas),
            T.RandomCrop("absolute", canvas),
        ]
        return T.AugmentationList(steps)(aug_input)


class RandomSaturationBGR(T.RandomSaturation):
    """Detectron2's random saturation, which takes images for RGB, of BGR images."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Blend an image (H, W, 3) with its grey form, of one channel, by a random factor."""
        return super().get_transform(image[..., ::-1])


def training_mapper(cfg: CfgNode) -> CheckedMapper:
    """Detectron2's mapper with ``INPUT.SCALE_JITTER`` as its resize and then ``COLOR_JITTER``."""
    mapper = CheckedMapper(cfg, is_train=True)
    mapper.skip_unusable = cfg.DATASETS.BAD_RECORDS == "skip"
    augmentations = mapper.augmentations.augs
    at = next(i for i, a in enumerate(augmentations) if isinstance(a, T.ResizeShortestEdge))
    if cfg.INPUT.SCALE_JITTER:
        augmentations[at] = ScaleJitter(*cfg.INPUT.SCALE_JITTER, augmentations[at])
        mapper.drop_cut_boxes = True
        # As Detectron2 does for its own crop: a box ends where its mask is cut off.
        mapper.recompute_boxes = cfg.MODEL.MASK_ON
    jitter = cfg.INPUT.COLOR_JITTER
    if jitter > 0:
        saturation = T.RandomSaturation if cfg.INPUT.FORMAT == "RGB" else RandomSaturationBGR
        colour = [T.RandomBrightness, T.RandomContrast, saturation]
        # After the resize, since the time grows with the pixels, which are fewer there.
        augmentations[at + 1 : at + 1] = [augment(1 - jitter, 1 + jitter) for augment in colour]
    return mapper
