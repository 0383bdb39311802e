"""One score threshold per class: the file that keeps them, and their way into a model."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.logger import log_first_n
from torch import Tensor, nn

from counterpoise.datasets.json_fields import is_number
from counterpoise.errors import UserError, did_you_mean
from counterpoise.modeling.safe_loading import local_checkpoint
from counterpoise.utils.files import read_json, sha256_of, write_json

#: Name of the file in a run's OUTPUT_DIR.
FILE_NAME = "thresholds.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file, known by its content.

    Attributes:
        path: where it was, for messages.
        sha256: of the content, in hexadecimal.
    """

    path: str
    sha256: str

    @classmethod
    def of(cls, weights: str) -> "Checkpoint":
        """Identify a file by its content.

        Args:
            weights: path or address, as in ``MODEL.WEIGHTS``.

        Raises:
            UserError: there is no such file, or it cannot be fetched.
        """
        path = weights.split("?")[0]  # what follows are instructions for Detectron2's loading
        local = Path(local_checkpoint(path))
        state = local.stat()
        return cls(path, _sha256(local, state.st_mtime_ns, state.st_size))

    def __str__(self) -> str:
        return f"{self.path} (sha256 {self.sha256[:12]})"


@dataclass(frozen=True)
class ScoreThresholds:
    """The lowest score that a detection of each class may have."""

    class_names: tuple[str, ...]
    scores: tuple[float, ...]
    """In [0, 1], one per class: a detection is kept where its score is >= that of its class."""
    criterion: str
    """How they were chosen, such as ``"maximal F1"``."""
    dataset: str
    """Name of the dataset that they were chosen on."""
    checkpoint: Checkpoint | None = None
    """The one that they were chosen on; None in a file written by hand."""
    calibration: str | None = None
    """Of :func:`calibration_of`, under which they were chosen; None where it is not known."""

    @property
    def origin(self) -> str:
        """How and on what they were chosen, as far as the file says so; else how it was made."""
        return " on ".join(filter(None, (self.criterion, self.dataset))) or "written by hand"

    def write(self, path: Path) -> Path:
        """Write a JSON file.

        Its keys are ``criterion``, ``dataset``, ``checkpoint`` with ``path`` and ``sha256`` or
        null, ``calibration`` or null, and ``thresholds`` with a score per class name.

        Raises:
            UserError: the file cannot be written.
        """
        thresholds = dict(zip(self.class_names, self.scores, strict=True))
        content = {
            "criterion": self.criterion,
            "dataset": self.dataset,
            "checkpoint": self.checkpoint and asdict(self.checkpoint),
            "calibration": self.calibration,
            "thresholds": thresholds,
        }
        return write_json(path, content)

    @classmethod
    def read(cls, path: Path) -> "ScoreThresholds":
        """Read a file of :meth:`write`, or one written by hand, which needs ``thresholds`` only.

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
            if not is_number(score) or not 0 <= score <= 1:
                raise UserError(
                    f"{path}: the threshold of '{name}' is {score!r}, expected a number in [0, 1]"
                )
        return cls(
            class_names=tuple(thresholds),
            scores=tuple(float(score) for score in thresholds.values()),
            criterion=str(content.get("criterion", "")),
            dataset=str(content.get("dataset", "")),
            checkpoint=_checkpoint(content.get("checkpoint"), path),
            calibration=content.get("calibration") and str(content["calibration"]),
        )

    def check_model(self, cfg: CfgNode, source: str) -> None:
        """Refuse to be applied to another model than the one they were chosen on.

        Args:
            cfg: of the model; without ``MODEL.WEIGHTS`` nothing is known of it.
            source: where the thresholds come from, for the message.

        Raises:
            UserError: its checkpoint or its calibration is another one.
        """
        if cfg.MODEL.WEIGHTS:
            self.check_checkpoint(cfg.MODEL.WEIGHTS, source)
            self.check_calibration(cfg, source)

    def check_checkpoint(self, weights: str, source: str) -> None:
        """Refuse to be applied to another checkpoint than the one they were chosen on.

        Thresholds that name none are let through, with one warning.

        Args:
            weights: ``MODEL.WEIGHTS`` of the model.
            source: where the thresholds come from, for the message.

        Raises:
            UserError: they were chosen on another checkpoint, or the file of `weights` is missing.
        """
        if self.checkpoint is None:
            message = (
                f"{source} does not name the checkpoint that its thresholds were chosen on, so "
                "they are applied to any; `counterpoise thresholds` writes files that do"
            )
            log_first_n(logging.WARNING, message, key="message")
            return
        applied_to = Checkpoint.of(weights)
        if applied_to.sha256 != self.checkpoint.sha256:
            raise UserError(
                f"the thresholds of {source} were chosen on the checkpoint {self.checkpoint}, but "
                f"MODEL.WEIGHTS is {applied_to}: choose thresholds for this one with "
                "`counterpoise thresholds`"
            )

    def check_calibration(self, cfg: CfgNode, source: str) -> None:
        """Refuse to be applied to scores that are shifted otherwise than those they were chosen on.

        Args:
            cfg: of the model.
            source: where the thresholds come from, for the message.

        Raises:
            UserError: ``BALANCE.CALIBRATION`` is another one.
        """
        own = calibration_of(cfg)
        if self.calibration not in (None, own):
            raise UserError(
                f"the thresholds of {source} were chosen with BALANCE.CALIBRATION "
                f"'{self.calibration}', but it is '{own}', which gives other scores: choose "
                "thresholds for these with `counterpoise thresholds` and the same "
                "BALANCE.CALIBRATION"
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


def calibration_of(cfg: CfgNode) -> str:
    """What ``BALANCE.CALIBRATION`` does to scores, such as ``"norcal 0.6"``; ``"none"``."""
    node = cfg.BALANCE.CALIBRATION
    return f"{node.NAME} {node.EXPONENT:g}" if node.NAME != "none" and node.EXPONENT else "none"


def use_score_thresholds(module: nn.Module, thresholds: Tensor) -> None:
    """Let a part of Detectron2 compare its scores with one threshold per class.

    Args:
        module: with ``test_score_thresh``, which it compares scores (R, K) with.
        thresholds: (K,), kept in a buffer that is not saved.
    """
    del module.test_score_thresh
    module.register_buffer("test_score_thresh", thresholds, persistent=False)


def inference_thresholds(cfg: CfgNode, num_classes: int) -> Tensor | None:
    """Thresholds of ``BALANCE.SCORE_THRESHOLDS`` for code that keeps ``scores > threshold``.

    Args:
        cfg: with the keys of :func:`counterpoise.add_counterpoise_config`.
        num_classes: K of the model.

    Returns:
        float32 (K,), of each class the largest number below its threshold, so that a float32
        ``score > number`` means ``score >= threshold``; None where the key is empty.

    Raises:
        UserError: the file cannot be used, or is of other classes than the model, or where
            ``MODEL.WEIGHTS`` is set of another checkpoint or calibration.
    """
    source = cfg.BALANCE.SCORE_THRESHOLDS
    if not source:
        return None
    thresholds = ScoreThresholds.read(Path(source))
    thresholds.check_model(cfg, f"BALANCE.SCORE_THRESHOLDS {source}")
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


@lru_cache(maxsize=1)
def _sha256(path: Path, modified_ns: int, size: int) -> str:
    """Hash a file; the other arguments let a file that changes be read again.

    It takes a second for 300 MB, and a model with three heads asks three times.
    """
    return sha256_of(path)


def _checkpoint(content: Any, path: Path) -> Checkpoint | None:
    if content is None:
        return None
    if (
        not isinstance(content, Mapping)
        or content.keys() != {"path", "sha256"}
        or not all(isinstance(value, str) for value in content.values())
    ):
        raise UserError(
            f"{path}: the checkpoint is {content!r:.60}, expected its path and sha256: choose the "
            "thresholds again with `counterpoise thresholds`, or remove the key for any checkpoint"
        )
    return Checkpoint(**content)
