"""The progress bar of everything that takes long."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


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
