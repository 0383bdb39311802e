"""One score threshold per class: the file that keeps them, and their way into a model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import Tensor

from counterpoise.errors import UserError, did_you_mean
from counterpoise.utils.files import read_json, write_json


@dataclass(frozen=True)
class ScoreThresholds:
    """Scores from which on a detection counts, by class."""

    class_names: tuple[str, ...]
    scores: tuple[float, ...]
    """In [0, 1], one per class: a detection counts where its score is >= that of its class."""
    criterion: str
    """How they were chosen, such as ``"max F1"``."""
    dataset: str
    """On which dataset they were chosen."""

    def write(self, path: Path) -> Path:
        """Write ``{"criterion", "dataset", "thresholds": {class name: score}}`` as JSON.

        Raises:
            UserError: the file cannot be written.
        """
        thresholds = dict(zip(self.class_names, self.scores, strict=True))
        content = {
            "criterion": self.criterion,
            "dataset": self.dataset,
            "thresholds": thresholds,
        }
        return write_json(path, content)

    @classmethod
    def read(cls, path: Path) -> "ScoreThresholds":
        """Read a file that :meth:`write` wrote, or one of the same kind.

        Raises:
            UserError: the file is missing or incomplete, or lacks a score in [0, 1] per class.
        """
        content = read_json(path, "score thresholds")
        thresholds = content.get("thresholds") if isinstance(content, Mapping) else None
        if not isinstance(thresholds, Mapping) or not thresholds:
            raise UserError(
                f'{path} holds no score thresholds: expected {{"thresholds": {{"class name": '
                "score, ...}}, as `counterpoise thresholds` writes them"
            )
        for name, score in thresholds.items():
            is_number = isinstance(score, (int, float)) and not isinstance(score, bool)
            if not is_number or not 0 <= score <= 1:
                raise UserError(
                    f"{path}: the threshold of '{name}' is {score!r}, expected a number in [0, 1]"
                )
        return cls(
            class_names=tuple(thresholds),
            scores=tuple(float(score) for score in thresholds.values()),
            criterion=str(content.get("criterion", "")),
            dataset=str(content.get("dataset", "")),
        )

    def for_classes(self, class_names: Sequence[str], source: str) -> tuple[float, ...]:
        """Scores in the order of a model's classes.

        Args:
            class_names: of the model or the data.
            source: where the thresholds come from, for the message.

        Returns:
            one score per name.

        Raises:
            UserError: the thresholds are of other classes.
        """
        by_name = dict(zip(self.class_names, self.scores, strict=True))
        for name in by_name:
            if name not in class_names:
                hint = did_you_mean(name, class_names)
                raise UserError(f"{source} has a threshold for the unknown class '{name}', {hint}")
        missing = [name for name in class_names if name not in by_name]
        if missing:
            raise UserError(
                f"{source} has no threshold for {', '.join(missing)}: add one in [0, 1], 0 keeping "
                "every detection"
            )
        return tuple(by_name[name] for name in class_names)


def inference_thresholds(cfg: CfgNode, num_classes: int) -> Tensor | None:
    """Thresholds of ``BALANCE.SCORE_THRESHOLDS`` for code that keeps ``scores > threshold``.

    Args:
        cfg: with the keys of :func:`counterpoise.add_counterpoise_config`.
        num_classes: K of the model.

    Returns:
        float32 (K,), of each class the largest number below its threshold, so that a float32
        ``score > number`` means ``score >= threshold``; None where the key is empty.

    Raises:
        UserError: the file cannot be used, or is of other classes than the model.
    """
    source = cfg.BALANCE.SCORE_THRESHOLDS
    if not source:
        return None
    thresholds = ScoreThresholds.read(Path(source))
    class_names = known_class_names(cfg)
    if class_names is not None:
        scores = thresholds.for_classes(class_names, f"BALANCE.SCORE_THRESHOLDS {source}")
    else:
        scores = thresholds.scores
    if len(scores) != num_classes:
        raise UserError(
            f"BALANCE.SCORE_THRESHOLDS {source} has {len(scores)} classes, but the model has "
            f"{num_classes}: choose thresholds for this model with `counterpoise thresholds`"
        )
    exact = torch.tensor(scores, dtype=torch.float64)
    nearest = exact.float()
    below = torch.nextafter(nearest, torch.full_like(nearest, -math.inf))
    return torch.where(nearest < exact, nearest, below)


def known_class_names(cfg: CfgNode) -> tuple[str, ...] | None:
    """Class names that Detectron2's catalogue has for a config's datasets; None for none."""
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN, *cfg.DATASETS.VAL):
        if name in MetadataCatalog and MetadataCatalog.get(name).get("thing_classes"):
            return tuple(MetadataCatalog.get(name).thing_classes)
    return None


def without_score_thresholds(cfg: CfgNode) -> CfgNode:
    """Copy a config with ``BALANCE.SCORE_THRESHOLDS`` off: AP is over all detections."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.BALANCE.SCORE_THRESHOLDS = ""
    cfg.freeze()
    return cfg
