"""Any dataset that Detectron2's catalogue knows: read once in a process, and counted by class."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from torch.utils.data import ConcatDataset

from counterpoise.balance.class_counts import ClassCounts
from counterpoise.datasets.packed import PackedRecords, annotations_of
from counterpoise.datasets.registration import CustomLoader
from counterpoise.errors import UserError, did_you_mean

#: Name of a dataset -> the function that was registered for it, and what that returned.
_loaded: dict[str, tuple[Callable[[], list[dict[str, Any]]], Sequence[dict[str, Any]]]] = {}


def count_classes(dataset_names: Sequence[str]) -> ClassCounts:
    """Count non-crowd boxes per class over the datasets together.

    Classes are matched by name, so that datasets may number them differently.

    Args:
        dataset_names: names in Detectron2's ``DatasetCatalog``, at least one.

    Raises:
        UserError: an unknown dataset, one that cannot be read, one without ``thing_classes``, or
            datasets with different class names.
    """
    if not dataset_names:
        raise UserError("there is no dataset to count classes in: name one in DATASETS.TRAIN")
    images: dict[str, int] = {}
    boxes: dict[str, int] = {}
    num_images = num_empty = 0
    for dataset_name in dataset_names:
        dicts, names = load_dataset(dataset_name)
        if not boxes:
            images, boxes = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
        elif set(names) != set(boxes):
            raise UserError(_difference(dataset_names[0], set(boxes), dataset_name, set(names)))
        num_images += len(dicts)
        if isinstance(dicts, PackedRecords):
            counts = (column.tolist() for column in dicts.count_classes(len(names)))
            for name, with_class, of_class in zip(names, *counts, strict=True):
                images[name] += with_class
                boxes[name] += of_class
            num_empty += int((dicts.object_counts == 0).sum())
            continue
        for record in dicts:
            found = [_class_name(a, names, dataset_name) for a in annotations_of(record)]
            for name in found:
                boxes[name] += 1
            for name in set(found):
                images[name] += 1
            num_empty += not found
    return ClassCounts(
        tuple(boxes), tuple(images.values()), tuple(boxes.values()), num_images, num_empty
    )


def load_dataset(dataset_name: str) -> tuple[Sequence[dict[str, Any]], list[str]]:
    """Return the records and the class names of a dataset in Detectron2's ``DatasetCatalog``.

    A dataset is read once in a process, and again where its name was registered anew.

    Returns:
        the records, in Detectron2's form, which all callers share and none may change, packed where
        it is a custom dataset; and the names.

    Raises:
        UserError: an unknown dataset, one that cannot be read, or one without ``thing_classes``.
    """
    if dataset_name not in DatasetCatalog:
        hint = did_you_mean(dataset_name, DatasetCatalog.list())
        raise UserError(f"there is no dataset named '{dataset_name}'; {hint}")
    if dataset_name not in _loaded or _loaded[dataset_name][0] is not DatasetCatalog[dataset_name]:
        for gone in [name for name in _loaded if name not in DatasetCatalog]:
            del _loaded[gone]
        try:
            dicts = _records(dataset_name)
        except OSError as error:
            raise UserError(f"dataset '{dataset_name}' cannot be read: {error}") from error
        _loaded[dataset_name] = DatasetCatalog[dataset_name], dicts
    # Asked for after loading: loaders of COCO files set the names only then.
    names = MetadataCatalog.get(dataset_name).get("thing_classes")
    if not names:
        raise UserError(
            f"dataset '{dataset_name}' has no class names: set "
            f"MetadataCatalog.get('{dataset_name}').thing_classes where it is registered"
        )
    return _loaded[dataset_name][1], list(names)


@contextmanager
def read_once(dataset_names: Sequence[str]) -> Iterator[None]:
    """Let Detectron2's own functions find what :func:`load_dataset` has read.

    Its loaders ask the catalogue for a dataset each time, and its filters of records come with
    that. Within the block, the catalogue gives the records that are already there.

    Args:
        dataset_names: names in Detectron2's ``DatasetCatalog``.

    Raises:
        UserError: as :func:`load_dataset`.
    """
    records = {name: load_dataset(name)[0] for name in dataset_names}
    registered = {name: DatasetCatalog[name] for name in dataset_names}

    def again(name: str) -> list[dict[str, Any]]:
        # Detectron2 adds precomputed proposals to the records that it gets.
        return [dict(record) for record in records[name]]

    DatasetCatalog.update({name: partial(again, name) for name in dataset_names})
    try:
        yield
    finally:
        DatasetCatalog.update(registered)


def loader_dataset(
    dataset_names: Sequence[str], filter_empty: bool
) -> PackedRecords | ConcatDataset | None:
    """Return the records of custom datasets for Detectron2's loaders, to be shared by all workers.

    Args:
        dataset_names: names in Detectron2's ``DatasetCatalog``.
        filter_empty: leave out images without boxes, as ``DATALOADER.FILTER_EMPTY_ANNOTATIONS``.

    Returns:
        the records that Detectron2's functions would find; None where one of the datasets is not
        custom, so that these have to find them.

    Raises:
        UserError: as :func:`load_dataset`.
    """
    records = [load_dataset(name)[0] for name in dataset_names]
    if not all(isinstance(part, PackedRecords) for part in records):
        return None
    if filter_empty:
        records = [part.select(part.object_counts > 0) for part in records]
    return records[0] if len(records) == 1 else ConcatDataset(records)


def training_records(
    dataset_names: Sequence[str], filter_empty: bool
) -> Sequence[Mapping[str, Any]]:
    """Return the records of any datasets that a training sees; they are not to be changed.

    Args:
        dataset_names, filter_empty: as for :func:`loader_dataset`.

    Raises:
        UserError: as :func:`load_dataset`.
    """
    records = loader_dataset(dataset_names, filter_empty)
    if records is not None:
        return records
    return [
        record
        for name in dataset_names
        for record in load_dataset(name)[0]
        if not filter_empty or annotations_of(record)
    ]


def _records(dataset_name: str) -> Sequence[dict[str, Any]]:
    load, metadata = DatasetCatalog[dataset_name], MetadataCatalog.get(dataset_name)
    if isinstance(load, CustomLoader):
        return load.records()
    if getattr(load, "__module__", "") != load_coco_json.__module__ or not metadata.get(
        "json_file"
    ):
        return load()
    # As register_coco_instances does it, but with the areas by which COCO tells sizes apart.
    return load_coco_json(
        metadata.json_file, metadata.image_root, dataset_name, extra_annotation_keys=["area"]
    )


def _class_name(annotation: Mapping[str, Any], names: list[str], dataset_name: str) -> str:
    index = annotation["category_id"]
    if not 0 <= index < len(names):
        raise UserError(
            f"dataset '{dataset_name}' holds a box of category_id {index}, but its thing_classes "
            f"are {len(names)} names (0 to {len(names) - 1}): fix the id or the list"
        )
    return names[index]


def _difference(first: str, known: set[str], other: str, found: set[str]) -> str:
    return (
        f"datasets '{first}' and '{other}' must have the same class names, but "
        f"{sorted(known - found)} are only in '{first}' and {sorted(found - known)} only in "
        f"'{other}': give both the same class list."
    )
