"""What the checkpoints of a training will take on the disk, logged before it begins."""

import logging
import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from counterpoise.utils.output_dir import CHECKPOINTS

logger = logging.getLogger(__name__)


class CheckpointCounts(NamedTuple):
    """How many files there are at most, each of them with all that a run goes on from."""

    numbered: int
    """Named by their iteration."""
    best: int
    """``model_best.pth``, 0 or 1."""
    final: int = 1
    """``model_final.pth``; until then its place is that of a file being written."""


def checkpoint_bytes(
    model: nn.Module, optimizer: torch.optim.Optimizer, averaged: bool = False
) -> int:
    """Size of a checkpoint: weights, averaged weights, and what the optimizer keeps of each.

    Random states, logged values and the frame of the file are left out; they take some 100 KB.

    Args:
        model: possibly wrapped for several processes.
        optimizer: SGD, or one with two values per weight as AdamW; it may not have made a step.
        averaged: whether averages of all weights are saved too (``MODEL.EMA``).
    """
    weights = sum(_bytes(value) for value in model.state_dict().values())
    kept = 0
    for group in optimizer.param_groups:
        copies = 2 + bool(group.get("amsgrad"))
        if isinstance(optimizer, torch.optim.SGD):
            copies = 1 if group["momentum"] else 0
        kept += copies * sum(_bytes(parameter) for parameter in group["params"])
    return weights * (2 if averaged else 1) + kept


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()


def checkpoint_counts(cfg: CfgNode) -> CheckpointCounts:
    """Count the checkpoints that a training keeps at its end.

    Args:
        cfg: of the training.
    """
    numbered = cfg.SOLVER.MAX_ITER // cfg.SOLVER.CHECKPOINT_PERIOD
    if cfg.SOLVER.CHECKPOINTS_KEPT > 0:
        numbered = min(numbered, cfg.SOLVER.CHECKPOINTS_KEPT)
    return CheckpointCounts(
        numbered, best=int(cfg.TEST.EVAL_PERIOD > 0 and bool(cfg.DATASETS.TEST))
    )


def log_disk_use(folder: Path, counts: CheckpointCounts, size: int) -> None:
    """Log what the checkpoints take and what is free; warn where they do not fit.

    Args:
        folder: OUTPUT_DIR; what the checkpoints of a resumed run take there already is not counted.
        counts: of the checkpoints.
        size: of each, in bytes.
    """
    there = sum(path.stat().st_size for path in folder.glob(CHECKPOINTS))
    needed = max(sum(counts) * size - there, 0)
    free = shutil.disk_usage(folder).free
    kinds = [f"{counts.numbered} by iteration"] * bool(counts.numbered)
    kinds += ["the best"] * counts.best + ["the last"]
    logger.info(
        "Checkpoints take up to %s in %s (%d of %s: %s); %s are free there",
        _size(sum(counts) * size), folder, sum(counts), _size(size), ", ".join(kinds), _size(free),
    )  # fmt: skip
    if needed > free:
        logger.warning(
            "The checkpoints need %s more than is free in %s: set SOLVER.CHECKPOINTS_KEPT 2 or a "
            "larger SOLVER.CHECKPOINT_PERIOD, make room, or set another OUTPUT_DIR",
            _size(needed - free), folder,
        )  # fmt: skip


def _size(count: int) -> str:
    """Bytes in a unit of 1000s, such as ``1.3 GB``."""
    value, units = float(count), ["bytes", "KB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.3g} {units[0]}"
