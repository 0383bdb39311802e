"""Choosing a score threshold per class on validation images."""

from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode

from counterpoise.evaluation.inputs import parse_detections
from counterpoise.evaluation.matching import ClassMatches, match
from counterpoise.evaluation.operating_points import (
    OperatingPoint,
    at_threshold,
    best_common_threshold,
    best_f1_threshold,
    precision_threshold,
    recall_threshold,
)
from counterpoise.inference.dataset import detections_on
from counterpoise.inference.evaluation import check_class_list, load_for_evaluation
from counterpoise.inference.validation_data import (
    joined_records,
    joined_truth,
    parse_validation_truth,
)


@dataclass(frozen=True)
class ChosenThreshold:
    """The threshold of one class and its results on the images that it was chosen on.

    Attributes:
        name: of the class.
        boxes: of the class in these images.
        reached: whether some threshold of the class gives what was asked for.
        point: precision, recall and F1 at the threshold.
        F1_common: F1 at the one threshold that is best for all classes together, 0-100.
    """

    name: str
    boxes: int
    reached: bool
    point: OperatingPoint
    F1_common: float | None


def detect(cfg: CfgNode) -> tuple[tuple[ClassMatches, ...], tuple[str, ...]]:
    """Run the model over ``DATASETS.VAL`` and match what it finds.

    Returns:
        matches and names of the classes.

    Raises:
        UserError: the checkpoint or a dataset cannot be used, or no dataset has a box.
    """
    model, training = load_for_evaluation(cfg)
    truths, results = {}, {}
    for name in cfg.DATASETS.VAL:
        check_class_list(name, training)
        truths[name], results[name] = detections_on(cfg, model, name)
    coco = joined_truth(truths)
    truth = parse_validation_truth(cfg, coco, "threshold")
    found = parse_detections(joined_records(results), coco, truth)
    return match(truth, found), truth.class_names


def choose(
    matches: Sequence[ClassMatches],
    names: Sequence[str],
    precision: float | None,
    recall: float | None,
    default: float,
) -> list[ChosenThreshold]:
    """Choose the threshold of every class.

    A class whose objects are not in these images, or are not found, takes the one threshold that is
    best for all classes together: with a lower one all that it detects, of which nothing is known,
    would be kept. Where a recall is out of reach every detection is kept, where a precision is, the
    threshold of maximal F1.

    Args:
        matches, names: of the classes.
        precision: at least this with the largest recall, or None.
        recall: at least this with the highest threshold, or None; without both, maximal F1.
        default: score below which the model has kept no detection, so that no threshold is lower.
    """
    common = best_common_threshold(matches)
    chosen = []
    for own, name in zip(matches, names, strict=True):
        best_f1 = best_f1_threshold(own)
        if precision is not None:
            threshold, out_of_reach = precision_threshold(own, precision), best_f1
        elif recall is not None:
            threshold, out_of_reach = recall_threshold(own, recall), default
        else:
            threshold = out_of_reach = best_f1
        known = (threshold, out_of_reach if own.num_gt else None, common)
        score = next(score for score in known if score is not None)
        point = at_threshold(own, max(score, default))
        shared = at_threshold(own, common).F1
        chosen.append(ChosenThreshold(name, own.num_gt, threshold is not None, point, shared))
    return chosen
