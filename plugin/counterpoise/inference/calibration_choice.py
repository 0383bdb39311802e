"""Choosing the exponent of a calibration on validation images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.modeling import ROI_HEADS_REGISTRY, GeneralizedRCNN
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.structures import Instances
from torch import Tensor

from counterpoise.balance.class_counts import ClassCounts
from counterpoise.errors import UserError
from counterpoise.evaluation.bootstrap import bootstrap, difference_interval, draw_images
from counterpoise.evaluation.coco_metrics import coco_metrics
from counterpoise.evaluation.groups import frequency_groups
from counterpoise.evaluation.inputs import parse_detections
from counterpoise.evaluation.matching import match
from counterpoise.inference.evaluation import check_class_list, load_for_evaluation, loader_of
from counterpoise.inference.evaluator import PerClassEvaluator
from counterpoise.inference.hooks import ProposalTap
from counterpoise.inference.loop import infer
from counterpoise.inference.validation_data import (
    joined_records,
    joined_truth,
    parse_validation_truth,
)
from counterpoise.modeling.calibration import training_counts


@dataclass(frozen=True)
class ExponentResult:
    """What one exponent gives on the validation images, 0-100.

    Attributes:
        exponent: >= 0.
        AP: mean over the classes.
        tail_AP: mean over the rarest group of classes by training boxes; None where it has no box
            here.
        difference: of the value that is aimed at from that of exponent 0.
        interval: of the difference, 95 %, by paired bootstrap over the images; None where no class
            is in two images, and for exponent 0.
    """

    exponent: float
    AP: float
    tail_AP: float | None
    difference: float
    interval: tuple[float, float] | None


def evaluate_exponents(
    cfg: CfgNode, exponents: Sequence[float], tail: bool
) -> tuple[list[ExponentResult], tuple[str, ...]]:
    """Evaluate a model on ``DATASETS.VAL`` with several exponents in one pass over the images.

    Args:
        cfg: prepared with the split VAL, with a ``BALANCE.CALIBRATION.NAME``.
        exponents: >= 0, the first one 0.
        tail: whether the differences are of the tail's AP.

    Returns:
        a result per exponent, and the names of the tail's classes.

    Raises:
        UserError: the checkpoint or a dataset cannot be used, no dataset has a box, or the tail is
            asked for and there is none.
    """
    if issubclass(ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME), CascadeROIHeads):
        raise UserError(
            f"MODEL.ROI_HEADS.NAME is '{cfg.MODEL.ROI_HEADS.NAME}', whose stages each have scores, "
            "so the exponents cannot share one pass: compare values of "
            "BALANCE.CALIBRATION.EXPONENT by `counterpoise train --eval-only` on validation images"
        )
    counts = training_counts(cfg)
    groups = frequency_groups(counts.images, counts.boxes)
    rarest = groups[-1].classes if groups else ()
    coco, results_by_exponent = _detect(cfg, exponents, counts)
    truth = parse_validation_truth(cfg, coco, "exponent")
    images = truth.images_per_class()
    aimed = list(rarest) if tail else list(range(len(images)))
    if not any(images[k] for k in aimed):
        raise UserError(
            f"DATASETS.VAL {', '.join(cfg.DATASETS.VAL)} has no box of the rarer classes "
            f"[{', '.join(counts.names[k] for k in aimed)}], so --aim tail has nothing to go by: "
            "name a dataset that has some, or aim at AP"
        )
    drawn = draw_images(truth.num_images)
    results: list[ExponentResult] = []
    for exponent, detections in zip(exponents, results_by_exponent, strict=True):
        found = parse_detections(detections, coco, truth)
        per_class = [c["AP"] for c in coco_metrics(truth, found).per_class]
        samples = bootstrap(match(truth, found), drawn).AP[:, aimed]
        AP, tail_AP = _mean(per_class, range(len(images))), _mean(per_class, rarest)
        value = tail_AP if tail else AP
        if not results:
            base, base_samples = value, samples
        difference = value - base
        interval = None
        if results:
            interval = difference_interval(samples - base_samples, images[aimed], difference)
        results.append(ExponentResult(exponent, AP, tail_AP, difference, interval))
    return results, tuple(counts.names[k] for k in rarest)


def _mean(per_class: Sequence[float | None], classes: Sequence[int]) -> float | None:
    known = [per_class[k] for k in classes if per_class[k] is not None]
    return float(np.mean(known)) if known else None


def _detect(
    cfg: CfgNode, exponents: Sequence[float], counts: ClassCounts
) -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
    """COCO ground truth of ``DATASETS.VAL``, and the detections of each exponent."""
    model, training = load_for_evaluation(cfg)
    predictor = model.roi_heads.box_predictor
    predictor.calibration.use_counts(counts.boxes)
    predictions: list[tuple[Tensor, Tensor]] = []
    truths: dict[str, dict[str, Any]] = {}
    results: list[dict[str, list[dict[str, Any]]]] = [{} for _ in exponents]
    for name in cfg.DATASETS.VAL:
        check_class_list(name, training)
        evaluators = [PerClassEvaluator(name) for _ in exponents]
        coco = evaluators[0].ground_truth
        tap = predictor.register_forward_hook(lambda _, inputs, out: predictions.append(out))
        with tap, ProposalTap(model) as proposals:
            for inputs, _ in infer(model, loader_of(cfg, name, model), len(coco["images"]), name):
                for exponent, evaluator in zip(exponents, evaluators, strict=True):
                    predictor.calibration.exponent = exponent
                    found = predictor.inference(predictions[-1], proposals.latest)[0]
                    evaluator.process(inputs, _outputs(found, inputs))
                predictions.clear()
        truths[name] = coco
        for by_dataset, evaluator in zip(results, evaluators, strict=True):
            by_dataset[name] = evaluator.detections
    return joined_truth(truths), [joined_records(by_dataset) for by_dataset in results]


def _outputs(found: list[Instances], inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return GeneralizedRCNN._postprocess(found, inputs, [each.image_size for each in found])
