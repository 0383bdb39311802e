"""The data of ``DATASETS.VAL``, on which thresholds and exponents are chosen."""

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from counterpoise.datasets import load_dataset
from counterpoise.errors import UserError
from counterpoise.evaluation import GroundTruth, parse_ground_truth

#: Warning that a choice is made on detections that are all wrong.
NOTHING_FOUND = (
    "the model finds no box of DATASETS.VAL, so there is nothing to choose on: train it longer"
)


def joined_records(
    records: Mapping[str, Sequence[dict[str, Any]]], key: str = "image_id"
) -> list[dict[str, Any]]:
    """Put images, annotations or results of several datasets into one list.

    Args:
        records: in COCO form, by the name of their dataset.
        key: of the image's id, which becomes ``name/id``: two datasets may number images alike.
    """
    return [
        {**record, key: f"{name}/{record[key]}"} for name, own in records.items() for record in own
    ]


def joined_truth(truths: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Put COCO datasets of the same classes, by name, together as :func:`joined_records` does."""
    return {
        "images": joined_records({name: coco["images"] for name, coco in truths.items()}, "id"),
        "annotations": joined_records({name: coco["annotations"] for name, coco in truths.items()}),
        "categories": next(iter(truths.values()))["categories"],
    }


def parse_validation_truth(cfg: CfgNode, coco: Mapping[str, Any], chosen: str) -> GroundTruth:
    """Turn joined ground truth into arrays.

    Args:
        cfg: with the names of its datasets.
        coco: of :func:`joined_truth`.
        chosen: what is to be chosen on it, for the message.

    Raises:
        UserError: it has no box that counts.
    """
    truth = parse_ground_truth(coco)
    if truth.ignored.all():
        raise UserError(
            f"DATASETS.VAL {', '.join(cfg.DATASETS.VAL)} has no box of the classes "
            f"[{', '.join(truth.class_names)}], so no {chosen} can be chosen on it: name a dataset "
            "that has some"
        )
    return truth


def split_overlaps(cfg: CfgNode, chosen: str = "thresholds") -> list[str]:
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
