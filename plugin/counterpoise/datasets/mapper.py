"""From a dataset's record to the image that a model sees."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError

from counterpoise.errors import UserError


class CheckedMapper(DatasetMapper):
    """Detectron2's mapper that names the file of an image it cannot use."""

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any] | None:
        """Read and transform one image, as :class:`DatasetMapper` does.

        Raises:
            UserError: the image cannot be decoded or has another size than stated.
        """
        try:
            return super().__call__(dataset_dict)
        except (OSError, SizeMismatchError) as error:
            raise UserError(
                f"{dataset_dict['file_name']} cannot be used ({error}): repair the image or take "
                "it out of the dataset"
            ) from error


def training_mapper(cfg: CfgNode) -> CheckedMapper:
    """Detectron2's augmentations after the colour augmentation of ``INPUT.COLOR_JITTER``."""
    mapper = CheckedMapper(cfg, is_train=True)
    jitter = cfg.INPUT.COLOR_JITTER
    if jitter > 0:
        colour = [T.RandomBrightness, T.RandomContrast, T.RandomSaturation]
        mapper.augmentations.augs[:0] = [augment(1 - jitter, 1 + jitter) for augment in colour]
    return mapper
