"""COCO average precision per class, with the counts that it rests on.

The measure is that of pycocotools: ``AP`` is the mean over IoU thresholds 0.50, 0.55, ... 0.95 and
over the classes that have ground truth, at most 100 detections per image; all values lie in 0-100.
"""

import contextlib
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import BoxMode
from detectron2.utils import comm
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

from counterpoise.class_counts import ClassCounts


@dataclass(frozen=True)
class ClassResult:
    """Result of one class.

    Attributes:
        name: of the class.
        AP: average precision over IoU 0.50:0.95, 0-100; None without test boxes.
        AP50: average precision at IoU 0.50, 0-100; None without test boxes.
        train_images, train_boxes: in the training set; None where it is not known.
        test_images, test_boxes: in the test set, crowd and difficult boxes not counted.
    """

    name: str
    AP: float | None
    AP50: float | None
    train_images: int | None
    train_boxes: int | None
    test_images: int
    test_boxes: int


@dataclass(frozen=True)
class Evaluation:
    """Result on one test set.

    Attributes:
        AP, AP50, AP75: means over the classes with test boxes, 0-100; None where no class has any.
        per_class: in class order.
    """

    AP: float | None
    AP50: float | None
    AP75: float | None
    per_class: tuple[ClassResult, ...]

    def __str__(self) -> str:
        rows = [
            (c.name, c.train_images, c.train_boxes, c.test_images, c.test_boxes, c.AP, c.AP50)
            for c in self.per_class
        ]
        rows.append(("mean of classes", None, None, None, None, self.AP, self.AP50))
        headers = (
            "class", "train images", "train boxes", "test images", "test boxes", "AP", "AP50",
        )  # fmt: skip
        table = tabulate(rows, headers, tablefmt="simple", floatfmt=".1f", missingval="-")
        absent = [c.name for c in self.per_class if c.AP is None]
        if absent:
            table += f"\nWithout test boxes, so without AP and not in the mean: {', '.join(absent)}"
        return table


def evaluate_detections(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    training: ClassCounts | None = None,
) -> Evaluation:
    """Score detections against ground truth, both in COCO form.

    Args:
        ground_truth: COCO dataset with ``images``, ``annotations`` and ``categories``. Annotations
            with ``iscrowd`` 1 or ``difficult`` 1 are regions in which a detection counts neither
            as hit nor as miss. Annotation ids are not looked at: pycocotools takes a match to an
            annotation of id 0 for a miss, so the annotations are numbered anew.
        detections: COCO results with ``image_id``, ``category_id``, ``bbox`` (XYWH, pixels) and
            ``score``; may be empty.
        training: counts over the training set, looked up by class name.

    Returns:
        the result, classes in the order of ``categories``.
    """
    categories = ground_truth["categories"]
    annotations = [
        {
            **annotation,
            "id": number,
            "iscrowd": int(bool(annotation.get("iscrowd") or annotation.get("difficult"))),
            "area": annotation.get("area", annotation["bbox"][2] * annotation["bbox"][3]),
        }
        for number, annotation in enumerate(ground_truth["annotations"], start=1)
    ]
    precision = _precision({**ground_truth, "annotations": annotations}, detections)
    counted = [a for a in annotations if not a["iscrowd"]]
    train = {}
    if training is not None:
        train = {
            name: (images, boxes)
            for name, images, boxes in zip(
                training.names, training.images, training.boxes, strict=True
            )
        }
    per_class = []
    for k, category in enumerate(categories):
        own = [a for a in counted if a["category_id"] == category["id"]]
        train_images, train_boxes = train.get(category["name"], (None, None))
        per_class.append(
            ClassResult(
                name=category["name"],
                AP=_mean(precision[:, :, k]),
                AP50=_mean(precision[0, :, k]),
                train_images=train_images,
                train_boxes=train_boxes,
                test_images=len({a["image_id"] for a in own}),
                test_boxes=len(own),
            )
        )
    return Evaluation(
        AP=_mean(precision), AP50=_mean(precision[0]), AP75=_mean(precision[5]),
        per_class=tuple(per_class),
    )  # fmt: skip


