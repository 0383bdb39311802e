"""The holdout: rare classes on both sides, the wanted size, the same result everywhere."""

import math
import random

import numpy as np
import pytest

from counterpoise.datasets.stratify import _Sides, stratified_holdout


def long_tailed(seed: int, images: int, classes: int) -> tuple[list[int], list[frozenset[int]]]:
    """Images of up to four classes whose frequency decreases as 1/(k+1)^2; some have none."""
    rng = random.Random(seed)
    weights = [1 / (k + 1) ** 2 for k in range(classes)]
    counts = [rng.randint(0, 4) for _ in range(images)]
    return list(range(images)), [
        frozenset(rng.choices(range(classes), weights, k=n)) for n in counts
    ]


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("images", [30, 100, 700])
@pytest.mark.parametrize("seed", range(6))
def test_every_class_of_two_images_is_on_both_sides(seed: int, images: int, fraction: float):
    ids, labels = long_tailed(seed, images, classes=12)
    held = stratified_holdout(ids, labels, fraction)
    for k in range(12):
        holders = {i for i in ids if k in labels[i]}
        if len(holders) >= 2:
            assert holders & held and holders - held, f"class {k} of {len(holders)} images"


@pytest.mark.parametrize("seed", range(6))
def test_the_size_is_as_wanted_and_frequent_classes_keep_their_share(seed: int):
    ids, labels = long_tailed(seed, images=500, classes=10)
    held = stratified_holdout(ids, labels, 0.2)
    assert abs(len(held) - 100) <= 1
    for k in (0, 1, 2):
        holders = [i for i in ids if k in labels[i]]
        assert sum(i in held for i in holders) == pytest.approx(0.2 * len(holders), rel=0.1)
    empty = [i for i in ids if not labels[i]]
    assert sum(i in held for i in empty) == pytest.approx(0.2 * len(empty), rel=0.1)


def test_the_result_does_not_depend_on_the_order():
    ids, labels = long_tailed(0, images=80, classes=8)
    names = [f"image{i}" for i in ids]
    order = random.Random(1).sample(ids, len(ids))
    shuffled = [names[i] for i in order], [labels[i] for i in order]
    assert stratified_holdout(names, labels, 0.3) == stratified_holdout(*shuffled, 0.3)


def test_the_result_is_fixed():
    held = stratified_holdout(list(range(10)), [frozenset({i % 2}) for i in range(10)], 0.4)
    assert sorted(held) == [2, 5, 6, 9]


@pytest.mark.parametrize(
    "labels, fraction, size",
    [
        ([{0}, {0}], 0.01, 1),
        ([{0}, {0}], 0.99, 1),
        ([set(), set(), set(), set()], 0.5, 2),
        ([{0}, {1}, {2}, {3}], 0.25, 1),  # single images may stand on either side
    ],
)
def test_both_sides_get_an_image(labels: list[set], fraction: float, size: int):
    assert (
        len(stratified_holdout(range(len(labels)), list(map(frozenset, labels)), fraction)) == size
    )


def test_covering_rare_classes_outweighs_the_size():
    labels = [frozenset({k}) for k in range(10) for _ in range(2)]
    held = stratified_holdout(range(20), labels, 0.1)
    assert len(held) == 10 and all((2 * k in held) != (2 * k + 1 in held) for k in range(10))


def test_classes_that_cannot_all_be_on_both_sides_do_not_stop_it():
    triangle = [frozenset({0, 1}), frozenset({1, 2}), frozenset({0, 2})]
    assert len(stratified_holdout(range(3), triangle, 0.3)) in (1, 2)


@pytest.mark.parametrize("seed", range(20))
def test_the_image_that_moves_is_the_one_that_leaves_the_classes_nearest_to_their_shares(seed: int):
    _, labels = long_tailed(seed, images=40, classes=8)
    sides = _Sides([mark or frozenset({-1}) for mark in labels], 0.3)
    sides.deal()

    def images_of(label: int, held: bool) -> int:
        return sum(sides.held[i] == held for i in sides.members[label])

    def deviation_if_moved(i: int) -> float:
        """Of all classes together, relative to their sizes; infinite where a side loses one."""
        sides.held[i] = not sides.held[i]
        left = [images_of(k, not sides.held[i]) for k in sides.marks[i] if sides.size[k] > 1]
        total = sum(abs(images_of(k, True) - sides.wanted[k]) / n for k, n in sides.size.items())
        sides.held[i] = not sides.held[i]
        return math.inf if 0 in left else total

    for held in (True, False):
        candidates = [i for i in range(40) if sides.held[i] == held]
        after = {i: deviation_if_moved(i) for i in candidates}
        chosen = sides._best_move(np.array(candidates), held)
        assert after[chosen] < math.inf
        assert after[chosen] == pytest.approx(min(after.values()))
