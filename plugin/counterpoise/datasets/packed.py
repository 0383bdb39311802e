"""Records of a dataset in a few arrays: compact, and shared by the workers of a loader."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import torch
from detectron2.data import DatasetFromList
from detectron2.structures import BoxMode
from torch.utils.data import ConcatDataset, Dataset

# Images that are looked at together, without and with their masks, so that the memory does not grow
# with the dataset.
_BLOCK, _MASK_BLOCK = 1 << 14, 1 << 10

#: Column -> its type. `ends` columns hold where the part of each image or object ends in another.
COLUMNS = {
    "images": np.uint8,  # JSON of file_name, height, width and image_id
    "image_ends": np.int64,
    "box_ends": np.int64,
    "boxes": np.float64,  # x0, y0, x1, y1 in pixels
    "category_ids": np.int32,
    "crowd": np.int8,
    # The others are empty where the format does not have them.
    "difficult": np.int8,
    "areas": np.float64,  # NaN where an object has none
    "segmentations": np.uint8,  # JSON, of length 0 where an object has none
    "segmentation_ends": np.int64,
}


class PackedRecords(Sequence):
    """Records in Detectron2's form, each of which is made when it is asked for.

    A record and its annotations are new objects at every access: nobody can change what others
    get. Processes that are forked share the arrays; to those that are spawned, PyTorch hands them
    in shared memory, as it does with the list of Detectron2's loader.

    Args:
        columns: array per name in :data:`COLUMNS`, none of which may change afterwards.
        rows: int64 (M,), which images these are and in what order; None takes all.

    Raises:
        ValueError: the columns do not fit together.
    """

    def __init__(self, columns: Mapping[str, np.ndarray], rows: np.ndarray | None = None) -> None:
        self.columns = {name: np.asarray(columns[name], kind) for name, kind in COLUMNS.items()}
        _check(self.columns)
        self.rows = np.arange(len(self.columns["image_ends"])) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        file_name, height, width, image_id = json.loads(self._part("images", "image_ends", row))
        return {
            "file_name": file_name,
            "height": height,
            "width": width,
            "image_id": image_id,
            "annotations": self._annotations(row),
        }

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self.__getitem__, range(len(self)))

    def select(self, keep: np.ndarray) -> "PackedRecords":
        """Return some of the records, which share the arrays of these.

        Args:
            keep: bool (M,), or int64 indices in the wanted order.
        """
        return PackedRecords(self.columns, self.rows[keep])

    def relabelled(self, category_ids: Sequence[int]) -> "PackedRecords":
        """Return the records with other category ids.

        Args:
            category_ids: the new id of each old one.
        """
        ids = np.asarray(category_ids, np.int32)[self.columns["category_ids"]]
        return PackedRecords(self.columns | {"category_ids": ids}, self.rows)

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, in bytes."""
        return sum(column.nbytes for column in self.columns.values()) + self.rows.nbytes

    @property
    def sizes(self) -> np.ndarray:
        """int64 (M, 2): height and width per record."""
        texts = (self._part("images", "image_ends", row) for row in self.rows)
        return np.array([json.loads(text)[1:3] for text in texts], np.int64).reshape(-1, 2)

    def files(self) -> Iterator[str]:
        """The image files, in order."""
        return (json.loads(self._part("images", "image_ends", row))[0] for row in self.rows)

    @cached_property
    def box_counts(self) -> np.ndarray:
        """int64 (M,): boxes per record, crowd regions included."""
        return self._per_record(np.ones_like(self.columns["crowd"]))

    @cached_property
    def object_counts(self) -> np.ndarray:
        """int64 (M,): boxes per record, crowd regions left out."""
        return self._per_record(self.columns["crowd"] == 0)

    def count_classes(self, number: int, crowds: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Count images and boxes per class, some records at a time.

        Args:
            number: of classes, K.
            crowds: count crowd regions, too.

        Returns:
            two int64 (K,): the images that hold the class, and the boxes of it.
        """
        images, boxes = np.zeros(number, np.int64), np.zeros(number, np.int64)
        for record, ids in self.labels(crowds):
            boxes += np.bincount(ids, minlength=number)
            images += np.bincount(np.unique(record * number + ids) % number, minlength=number)
        return images, boxes

    def labels(self, crowds: bool = False) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Go through the boxes, those of some records at a time.

        Args:
            crowds: take crowd regions, too.

        Yields:
            two int64 (n,), in order: the number of the record that a box is in, and its category.
        """
        for start in range(0, len(self), _BLOCK):
            rows = self.rows[start : start + _BLOCK]
            counts, at = _inside(self.columns["box_ends"], rows)
            taken = slice(None) if crowds else self.columns["crowd"][at] == 0
            record = np.repeat(np.arange(start, start + len(rows)), counts)
            yield record[taken], self.columns["category_ids"][at[taken]].astype(np.int64)

    def content(self) -> Iterator[bytes]:
        """Names of the files without their folders, sizes, boxes, classes and masks of all images.

        Yields:
            bytes of some images at a time, in order; the same for equal content alone.
        """
        c = self.columns
        for start in range(0, len(self), _MASK_BLOCK):
            rows = self.rows[start : start + _MASK_BLOCK]
            texts = (self._part("images", "image_ends", row) for row in rows)
            images = [(os.path.basename(name), *size) for name, *size, _ in map(json.loads, texts)]
            yield repr(images).encode()
            counts, at = _inside(c["box_ends"], rows)
            yield counts.tobytes()
            yield from (c[name][at].tobytes() for name in ("boxes", "category_ids", "crowd"))
            if len(c["segmentation_ends"]):
                lengths, places = _inside(c["segmentation_ends"], at)
                yield lengths.tobytes()
                yield c["segmentations"][places].tobytes()

    def _part(self, column: str, ends: str, row: int) -> bytes:
        start = self.columns[ends][row - 1] if row else 0
        return self.columns[column][start : self.columns[ends][row]].tobytes()

    def _annotations(self, row: int) -> list[dict[str, Any]]:
        c = self.columns
        part = slice(c["box_ends"][row - 1] if row else 0, c["box_ends"][row])
        annotations = [
            {
                "bbox": box,
                "bbox_mode": int(BoxMode.XYXY_ABS),
                "category_id": label,
                "iscrowd": crowd,
            }
            for box, label, crowd in zip(
                c["boxes"][part].tolist(),
                c["category_ids"][part].tolist(),
                c["crowd"][part].tolist(),
                strict=True,
            )
        ]
        if len(c["difficult"]):
            for annotation, difficult in zip(
                annotations, c["difficult"][part].tolist(), strict=True
            ):
                annotation["difficult"] = difficult
        if len(c["segmentation_ends"]):
            for number, annotation in enumerate(annotations, start=part.start):
                text = self._part("segmentations", "segmentation_ends", number)
                if text:
                    annotation["segmentation"] = msgspec.json.decode(text)
        if len(c["areas"]):
            for annotation, area in zip(annotations, c["areas"][part].tolist(), strict=True):
                if area == area:
                    annotation["area"] = area
        return annotations

    def _per_record(self, counted: np.ndarray) -> np.ndarray:
        up_to = np.concatenate([[0], np.cumsum(counted, dtype=np.int64)])
        ends = self.columns["box_ends"]
        return up_to[ends[self.rows]] - up_to[_starts(ends, self.rows)]

    @cached_property
    def _tensors(self) -> dict[str, torch.Tensor]:
        # One per array for all workers: PyTorch moves the memory of a tensor that it shares once.
        arrays = {**self.columns, "rows": self.rows}
        return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    def __reduce__(self) -> tuple:
        return _from_tensors, (self._tensors,)


def _starts(ends: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.where(rows > 0, ends[rows - 1], 0)


def _inside(ends: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of elements (M,) of some rows (M,), and where these are, one row after the other."""
    counts = ends[rows] - _starts(ends, rows)
    return counts, np.arange(counts.sum()) + np.repeat(ends[rows] - np.cumsum(counts), counts)


def _from_tensors(tensors: dict[str, torch.Tensor]) -> PackedRecords:
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    return PackedRecords(arrays, arrays.pop("rows"))


def annotations_of(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Annotations of a record in Detectron2's form, without crowd regions."""
    return [a for a in record.get("annotations", ()) if not a.get("iscrowd", 0)]


def files_of(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The image files of any records, in order; of packed ones no record is made."""
    if isinstance(records, PackedRecords):
        return records.files()
    return (record["file_name"] for record in records)


def labels(records: Sequence[Mapping[str, Any]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Go through the boxes of any records but for crowd regions, those of some records at a time.

    Args:
        records: packed, a ``ConcatDataset`` of such, or dicts in Detectron2's form.

    Yields:
        as :meth:`PackedRecords.labels`.
    """
    if isinstance(records, PackedRecords):
        yield from records.labels()
    elif isinstance(records, ConcatDataset):
        for start, part in zip([0, *records.cumulative_sizes], records.datasets, strict=False):
            yield from ((record + start, ids) for record, ids in labels(part))
    else:
        for number in range(len(records)):
            ids = [annotation["category_id"] for annotation in annotations_of(records[number])]
            yield np.full(len(ids), number), np.array(ids, np.int64)


def shared(
    records: Dataset | Sequence[Mapping[str, Any]],
) -> Dataset | Sequence[Mapping[str, Any]]:
    """Make the workers of a loader share the memory of records: a list is serialised once."""
    return DatasetFromList(records, copy=False) if isinstance(records, list) else records


def pack_texts(texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Join texts.

    Returns:
        uint8 (sum of lengths,), and int64 (number of texts,) with the end of each.
    """
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
    return np.frombuffer(b"".join(texts), np.uint8), ends


def _check(columns: Mapping[str, np.ndarray]) -> None:
    """Refuse columns, such as those of a damaged file, that would be read past their ends."""
    boxes = len(columns["boxes"])
    per_box = ("category_ids", "crowd")
    if_stated = ("difficult", "areas", "segmentation_ends")
    ends = (("image_ends", "images"), ("box_ends", "boxes"), ("segmentation_ends", "segmentations"))
    if (
        columns["boxes"].shape != (boxes, 4)
        or any(len(columns[name]) != boxes for name in per_box)
        or any(len(columns[name]) not in (0, boxes) for name in if_stated)
        or len(columns["box_ends"]) != len(columns["image_ends"])
        or any((columns[e][-1] if len(columns[e]) else 0) != len(columns[of]) for e, of in ends)
        or any((np.diff(columns[e], prepend=0) < 0).any() for e, _ in ends)
    ):
        raise ValueError("the columns of the records do not fit together")