def _precision(ground_truth: dict[str, Any], detections: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Precision (10 IoU thresholds, 101 recalls, K classes); -1 for a class without boxes.

    Classes are in the order of ``categories``.
    """
    with contextlib.redirect_stdout(None):  # pycocotools reports every step on the terminal
        coco = COCO()
        coco.dataset = {"info": {}, **ground_truth}
        coco.createIndex()
        results = COCO()
        results.dataset = {
            "images": ground_truth["images"],
            "categories": ground_truth["categories"],
            "annotations": [
                {**d, "id": i, "iscrowd": 0, "area": d["bbox"][2] * d["bbox"][3]}
                for i, d in enumerate(detections, start=1)
            ],
        }
        results.createIndex()
        evaluation = COCOeval(coco, results, iouType="bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    # All sizes of box, at most 100 detections; pycocotools sorts the category ids.
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    at = {category_id: i for i, category_id in enumerate(evaluation.params.catIds)}
    return precision[:, :, [at[c["id"]] for c in ground_truth["categories"]]]


def _mean(precision: np.ndarray) -> float | None:
    known = precision[precision > -1]
    return 100 * float(known.mean()) if known.size else None


def coco_ground_truth(dataset_name: str) -> dict[str, Any]:
    """Read a dataset of Detectron2's catalog as a COCO dataset, held in memory.

    Args:
        dataset_name: in ``DatasetCatalog``, of any format.

    Returns:
        ``images``, ``annotations`` and ``categories``; category ids are Detectron2's contiguous
        ones, image ids are Detectron2's.
    """
    records = DatasetCatalog.get(dataset_name)
    names = MetadataCatalog.get(dataset_name).thing_classes
    annotations = []
    for record in records:
        for annotation in record.get("annotations", ()):
            box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS)
            annotations.append(
                {
                    "image_id": record["image_id"],
                    "category_id": annotation["category_id"],
                    "bbox": list(map(float, box)),
                    "iscrowd": annotation.get("iscrowd", 0),
                    "difficult": annotation.get("difficult", 0),
                }
            )
    return {
        "images": [
            {"id": r["image_id"], "height": r["height"], "width": r["width"]} for r in records
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
    }


class PerClassEvaluator(DatasetEvaluator):
    """Detectron2 evaluator for any dataset of its catalog."""

    def __init__(self, dataset_name: str, training: ClassCounts | None = None) -> None:
        """
        Args:
            dataset_name: in ``DatasetCatalog``.
            training: counts over the training set, for the table.
        """
        self.dataset_name = dataset_name
        self.training = training
        self.result: Evaluation | None = None
        self._detections: list[dict[str, Any]] = []

    def reset(self) -> None:
        """Forget all detections."""
        self._detections = []
        self.result = None

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take in the detections of a batch, as :class:`DatasetEvaluator` describes."""
        for image, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            self._detections.extend(instances_to_coco_json(instances, image["image_id"]))

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Score all detections, gathered from all processes.

        Returns:
            ``{"bbox": {"AP", "AP50", "AP75", "AP-<class>", ...}}``, Detectron2's form, NaN where
            there is no value; None on every process but the first. The full result is in `result`.
        """
        detections = list(itertools.chain(*comm.gather(self._detections, dst=0)))
        if not comm.is_main_process():
            return None
        ground_truth = coco_ground_truth(self.dataset_name)
        self.result = evaluate_detections(ground_truth, detections, self.training)
        values = {name: getattr(self.result, name) for name in ("AP", "AP50", "AP75")}
        values |= {f"AP-{c.name}": c.AP for c in self.result.per_class}
        return {"bbox": {k: float("nan") if v is None else v for k, v in values.items()}}


def write_evaluations(results: Mapping[str, Evaluation], path: Path) -> None:
    """Write ``{dataset: result}`` as JSON; the file is whole or untouched.

    Args:
        results: by dataset name.
        path: of the file, in an existing folder.
    """
    content = {name: asdict(result) for name, result in results.items()}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)
