"""What was found in a dataset: counts, bad records and a readable summary of both."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from counterpoise.datasets.faults import Fault, Kind
from counterpoise.errors import UserError

_EXAMPLES = 5  # per kind in the summary


@dataclass
class Report:
    """What reading one dataset brought to light.

    Attributes:
        name: dataset name.
        format: one of ``counterpoise.datasets.spec.FORMATS``.
        source: folder or file that was read.
        images: images kept.
        boxes: boxes kept, crowd regions included.
        empty_images: kept images without any box.
        clipped: kept boxes that were partly outside their image.
        faults: all bad records, in reading order.
        notes: further remarks, one sentence each.
    """

    name: str
    format: str
    source: str
    images: int = 0
    boxes: int = 0
    empty_images: int = 0
    clipped: int = 0
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def by_kind(self) -> dict[Kind, list[Fault]]:
        """Group the bad records by kind, in the order of :class:`Kind`."""
        grouped = {kind: [f for f in self.faults if f.kind is kind] for kind in Kind}
        return {kind: faults for kind, faults in grouped.items() if faults}

    def summary(self) -> str:
        """Return the block of lines that goes to the log."""
        lines = [
            f"Dataset '{self.name}' ({self.format}): {self.images} images, {self.boxes} boxes",
            f"  read from {self.source}",
        ]
        if self.empty_images:
            lines.append(
                f"  {_count(self.empty_images, 'image')} without boxes: "
                "DATALOADER.FILTER_EMPTY_ANNOTATIONS False keeps them in training, where hard "
                "example mining learns from them; True leaves them out"
            )
        if self.clipped:
            lines.append(f"  {_count(self.clipped, 'box')} partly outside the image, clipped to it")
        lines += [f"  {note}" for note in self.notes]
        lines += self._fault_lines()
        return "\n".join(lines)

    def _fault_lines(self) -> Iterable[str]:
        if not self.faults:
            yield "  no bad records"
            return
        images = [f for f in self.faults if f.drops_image]
        lost = [_count(len(self.faults) - len(images), "box")]
        if images:
            lost.append(f"{_count(len(images), 'image')} with {_count(_boxes(images), 'box')}")
        yield f"  {_count(len(self.faults), 'bad record')}, left out: {' and '.join(lost)}"
        for kind, faults in self.by_kind().items():
            yield f"    {kind}: {len(faults)}"
            yield from (f"      {fault}" for fault in faults[:_EXAMPLES])
            if len(faults) > _EXAMPLES:
                yield (
                    f"      ... and {len(faults) - _EXAMPLES} more, all in "
                    f"counterpoise.datasets.dataset_report({self.name!r}).faults"
                )

    def refuse(self) -> None:
        """Raise the bad records as an error, as ``DATASETS.BAD_RECORDS`` "refuse" asks.

        Raises:
            UserError: there is at least one bad record.
        """
        if self.faults:
            raise UserError(
                f"dataset '{self.name}' holds {_count(len(self.faults), 'bad record')}: "
                f"{self._examples()}. Mend them, or set DATASETS.BAD_RECORDS to 'skip' to leave "
                "them out."
            )

    def refuse_if_without_images(self) -> None:
        """Raise when no image is left.

        Raises:
            UserError: ``images`` is 0.
        """
        if not self.images:
            because = f": {self._examples()}" if self.faults else " and no image was found there"
            raise UserError(f"dataset '{self.name}' has no usable image in {self.source}{because}.")

    def _examples(self) -> str:
        shown = "; ".join(f"{f.kind} in {f}" for f in self.faults[:_EXAMPLES])
        rest = len(self.faults) - _EXAMPLES
        return f"{shown}; and {rest} more" if rest > 0 else shown


def _boxes(faults: Iterable[Fault]) -> int:
    return sum(fault.boxes for fault in faults)


def _count(n: int, noun: str) -> str:
    plural = "boxes" if noun == "box" else f"{noun}s"
    return f"{n} {noun if n == 1 else plural}"
