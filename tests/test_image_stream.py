"""The stream of training images goes on from any batch, without loading those before it."""

import itertools
import random

import numpy as np
import pytest
import torch
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from torch.utils.data import ConcatDataset, Sampler

from counterpoise.datasets.last_phase import PLAIN, PlainFrom, TwiceOver
from counterpoise.errors import UserError
from counterpoise.training.image_stream import ImageStream, resumable_loader
from counterpoise.training.random_state import random_state, random_state_kept, set_random_state


class EveryThird(Sampler):
    """A sampler of a user's own."""

    def __iter__(self):
        return (3 * i % 10 for i in itertools.count())


SAMPLERS = {
    "training": lambda: TrainingSampler(10, seed=3),
    "repeat factors": lambda: RepeatFactorTrainingSampler(torch.linspace(1, 2.5, 10), seed=3),
    "own": EveryThird,
}


class Mapper:
    """Draws as an augmentation does, and counts."""

    def __init__(self):
        self.calls = 0

    def __call__(self, record):
        self.calls += 1
        draws = random.random(), np.random.random(), torch.rand(()).item()
        return record["image_id"], draws


def records(number=10):
    return [
        {"file_name": f"{i}.png", "image_id": i, "width": 4 + i % 3, "height": 5,
         "annotations": [{"bbox": [0, 0, i, 1], "category_id": 0}]}
        for i in range(number)
    ]  # fmt: skip


def loader(sampler="training", mapper=None, workers=0, grouped=True, seed=1, rank=0, data=None):
    parts = {
        "dataset": data or records(), "sampler": SAMPLERS[sampler](), "mapper": mapper or Mapper(),
        "total_batch_size": 2, "aspect_ratio_grouping": grouped, "num_workers": workers,
    }  # fmt: skip
    return resumable_loader(parts, seed, rank, 1)


def take(batches, number):
    return list(itertools.islice(iter(batches), number))


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_it_goes_on_from_any_batch_without_loading_an_image_before(sampler, grouped):
    expected = take(loader(sampler, grouped=grouped), 12)
    for passed in (1, 5, 11):
        mapper = Mapper()
        resumed = loader(sampler, mapper, grouped=grouped)
        resumed.load_state_dict({"batches": passed, "seed": 1})
        assert take(resumed, 12 - passed) == expected[passed:]
        assert mapper.calls == 2 * (12 - passed)


def test_workers_and_what_they_prefetch_change_nothing():
    expected = take(loader(), 7)
    part = loader(workers=2)
    assert take(part, 3) == expected[:3]
    state = part.state_dict()
    assert state["batches"] == 3
    rest = loader(workers=1)
    rest.load_state_dict(state)
    assert take(rest, 4) == expected[3:]


def test_batches_are_of_one_kind_where_they_are_grouped():
    wide = {r["image_id"]: r["width"] > r["height"] for r in records()}
    for batch in take(loader(), 20):
        assert len({wide[image] for image, _ in batch}) == 1
    assert any(len({wide[i] for i, _ in batch}) == 2 for batch in take(loader(grouped=False), 20))


def test_augmentation_differs_by_position_seed_and_process_and_not_by_what_was_drawn_before():
    def draws(**changes):
        return [draw for batch in take(loader("own", **changes), 10) for _, draw in batch]

    first = draws()
    assert len(set(first)) == 20  # the ten images come twice
    torch.rand(5)
    random.random()
    assert draws() == first
    assert not set(first) & set(draws(seed=2)) and not set(first) & set(draws(rank=1))


def test_the_training_draws_the_same_random_numbers_whatever_an_augmentation_draws():
    batches = iter(loader())
    before = random_state()
    next(batches)
    after = random_state()
    assert before["python"] == after["python"] and before["numpy"] == after["numpy"]
    assert torch.equal(before["torch"], after["torch"])


def test_a_mapper_that_leaves_an_image_out_gets_another_one():
    def odd_only(record):
        return record["image_id"] if record["image_id"] % 2 else None

    images = {image for batch in take(loader(mapper=odd_only), 10) for image in batch}
    assert images and all(image % 2 for image in images)


def usable_but_for(*damaged):
    return lambda record: None if record["image_id"] in damaged else record


def test_an_image_in_place_of_a_damaged_one_has_the_orientation_of_the_batch():
    for batch in take(loader(mapper=usable_but_for(0, 2, 4, 5)), 40):
        assert len({record["width"] > record["height"] for record in batch}) == 1


def test_where_all_images_of_an_orientation_are_damaged_others_are_taken():
    wide = [r["image_id"] for r in records() if r["width"] > r["height"]]
    batches = take(loader(mapper=usable_but_for(*wide)), 20)
    assert {record["image_id"] for batch in batches for record in batch} == {*range(10)} - {*wide}


@pytest.mark.parametrize("plain", [False, True])
def test_an_image_in_place_of_a_damaged_one_is_composed_where_that_would_be(plain):
    order = PlainFrom(range(10), images=10, start=0 if plain else 10)
    stream = ImageStream(TwiceOver(records()), order, usable_but_for(*range(1, 10, 2)), 2, seed=1)
    assert [PLAIN in record for record in stream] == 10 * [plain]


def test_another_order_or_content_is_told_apart():
    state = loader().state_dict()
    assert loader().state_dict() == state
    assert loader("own").state_dict()["order"] != state["order"]
    moved = records()
    moved[4]["annotations"][0]["bbox"][0] = 0.5
    assert loader(data=moved).state_dict()["content"] != state["content"]
    elsewhere = [r | {"file_name": f"/elsewhere/{r['file_name']}"} for r in records()]
    assert loader(data=elsewhere).state_dict()["content"] == state["content"]


def test_several_datasets_are_grouped_as_their_records_in_one():
    together = loader(data=records()).stream
    halves = ConcatDataset([records()[:3], records()[3:]])
    assert loader(data=halves).stream.wide == together.wide


def test_a_record_without_a_size_is_named():
    with pytest.raises(UserError, match=r"record of 3\.png lacks width or height"):
        loader(data=[r if r["image_id"] != 3 else {"file_name": "3.png"} for r in records()])


def test_random_states_are_given_back():
    def draw():
        return random.random(), random.gauss(0, 1), np.random.normal(), torch.rand(2).tolist()

    random.gauss(0, 1)  # a second number is kept for the next call
    np.random.normal()
    state = random_state()
    first = draw()
    set_random_state(state)
    with random_state_kept():
        draw()
    assert draw() == first
