"""The endless stream of training images: a function of seed and position, so it can go on anywhere.

Detectron2's stream lives in its workers: where it stands, and the random numbers of augmentation,
are in as many processes as there are workers, which have prefetched an unknown number of batches.
Here a sample is drawn from (seed, position) alone. A count of batches is all that a checkpoint
needs, and the number of workers changes nothing.
"""

import hashlib
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import PurePath
from typing import Any

import numpy as np
from detectron2.data import build_detection_train_loader
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, get_worker_info

from counterpoise.datasets.last_phase import TwiceOver
from counterpoise.datasets.packed import PackedRecords, shared
from counterpoise.errors import UserError
from counterpoise.training.random_state import seeded
from counterpoise.utils.workers import leave_signals_to_parent

Record = dict[str, Any]

#: Samples that tell one order of images from another.
_FIRST = 256

#: Images of a batch's orientation that are tried in place of a damaged one, before any other.
_ALIKE = 10


class ImageStream(IterableDataset):
    """Batches of one process, from any sampler whose order is the same each time it is iterated.

    Each worker goes through the whole order, which costs no image, and maps its own batches.
    """

    def __init__(
        self,
        records: Dataset | Sequence[Record],
        order: Iterable[int],
        mapper: Callable[[Record], Record | None],
        batch_size: int,
        seed: int,
        rank: int = 0,
        wide: Sequence[bool] | None = None,
    ) -> None:
        """
        Args:
            records: Detectron2's dicts, by index.
            order: sampler of this process.
            mapper: from a dict to what the model takes; None asks for another image.
            batch_size: images per batch of this process.
            seed: >= 0; of the augmentation.
            rank: of this process, whose augmentation differs from that of others.
            wide: by index, whether an image is wider than high; batches are of one kind then. None
                takes the images as they come.
        """
        self.records = records
        self.order = order
        self.mapper = mapper
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.wide = wide
        self.start = 0
        """Batches to pass over without loading an image."""

    def __iter__(self) -> Iterator[Record]:
        """Mapped images, a whole batch after the other; in a worker, every n-th batch."""
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        if worker:
            leave_signals_to_parent()
        for batch in itertools.islice(self.batches(), self.start + number, None, workers):
            for position, index in batch:
                yield self._image(position, index)

    def batches(self) -> Iterator[list[tuple[int, int]]]:
        """Batches from the start on, of (position in the order, index of the image)."""
        waiting: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        for position, index in enumerate(self.order):
            batch = waiting[bool(self.wide[index]) if self.wide is not None else False]
            batch.append((position, index))
            if len(batch) == self.batch_size:
                yield batch.copy()
                batch.clear()

    @cached_property
    def fingerprint(self) -> int:
        """CRC-32 of the first indices of the order."""
        first = list(itertools.islice(iter(self.order), _FIRST))
        return zlib.crc32(np.asarray(first, dtype=np.int64).tobytes())

    def _image(self, position: int, index: int) -> Record:
        with seeded(self.seed, self.rank, position):
            tries = itertools.count()
            while (image := self.mapper(self.records[index])) is None:
                index = self._another(index, alike=next(tries) < _ALIKE)
        return image

    def _another(self, index: int, alike: bool) -> int:
        """Draw an image in place of another: composed or plain as that is, and of its orientation
        where they are to be `alike`."""
        images = len(self.records)
        if isinstance(self.records, TwiceOver):
            images //= 2
        half = index - index % images
        while True:
            drawn = half + np.random.randint(images)
            if not alike or self.wide is None or self.wide[drawn] == self.wide[index]:
                return drawn


class ResumableLoader:
    """Detectron2's loader over an :class:`ImageStream`, with a count of the batches it gave out."""

    def __init__(self, stream: ImageStream, **arguments: Any) -> None:
        """
        Args:
            stream: of this process.
            arguments: of ``build_detection_train_loader``, besides dataset, sampler and mapper.
        """
        self.stream = stream
        self.loader = build_detection_train_loader(
            stream, mapper=None, sampler=None, aspect_ratio_grouping=False, **arguments
        )
        self.batches = 0

    def __iter__(self) -> Iterator[list[Record]]:
        """Batches from where the count stands; its workers start at once."""
        self.stream.start = self.batches
        return map(self._count, iter(self.loader))

    def _count(self, batch: list[Record]) -> list[Record]:
        self.batches += 1
        return batch

    @cached_property
    def content(self) -> str:
        """Mark of the records, which takes a pass over all of them when it is first asked for."""
        return _digest(self.stream.records)

    def state_dict(self) -> dict[str, Any]:
        """``batches`` given out, ``seed`` of the augmentation, marks of the images' ``order`` and
        ``content``."""
        return {
            "batches": self.batches,
            "seed": self.stream.seed,
            "order": self.stream.fingerprint,
            "content": self.content,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Stand where a loader over the same order stood."""
        self.batches, self.stream.seed = state["batches"], state["seed"]


def resumable_loader(
    parts: dict[str, Any], seed: int, rank: int, world_size: int
) -> ResumableLoader:
    """Build the loader of a training.

    Args:
        parts: what Detectron2's ``build_detection_train_loader`` takes, with a list of dicts as its
            ``dataset``.
        seed: >= 0, of the run.
        rank, world_size: of this process.

    Raises:
        UserError: images are to be grouped by their aspect ratio, and one does not say its size.
    """
    parts = dict(parts)
    records, order, mapper = (parts.pop(name) for name in ("dataset", "sampler", "mapper"))
    wide = _wide(records) if parts.pop("aspect_ratio_grouping") else None
    stream = ImageStream(
        shared(records),
        order,
        mapper,
        parts["total_batch_size"] // world_size,
        seed,
        rank,
        wide,
    )
    return ResumableLoader(stream, **parts)


def _wide(records: Dataset | Sequence[Record]) -> bytes:
    """A byte per image, 1 where it is wider than high."""
    if isinstance(records, TwiceOver):
        return 2 * _wide(records.records)
    if isinstance(records, PackedRecords):
        heights, widths = records.sizes.T
        return (widths > heights).tobytes()
    if isinstance(records, ConcatDataset):
        return b"".join(map(_wide, records.datasets))
    return bytes(_is_wide(records[index]) for index in range(len(records)))


def _is_wide(record: Record) -> bool:
    if "width" not in record or "height" not in record:
        raise UserError(
            f"the record of {record.get('file_name', 'an image')} lacks width or height, by "
            "which batches are grouped: add them where the dataset is registered, or set "
            "DATALOADER.ASPECT_RATIO_GROUPING False"
        )
    return record["width"] > record["height"]


def _digest(records: Dataset | Sequence[Record]) -> str:
    """Mark of names, sizes, boxes and masks of all images, by which changed data is noticed."""
    digest = hashlib.blake2b(digest_size=16)
    for part in _content(records):
        digest.update(part)
    return digest.hexdigest()


def _content(records: Dataset | Sequence[Record]) -> Iterator[bytes]:
    if isinstance(records, TwiceOver):
        yield from _content(records.records)
    elif isinstance(records, PackedRecords):
        yield from records.content()
    elif isinstance(records, ConcatDataset):
        for part in records.datasets:
            yield from _content(part)
    else:
        yield from (_content_of(records[index]) for index in range(len(records)))


def _content_of(record: Record) -> bytes:
    boxes = [
        (a["category_id"], *map(float, a["bbox"]), *filter(None, [a.get("segmentation")]))
        for a in record.get("annotations", ())
    ]
    name = PurePath(record.get("file_name", "")).name
    return repr((name, record.get("width"), record.get("height"), boxes)).encode()
