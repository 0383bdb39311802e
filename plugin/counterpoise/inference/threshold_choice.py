"""Choosing a score threshold per class on validation images."""

from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from counterpoise.datasets import load_dataset
from counterpoise.errors import UserError
from counterpoise.evaluation.inputs import parse_detections, parse_ground_truth
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
    truth: dict[str, list[dict]] = {"images": [], "annotations": []}
    results = []
    for name in cfg.DATASETS.VAL:
        check_class_list(name, training)
        coco, found = detections_on(cfg, model, name)
        # Two datasets may number their images alike.
        truth["images"] += numbered(coco["images"], "id", name)
        truth["annotations"] += numbered(coco["annotations"], "image_id", name)
        results += numbered(found, "image_id", name)
        truth["categories"] = coco["categories"]
    parsed = parse_ground_truth(truth)
    if parsed.ignored.all():
        raise UserError(
            f"DATASETS.VAL {', '.join(cfg.DATASETS.VAL)} has no box of the classes "
            f"[{', '.join(parsed.class_names)}], so no threshold can be chosen on it: "
            "name a dataset that has some"
        )
    return match(parsed, parse_detections(results, truth, parsed)), parsed.class_names


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


#: What is said of a choice on detections that are all wrong.
NOTHING_FOUND = (
    "the model finds no box of DATASETS.VAL, so there is nothing to choose on: train it longer"
)


def overlaps(cfg: CfgNode, chosen: str = "thresholds") -> list[str]:
    """Warn of images of ``DATASETS.VAL`` that are in ``DATASETS.TEST`` or ``TRAIN`` too.

    A dataset that cannot be read is skipped: thresholds are also chosen where the training images
    are not.

    Args:
        cfg: prepared with the split VAL.
        chosen: what is chosen on these images, for the sentence.

    Returns:
        one sentence per split that shares images.
    """
    own = {record["file_name"] for name in cfg.DATASETS.VAL for record in load_dataset(name)[0]}
    warnings = []
    for split, consequence in (
        ("TEST", f"{chosen} chosen on test images make the test's results too good"),
        ("TRAIN", "the model has learned from these images, so its scores there are too high"),
    ):
        other = set()
        for name in cfg.DATASETS[split]:
            if name in DatasetCatalog:
                try:
                    other |= {record["file_name"] for record in load_dataset(name)[0]}
                except UserError:
                    continue
        if shared := len(own & other):
            warnings.append(
                f"{shared} of {len(own)} images of DATASETS.VAL are in DATASETS.{split} too: "
                f"{consequence}"
            )
    return warnings


def numbered(records: Sequence[dict], key: str, dataset: str) -> list[dict]:
    """Copies of records whose image numbers are told apart by dataset."""
    return [{**record, key: f"{dataset}/{record[key]}"} for record in records]
