"""A dataset of Detectron2's catalogue as COCO ground truth, for evaluation and inspection."""

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from detectron2.data import Metadata, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from counterpoise.datasets.counting import load_dataset
from counterpoise.datasets.segmentation import segment_area, usable_area

# Image id and box (XYWH, pixels) of an annotation.
_Place = tuple[int | str, tuple[float, ...]]


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
    stated = _areas_in_file(MetadataCatalog.get(dataset_name))
    annotations = []
    for record in records:
        for annotation in record.get("annotations", ()):
            box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS)
            box = list(map(float, box))
            areas = stated.get((record["image_id"], tuple(box)))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": record["image_id"],
                    "category_id": annotation["category_id"],
                    "bbox": box,
                    "area": _area(annotation, areas.pop(0) if areas else None, record, box),
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


def _area(
    annotation: Mapping[str, Any], in_file: object, record: Mapping[str, Any], box: list[float]
) -> float:
    stated = usable_area(annotation.get("area", in_file))
    if stated is not None:
        return stated
    segment = segment_area(annotation.get("segmentation"), record["width"], record["height"])
    return box[2] * box[3] if segment is None else segment


def _areas_in_file(metadata: Metadata) -> dict[_Place, list[Any]]:
    """Areas that the file of a dataset of ``register_coco_instances`` states, in its order.

    Detectron2's loader drops them, and the ids of the annotations with them. Its own evaluator
    reads this file again, too.
    """
    areas: dict[_Place, list[Any]] = defaultdict(list)
    json_file = metadata.get("json_file")
    if metadata.get("evaluator_type") == "coco" and json_file and PathManager.isfile(json_file):
        with PathManager.open(json_file, encoding="utf-8") as file:
            content = json.load(file)
        for annotation in content.get("annotations", ()):
            if "bbox" in annotation:
                place = annotation["image_id"], tuple(annotation["bbox"])
                areas[place].append(annotation.get("area"))
    return areas
