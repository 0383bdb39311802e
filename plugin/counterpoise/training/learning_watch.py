"""Warns while a training runs that a part of the model does not learn, and says what to change."""

import logging
from collections.abc import Iterable

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from counterpoise.modeling.metric_log import PERIOD, scoped_names

logger = logging.getLogger(__name__)

#: Metric -> the value below which a part has not learned; what that means; what helps.
#: A part that learns is far above: on three datasets the worst baselines end at 0.4 and 0.2.
SIGNS = {
    "rpn/fg_accuracy": (
        0.1,
        "the RPN recognises only {value:.0%} of the anchors on objects, so proposals miss most "
        "objects",
        "train longer (SOLVER.MAX_ITER){optimizer}",
    ),
    "roi/p_t_fg": (
        0.03,
        "the box head gives the class of an object a probability of {value:.3f} on average, and "
        "calls everything background",
        "lower SOLVER.BASE_LR, or keep class weights from multiplying the loss by "
        "BALANCE.ROI_LOSS.NORMALIZER weight_sum",
    ),
}


def judged_iterations(max_iter: int) -> int:
    """How many iterations :class:`LearningWatch` looks at each time: a quarter of the training."""
    return max_iter // 4


def kept_values(max_iter: int) -> int:
    """How many values of each scalar have to be kept in a training.

    They are those of :func:`judged_iterations`, of a metric that comes every 20 iterations, and the
    1,000 of Detectron2's estimate of the time left.

    Args:
        max_iter: iterations of the training.
    """
    return max(1000, judged_iterations(max_iter) // PERIOD + 1)


def watched_names(names: Iterable[str]) -> set[str]:
    """Of the names of all logged metrics, those that :class:`LearningWatch` looks at."""
    return {name for metric in SIGNS for name in scoped_names(metric, names)}


class LearningWatch(HookBase):
    """Looks at the logged metrics after half of the training and at its end."""

    def __init__(self, warmup_iters: int = 0, classifier_alone: bool = False) -> None:
        """
        Args:
            warmup_iters: iterations with a rate that is still rising, which are not judged.
            classifier_alone: whether the RPN stays as it is, so that no training of it would help.
        """
        self.warmup_iters = warmup_iters
        self.classifier_alone = classifier_alone

    def after_step(self) -> None:
        """Warn of every part that has not learned over the last quarter of the training."""
        done = self.trainer.iter + 1
        if done not in (self.trainer.max_iter // 2, self.trainer.max_iter):
            return
        if done - judged_iterations(self.trainer.max_iter) < self.warmup_iters:
            return
        if comm.is_main_process():
            for message in self._findings(done):
                logger.warning(message)

    def _findings(self, done: int) -> list[str]:
        since = done - judged_iterations(self.trainer.max_iter)
        histories = self.trainer.storage.histories()
        found, optimizer = [], ""
        if not isinstance(self.trainer.optimizer, torch.optim.AdamW):
            optimizer = ", or with SOLVER.OPTIMIZER AdamW and SOLVER.BASE_LR 0.00025"
        for metric, (low, meaning, advice) in SIGNS.items():
            if self.classifier_alone and metric.startswith("rpn/"):
                continue
            for name in scoped_names(metric, histories):
                values = [value for value, at in histories[name].values() if at >= since]
                mean = sum(values) / len(values) if values else low
                if mean < low:
                    meant = meaning.format(value=mean)
                    helps = advice.format(optimizer=optimizer)
                    found.append(f"Iterations {since} to {done}: {meant} ({name}): {helps}")
        return found
