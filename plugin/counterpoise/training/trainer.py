"""Training and evaluation of a config: Detectron2's trainer with the project's parts in place."""

import contextlib
import logging
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, SimpleTrainer, defaults, hooks
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter
from fvcore.common.history_buffer import HistoryBuffer
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from counterpoise.config.tree import value_at
from counterpoise.config.unread_keys import unread_sections
from counterpoise.datasets import ClassCounts
from counterpoise.errors import RunFailed, UserError, did_you_mean
from counterpoise.evaluation import Evaluation
from counterpoise.evaluation.groups import frequency_groups, metric_name
from counterpoise.inference.evaluation import check_class_list, check_test_classes, evaluate
from counterpoise.modeling.acceleration import (
    accelerate,
    compute_deterministically,
    train_in_bfloat16,
    trains_in_bfloat16,
    use_numbered_gpu,
)
from counterpoise.modeling.calibration import Calibration
from counterpoise.modeling.checkpoint import AVERAGE_KEY, BalancedCheckpointer
from counterpoise.modeling.dense_loss import DenseClassificationLoss
from counterpoise.modeling.distributed import share_statistics, unwrapped
from counterpoise.modeling.features import feature_errors_explained
from counterpoise.modeling.metric_log import log_last_iteration
from counterpoise.modeling.roi_loss import ClassificationLoss
from counterpoise.modeling.score_thresholds import without_score_thresholds
from counterpoise.modeling.training_record import RECORD_KEY, TrainingRecord
from counterpoise.modeling.weight_sources import ClassTable, class_table, log_class_table
from counterpoise.training import class_loss_file, run_record
from counterpoise.training.checkpoints import (
    BestCheckpointer,
    CheckpointWriter,
    newest_checkpoint,
    numbered_checkpoints,
    read_checkpoint,
    remove_unfinished,
)
from counterpoise.training.disk_use import (
    checkpoint_bytes,
    checkpoint_counts,
    log_disk_use,
)
from counterpoise.training.early_stopping import (
    EarlyStopping,
    StoppedEarly,
    check_early_stopping,
)
from counterpoise.training.freezing import FrozenStatistics, freeze_all_but_classifier
from counterpoise.training.hooks import (
    BalanceMetricPrinter,
    ClassLossWriter,
    PatientWriter,
    ProgressPrinter,
    RunRecordWriter,
    UntracedPreciseBN,
)
from counterpoise.training.image_stream import ResumableLoader
from counterpoise.training.learning_watch import LearningWatch, kept_values
from counterpoise.training.loader import train_loader
from counterpoise.training.log_files import (
    CLASS_BYTES,
    METRICS_BYTES,
    LogRotation,
    record_period,
    rewind_logs,
)
from counterpoise.training.number_guard import NumberGuard, gives_up, guarded
from counterpoise.training.optimizer import optimizer_of, scheduler_of, settings_kept
from counterpoise.training.random_state import random_state_kept
from counterpoise.training.reference_size import scaled_to_processes
from counterpoise.training.resume_check import check_resumable, differences
from counterpoise.training.run_lock import FolderGone, FolderGuard
from counterpoise.training.run_record import RunRecord, command_line
from counterpoise.training.run_state import STATE_KEY, restore_run_state, run_state
from counterpoise.training.stacked_corrections import warn_if_stacked
from counterpoise.training.stopping import Stopped, StopRequest
from counterpoise.training.weight_average import WeightAverage, WeightAveraging
from counterpoise.utils.output_dir import FINAL_CHECKPOINT, log_file

logger = logging.getLogger(__name__)


