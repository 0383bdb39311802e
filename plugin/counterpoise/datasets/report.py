"""What was found in a dataset: counts, invalid annotations, and a summary for the log."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from counterpoise.datasets.invalid_annotations import InvalidAnnotation, InvalidKind
from counterpoise.errors import UserError
from counterpoise.utils.text import counted, printable

_EXAMPLES = 5  # per kind in the summary


@dataclass
class Report:
    """Counts, invalid annotations and notes of one dataset.

    Attributes:
        name: dataset name.
        format: one of ``counterpoise.datasets.spec.FORMATS``.
        source: folder or file that was read.
        images: images kept.
        boxes: boxes kept, crowd regions included.
        empty_images: kept images without any box.
        clipped: kept boxes that were partly outside their image; in a part of a ``HOLDOUT`` those
            of all of it.
        invalid_annotations: all invalid annotations, in reading order.
        notes: further remarks, one sentence each; in a part of a ``HOLDOUT`` those on all of it.
    """

    name: str
    format: str
    source: str
    images: int = 0
    boxes: int = 0
    empty_images: int = 0
    clipped: int = 0
    invalid_annotations: list[InvalidAnnotation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def by_kind(self) -> dict[InvalidKind, list[InvalidAnnotation]]:
        """Group the invalid annotations by kind, in the order of :class:`InvalidKind`."""
        grouped = {
            kind: [a for a in self.invalid_annotations if a.kind is kind] for kind in InvalidKind
        }
        return {kind: found for kind, found in grouped.items() if found}

    def summary(self) -> str:
        """Return the block of lines that goes to the log."""
        lines = [
            f"Dataset '{self.name}' ({self.format}): {self.images} images, {self.boxes} boxes",
            f"  read from {printable(self.source, lines=False)}",
        ]
        if self.empty_images:
            lines.append(
                f"  {counted(self.empty_images, 'image')} without boxes (a training leaves them "
                "out with DATALOADER.FILTER_EMPTY_ANNOTATIONS True, or BALANCE.IMAGE_SAMPLER.NAME "
                "class_aware)"
            )
        if self.clipped:
            lines.append(
                f"  {counted(self.clipped, 'box')} partly outside the image, clipped to it"
            )
        lines += [f"  {note}" for note in self.notes]
        lines += self._invalid_lines()
        return printable("\n".join(lines))

    def _invalid_lines(self) -> Iterable[str]:
        if not self.invalid_annotations:
            yield "  no invalid annotations"
            return
        images = [a for a in self.invalid_annotations if a.drops_image]
        total = counted(len(self.invalid_annotations), "invalid annotation")
        left_out = counted(len(self.invalid_annotations) - len(images), "box")
        if images:
            boxes = counted(sum(image.boxes for image in images), "box")
            left_out += f" and {counted(len(images), 'image')} with {boxes}"
        yield f"  {total}, left out: {left_out}"
        for kind, found in self.by_kind().items():
            yield f"    {kind}: {len(found)}"
            yield from (f"      {annotation}" for annotation in found[:_EXAMPLES])
            if len(found) > _EXAMPLES:
                yield (
                    f"      ... and {len(found) - _EXAMPLES} more, all in "
                    f"counterpoise.datasets.dataset_report({self.name!r}).invalid_annotations"
                )

    def refuse(self) -> None:
        """Raise the invalid annotations as an error, as ``DATASETS.BAD_RECORDS`` "refuse" asks.

        Raises:
            UserError: there is at least one invalid annotation.
        """
        if self.invalid_annotations:
            total = counted(len(self.invalid_annotations), "invalid annotation")
            raise UserError(
                f"dataset '{self.name}' holds {total}: {self._examples()}; fix them, or set "
                "DATASETS.BAD_RECORDS to 'skip' to leave them out"
            )

    def refuse_if_without_images(self) -> None:
        """Raise when no image is left.

        Raises:
            UserError: ``images`` is 0.
        """
        if not self.images:
            because = (
                f": {self._examples()}"
                if self.invalid_annotations
                else " and no image was found there"
            )
            raise UserError(f"dataset '{self.name}' has no usable image in {self.source}{because}")

    def _examples(self) -> str:
        shown = "; ".join(f"{a.kind} in {a}" for a in self.invalid_annotations[:_EXAMPLES])
        rest = len(self.invalid_annotations) - _EXAMPLES
        return f"{shown}; and {rest} more" if rest > 0 else shown
