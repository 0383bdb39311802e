"""Evaluation of a model on the test sets of a config."""

import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model
from detectron2.utils import comm
from torch import nn

from counterpoise.datasets import ClassCounts, load_dataset
from counterpoise.datasets.counting import loader_dataset, read_once
from counterpoise.datasets.mapper import CheckedMapper
from counterpoise.errors import UserError
from counterpoise.evaluation import Evaluation
from counterpoise.evaluation.proposals import ProposalResult
from counterpoise.evaluation.stored import write_inference
from counterpoise.inference.augmentation import with_augmentation
from counterpoise.inference.batches import batched_loader
from counterpoise.inference.evaluator import FILE_NAME, PerClassEvaluator, write_evaluations
from counterpoise.inference.hooks import InferenceClock, ProposalTap
from counterpoise.modeling.acceleration import accelerate, use_numbered_gpu
from counterpoise.modeling.checkpoint import BalancedCheckpointer, not_finite
from counterpoise.modeling.features import feature_errors_explained
from counterpoise.modeling.score_thresholds import ScoreThresholds, without_score_thresholds
from counterpoise.modeling.training_record import RECORD_KEY, counts_of
from counterpoise.utils.workers import leave_signals_to_parent

#: Average recall, 0-100, below which a warning says that proposals fail: a trained RPN reaches 25
#: to 60.
LOW_RECALL = 10.0

logger = logging.getLogger(__name__)


def evaluate(
    cfg: CfgNode, model: nn.Module, training: ClassCounts | None
) -> tuple[dict[str, Any], dict[str, Evaluation]]:
    """Evaluate a model on ``DATASETS.TEST``.

    Prints a table per test set and writes ``OUTPUT_DIR/evaluation.json`` and the folder
    ``OUTPUT_DIR/inference`` with what was scored.

    Args:
        cfg: prepared by :func:`prepare`.
        model: with its weights loaded.
        training: counts over the training set, for the table.

    Returns:
        Detectron2's nested results, ``{"bbox": {"AP": ...}}``, by dataset where there are several,
        and the full results by dataset, on the main process alone.

    Raises:
        UserError: a test set has other classes than the model.
    """
    metrics, results = OrderedDict(), {}
    model = with_augmentation(cfg, model)
    thresholds = cfg.BALANCE.SCORE_THRESHOLDS
    chosen = ScoreThresholds.read(Path(thresholds)) if thresholds else None
    for name in cfg.DATASETS.TEST:
        check_test_classes(name, training)
    for name in cfg.DATASETS.TEST:
        loader = loader_of(cfg, name, model)
        with ProposalTap(model) as proposals, InferenceClock(model) as clock:
            evaluator = PerClassEvaluator(name, training, chosen, proposals)
            metrics[name] = inference_on_dataset(model, loader, evaluator)
        if evaluator.result is not None:
            results[name] = evaluator.result
            logger.info("Evaluation on %s (0-100):\n%s", name, evaluator.result)
            _warn_of_proposals(name, evaluator.result.proposals)
            write_inference(
                Path(cfg.OUTPUT_DIR),
                name,
                evaluator.ground_truth,
                evaluator.detections,
                evaluator.result,
                training,
                clock.seconds_per_image,
            )
    if comm.is_main_process() and results:
        path = Path(cfg.OUTPUT_DIR, FILE_NAME)
        write_evaluations(results, path)
        logger.info("Evaluation written to %s", path)
    return next(iter(metrics.values())) if len(metrics) == 1 else metrics, results


def _warn_of_proposals(name: str, proposals: ProposalResult | None) -> None:
    recall = None if proposals is None else proposals.proposal_AR100
    if recall is not None and recall < LOW_RECALL:
        logger.warning(
            "On %s the 100 best proposals of an image have an average recall of %.1f, so that the "
            "box head never sees most objects: train longer, or choose sizes of "
            "MODEL.ANCHOR_GENERATOR that fit the objects (counterpoise inspect shows them)",
            name, recall,
        )  # fmt: skip


def loader_of(cfg: CfgNode, name: str, model: nn.Module) -> Any:
    """Detectron2's loader of a test set, with :class:`CheckedMapper`, and workers that live on
    where a signal is for all processes.

    Args:
        cfg: prepared by :func:`prepare`.
        name: of the dataset.
        model: that will see the images; in batches, where ``TEST.IMS_PER_BATCH`` is above 1.

    Raises:
        UserError: the dataset cannot be read.
    """
    loader = _loader(cfg, name, model)
    loader.worker_init_fn = leave_signals_to_parent
    return loader


def _loader(cfg: CfgNode, name: str, model: nn.Module) -> Any:
    mapper, records = CheckedMapper(cfg, is_train=False), loader_dataset([name], filter_empty=False)
    mapper.skip_unusable = cfg.DATASETS.BAD_RECORDS == "skip"
    if records is None and cfg.TEST.IMS_PER_BATCH == 1:
        with read_once([name]):
            return build_detection_test_loader(cfg, name, mapper=mapper)
    if records is None:
        files = None
        if cfg.MODEL.LOAD_PROPOSALS:
            files = [cfg.DATASETS.PROPOSAL_FILES_TEST[list(cfg.DATASETS.TEST).index(name)]]
        with read_once([name]):
            records = get_detection_dataset_dicts([name], filter_empty=False, proposal_files=files)
    if cfg.TEST.IMS_PER_BATCH == 1:
        workers = cfg.DATALOADER.NUM_WORKERS
        return build_detection_test_loader(records, mapper=mapper, num_workers=workers)
    return batched_loader(cfg, model, records, mapper)


def check_test_classes(name: str, training: ClassCounts | None) -> None:
    """Refuse a test set that a model of the training set's classes cannot be evaluated on.

    Raises:
        UserError: it has other classes, or no box.
    """
    check_class_list(name, training)
    records, classes = load_dataset(name)
    annotations = (each for record in records for each in record.get("annotations", ()))
    if all(each.get("iscrowd") or each.get("difficult") for each in annotations):
        raise UserError(
            f"test set {name} has no box of the classes [{', '.join(classes)}], so there is "
            "nothing to evaluate: check the class names in its report above"
        )


def check_class_list(name: str, training: ClassCounts | None) -> None:
    """Refuse a dataset whose detections would be taken for those of other classes.

    Raises:
        UserError: it has other classes than the training set, or has them in another order.
    """
    classes = tuple(load_dataset(name)[1])
    if training is not None and classes != training.names:
        raise UserError(
            f"dataset {name} has the classes [{', '.join(classes)}], but the model was trained on "
            f"[{', '.join(training.names)}]: give both the same list"
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
        UserError: the checkpoint is missing, lacks a parameter of the model or holds numbers that
            are not finite.
    """
    use_numbered_gpu(torch.device(cfg.MODEL.DEVICE))
    with feature_errors_explained(cfg):
        model = build_model(without_score_thresholds(cfg) if all_detections else cfg)
    accelerate(model, cfg)
    checkpointer = BalancedCheckpointer(model, cfg.OUTPUT_DIR)
    checkpointer.require_all = True
    checkpointer.use_average = cfg.MODEL.EMA.ENABLED
    record = checkpointer.load(cfg.MODEL.WEIGHTS).get(RECORD_KEY)
    broken = not_finite(model.state_dict())
    if broken:
        raise UserError(
            f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS} holds numbers that are not finite, in "
            f"{len(broken)} tensors such as {broken[0]}: its training diverged, so give an earlier "
            "checkpoint"
        )
    return model, counts_of(record) if record else None
