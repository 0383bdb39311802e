"""States of all random number generators of a process: taken, given back, kept apart."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Take the states of Python's, numpy's and torch's generators, and of this process's GPU.

    Returns:
        dict of numbers, lists and uint8 tensors, which ``torch.load`` reads with ``weights_only``.
    """
    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state()
    return {
        "python": [version, list(words), gauss],
        "numpy": [kind, keys.tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Go on with the states of :func:`random_state`."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Leave the generators as they were, whatever is drawn within the block."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


@contextmanager
def seeded(*words: int) -> Iterator[None]:
    """Seed the generators of the CPU by some numbers, and give them back as they were.

    Args:
        words: >= 0. Different ones give independent streams (numpy's ``SeedSequence``).
    """
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    python, torchs, *numpys = np.random.SeedSequence(words).generate_state(6).tolist()
    random.seed(python)
    np.random.seed(numpys)
    torch.default_generator.manual_seed(torchs)
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])
