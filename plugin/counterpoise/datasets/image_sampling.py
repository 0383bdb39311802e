"""Detectron2's samplers of training images from ``BALANCE.IMAGE_SAMPLER``."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.samplers import RandomSubsetTrainingSampler, RepeatFactorTrainingSampler
from torch import Tensor
from torch.utils.data import Sampler

from counterpoise.balance.image_sampling import expected_boxes, image_factors
from counterpoise.datasets.packed import labels
from counterpoise.errors import UserError
from counterpoise.utils.table import Table

logger = logging.getLogger(__name__)


def image_sampler(
    cfg: CfgNode, records: Sequence[Mapping[str, Any]], sampler: Sampler | None
) -> Sampler | None:
    """Return the sampler of training images, and log how often it shows each class.

    Its order is a function of ``SEED``, and each process takes its part of the order.

    Args:
        cfg: prepared.
        records: Detectron2's dicts of all training images.
        sampler: of ``DATALOADER.SAMPLER_TRAIN``, which stays where ``BALANCE.IMAGE_SAMPLER.NAME``
            is ``none``.

    Raises:
        UserError: the training set has no box to balance.
    """
    node = cfg.BALANCE.IMAGE_SAMPLER
    if node.NAME == "none" and not isinstance(sampler, RepeatFactorTrainingSampler):
        return sampler
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes
    counts = boxes_per_image(records, len(names))
    if node.NAME != "none":
        try:
            factors = image_factors(counts, node.NAME, node.THRESHOLD, node.EXPONENT)
        except ValueError as error:
            raise UserError(
                f"BALANCE.IMAGE_SAMPLER.NAME is '{node.NAME}', but the training set "
                f"{', '.join(cfg.DATASETS.TRAIN)} cannot be balanced ({error}): set it to 'none'"
            ) from error
        sampler = RepeatFactorTrainingSampler(factors, seed=cfg.SEED if cfg.SEED >= 0 else None)
    logger.info(
        "Boxes of each class in %d drawn images, as many as there are:\n%s",
        len(records), _table(names, counts, draws_per_epoch(sampler, len(records))),
    )  # fmt: skip
    return sampler


def draws_per_epoch(sampler: Sampler | None, images: int) -> Tensor:
    """Expected draws of each image in an epoch of a sampler.

    Returns:
        (images,), floating point; all 1 for samplers that draw uniformly.
    """
    # Nothing public says it.
    if isinstance(sampler, RepeatFactorTrainingSampler):
        return sampler._int_part + sampler._frac_part
    if isinstance(sampler, RandomSubsetTrainingSampler):
        draws = torch.zeros(images)
        draws[sampler._indexes_subset] = 1
        return draws
    return torch.ones(images)


def boxes_per_image(records: Sequence[Mapping[str, Any]], num_classes: int) -> Tensor:
    """Count the boxes of each class in each image; crowd regions are none.

    Returns:
        (images, classes), int64, sparse COO: a large data set has few of its classes in an image.
    """
    counted = [
        np.unique(image * num_classes + category, return_counts=True)
        for image, category in labels(records)
    ]
    at, boxes = map(np.concatenate, zip(*counted, strict=True)) if counted else ([], [])
    places = np.stack(np.divmod(np.asarray(at, np.int64), num_classes))
    return torch.sparse_coo_tensor(
        torch.from_numpy(places),
        torch.from_numpy(np.asarray(boxes, np.int64)),
        (len(records), num_classes),
        is_coalesced=True,
        check_invariants=True,  # torch warns where it is not said
    )


def _table(names: Sequence[str], counts: Tensor, draws: Tensor) -> str:
    before = expected_boxes(counts, torch.ones(len(counts))).long().tolist()
    after = expected_boxes(counts, draws).tolist()
    rows = [
        [name, was, f"{now:.0f}", f"x {now / was:.2f}" if was else ""]
        for name, was, now in zip(names, before, after, strict=True)
    ]
    return Table(["class", "uniform", "drawn so", "factor"], rows).as_text()
