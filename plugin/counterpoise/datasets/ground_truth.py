"""A dataset of Detectron2's catalogue as COCO ground truth, for evaluation and inspection."""

from collections.abc import Mapping
from typing import Any

from detectron2.structures import BoxMode

from counterpoise.datasets.counting import load_dataset
from counterpoise.datasets.segmentation import segment_area, usable_area


def coco_ground_truth(dataset_name: str) -> dict[str, Any]:
    """Read a dataset of Detectron2's catalogue as a COCO dataset, held in memory.

    An annotation's ``area``, by which COCO tells small, medium and large objects, is the one that
    the dataset states, as in pycocotools; else that of its segment; else that of its box.

    Args:
        dataset_name: in ``DatasetCatalog``, of any format.

    Returns:
        ``images``, ``annotations`` and ``categories``; category ids are Detectron2's contiguous
        ones, image ids are Detectron2's. ``bbox`` is XYWH in pixels, ``area`` in pixels squared.

    Raises:
        UserError: an unknown dataset, one that cannot be read, or one without ``thing_classes``.
    """
    records, names = load_dataset(dataset_name)
    annotations = []
    for record in records:
        for annotation in record.get("annotations", ()):
            box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS)
            box = list(map(float, box))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": record["image_id"],
                    "category_id": annotation["category_id"],
                    "bbox": box,
                    "area": _area(annotation, record, box),
                    "iscrowd": int(annotation.get("iscrowd", 0)),
                    "difficult": int(annotation.get("difficult", 0)),
                }
            )
    return {
        "images": [
            {
                "id": record["image_id"],
                "file_name": str(record["file_name"]),
                "height": record["height"],
                "width": record["width"],
            }
            for record in records
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
    }


def _area(annotation: Mapping[str, Any], record: Mapping[str, Any], box: list[float]) -> float:
    stated = usable_area(annotation.get("area"))
    if stated is not None:
        return stated
    segment = segment_area(annotation.get("segmentation"), record["width"], record["height"])
    return box[2] * box[3] if segment is None else segment
