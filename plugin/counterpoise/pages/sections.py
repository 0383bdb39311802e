"""What a page or the terminal shows: titled sections of text, tables and pictures."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from counterpoise.utils.table import WIDTH, Table

_MOST_ROWS = 40  # of a table in the terminal, besides its totals


@dataclass(frozen=True)
class Text:
    """A paragraph. What stands in `backticks` is shown as code on a page.

    Attributes:
        text: of it.
        style: ``note`` for small print, ``strong``, ``heading`` for a heading within a section,
            ``code`` for lines to copy, which are shown as they are; empty for plain text.
    """

    text: str
    style: str = ""


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    items: Sequence[str]


@dataclass(frozen=True)
class Figure:
    """A figure, on pages only.

    Attributes:
        uri: picture as a data URI.
        alt: what it shows, for those who do not see it.
        caption: below it.
    """

    uri: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture of a gallery.

    Attributes:
        uri: JPEG as a data URI; None where the image cannot be read.
        title: what it shows.
        file_name: of the image.
    """

    uri: str | None
    title: str
    file_name: str


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side, on pages only."""

    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Fold:
    """Parts that a reader of a page can fold away.

    Attributes:
        summary: shown in any case.
        parts: shown while unfolded.
        is_open: unfolded at first.
    """

    summary: str
    parts: Sequence["Part"]
    is_open: bool = False


Part = Text | Items | Table | Figure | Gallery | Fold


@dataclass(frozen=True)
class Section:
    """A section with a heading; without parts it is left out.

    Attributes:
        id: of the section in a page's address.
        title: its heading.
        parts: from top to bottom.
    """

    id: str
    title: str
    parts: Sequence[Part]


def sections_as_text(sections: Iterable[Section]) -> str:
    """Write sections for the terminal, without those of figures alone."""
    written = ((section.title, parts_as_text(section.parts)) for section in sections)
    return "\n\n".join(f"{title}\n{'=' * len(title)}\n{text}" for title, text in written if text)


def parts_as_text(parts: Iterable[Part]) -> str:
    """Write parts for the terminal, without figures."""
    text, ends_block = "", False
    for part in parts:
        if not (own := _as_text(part)):
            continue
        starts_block = isinstance(part, Table) and bool(part.title)
        starts_block |= isinstance(part, Text) and part.style in ("heading", "strong")
        text += ("\n\n" if ends_block or starts_block else "\n") if text else ""
        text += own
        ends_block = isinstance(part, Table | Items | Fold)
    return text


def _as_text(part: Part) -> str:
    match part:
        case Table():
            return part.as_text(_MOST_ROWS)
        case Text(text, "code"):
            return textwrap.indent(text.rstrip(), "    ")
        case Text(text):
            return textwrap.fill(text, WIDTH)
        case Items(items):
            return "\n".join(
                textwrap.fill(item, WIDTH, initial_indent="- ", subsequent_indent="  ")
                for item in items
            )
        case Fold(parts=parts):
            return parts_as_text(parts)
        case _:
            return ""
