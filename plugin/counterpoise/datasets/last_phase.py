"""The last part of a schedule, in which images are seen as they are and no longer composed.

Whether an image is composed follows from its position in the sampler's order, which all workers
agree on and which is the same again after an interruption: the second half of the indices stands
for the same records, marked as plain.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import Dataset, Sampler

#: Key of a record that is not to be composed.
PLAIN = "plain"


class TwiceOver(Dataset):
    """Records, and after them the same ones marked as :data:`PLAIN`."""

    def __init__(self, records: Sequence[dict[str, Any]]) -> None:
        """
        Args:
            records: Detectron2's dicts.
        """
        self.records = records

    def __len__(self) -> int:
        return 2 * len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        plain, at = divmod(index, len(self.records))
        record = self.records[at]
        return {**record, PLAIN: True} if plain else record


class PlainFrom(Sampler):
    """Another sampler's order, which from a position on is that of the plain records."""

    def __init__(self, sampler: Sampler, images: int, start: int) -> None:
        """
        Args:
            sampler: of indices below `images`.
            images: records without their repetition.
            start: first position, in the order of this process, of a plain record.
        """
        self.sampler = sampler
        self.images = images
        self.start = start

    def __iter__(self) -> Iterator[int]:
        for position, index in enumerate(self.sampler):
            yield index if position < self.start else index + self.images
