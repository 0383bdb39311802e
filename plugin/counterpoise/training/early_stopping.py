"""Ends a training whose evaluations no longer improve."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm

from counterpoise.errors import UserError
from counterpoise.training.checkpoints import BestCheckpointer
from counterpoise.utils.output_dir import BEST_CHECKPOINT

logger = logging.getLogger(__name__)


class StoppedEarly(Exception):
    """The end of a training that has stopped improving; it has succeeded."""


def last_improvement(values: Sequence[float], min_delta: float) -> int:
    """Index of the last value that is above the best one before it by more than `min_delta`.

    The first value is an improvement, and a smaller gain does not move the mark, so that many small
    ones add up to one.

    Args:
        values: finite, at least one; the larger the better.
        min_delta: >= 0.

    >>> last_improvement([10.0, 12.0, 12.5, 12.9], min_delta=1), last_improvement([5.0, 5.0], 0)
    (1, 0)
    >>> last_improvement([10.0, 10.6, 11.2], min_delta=1)
    2
    """
    best = 0
    for index, value in enumerate(values):
        if value > values[best] + min_delta:
            best = index
    return best


def check_early_stopping(cfg: CfgNode) -> None:
    """Refuse to stop by evaluations that do not take place.

    Args:
        cfg: of a training.

    Raises:
        UserError: there is no periodic evaluation before the end, or no dataset for it.
    """
    node = cfg.SOLVER.EARLY_STOPPING
    if node.PATIENCE and not (cfg.TEST.EVAL_PERIOD and cfg.DATASETS.TEST):
        lacking = "TEST.EVAL_PERIOD is 0" if cfg.DATASETS.TEST else "DATASETS.TEST is empty"
        raise UserError(
            f"SOLVER.EARLY_STOPPING.PATIENCE is {node.PATIENCE}, which counts evaluations during "
            f"the training, but {lacking}: set both, or PATIENCE to 0"
        )
    if node.PATIENCE and cfg.TEST.EVAL_PERIOD >= cfg.SOLVER.MAX_ITER:
        raise UserError(
            f"SOLVER.EARLY_STOPPING.PATIENCE is {node.PATIENCE}, but TEST.EVAL_PERIOD "
            f"{cfg.TEST.EVAL_PERIOD} leaves no evaluation before the end at SOLVER.MAX_ITER "
            f"{cfg.SOLVER.MAX_ITER}: lower the period, or set PATIENCE to 0"
        )


class EarlyStopping(HookBase):
    """Ends a training after evaluations without improvement, in all processes at the same step.

    It belongs in every process, after the evaluation and the best checkpoint.
    """

    def __init__(
        self,
        period: int,
        metric: str,
        patience: int,
        min_delta: float,
        best: BestCheckpointer | None,
    ) -> None:
        """
        Args:
            period: iterations from one evaluation to the next.
            metric: by its name in Detectron2's event storage; the larger the better.
            patience: evaluations in a row without improvement that end the training.
            min_delta: what a value has to be above the best one, as :func:`last_improvement` says.
            best: names the best checkpoint; None in all but the first process.
        """
        self.period = period
        self.metric = metric
        self.patience = patience
        self.min_delta = min_delta
        self.best = best
        self._history: list[tuple[int, float]] = []

    def after_step(self) -> None:
        """Decide after an evaluation; the one after the last iteration has nothing to end."""
        done = self.trainer.iter + 1
        if done % self.period or done == self.trainer.max_iter:
            return
        reason = self._reason() if comm.is_main_process() else ""
        if any(comm.all_gather(bool(reason))):
            if reason:
                logger.info(
                    "Stopped early after %d of %d iterations: %s",
                    done, self.trainer.max_iter, reason,
                )  # fmt: skip
            self.trainer.end_early()

    def _reason(self) -> str:
        """Why the training ends with this evaluation; empty where it goes on."""
        now = self.trainer.iter
        value, at = self.trainer.storage.latest().get(self.metric, (math.nan, now))
        if at != now or not math.isfinite(value):
            logger.warning(
                "%s has no value in this evaluation, which early stopping leaves out", self.metric
            )
            return ""
        # A resumed run evaluates again in the iteration of its checkpoint.
        self._history = [(i, v) for i, v in self._history if i < now] + [(now, value)]
        mark = last_improvement([v for _, v in self._history], self.min_delta)
        since = len(self._history) - 1 - mark
        if since < self.patience:
            return ""
        at, value = self._history[mark]
        above = f" by more than {self.min_delta:g}" if self.min_delta else ""
        return (
            f"{self.metric} has not risen above {value:.4g} of iteration {at}{above} in {since} "
            f"evaluations; {self._best_checkpoint()}"
        )

    def _best_checkpoint(self) -> str:
        if self.best is None or self.best.best_iter is None:
            return "there is no best checkpoint"
        path = Path(self.best.folder, BEST_CHECKPOINT)
        return (
            f"the best checkpoint is {path} ({self.best.metric} {self.best.best_metric:.4g}, "
            f"iteration {self.best.best_iter})"
        )

    def state_dict(self) -> dict[str, Any]:
        """The metric, and iteration and value of each evaluation."""
        return {"metric": self.metric, "history": [list(entry) for entry in self._history]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; the history of another metric is left out."""
        if state["metric"] == self.metric:
            self._history = [(iteration, value) for iteration, value in state["history"]]
