"""What each remedy for imbalance would do on these counts: class weights and repeat factors."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
from detectron2.config import CfgNode

from counterpoise.balance.class_weights import RULES, ClassWeightWarning, class_weights
from counterpoise.evaluation import GroundTruth
from counterpoise.inspection.ground_truth import imbalance
from counterpoise.inspection.results import RepeatFactors, RuleWeights

#: LVIS's threshold, and larger ones for data with few classes.
THRESHOLDS = (0.001, 0.01, 0.1, 0.3, 0.5, 1.0)


def weights_by_rule(boxes: Sequence[int], cfg: CfgNode) -> tuple[RuleWeights, ...]:
    """Class weights under every rule.

    Args:
        boxes: per class, at least one box in all.
        cfg: its ``BALANCE.CLASS_WEIGHTS`` gives the parameters of the rules.
    """
    return tuple(_weights(boxes, rule, cfg) for rule in RULES if rule != "none")


def _weights(boxes: Sequence[int], rule: str, cfg: CfgNode) -> RuleWeights:
    node = cfg.BALANCE.CLASS_WEIGHTS

    def with_background(background: str) -> list[float]:
        return class_weights(
            boxes, rule, log_offset=node.LOG_OFFSET, beta=node.BETA, background=background
        ).tolist()

    if rule != "log" and 0 in boxes:
        return RuleWeights(rule, problem="it needs at least one box of every class")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ClassWeightWarning)  # the recommendation says it
        *weights, sum_div3 = with_background("sum_div3")
        mean = with_background("mean")[-1]
    return RuleWeights(rule, tuple(weights), sum_div3, mean, max(weights) / min(weights))


def repeat_factors(
    truth: GroundTruth, filter_empty: bool
) -> tuple[float | None, tuple[RepeatFactors, ...]]:
    """Repeat-factor sampling (Gupta et al. 2019, arXiv:1908.03195) at :data:`THRESHOLDS`.

    A class in the share f of the images gets r = max(1, sqrt(t / f)), and an image the largest r of
    its classes. Equal to what Detectron2's ``RepeatFactorTrainingSampler`` computes, which counts
    crowd regions in f.

    Args:
        truth: of the training set, with the crowd regions as `ignored`.
        filter_empty: images without boxes are left out before f is counted, as
            ``DATALOADER.FILTER_EMPTY_ANNOTATIONS`` does.

    Returns:
        the least f of a class (None without boxes), and one result per threshold (none without
        boxes).
    """
    if truth.ignored.all():
        return None, ()
    images, classes = truth.images, truth.classes
    boxes_images, boxes_classes = images[~truth.ignored], classes[~truth.ignored]
    num_images = truth.num_images
    if filter_empty:  # Detectron2 leaves out images that hold crowd regions only, too
        kept = np.isin(images, boxes_images)
        images, classes = images[kept], classes[kept]
        num_images = len(np.unique(boxes_images))
    pairs = np.unique(np.stack([images, classes], 1), axis=0)
    frequency = np.bincount(pairs[:, 1], minlength=truth.num_classes) / num_images
    results = []
    for threshold in THRESHOLDS:
        factors = [max(1.0, math.sqrt(threshold / f)) if f else None for f in frequency]
        by_class = np.array([factor or 1.0 for factor in factors])
        by_image = np.ones(truth.num_images)
        np.maximum.at(by_image, pairs[:, 0], by_class[pairs[:, 1]])
        seen = np.bincount(boxes_classes, by_image[boxes_images], truth.num_classes)
        extra = by_image.sum() - len(by_image)
        results.append(
            RepeatFactors(
                threshold=threshold,
                factors=tuple(factors),
                epoch_growth=float(1 + extra / num_images),
                imbalance=imbalance(seen.tolist()),
            )
        )
    return float(frequency[frequency > 0].min()), tuple(results)
