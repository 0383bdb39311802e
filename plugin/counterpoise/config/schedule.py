"""The length of a training in passes over its images."""

import logging
import math

from detectron2.config import CfgNode

from counterpoise.utils.text import counted

logger = logging.getLogger(__name__)


def drawn_images(cfg: CfgNode, images: int) -> int:
    """How many of the images of the training set ``DATALOADER.SAMPLER_TRAIN`` ever draws."""
    if cfg.DATALOADER.SAMPLER_TRAIN != "RandomSubsetTrainingSampler":
        return images
    return max(int(images * cfg.DATALOADER.RANDOM_SUBSET_RATIO), 1)


def set_length(cfg: CfgNode, images: int) -> None:
    """Let ``SOLVER.MAX_ITER`` follow from ``SOLVER.EPOCHS``, if that is set.

    ``SOLVER.STEPS`` stay where they are in the schedule. Applied again to its result it changes
    nothing.

    Args:
        cfg: changed in place.
        images: that are trained on.
    """
    solver = cfg.SOLVER
    if not solver.EPOCHS:
        return
    # Rounded first: 2.2 epochs of 50 images in pairs are 55 batches and no billionth more.
    length = max(math.ceil(round(solver.EPOCHS * images / solver.IMS_PER_BATCH, 6)), 1)
    scale = length / solver.MAX_ITER
    solver.STEPS = tuple(sorted({max(round(step * scale), 1) for step in solver.STEPS}))
    solver.MAX_ITER = length
    logger.info(
        "SOLVER.EPOCHS %g over %s in batches of %d: SOLVER.MAX_ITER is %d, SOLVER.STEPS %s",
        solver.EPOCHS, counted(images, "image"), solver.IMS_PER_BATCH, length, solver.STEPS,
    )  # fmt: skip
