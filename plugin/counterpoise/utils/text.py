"""Numbers and lists as text, alike in the terminal and on pages.

Everything is ASCII, which any terminal shows; pages put minus signs and dashes where they belong,
see :func:`typographic`.
"""

import re
import unicodedata
from collections.abc import Sequence

#: What stands for a value that there is none of.
NONE = "-"

# Control characters, surrogates, separators of lines and paragraphs, and of the format characters
# those that turn the direction of what follows (others, such as joiners, are part of words).
_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def number(value: float | None, digits: int = 1) -> str:
    """Format a number; a hyphen where there is none."""
    # Adding 0 turns a rounded -0.0 into 0.0.
    return NONE if value is None else f"{round(value, digits) + 0:.{digits}f}"


def signed(value: float | None, digits: int = 1) -> str:
    """Format a difference with its sign, what rounds to 0 as +0; a hyphen where there is none."""
    return NONE if value is None else f"{round(value, digits) + 0:+.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """Format a share of 1, such as ``12.5 %``; a hyphen where there is none."""
    return NONE if value is None else f"{100 * value:.{digits}f} %"


def interval(value: tuple[float, float] | None, digits: int = 1) -> str:
    """Format a confidence interval of a value; a hyphen where there is none."""
    return NONE if value is None else f"{value[0]:.{digits}f} to {value[1]:.{digits}f}"


def signed_interval(value: tuple[float, float] | None, digits: int = 1) -> str:
    """Format a confidence interval of a difference; a hyphen where there is none."""
    return NONE if value is None else " to ".join(signed(end, digits) for end in value)


def duration(seconds: float | None) -> str:
    """Format seconds as hours, minutes and seconds, such as ``1:02:03``."""
    if seconds is None:
        return NONE
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def counted(count: int, noun: str) -> str:
    """Format a count with its noun, such as ``1 box`` and ``2 boxes``."""
    plural = f"{noun}es" if noun.endswith(("s", "x")) else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"


def listed(items: Sequence[str], most: int) -> str:
    """Join the first items by commas and count the others, such as ``a, b and 3 more``."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def unique_ends(paths: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Of each of some different paths the shortest end that no other one has.

    >>> unique_ends([("runs", "a", "seed1"), ("runs", "b", "seed1"), ("runs", "b", "seed2")])
    [('a', 'seed1'), ('b', 'seed1'), ('seed2',)]
    """
    ends = []
    for path in paths:
        others = [other for other in paths if other != path]
        lengths = range(1, len(path) + 1)
        unique = (n for n in lengths if all(other[-n:] != path[-n:] for other in others))
        ends.append(path[-next(unique, len(path)) :])
    return ends


def sentence(text: str) -> str:
    """Write the first letter in capitals, and end with a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def printable(text: str, lines: bool = True) -> str:
    """Write what would drive a terminal or cannot be written as an escape such as ``\\x1b``.

    That is: control characters, among them those of escape sequences, marks that turn the direction
    of the text, and the lone surrogates that stand for bytes of a file name which are not UTF-8.

    Args:
        text: that holds names of files or classes.
        lines: keep line breaks and tabs, for a text of several lines.
    """
    kept = "\n\t" if lines else ""
    return "".join(ascii(c)[1:-1] if c not in kept and _is_unprintable(c) else c for c in text)


def _is_unprintable(character: str) -> bool:
    return character in _TURNING or unicodedata.category(character) in _UNPRINTABLE


def typographic(text: str) -> str:
    """Put signs where they belong: minus and plus-minus, and a dash where there is no value."""
    if text == NONE:
        return "\N{EN DASH}"
    return re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", plus_minus(text))


def plus_minus(text: str) -> str:
    """Write ``+-`` before a number or word as one sign."""
    return text.replace("+- ", "\N{PLUS-MINUS SIGN} ")
