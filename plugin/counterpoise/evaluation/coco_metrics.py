"""COCO's metrics by faster-coco-eval, which equals pycocotools and takes a fraction of its time."""

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from faster_coco_eval.core.coco import COCO
from faster_coco_eval.core.faster_eval_api import COCOeval_faster

from counterpoise.evaluation.inputs import Detections, GroundTruth

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100")


@dataclass(frozen=True)
class CocoMetrics:
    """COCO's summary of a test set and its parts by class.

    Attributes:
        summary: by :data:`NAMES`, 0-100; None where no box has that size.
        per_class: ``AP``, ``AP50``, ``AP75`` and ``AR100`` of each class, 0-100 or None.
    """

    summary: dict[str, float | None]
    per_class: tuple[dict[str, float | None], ...]


def coco_metrics(ground_truth: GroundTruth, detections: Detections) -> CocoMetrics:
    """Score detections as COCO does: IoU 0.50:0.95, 101 recalls, 100 detections per class.

    Args:
        ground_truth, detections: of one test set.
    """
    crowds = ground_truth.ignored.astype(int)
    areas = detections.boxes[:, 2:].prod(axis=1)
    with _nothing_collected():
        truth = _dataset(ground_truth, ground_truth, ground_truth.areas, "iscrowd", crowds)
        results = _dataset(ground_truth, detections, areas, "score", detections.scores)
        evaluation = COCOeval_faster(COCO(truth), COCO(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    shape = evaluation.eval["counts"]
    # precision: IoU thresholds, recalls, classes, sizes, limits; recall: the same without recalls
    precision = np.reshape(evaluation.eval["precision"], shape)
    recall = np.reshape(evaluation.eval["recall"], [shape[0], *shape[2:]])
    values = [
        precision[..., 0, -1], precision[0, ..., 0, -1], precision[5, ..., 0, -1],
        *(precision[..., size, -1] for size in (1, 2, 3)),
        *(recall[..., 0, limit] for limit in range(3)),
    ]  # fmt: skip
    per_class = tuple(
        {
            "AP": _mean(precision[:, :, k, 0, -1]),
            "AP50": _mean(precision[0, :, k, 0, -1]),
            "AP75": _mean(precision[5, :, k, 0, -1]),
            "AR100": _mean(recall[:, k, 0, -1]),
        }
        for k in range(ground_truth.num_classes)
    )
    return CocoMetrics(dict(zip(NAMES, map(_mean, values), strict=True)), per_class)


@contextlib.contextmanager
def _nothing_collected() -> Iterator[None]:
    """Keep the garbage collector from going through a dictionary per detection again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _dataset(
    ground_truth: GroundTruth,
    part: GroundTruth | Detections,
    areas: np.ndarray,
    key: str,
    values: np.ndarray,
) -> dict[str, list[dict]]:
    """Boxes with one more key as a COCO dataset, all numbered anew: the library takes integers."""
    columns = (part.images, part.classes, part.boxes, areas, values)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return {
        "images": [{"id": i} for i in range(ground_truth.num_images)],
        "categories": [{"id": k, "name": n} for k, n in enumerate(ground_truth.class_names)],
        "annotations": [
            {"id": i, "image_id": image, "category_id": k, "bbox": box, "area": area, key: value}
            for i, (image, k, box, area, value) in enumerate(rows, start=1)  # 0 means no match
        ],
    }


def _mean(values: np.ndarray) -> float | None:
    known = values[values > -1]
    return 100 * float(known.mean()) if known.size else None
