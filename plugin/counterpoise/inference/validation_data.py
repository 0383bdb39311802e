"""The data of ``DATASETS.VAL``, on which thresholds and exponents are chosen."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from counterpoise.datasets import cache_folder, load_dataset, parse_specs
from counterpoise.datasets.loading import Source
from counterpoise.datasets.packed import files_of
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


def split_overlaps(
    cfg: CfgNode, chosen: str = "thresholds", trained: CfgNode | None = None
) -> list[str]:
    """Warn of images of ``DATASETS.VAL`` that are tested on, or that the model has learned from.

    A dataset that cannot be read is skipped: thresholds are also chosen where the training images
    are not.

    Args:
        cfg: prepared with the split VAL.
        chosen: what is chosen on these images, for the sentence.
        trained: of the training itself, as loaded; None where ``DATASETS.TRAIN`` of `cfg` is all
            that is known of it. A holdout that was changed since, as in adding a validation set,
            gives away images which the model has seen.

    Returns:
        one sentence per split that shares images.
    """
    own = {file for name in cfg.DATASETS.VAL for file in files_of(load_dataset(name)[0])}
    if trained is not None and trained.DATASETS.CUSTOM != cfg.DATASETS.CUSTOM:
        learned = _files_before(trained)
        where = "among those of the training, whose config splits them otherwise"
    else:
        learned, where = _files((trained or cfg).DATASETS.TRAIN), "in DATASETS.TRAIN too"
    tested = (
        f"in DATASETS.TEST too: {chosen} chosen on test images make the test's results too good"
    )
    seen = f"{where}: the model has learned from these images, so its scores there are too high"
    return [
        f"{shared} of {len(own)} images of DATASETS.VAL are {said}"
        for other, said in ((_files(cfg.DATASETS.TEST), tested), (learned, seen))
        if (shared := len(own & other))
    ]


def _files(names: Sequence[str]) -> set[str]:
    """Image files of the datasets in the catalogue that can be read."""
    files: set[str] = set()
    for name in names:
        if name in DatasetCatalog:
            with suppress(UserError):
                files.update(files_of(load_dataset(name)[0]))
    return files


def _files_before(trained: CfgNode) -> set[str]:
    """Image files of ``DATASETS.TRAIN`` of a config whose datasets are not those registered."""
    data = trained.DATASETS
    sources = [
        Source(spec, None, "skip")
        for spec in parse_specs(data.CUSTOM, cache_folder(data.CACHE)).values()
    ]
    custom = {part: source for source in sources for part in source.spec.parts}
    files = _files([name for name in data.TRAIN if name not in custom])
    for name in set(data.TRAIN) & set(custom):
        with suppress(UserError):
            files.update(custom[name].parts[name].dicts.files())
    return files
