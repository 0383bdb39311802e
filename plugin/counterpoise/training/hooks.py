"""What a training logs and writes besides Detectron2's logs."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, get_event_storage

from counterpoise.modeling.class_loss_log import PerClassLoss
from counterpoise.modeling.distributed import sum_over_processes, unwrapped
from counterpoise.modeling.metric_log import PERIOD, scoped_names
from counterpoise.modeling.training_state import training_state_kept
from counterpoise.training.class_loss_file import append_class_losses
from counterpoise.training.random_state import random_state_kept
from counterpoise.training.run_record import RunRecord, now
from counterpoise.utils.text import counted, duration

logger = logging.getLogger(__name__)

BALANCE_METRICS = (
    "rpn/fg_accuracy",
    "rpn/bg_accuracy",
    "roi/p_t_fg",
    "roi/p_t_bg",
    "roi/background_loss_share",
)


class BalanceMetricPrinter(EventWriter):
    """Prints this project's metrics to the terminal, beside Detectron2's line."""

    def __init__(self) -> None:
        self._written = -1  # iteration of the newest value that is logged

    def write(self) -> None:
        """Log their newest values, unless that is done: a training's end has all writers write."""
        latest = get_event_storage().latest()
        names = [name for metric in BALANCE_METRICS for name in scoped_names(metric, latest)]
        newest = max((latest[name][1] for name in names), default=-1)
        if newest > self._written:
            logger.info("  ".join(f"{name}: {latest[name][0]:.3f}" for name in names))
        self._written = newest


