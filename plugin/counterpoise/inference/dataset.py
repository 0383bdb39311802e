"""Detections of a trained model on a whole dataset."""

from typing import Any

from detectron2.config import CfgNode
from torch import nn

from counterpoise.inference.augmentation import with_augmentation
from counterpoise.inference.evaluation import loader_of
from counterpoise.inference.evaluator import PerClassEvaluator
from counterpoise.inference.loop import infer


def detections_on(
    cfg: CfgNode, model: nn.Module, name: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run a model over a dataset, whether its images have boxes or not.

    Args:
        cfg: prepared; with ``TEST.AUG.ENABLED`` several views of each image are taken.
        model: with its weights loaded.
        name: of the dataset.

    Returns:
        ground truth as a COCO dataset, and detections as COCO results.

    Raises:
        UserError: the dataset cannot be read.
    """
    evaluator = PerClassEvaluator(name)
    model = with_augmentation(cfg, model)
    loader = loader_of(cfg, name, model)
    for inputs, outputs in infer(model, loader, len(evaluator.ground_truth["images"]), name):
        evaluator.process(inputs, outputs)
    return evaluator.ground_truth, evaluator.detections
