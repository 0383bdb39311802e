"""Training and evaluation of a config: Detectron2's trainer with the project's parts in place."""

import contextlib
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, build_detection_train_loader
from detectron2.engine import DefaultTrainer, HookBase, defaults, hooks
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import nn

from counterpoise.config.validation import unread_sections
from counterpoise.datasets import ClassCounts
from counterpoise.datasets.composer import composer
from counterpoise.datasets.counting import read_once
from counterpoise.datasets.image_sampling import draws_per_epoch, image_sampler
from counterpoise.datasets.last_phase import PlainFrom, TwiceOver
from counterpoise.datasets.mapper import training_mapper
from counterpoise.errors import RunStopped, UserError, did_you_mean
from counterpoise.inference.evaluation import check_test_classes, evaluate
from counterpoise.modeling.acceleration import (
    accelerate,
    train_in_bfloat16,
    trains_in_bfloat16,
    without_amp_trainer,
)
from counterpoise.modeling.checkpoint import (
    AVERAGE_KEY,
    RECORD_KEY,
    BalancedCheckpointer,
    TrainingRecord,
)
from counterpoise.modeling.dense_loss import DenseClassificationLoss
from counterpoise.modeling.metric_log import log_last_iteration
from counterpoise.modeling.roi_loss import ClassificationLoss
from counterpoise.modeling.score_thresholds import without_score_thresholds
from counterpoise.modeling.weight_sources import ClassTable, class_table, log_class_table
from counterpoise.training import class_loss_file, run_record
from counterpoise.training.hooks import BalanceMetricPrinter, ClassLossWriter, RunRecordWriter
from counterpoise.training.learning_watch import LearningWatch
from counterpoise.training.number_guard import NumberGuard, guarded
from counterpoise.training.optimizer import optimizer_of
from counterpoise.training.run_record import RunRecord, command_line
from counterpoise.training.stacked_corrections import warn_if_stacked
from counterpoise.training.weight_average import WeightAverage, WeightAveraging

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
        self.average: WeightAverage | None = None
        self.record = record or RunRecord(command_line(), (), cfg.SEED)
        self.table = training_table(cfg)
        log_class_table(self.table)
        warn_if_stacked(cfg, self.table)
        _log_schedule(cfg, self.table.counts)
        for name in cfg.DATASETS.TEST:  # what is wrong here must not show after the training
            check_test_classes(name, self.table.counts)
        with _wrapped_for(cfg.MODEL.DEVICE):
            super().__init__(without_amp_trainer(cfg))
        self.cfg = cfg
        record = TrainingRecord(self.table).state_dict()
        self._guard = NumberGuard(cfg, self.model, record)
        self._trainer = guarded(self._trainer, self._guard)
        if trains_in_bfloat16(cfg):
            train_in_bfloat16(self.model, torch.device(cfg.MODEL.DEVICE))
        for module in self.model.modules():
            if isinstance(module, (ClassificationLoss, DenseClassificationLoss)):
                module.use_table(self.table)
        log_last_iteration(self.model, self.max_iter - 1)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Detectron2's model without ``BALANCE.SCORE_THRESHOLDS``: AP is over all detections."""
        model = super().build_model(without_score_thresholds(cfg))
        accelerate(model, cfg)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer that ``SOLVER.OPTIMIZER`` names."""
        return optimizer_of(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """Detectron2's loader with this project's mapper, sampler and composer of images."""
        mapper = training_mapper(cfg)
        with read_once(cfg.DATASETS.TRAIN):
            parts = build_detection_train_loader.from_config(cfg, mapper=mapper)
        parts["sampler"] = image_sampler(cfg, parts["dataset"], parts["sampler"])
        draws = draws_per_epoch(parts["sampler"], len(parts["dataset"]))
        # Serialised once, so that workers and the composer share its memory.
        parts["dataset"] = DatasetFromList(parts["dataset"], copy=False)
        mapper.compose = composer(cfg, parts["dataset"], draws)
        if mapper.compose is not None and cfg.INPUT.COMPOSE_UNTIL < 1:
            drawn = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
            start = round(cfg.INPUT.COMPOSE_UNTIL * drawn)
            parts["sampler"] = PlainFrom(parts["sampler"], len(parts["dataset"]), start)
            parts["dataset"] = TwiceOver(parts["dataset"])
        return build_detection_train_loader(**parts)

    def build_hooks(self) -> list[HookBase | None]:
        """Detectron2's hooks with this project's checkpointer, evaluation and best checkpoint."""
        averaging = []
        extra: dict[str, Any] = {RECORD_KEY: TrainingRecord(self.table)}
        if self.cfg.MODEL.EMA.ENABLED:
            model = self.model.module if comm.get_world_size() > 1 else self.model
            self.average = WeightAverage(model, self.cfg.MODEL.EMA.DECAY)
            averaging.append(WeightAveraging(self.average))
            extra[AVERAGE_KEY] = self.average
        # Detectron2 has no method that builds the checkpointer; the hooks are its first users.
        self.checkpointer = BalancedCheckpointer(
            self.model,
            self.cfg.OUTPUT_DIR,
            **self.checkpointer.checkpointables,
            **extra,
        )
        period = self.cfg.TEST.EVAL_PERIOD
        evaluation: list[HookBase] = [hooks.EvalHook(period, self.evaluate)]
        if period > 0 and comm.is_main_process():
            metric = _best_metric(self.cfg, self.table.counts)
            evaluation.append(hooks.BestCheckpointer(period, self.checkpointer, metric))
        built = super().build_hooks()
        at = next(i for i, hook in enumerate(built) if isinstance(hook, hooks.EvalHook))
        out = Path(self.cfg.OUTPUT_DIR)
        return [
            RunRecordWriter(out / run_record.FILE_NAME, self.record),
            *averaging,
            *built[:at],
            *evaluation,
            LearningWatch(),
            ClassLossWriter(out / class_loss_file.FILE_NAME, self.table.counts.names),
            *built[at + 1 :],
        ]

    def build_writers(self) -> list[EventWriter]:
        """Detectron2's writers and a terminal line of this project's metrics."""
        return [*super().build_writers(), BalanceMetricPrinter()]

    def train(self) -> Any:
        """Detectron2's training; an end that is put in one sentence is logged without traceback."""
        loop = logging.getLogger("detectron2.engine.train_loop")
        loop.addFilter(_has_no_sentence)
        try:
            return super().train()
        finally:
            loop.removeFilter(_has_no_sentence)

    def run_step(self) -> None:
        """Detectron2's step; its own finding that boxes are not finite is met like any other.

        Raises:
            RunStopped: a number is not finite, and ``SOLVER.NON_FINITE`` is ``stop``.
        """
        try:
            super().run_step()
        except FloatingPointError as error:
            reason = str(error).splitlines()[0].rstrip(".")
            self._guard.refuse(f"the model gives up ({reason})", self.optimizer, self.iter)

    def evaluate(self) -> dict[str, Any]:
        """Evaluate on ``DATASETS.TEST``, the averaged weights if any; write ``evaluation.json``."""
        weights = self.average.applied() if self.average else contextlib.nullcontext()
        with weights:
            self._last_eval_results = evaluate(self.cfg, self.model, self.table.counts)
        return self._last_eval_results