class ProgressPrinter(EventWriter):
    """Prints images per second, and the time left with the evaluations that are to come.

    Detectron2's line has the time of an iteration and of the iterations left.
    """

    #: Iterations of which the median time counts: of the images per second, and of those left, as
    #: many as in Detectron2's own estimate.
    RECENT, LONG = 20, 1000

    def __init__(
        self,
        images: int,
        eval_period: int,
        evaluates: bool,
        max_iter: Callable[[], int],
        evaluation_seconds: Sequence[float],
    ) -> None:
        """
        Args:
            images: of an iteration, over all processes.
            eval_period: iterations from one evaluation to the next, 0 for one at the end.
            evaluates: whether there is a test set.
            max_iter: says how many iterations the training has.
            evaluation_seconds: of the evaluations so far; it grows.
        """
        self.images = images
        self.eval_period = eval_period
        self.evaluates = evaluates
        self.max_iter = max_iter
        self.evaluation_seconds = evaluation_seconds

    def write(self) -> None:
        """Log them, once iterations are timed and until the last one is done."""
        storage = get_event_storage()
        done, last = storage.iter + 1, self.max_iter()
        times = storage.histories().get("time")
        if times is None or done > last:
            return
        logger.info(
            "%.3g images/s  left: %s",
            self.images / times.median(self.RECENT),
            self._left(times.median(self.LONG) * (last - done), self._evaluations(done, last)),
        )

    def _evaluations(self, done: int, last: int) -> int:
        """How many are to come: by period, and the one after the last iteration."""
        if not self.evaluates:
            return 0
        period = self.eval_period
        return 1 + ((last - 1) // period - done // period if period and done < last else 0)

    def _left(self, seconds: float, evaluations: int) -> str:
        if not evaluations:
            return duration(seconds)
        if not self.evaluation_seconds:
            return f"{duration(seconds)} and {counted(evaluations, 'evaluation')}"
        each = median(self.evaluation_seconds)
        total = duration(seconds + evaluations * each)
        return f"{total} with {counted(evaluations, 'evaluation')} of {duration(each)}"


class ClassLossWriter(HookBase):
    """Appends the classification loss by target class to a file, summed over all processes.

    A model whose losses are not recorded by class leaves no file.
    """

    def __init__(self, path: Path, class_names: Sequence[str], period: int = PERIOD) -> None:
        """
        Args:
            path: of the file.
            class_names: K names.
            period: iterations per record, a multiple of 20.
        """
        self.path = path
        self.class_names = tuple(class_names)
        self.period = period
        self._full_disk = FullDisk()

    def before_train(self) -> None:
        """Find what records losses in the model."""
        modules = self.trainer.model.modules()
        self._recorders = [module for module in modules if isinstance(module, PerClassLoss)]

    def after_step(self) -> None:
        """Write a record when it is time, and after the last iteration."""
        done = self.trainer.iter + 1
        if not self._recorders or (done % self.period and done != self.trainer.max_iter):
            return
        device = next(self.trainer.model.parameters()).device
        sums = torch.zeros(len(self.class_names) + 1, device=device)
        for recorder in self._recorders:
            taken = recorder.take()
            if taken is not None:
                sums += taken.to(device)  # sums that were loaded lie on the CPU
        sums = sum_over_processes(sums).tolist()
        # A registered loss that says nothing of single samples leaves the sums at 0.
        if comm.is_main_process() and sum(sums) > 0:
            with self._full_disk.survived():
                append_class_losses(self.path, self.trainer.iter, self.class_names, sums)


class PatientWriter(hooks.PeriodicWriter):
    """Detectron2's periodic writing, which a full disk does not end."""

    def __init__(self, writers: Sequence[EventWriter], period: int) -> None:
        """
        Args:
            writers: of a stock hook.
            period: iterations from one write to the next.
        """
        super().__init__(writers, period)
        self._full_disk = FullDisk()

    def after_step(self) -> None:
        """Write where it is time."""
        with self._full_disk.survived():
            super().after_step()

    def after_train(self) -> None:
        """Write what is left, and close the files."""
        with self._full_disk.survived():
            super().after_train()


class FullDisk:
    """Logs once that nothing can be written, in place of ending a training over its log."""

    def __init__(self) -> None:
        self._said: set[int | None] = set()

    @contextlib.contextmanager
    def survived(self) -> Iterator[None]:
        """Go on after a failure of the system in the block."""
        try:
            yield
        except OSError as error:
            if error.errno not in self._said:
                self._said.add(error.errno)
                logger.error(
                    "Metrics cannot be written (%s): those of some iterations will be missing",
                    error,
                )


class UntracedPreciseBN(hooks.PreciseBN):
    """Detectron2's precise batch norms, of whose passes a training keeps the statistics alone.

    They count neither in losses nor in metrics, and the training draws the same random numbers
    afterwards as without them.
    """

    @classmethod
    def like(cls, stock: hooks.PreciseBN) -> "UntracedPreciseBN":
        """Build one with the settings of a stock hook."""
        return cls(stock._period, stock._model, stock._data_loader, stock._num_iter)

    def update_stats(self) -> None:
        """Update the statistics."""
        with training_state_kept(unwrapped(self._model)), random_state_kept():
            super().update_stats()


class RunRecordWriter(HookBase):
    """Writes the record of the run when training starts and ends.

    Checkpoints carry its time, so that a resumed run counts each iteration once.
    """

    def __init__(self, path: Path, record: RunRecord) -> None:
        """
        Args:
            path: of the file.
            record: of this start of the training.
        """
        self.path = path
        self.record = record

    def before_train(self) -> None:
        """Write the record of a run that has begun."""
        if self.trainer.start_iter > 0:
            self.record = replace(self.record, resumed_from=self.trainer.start_iter)
        self._write()

    def before_step(self) -> None:
        """Start the clock."""
        self._step_started = time.perf_counter()

    def after_step(self) -> None:
        """Stop the clock; as the first hook, before others evaluate or save."""
        seconds = self.record.training_seconds + time.perf_counter() - self._step_started
        self.record = replace(self.record, training_seconds=seconds)

    def after_train(self) -> None:
        """Write the time, and the end where the last iteration was reached."""
        if self.trainer.iter >= self.trainer.max_iter:
            self.record = replace(self.record, finished=now())
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run continues."""
        return {
            "started": self.record.started,
            "training_seconds": self.record.training_seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the record of a checkpoint."""
        self.record = replace(self.record, **state_dict)

    def _write(self) -> None:
        if comm.is_main_process():
            self.record.write(self.path)
