"""The progress bar of everything that takes long."""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tqdm import tqdm

#: Wraps what a function goes through, to show how far it is; ``iter`` shows nothing.
Track = Callable[[Sequence[Any]], Iterable[Any]]


def progress(
    items: Iterable[Any] | None, description: str, unit: str, total: int | None = None
) -> tqdm:
    """Show a progress bar with the remaining time on standard error.

    Nothing is shown where standard error is no terminal.

    Args:
        items: to go through; None for a bar that is moved by hand.
        description: what is done, a word or two.
        unit: name of one item.
        total: number of items where `items` has no length.
    """
    return tqdm(
        items, desc=description, unit=unit, total=total, file=sys.stderr, disable=None, leave=False
    )