class BalancedTrainer(DefaultTrainer):
    """Detectron2's default trainer with class records, per-class evaluation and best checkpoint."""

    def __init__(self, cfg: CfgNode, record: RunRecord | None = None) -> None:
        """
        Args:
            cfg: prepared by :func:`prepare`, frozen.
            record: of this run, kept in ``OUTPUT_DIR/run.json``; None for a script, whose command
                line is that of the process.

        Raises:
            UserError: the training set or a key does not allow to train.
        """
        cfg = scaled_to_processes(cfg)
        check_early_stopping(cfg)
        use_numbered_gpu(torch.device(cfg.MODEL.DEVICE))
        if cfg.SOLVER.DETERMINISTIC:
            compute_deterministically()
        self.average: WeightAverage | None = None
        self.stop = StopRequest()
        self.writers: list[EventWriter] = []
        self._resumed: Mapping[str, Any] = {}
        self._resumed_from = Path()
        self._ends_early = False
        self._evaluation_seconds: list[float] = []
        self.evaluations: dict[str, Evaluation] = {}  # the latest by test set, on the main process
        self.record = record or RunRecord(command_line(), (), cfg.SEED)
        self.table = training_table(cfg)
        log_class_table(self.table)
        warn_if_stacked(cfg, self.table)
        _log_schedule(cfg, self.table.counts)
        for name in cfg.DATASETS.TEST:  # what is wrong here must not show after the training
            check_test_classes(name, self.table.counts)
        for name in cfg.DATASETS.VAL:
            check_class_list(name, self.table.counts)
        with _detectron2_fitted(cfg):
            super().__init__(cfg)
        self._guard = NumberGuard(cfg, self.model, TrainingRecord(self.table).state_dict())
        self._trainer = guarded(self._trainer, self._guard)
        if trains_in_bfloat16(cfg):
            train_in_bfloat16(self.model, torch.device(cfg.MODEL.DEVICE))
        for module in self.model.modules():
            if isinstance(module, (ClassificationLoss, DenseClassificationLoss)):
                module.use_table(self.table)
            elif isinstance(module, Calibration):
                module.use_counts(self.table.counts.boxes)
        log_last_iteration(self.model, self.max_iter - 1)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Detectron2's model without ``BALANCE.SCORE_THRESHOLDS``: AP is over all detections."""
        with feature_errors_explained(cfg):
            model = super().build_model(without_score_thresholds(cfg))
        accelerate(model, cfg)
        if cfg.SOLVER.TRAINABLE == "classifier":
            freeze_all_but_classifier(model)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer that ``SOLVER.OPTIMIZER`` names."""
        return optimizer_of(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
        """Detectron2's schedule, also where one of ``SOLVER.STEPS`` is at its end."""
        return scheduler_of(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """Detectron2's loader with this project's mapper, sampler and composer of images."""
        return train_loader(cfg)

    def build_hooks(self) -> list[HookBase | None]:
        """Detectron2's hooks with this project's checkpoints, evaluation and records."""
        self._build_checkpoints()
        before, after = self._stock_hooks()
        out, names = Path(self.cfg.OUTPUT_DIR), self.table.counts.names
        class_period = record_period(self.max_iter, CLASS_BYTES * (len(names) + 1))
        classifier_alone = self.cfg.SOLVER.TRAINABLE == "classifier"
        return [
            FolderGuard(out) if comm.is_main_process() else None,
            RunRecordWriter(out / run_record.FILE_NAME, self.record),
            FrozenStatistics() if classifier_alone else None,
            *before,
            # After the precise statistics of batch norms, which it takes over.
            WeightAveraging(self.average) if self.average else None,
            self.checkpoints,
            *self._evaluation_hooks(),
            LearningWatch(self.cfg.SOLVER.WARMUP_ITERS, classifier_alone),
            ClassLossWriter(out / class_loss_file.FILE_NAME, names, class_period),
            LogRotation(out / log_file(comm.get_rank())),
            *after,
        ]

    def _build_checkpoints(self) -> None:
        """Put this project's checkpointer in the place of Detectron2's, and the average beside it.

        Detectron2 has no method that builds its own; the hooks are its first users.
        """
        extra: dict[str, Any] = {RECORD_KEY: TrainingRecord(self.table)}
        if self.cfg.MODEL.EMA.ENABLED:
            average = WeightAverage(unwrapped(self.model), self.cfg.MODEL.EMA.DECAY)
            self.average = extra[AVERAGE_KEY] = average
        self.checkpointer = BalancedCheckpointer(
            self.model, self.cfg.OUTPUT_DIR, **self.checkpointer.checkpointables, **extra
        )
        self.checkpointer.require_frozen = self.cfg.SOLVER.TRAINABLE == "classifier"
        self.checkpoints = CheckpointWriter(
            self.checkpointer,
            self.cfg.SOLVER.CHECKPOINT_PERIOD,
            self.cfg.TEST.EVAL_PERIOD,
            self.cfg.SOLVER.CHECKPOINTS_KEPT,
            self.stop,
            self._shared_state,
        )

    def _shared_state(self) -> dict[str, Any]:
        """State of the run, after which all processes evaluate what the first one saves."""
        share_statistics(unwrapped(self.model))
        if self.average:
            self.average.take_buffers()
        return run_state(self, self.writers)

    def _stock_hooks(self) -> tuple[list[HookBase | None], list[HookBase | None]]:
        """Detectron2's hooks before and after its evaluation, without its checkpointer."""
        built = [
            self._fitted(hook)
            for hook in super().build_hooks()
            if not isinstance(hook, hooks.PeriodicCheckpointer)
        ]
        at = next(i for i, hook in enumerate(built) if isinstance(hook, hooks.EvalHook))
        return built[:at], built[at + 1 :]

    def _fitted(self, hook: HookBase | None) -> HookBase | None:
        """This project's form of one of Detectron2's hooks, where there is one."""
        if isinstance(hook, hooks.PreciseBN):
            return UntracedPreciseBN.like(hook)
        if isinstance(hook, hooks.PeriodicWriter):
            return PatientWriter(hook._writers, record_period(self.max_iter, METRICS_BYTES))
        return hook

    def _evaluation_hooks(self) -> Iterator[HookBase]:
        """The evaluation, and what follows from its results."""
        period, stopping, best = self.cfg.TEST.EVAL_PERIOD, self.cfg.SOLVER.EARLY_STOPPING, None
        yield hooks.EvalHook(period, self.evaluate)
        if period > 0 and comm.is_main_process():
            metric = _stored_metric("TEST.BEST_METRIC", self.cfg, self.table.counts)
            best = BestCheckpointer(self.checkpoints, metric)
            yield best
        if stopping.PATIENCE:
            key = "SOLVER.EARLY_STOPPING.METRIC" if stopping.METRIC else "TEST.BEST_METRIC"
            metric = _stored_metric(key, self.cfg, self.table.counts)
            yield EarlyStopping(period, metric, stopping.PATIENCE, stopping.MIN_DELTA, best)

    def build_writers(self) -> list[EventWriter]:
        """Detectron2's writers and terminal lines of the progress and this project's metrics."""
        progress = ProgressPrinter(
            self.cfg.SOLVER.IMS_PER_BATCH,
            self.cfg.TEST.EVAL_PERIOD,
            bool(self.cfg.DATASETS.TEST),
            lambda: self.max_iter,
            self._evaluation_seconds,
        )
        self.writers = [*super().build_writers(), progress, BalanceMetricPrinter()]
        return self.writers

    def run_step(self) -> None:
        """Detectron2's step; its own finding that boxes are not finite is met like any other.

        Raises:
            RunFailed: a number is not finite, and ``SOLVER.NON_FINITE`` is ``stop``, or one of
                several processes alone has found it.
        """
        try:
            super().run_step()
        except (FloatingPointError, AssertionError) as error:
            if not gives_up(error):
                raise
            reason = str(error).splitlines()[0].rstrip(".!")
            what = f"the model gives up ({reason})"
            self._guard.reject_step(what, self.optimizer, self.iter, together=False)

    def evaluate(self) -> dict[str, Any]:
        """Evaluate on ``DATASETS.TEST``, the averaged weights if any; write ``evaluation.json``.

        The training draws the same random numbers afterwards as without an evaluation. One that has
        stopped early has just been evaluated, and the results stay.

        Raises:
            Stopped: the run was told to stop; it is saved as it was before the evaluation.
        """
        if self._ends_early:
            return self._last_eval_results
        weights = self.average.applied() if self.average else contextlib.nullcontext()
        try:
            started = time.perf_counter()
            with random_state_kept(), weights, self.stop.at_once():
                self._last_eval_results, self.evaluations = evaluate(
                    self.cfg, self.model, self.table.counts
                )
            self._evaluation_seconds.append(time.perf_counter() - started)
        except Stopped:
            self.checkpoints.save()
            raise
        return self._last_eval_results

    def resume_or_load(self, resume: bool = True, force: bool = False) -> None:
        """Go on from the newest whole checkpoint in OUTPUT_DIR, or start from ``MODEL.WEIGHTS``.

        Args:
            resume: go on, where there is a checkpoint.
            force: go on also where the checkpoint is of a run with other settings or data.

        Raises:
            UserError: no checkpoint can be read, or the newest one is of another run.
        """
        out = Path(self.cfg.OUTPUT_DIR)
        if comm.is_main_process():
            remove_unfinished(out)
        found = newest_checkpoint(out) if resume and comm.is_main_process() else None
        chosen = comm.all_gather(str(found[0]) if found else "")[0]
        if not chosen:
            if resume:  # a folder whose name is misspelt looks like that of a run that died early
                logger.warning(
                    "%s has no checkpoint to go on from: the training starts at its beginning", out
                )
            super().resume_or_load(resume=False)
            saved = numbered_checkpoints(out) or (out / FINAL_CHECKPOINT).is_file()
            if comm.is_main_process() and not saved:
                rewind_logs(out, {})  # what a run left that died before its first checkpoint
            return
        content = found[1] if found else read_checkpoint(Path(chosen))
        if isinstance(content, str):
            raise UserError(f"{chosen} cannot be read by process {comm.get_rank()}: {content}")
        data = None  # of a loader of the user's own nothing is known
        if isinstance(self.data_loader, ResumableLoader):
            data = self.data_loader.state_dict()
        place = comm.get_rank(), comm.get_world_size()
        others = list(differences(content, self.cfg, self.table, *place, data))
        check_resumable(chosen, content, others, self.model, self.optimizer, self.max_iter, force)
        self._resumed = content.get(STATE_KEY, {})
        self._resumed_from = Path(chosen)
        forced = settings_kept(self.optimizer, self.scheduler)
        with forced if others else contextlib.nullcontext():
            self.checkpointer.load(chosen)
        self.start_iter = content.get("iteration", -1) + 1

    def before_train(self) -> None:
        """Begin, or go on just where a checkpoint was written."""
        if comm.is_main_process():
            size = checkpoint_bytes(self.model, self.optimizer, self.average is not None)
            log_disk_use(Path(self.cfg.OUTPUT_DIR), checkpoint_counts(self.cfg), size)
        # Detectron2 keeps a million values of each scalar, some 100 MB each.
        self.storage._history = defaultdict(partial(HistoryBuffer, kept_values(self.max_iter)))
        super().before_train()
        if not self._resumed:
            return
        if comm.is_main_process():
            rewind_logs(Path(self.cfg.OUTPUT_DIR), self._resumed["logs"])
        restore_run_state(self, self.writers, self._resumed)
        self.checkpoints.resume_from(self._resumed_from, self._resumed)
        self._resumed = {}
        # What the hooks after the checkpoint do in its iteration, such as evaluating, is to come.
        self.iter = self.storage.iter = self.start_iter - 1
        for hook in self._hooks[self._hooks.index(self.checkpoints) + 1 :]:
            hook.before_step()  # without which one of the user's may not know what it is to end
            hook.after_step()
        self._end_if_early()

    def after_step(self) -> None:
        """Run the hooks, and end where one of them has ended the training early.

        Raises:
            StoppedEarly: it has.
        """
        super().after_step()
        if not comm.is_main_process():
            self.storage.clear_images()  # of VIS_PERIOD, which only its writers take away
        self._end_if_early()

    def end_early(self) -> None:
        """Let this iteration be the last one, for a hook between the evaluation and the writers."""
        self.checkpoints.finish()
        self._ends_early = True
        self.max_iter = self.iter + 1
        for writer in self.writers:
            if isinstance(writer, CommonMetricPrinter):
                writer._max_iter = self.max_iter  # which tells it when the training is over

    def _end_if_early(self) -> None:
        if self._ends_early:
            self.iter += 1  # as after the last iteration
            raise StoppedEarly

    def after_train(self) -> None:
        """End as Detectron2 does, where the run was not told to stop and its folder is there.

        One that has failed is not evaluated: a process that fails alone, in the last iteration,
        would wait for the others in there, and they for it in their step.
        """
        error = sys.exc_info()[1]
        if isinstance(error, (Stopped, FolderGone)):
            return
        if error is not None and not isinstance(error, StoppedEarly):
            self._hooks = [hook for hook in self._hooks if not isinstance(hook, hooks.EvalHook)]
        super().after_train()

    def train(self) -> Any:
        """Train as Detectron2 does, to the end, until SIGTERM or Ctrl-C, or until it stops early.

        An end that is put in one sentence is logged without a traceback.

        Raises:
            Stopped: the run was told to stop; it is saved.
            RunFailed: a number is not finite.
            UserError: a file cannot be used.
        """
        loop = logging.getLogger("detectron2.engine.train_loop")
        loop.addFilter(_has_no_sentence)
        with self.stop:
            try:
                return super().train()
            except StoppedEarly:
                if not (self.cfg.TEST.EXPECTED_RESULTS and comm.is_main_process()):
                    return None
                verify_results(self.cfg, self._last_eval_results)
                return self._last_eval_results
            except Stopped as stopped:
                saved = self.checkpoints.saved
                command = self.record.command.replace(" --overwrite", "").replace(" --resume", "")
                logger.warning(
                    "Stopped by %s after %d iterations%s: continue with `%s --resume`",
                    stopped.name,
                    min(self.iter + 1, self.max_iter),
                    f", saved in {saved}" if saved else "",
                    command,
                )
                raise
            finally:
                loop.removeFilter(_has_no_sentence)


@contextlib.contextmanager
def _detectron2_fitted(cfg: CfgNode) -> Iterator[None]:
    """Let Detectron2 build the trainer of a model without a GPU, and of one that casts itself.

    It hands the number of a GPU to DistributedDataParallel on every device. Its AMP trainer refuses
    to run without CUDA and scales gradients, as float16 needs it.
    """
    fitted: dict[str, Any] = {}
    if not cfg.MODEL.DEVICE.startswith("cuda"):
        fitted["create_ddp_model"] = partial(defaults.create_ddp_model, device_ids=None)
    if trains_in_bfloat16(cfg):
        fitted["AMPTrainer"] = SimpleTrainer
    former = {name: getattr(defaults, name) for name in fitted}
    vars(defaults).update(fitted)
    try:
        yield
    finally:
        vars(defaults).update(former)


def _has_no_sentence(record: logging.LogRecord) -> bool:
    return not (
        record.exc_info and isinstance(record.exc_info[1], (UserError, RunFailed, StoppedEarly))
    )


def training_table(cfg: CfgNode) -> ClassTable:
    """Count the training set, and weigh its classes where a loss reads the weights.

    Args:
        cfg: prepared by :func:`prepare`.

    Raises:
        UserError: a dataset, a count or a key does not allow it.
    """
    return class_table(cfg, weighted="CLASS_WEIGHTS" not in unread_sections(cfg))


def _stored_metric(key: str, cfg: CfgNode, counts: ClassCounts) -> str:
    """Name in Detectron2's event storage of the metric that a key names."""
    metric = value_at(cfg, key)
    groups = frequency_groups(counts.images, counts.boxes)
    known = ["AP", "AP50", "AP75", *(metric_name(group.name, counts.names) for group in groups)]
    known += [f"AP-{name}" for name in counts.names]
    if metric not in known:
        raise UserError(f"{key} is '{metric}', {did_you_mean(metric, known)}")
    several = len(cfg.DATASETS.TEST) > 1
    return f"{cfg.DATASETS.TEST[0]}/bbox/{metric}" if several else f"bbox/{metric}"


def _log_schedule(cfg: CfgNode, counts: ClassCounts) -> None:
    images = counts.num_images
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        images -= counts.num_empty
    if images == 0:
        raise UserError(
            f"the training set {', '.join(cfg.DATASETS.TRAIN)} has no image to train on: check its "
            "report above, or set DATALOADER.FILTER_EMPTY_ANNOTATIONS False to keep empty images"
        )
    epochs = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH / images
    logger.info(
        "Training on %d images with %d boxes for %d iterations of %d images: %.1f epochs",
        images, sum(counts.boxes), cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH, epochs,
    )  # fmt: skip
    if epochs < 3 and cfg.SOLVER.TRAINABLE == "all":  # a classifier has been trained before
        logger.warning(
            "Fewer than three epochs: each image is seen %.1f times; set SOLVER.EPOCHS", epochs
        )
    _warn_of_late_warmup(cfg.SOLVER)


def _warn_of_late_warmup(solver: CfgNode) -> None:
    """Warn of a warm-up that Detectron2 leads straight to the rate at the end of the schedule."""
    falls = min((*solver.STEPS, solver.MAX_ITER))
    if falls < solver.WARMUP_ITERS and solver.WARMUP_FACTOR < 1 and not solver.RESCALE_INTERVAL:
        logger.warning(
            "SOLVER.WARMUP_ITERS is %d, but after %d iterations the rate falls or the training "
            "ends (SOLVER.STEPS, SOLVER.MAX_ITER), so that it stays below SOLVER.BASE_LR "
            "throughout: set WARMUP_ITERS to %d",
            solver.WARMUP_ITERS, falls, falls // 10,
        )  # fmt: skip
