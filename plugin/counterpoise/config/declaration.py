"""How a config key is declared: once, for the config, its checks and its documentation."""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fvcore.common.registry import Registry


@dataclass(frozen=True)
class Interval:
    """Finite numbers between two ends, and possibly a further one with a meaning of its own.

    >>> str(Interval(0, 1, open_high=True))
    'in [0, 1)'
    >>> 1 in Interval(0, open_low=True), str(Interval(0, open_low=True))
    (True, '> 0')
    >>> -1 in Interval(0, 1, special=(-1, "is off")), str(Interval(0, 1, special=(-1, "is off")))
    (True, 'in [0, 1]; -1 is off')

    Attributes:
        low, high: the ends.
        open_low, open_high: whether an end is left out.
        special: a number that is allowed too, and what it does.
    """

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    special: tuple[float, str] | None = None

    def __contains__(self, value: float) -> bool:
        if self.special is not None and value == self.special[0]:
            return True
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return math.isfinite(value) and above and below

    def __str__(self) -> str:
        if math.isinf(self.low) and math.isinf(self.high):
            text = "of finite size"
        elif math.isinf(self.high):
            text = f"{'>' if self.open_low else '>='} {self.low:g}"
        else:
            opening, closing = "[("[self.open_low], "])"[self.open_high]
            text = f"in {opening}{self.low:g}, {self.high:g}{closing}"
        return text if self.special is None else f"{text}; {self.special[0]:g} {self.special[1]}"


@dataclass(frozen=True)
class Choices:
    """Names that a key allows.

    Attributes:
        names: fixed names, or a registry, which is asked when a name is checked, so that it knows
            what users have added.
    """

    names: tuple[str, ...] | Registry

    @property
    def known(self) -> list[str]:
        """All names, in the order of their registration."""
        if isinstance(self.names, Registry):
            return [name for name, _ in self.names]
        return list(self.names)

    @property
    def extensible(self) -> bool:
        """Whether users may register names of their own."""
        return isinstance(self.names, Registry)


@dataclass(frozen=True)
class Numbers:
    """Lists of finite numbers.

    >>> str(Numbers(Interval(0, open_low=True), length=4))
    '4 numbers > 0'
    >>> [1, 2] in Numbers(Interval(0)), [] in Numbers(Interval(0)), [[1]] in Numbers(Interval(0))
    (True, False, False)

    Attributes:
        each: what every number is in.
        length: of the list; None for any but 0.
        empty: whether the list may be empty.
        depth: 2 for a list of such lists, each of which holds a number.
        ascending: whether each number is above the one before.
    """

    each: Interval
    length: int | None = None
    empty: bool = False
    depth: int = 1
    ascending: bool = False

    def __contains__(self, value: object) -> bool:
        return self._fits(value, self.depth)

    def _fits(self, value: object, depth: int) -> bool:
        if not isinstance(value, (list, tuple)):
            return False
        if not value:
            return self.empty and depth == self.depth
        if depth > 1:
            return all(self._fits(inner, depth - 1) for inner in value)
        numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)
        return (
            numbers
            and all(v in self.each for v in value)
            and (self.length is None or len(value) == self.length)
            and not (self.ascending and any(b <= a for a, b in itertools.pairwise(value)))
        )

    def __str__(self) -> str:
        count = "numbers" if self.length is None else f"{self.length} numbers"
        what = "lists of " * (self.depth - 1) + f"{count} {self.each}"
        return what + (", ascending" if self.ascending else "")


@dataclass(frozen=True)
class ReadBy:
    """What another key has to be for a key to be read.

    >>> str(ReadBy("NAME", ("norcal", "logit_adjustment")))
    "'norcal' or 'logit_adjustment'"
    >>> str(ReadBy("ENABLED", (True,))), str(ReadBy("PATIENCE", Interval(1)))
    ('True', 'a number >= 1')

    Attributes:
        key: name of the other, in the same section.
        values: of it with which the key is read.
        refused: whether a key that is set in vain is refused. Otherwise it is only warned of, so
            that a config can be set up for several values of the other key.
    """

    key: str
    values: tuple[str | bool, ...] | Interval
    refused: bool = False

    def __str__(self) -> str:
        if isinstance(self.values, Interval):
            return f"a number {self.values}"
        return " or ".join(map(repr, self.values))


@dataclass(frozen=True)
class Key:
    """A config key.

    Attributes:
        name: within its section.
        default: value, which also sets the type.
        meaning: one or more sentences in Markdown.
        allowed: numbers or names; None where the type alone restricts the value. For a list it
            holds of every element.
        source: where it comes from, or "".
        read_by: what else has to be set; None where the key is read with its section.
    """

    name: str
    default: Any
    meaning: str
    allowed: Interval | Choices | Numbers | None = None
    source: str = ""
    read_by: ReadBy | None = None


@dataclass(frozen=True)
class Section:
    """Keys under one node.

    Attributes:
        name: of the node, with dots.
        meaning: one or more sentences in Markdown.
        keys: in the order in which they are explained.
    """

    name: str
    meaning: str
    keys: tuple[Key, ...]


def declared(sections: Iterable[Section]) -> dict[str, Key]:
    """All keys of some sections, by full name such as ``"BALANCE.ROI_LOSS.GAMMA"``."""
    return {f"{section.name}.{key.name}": key for section in sections for key in section.keys}
