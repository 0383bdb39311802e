"""A table, which the terminal and pages show alike."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tabulate import tabulate

from counterpoise.utils.text import counted

#: Columns of the terminal that text is wrapped at.
WIDTH = 100

_GROUP_WIDTH = 14  # of the wrapped name of a group of columns, unless its columns are wider


@dataclass(frozen=True)
class Cell:
    """A cell that is more than plain text.

    Attributes:
        text: the value.
        note: said beside it in small print.
        tone: ``good`` or ``bad`` for a value to be stressed, which the terminal marks by a star;
            empty for others.
    """

    text: str
    note: str = ""
    tone: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.text, self.note, "*" if self.tone else "")))


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        headers: one per column.
        rows: cells as text; what is not text is shown as ``str`` gives it.
        title: above the table.
        note: what a reader needs to know to read it.
        groups: names above the headers, each with the number of columns that it spans; they cover
            all columns, or there are none.
        totals: how many of the last rows are totals, which are never left out.
        left: columns of text, which are aligned to the left; the others hold numbers.
        wrap: width by column at which the terminal wraps it.
        style: classes of the page's stylesheet.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[str | int | Cell]]
    title: str = ""
    note: str = ""
    groups: Sequence[tuple[str, int]] = ()
    totals: int = 0
    left: frozenset[int] = frozenset({0})
    wrap: Mapping[int, int] = field(default_factory=dict)
    style: str = ""

    def as_text(self, most_rows: int | None = None) -> str:
        """Write the table for the terminal.

        Args:
            most_rows: besides the totals; of more rows the first and the last ones are shown.
        """
        rows, left_out = self._shown(most_rows)
        lines = [self.title] if self.title else []
        lines.append(
            tabulate(
                [[self._wrapped(i, str(cell)) for i, cell in enumerate(row)] for row in rows],
                [self._wrapped(i, header) for i, header in enumerate(self._text_headers())],
                tablefmt="simple",
                disable_numparse=True,
                colalign=["left" if i in self.left else "right" for i in range(len(self.headers))],
            )
        )
        if left_out:
            lines.append(f"({counted(left_out, self.headers[0])} between are left out here)")
        if self.note:
            lines.append(textwrap.fill(self.note, WIDTH))
        return "\n".join(lines)

    def _wrapped(self, column: int, text: str) -> str:
        # tabulate's own wrapping makes True of the text False.
        if column not in self.wrap:
            return text
        lines = text.split("\n")
        return "\n".join(textwrap.fill(line, self.wrap[column]) for line in lines)

    def _shown(self, most: int | None) -> tuple[Sequence[Sequence[str | int | Cell]], int]:
        body = len(self.rows) - self.totals
        if most is None or body <= most:
            return self.rows, 0
        return [*self.rows[: most // 2], *self.rows[body - most // 2 :]], body - most // 2 * 2

    def _text_headers(self) -> list[str]:
        """Headers with the name of their group over the first column of each."""
        above = []
        for name, span in self.groups:
            widest = max(map(len, self.headers[len(above) : len(above) + span]), default=0)
            width = max(widest, _GROUP_WIDTH)
            above += [textwrap.fill(name, width, break_long_words=False), *[""] * (span - 1)]
        lines = max((name.count("\n") + 1 for name in above), default=0)
        if not lines:
            return list(self.headers)
        above = ["\n" * (lines - 1 - name.count("\n")) + name for name in above]
        return [f"{name}\n{header}" for name, header in zip(above, self.headers, strict=True)]
