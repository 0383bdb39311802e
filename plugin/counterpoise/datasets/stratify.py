"""Splitting multi-label images so that rare classes stand on both sides."""

import random
from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import chain

import numpy as np

_BACKGROUND = -1  # stands for "no box": such images are spread over both sides as well


def stratified_holdout(
    ids: Sequence[Hashable], labels: Sequence[frozenset[int]], fraction: float
) -> frozenset[Hashable]:
    """Choose the images to hold out by iterative stratification with a fixed seed.

    The rarest remaining class is dealt out first, each image to the side that lacks it most. A
    class of at least two images is given at least one on each side. Dealing alone cannot promise
    that, nor the exact size, for images of several classes: single images are moved afterwards.

    The result depends on the ids and labels only, not on their order.

    Source: Sechidis, Tsoumakas, Vlahavas, "On the Stratification of Multi-Label Data", ECML PKDD
    2011, algorithm 1.

    Args:
        ids: unique image ids.
        labels: classes of each image.
        fraction: wanted share of held-out images, in (0, 1).

    Returns:
        Ids held out: ``round(fraction * len(ids))`` of them, at least one, unless classes on both
        sides need another number.
    """
    order = sorted(range(len(ids)), key=lambda i: (str(type(ids[i])), ids[i]))
    random.Random(0).shuffle(order)  # so that no side gets the first frames of all videos
    marks = [labels[i] or frozenset({_BACKGROUND}) for i in order]
    sides = _Sides(marks, fraction)
    sides.deal()
    sides.cover()
    sides.balance()
    return frozenset(ids[i] for i, held in zip(order, sides.held, strict=True) if held)


class _Sides:
    """Images dealt to two sides: ``held[i]`` is True where image i is held out."""

    def __init__(self, marks: list[frozenset[int]], fraction: float) -> None:
        self.marks = marks
        self.fraction = fraction
        self.members: dict[int, list[int]] = {}
        for i, mark in enumerate(marks):
            for label in sorted(mark):
                self.members.setdefault(label, []).append(i)
        self.size = {label: len(images) for label, images in self.members.items()}
        self.wanted = {label: self._share(n) for label, n in self.size.items()}
        self.wanted_images = self._share(len(marks))
        self.held: list[bool] = [False] * len(marks)
        self.have: Counter[int] = Counter()  # held-out images per label
        # The same as arrays: labels by their places in `members`, those of all images in a row.
        place = {label: k for k, label in enumerate(self.members)}
        self.owner = np.repeat(np.arange(len(marks)), list(map(len, marks)))
        self.label = np.array([place[label] for label in chain.from_iterable(marks)], np.int64)
        self.sizes = np.array(list(self.size.values()))
        self.shares = np.array(list(self.wanted.values()))

    def _share(self, n: int) -> int:
        return min(max(round(self.fraction * n), 1), n - 1)

    def deal(self) -> None:
        """Algorithm 1: the rarest remaining label first, each image where it is lacking most."""
        left = set(range(len(self.marks)))
        remaining = dict(self.size)
        dealt: Counter[int] = Counter()
        held_images = 0
        while left:
            label = min((n, k) for k, n in remaining.items() if n)[1]
            for i in self.members[label]:
                if i not in left:
                    continue
                lacking = self.wanted[label] - self.have[label]
                lacking_other = self.size[label] - self.wanted[label] - dealt[label]
                lacking_other += self.have[label]
                lacking_images = self.wanted_images - held_images
                other_images = len(left) - lacking_images
                self.held[i] = (lacking, lacking_images) > (lacking_other, other_images)
                held_images += self.held[i]
                left.remove(i)
                for mark in self.marks[i]:
                    remaining[mark] -= 1
                    dealt[mark] += 1
                    self.have[mark] += self.held[i]

    def cover(self) -> None:
        """Move an image for each class that one side lacks, where no other class suffers."""
        for label in sorted(self.members, key=lambda k: (self.size[k], k)):
            if self.size[label] < 2 or 0 < self.have[label] < self.size[label]:
                continue
            chosen = self._best_move(np.array(self.members[label]), self.have[label] > 0)
            if chosen is not None:
                self._move(chosen)

    def balance(self) -> None:
        """Move images until the number held out is as wanted or nothing can be moved."""
        while (surplus := sum(self.held) - self.wanted_images) != 0:
            candidates = np.flatnonzero(np.array(self.held) == (surplus > 0))
            chosen = self._best_move(candidates, surplus > 0)
            if chosen is None:
                return
            self._move(chosen)

    def _best_move(self, candidates: np.ndarray, held: bool) -> int | None:
        """Choose the image whose move adds least to the summed relative deviation from `wanted`.

        All images are looked at together, since there can be a million of them and many moves.

        Args:
            candidates: indices of images, all of them held out or none.
            held: whether they are.

        Returns:
            the first such image; None where a class would vanish from their side by any.
        """
        have = np.array([self.have[label] for label in self.members])
        is_last = ((have if held else self.sizes - have) == 1) & (self.sizes > 1)
        uncovers = np.bincount(self.owner, is_last[self.label], len(self.marks)) > 0
        movable = candidates[~uncovers[candidates]]
        if not len(movable):
            return None
        off, step = have - self.shares, -1 if held else 1
        excess = (np.abs(off + step) - np.abs(off)) / self.sizes
        added = np.bincount(self.owner, excess[self.label], len(self.marks))
        return int(movable[added[movable].argmin()])

    def _move(self, i: int) -> None:
        self.held[i] = not self.held[i]
        self.have.update(dict.fromkeys(self.marks[i], 1 if self.held[i] else -1))