@contextlib.contextmanager
def _wrapped_for(device: str) -> Iterator[None]:
    """Let Detectron2 wrap a model for several processes that have no GPU.

    It hands the number of a GPU to DistributedDataParallel on every device.
    """
    if device.startswith("cuda"):
        yield
        return
    wrap = defaults.create_ddp_model
    defaults.create_ddp_model = partial(wrap, device_ids=None)
    try:
        yield
    finally:
        defaults.create_ddp_model = wrap


def _has_no_sentence(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], (UserError, RunStopped)))


def training_table(cfg: CfgNode) -> ClassTable:
    """Count the training set, and weigh its classes where a loss reads the weights.

    Args:
        cfg: prepared by :func:`prepare`.

    Raises:
        UserError: a dataset, a count or a key does not allow it.
    """
    return class_table(cfg, weighted="CLASS_WEIGHTS" not in unread_sections(cfg))


def _best_metric(cfg: CfgNode, counts: ClassCounts) -> str:
    metric = cfg.TEST.BEST_METRIC
    known = ["AP", "AP50", "AP75", *(f"AP-{name}" for name in counts.names)]
    if metric not in known:
        raise UserError(f"TEST.BEST_METRIC is '{metric}', {did_you_mean(metric, known)}")
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
    if epochs < 3:
        logger.warning(
            "Fewer than three epochs: each image is seen %.1f times; raise SOLVER.MAX_ITER", epochs
        )
