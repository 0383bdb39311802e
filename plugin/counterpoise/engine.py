"""Training and evaluation of a config: Detectron2's trainer with the project's parts in place."""

import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, get_event_storage
from torch import nn

from counterpoise import loss_shares, run_record
from counterpoise.checkpoint import RECORD_KEY, BalancedCheckpointer, TrainingRecord, counts_of
from counterpoise.datasets import ClassCounts
from counterpoise.errors import UserError, did_you_mean
from counterpoise.evaluation.stored import write_inference
from counterpoise.evaluator import PerClassEvaluator, write_evaluations
from counterpoise.image_mapping import CheckedMapper, training_mapper
from counterpoise.inference import InferenceClock, ProposalTap
from counterpoise.run_record import RunRecord, command_line
from counterpoise.score_thresholds import ScoreThresholds
from counterpoise.training_hooks import LossShareWriter, RunRecordWriter
from counterpoise.weight_sources import class_table, log_class_table

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

    def write(self) -> None:
        """Log the medians over the last 20 iterations."""
        histories = get_event_storage().histories()
        # A cascade puts the stage before the name, such as "stage0/roi/p_t_fg".
        parts = [
            f"{name}: {histories[name].median(20):.3f}"
            for metric in BALANCE_METRICS
            for name in sorted(histories)
            if f"/{name}".endswith(f"/{metric}")
        ]
        if parts:
            logger.info("  ".join(parts))


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
        self.record = record or RunRecord(command_line(), (), cfg.SEED)
        self.table = class_table(cfg)
        log_class_table(self.table)
        _log_schedule(cfg, self.table.counts)
        for name in cfg.DATASETS.TEST:  # a fault here must not come to light after the training
            _check_test_classes(name, self.table.counts)
        super().__init__(cfg)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Detectron2's model without ``BALANCE.SCORE_THRESHOLDS``: AP is over all detections."""
        cfg = cfg.clone()
        cfg.defrost()
        cfg.BALANCE.SCORE_THRESHOLDS = ""
        cfg.freeze()
        return super().build_model(cfg)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """Detectron2's loader with :func:`training_mapper`."""
        return build_detection_train_loader(cfg, mapper=training_mapper(cfg))

    def build_hooks(self) -> list[HookBase | None]:
        """Detectron2's hooks with this project's checkpointer, evaluation and best checkpoint."""
        # Detectron2 has no method that builds the checkpointer; the hooks are its first users.
        self.checkpointer = BalancedCheckpointer(
            self.model,
            self.cfg.OUTPUT_DIR,
            **self.checkpointer.checkpointables,
            **{RECORD_KEY: TrainingRecord(self.table)},
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
            *built[:at],
            *evaluation,
            LossShareWriter(out / loss_shares.FILE_NAME, self.table.counts.names),
            *built[at + 1 :],
        ]

    def build_writers(self) -> list[EventWriter]:
        """Detectron2's writers and a terminal line of this project's metrics."""
        return [*super().build_writers(), BalanceMetricPrinter()]

    def evaluate(self) -> dict[str, Any]:
        """Evaluate on ``DATASETS.TEST`` and write ``evaluation.json``."""
        self._last_eval_results = evaluate(self.cfg, self.model, self.table.counts)
        return self._last_eval_results


def evaluate(cfg: CfgNode, model: nn.Module, training: ClassCounts | None) -> dict[str, Any]:
    """Evaluate a model on ``DATASETS.TEST``.

    Prints a table per test set and writes ``OUTPUT_DIR/evaluation.json`` and the folder
    ``OUTPUT_DIR/inference`` with what was scored.

    Args:
        cfg: prepared by :func:`prepare`.
        model: with its weights loaded.
        training: counts over the training set, for the table.

    Returns:
        Detectron2's nested results, ``{"bbox": {"AP": ...}}``, by dataset where there are several.

    Raises:
        UserError: a test set has other classes than the model.
    """
    metrics, results = OrderedDict(), {}
    thresholds = cfg.BALANCE.SCORE_THRESHOLDS
    chosen = ScoreThresholds.read(Path(thresholds)) if thresholds else None
    for name in cfg.DATASETS.TEST:
        _check_test_classes(name, training)
    for name in cfg.DATASETS.TEST:
        loader = build_detection_test_loader(cfg, name, mapper=CheckedMapper(cfg, is_train=False))
        with ProposalTap(model) as proposals, InferenceClock(model) as clock:
            evaluator = PerClassEvaluator(name, training, chosen, proposals)
            metrics[name] = inference_on_dataset(model, loader, evaluator)
        if evaluator.result is not None:
            results[name] = evaluator.result
            logger.info("Evaluation on %s (0-100):\n%s", name, evaluator.result)
            write_inference(
                Path(cfg.OUTPUT_DIR),
                name,
                evaluator.ground_truth,
                evaluator.detections,
                clock.seconds_per_image,
            )
    if comm.is_main_process() and results:
        path = Path(cfg.OUTPUT_DIR, "evaluation.json")
        write_evaluations(results, path)
        logger.info("Evaluation written to %s", path)
    return next(iter(metrics.values())) if len(metrics) == 1 else metrics


def _check_test_classes(name: str, training: ClassCounts | None) -> None:
    records = DatasetCatalog.get(name)
    classes = tuple(MetadataCatalog.get(name).thing_classes)
    if training is not None and classes != training.names:
        raise UserError(
            f"test set {name} has the classes [{', '.join(classes)}], but the model was trained on "
            f"[{', '.join(training.names)}]: give both the same list"
        )
    if not any(record.get("annotations") for record in records):
        raise UserError(
            f"test set {name} has no box of the classes [{', '.join(classes)}], so there is "
            "nothing to evaluate: check the class names in its report above"
        )


def load_for_evaluation(
    cfg: CfgNode, all_detections: bool = True
) -> tuple[nn.Module, ClassCounts | None]:
    """Build the model of a config with all its weights from ``MODEL.WEIGHTS``.

    Args:
        cfg: prepared by :func:`prepare` with ``eval_only``.
        all_detections: leave ``BALANCE.SCORE_THRESHOLDS`` out, as AP needs it.

    Returns:
        the model, and the counts of the training set where the checkpoint has them.

    Raises:
        UserError: the checkpoint is missing or does not hold the whole model.
    """
    if not cfg.MODEL.WEIGHTS:
        raise UserError("--eval-only needs a checkpoint: add MODEL.WEIGHTS path/to/model_final.pth")
    model = (BalancedTrainer.build_model if all_detections else build_model)(cfg)
    checkpointer = BalancedCheckpointer(model, cfg.OUTPUT_DIR)
    checkpointer.require_all = True
    record = checkpointer.load(cfg.MODEL.WEIGHTS).get(RECORD_KEY)
    return model, counts_of(record) if record else None


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
