"""What was found in a dataset: counts, invalid annotations and a readable summary of both."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from counterpoise.datasets.invalid import InvalidAnnotation, Kind
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
        invalid: all invalid annotations, in reading order.
        notes: further remarks, one sentence each.
    """

    name: str
    format: str
    source: str
    images: int = 0
    boxes: int = 0
    empty_images: int = 0
    clipped: int = 0
    invalid: list[InvalidAnnotation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def by_kind(self) -> dict[Kind, list[InvalidAnnotation]]:
        """Group the invalid annotations by kind, in the order of :class:`Kind`."""
        grouped = {kind: [f for f in self.invalid if f.kind is kind] for kind in Kind}
        return {kind: invalid for kind, invalid in grouped.items() if invalid}

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
        lines += self._invalid_lines()
        return "\n".join(lines)

    def _invalid_lines(self) -> Iterable[str]:
        if not self.invalid:
            yield "  no invalid annotations"
            return
        images = [f for f in self.invalid if f.drops_image]
        lost = [_count(len(self.invalid) - len(images), "box")]
        if images:
            lost.append(f"{_count(len(images), 'image')} with {_count(_boxes(images), 'box')}")
        yield f"  {_count(len(self.invalid), 'invalid annotation')}, left out: {' and '.join(lost)}"
        for kind, invalid in self.by_kind().items():
            yield f"    {kind}: {len(invalid)}"
            yield from (f"      {entry}" for entry in invalid[:_EXAMPLES])
            if len(invalid) > _EXAMPLES:
                yield (
                    f"      ... and {len(invalid) - _EXAMPLES} more, all in "
                    f"counterpoise.datasets.dataset_report({self.name!r}).invalid"
                )

    def refuse(self) -> None:
        """Raise the invalid annotations as an error, as ``DATASETS.BAD_RECORDS`` "refuse" asks.

        Raises:
            UserError: there is at least one invalid annotation.
        """
        if self.invalid:
            raise UserError(
                f"dataset '{self.name}' holds {_count(len(self.invalid), 'invalid annotation')}: "
                f"{self._examples()}. Fix them, or set DATASETS.BAD_RECORDS to 'skip' to leave "
                "them out."
            )

    def refuse_if_without_images(self) -> None:
        """Raise when no image is left.

        Raises:
            UserError: ``images`` is 0.
        """
        if not self.images:
            because = f": {self._examples()}" if self.invalid else " and no image was found there"
            raise UserError(f"dataset '{self.name}' has no usable image in {self.source}{because}.")

    def _examples(self) -> str:
        shown = "; ".join(f"{f.kind} in {f}" for f in self.invalid[:_EXAMPLES])
        rest = len(self.invalid) - _EXAMPLES
        return f"{shown}; and {rest} more" if rest > 0 else shown


def _boxes(invalid: Iterable[InvalidAnnotation]) -> int:
    return sum(entry.boxes for entry in invalid)


def _count(n: int, noun: str) -> str:
    plural = "boxes" if noun == "box" else f"{noun}s"
    return f"{n} {noun if n == 1 else plural}"
