"""How a config key is declared: once, for the config, its checks and its documentation."""

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
        if math.isinf(self.high):
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
    """

    name: str
    default: Any
    meaning: str
    allowed: Interval | Choices | None = None
    source: str = ""


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
