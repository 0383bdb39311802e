"""Sampling of training images: the rules' formulas, and how often a sampler draws what."""

import itertools
import logging
import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from torch.utils.data import ConcatDataset

from counterpoise.balance.image_sampling import RULES, expected_boxes, image_factors
from counterpoise.config.loading import load_config
from counterpoise.config.preparation import prepare
from counterpoise.datasets import load_dataset
from counterpoise.datasets.image_sampling import boxes_per_image, draws_per_epoch, image_sampler
from counterpoise.datasets.packed import PackedRecords
from counterpoise.errors import UserError
from counterpoise.training.trainer import BalancedTrainer
from models import CONFIGS, quick_config
from runs import SMALL, train_net, write_dataset

#: Six images: class 0 in five of them, class 1 in two, class 2 in one, class 3 nowhere; one empty.
COUNTS = torch.tensor(
    [[2, 0, 0, 0], [3, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [1, 4, 1, 0], [0, 0, 0, 0]]
)
IMAGES = [5 / 6, 2 / 6, 1 / 6]
BOXES = [8 / 14, 5 / 14, 1 / 14]


def records(counts=COUNTS):
    return [
        {"annotations": [{"category_id": c} for c, n in enumerate(row) for _ in range(n)]}
        for row in counts.tolist()
    ]


def config(name="none", *overrides):
    if "sampled" not in MetadataCatalog.list():
        MetadataCatalog.get("sampled").thing_classes = ["a", "b", "c", "d"]
    cfg = quick_config("BALANCE.IMAGE_SAMPLER.NAME", name, "SEED", "7", *overrides)
    cfg.defrost()
    cfg.DATASETS.TRAIN = ("sampled",)
    return cfg


@pytest.mark.parametrize("threshold", [0.001, 0.3, 0.5, 1.0])
def test_repeat_factors_are_detectron2s(threshold):
    expected = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        records(), threshold
    )
    factors = image_factors(COUNTS, "repeat_factor", threshold)
    torch.testing.assert_close(factors.float(), expected)


def test_irfs_takes_the_geometric_mean_of_both_frequencies():
    f = [math.sqrt(i * b) for i, b in zip(IMAGES, BOXES, strict=True)]
    rare, rarest = (max(1.0, math.sqrt(0.4 / f[c])) for c in (1, 2))
    assert image_factors(COUNTS, "irfs", 0.4).tolist() == pytest.approx([1, 1, rare, 1, rarest, 1])


def test_eirfs_is_exponential_in_the_root_of_the_ratio():
    f = [math.sqrt(i * b) for i, b in zip(IMAGES, BOXES, strict=True)]
    often, rare, rarest = (math.exp(2 * math.sqrt(0.01 / each)) for each in f)
    weights = torch.tensor([often, often, rare, often, rarest, 1.0], dtype=torch.float64)
    torch.testing.assert_close(image_factors(COUNTS, "eirfs", 0.01), 6 * weights / weights.sum())


def test_eirfs_stays_finite_on_the_longest_tail():
    counts = torch.zeros(10_000, 2)
    counts[:, 0], counts[0, 1] = 1000, 1
    factors = image_factors(counts, "eirfs", exponent=20.0)
    assert factors.isfinite().all()
    assert factors.sum().item() == pytest.approx(10_000)


def test_class_aware_draws_a_class_and_then_one_of_its_images():
    expected = torch.zeros(6, dtype=torch.float64)
    for images in ([0, 1, 2, 3, 4], [2, 4], [4]):
        expected[images] += 1 / 3 / len(images)
    torch.testing.assert_close(image_factors(COUNTS, "class_aware"), 6 * expected)


def test_the_median_makes_the_rarer_half_rare_whatever_the_size_of_the_data():
    factors = image_factors(COUNTS, "repeat_factor")
    assert factors.tolist() == pytest.approx([1, 1, 1, 1, math.sqrt(2), 1])
    assert image_factors(COUNTS, "repeat_factor", 0.001).tolist() == [1] * 6


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_tells_equal_classes_apart(rule):
    factors = image_factors(torch.eye(5), rule)
    assert factors.tolist() == pytest.approx([1] * 5)


def test_expected_boxes_are_those_of_as_many_draws_as_there_are_images():
    # 6 draws, of which 3 in 8 are of the image with 1, 4 and 1 boxes, and 1 in 8 of each other
    factors = torch.tensor([1.0, 1, 1, 1, 3, 1])
    assert expected_boxes(COUNTS, factors).tolist() == pytest.approx([7.5, 9.75, 2.25, 0])


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_shows_the_rarest_class_more_often(rule):
    before, after = COUNTS.sum(dim=0), expected_boxes(COUNTS, image_factors(COUNTS, rule))
    assert after[2] > before[2]
    assert after[3] == 0


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("ifrs",), "rule is 'ifrs', expected one of"),
        (("irfs", 0.0), "threshold is 0.0"),
        (("eirfs", 0.1, -1.0), "exponent is -1.0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        image_factors(COUNTS, *arguments)


@pytest.mark.parametrize("rule", RULES)
def test_images_are_drawn_as_often_as_their_factors_say(rule):
    sampler = image_sampler(config(rule), records(), None)
    factors = draws_per_epoch(sampler, 6)
    number = 60_000
    drawn = torch.tensor(list(itertools.islice(iter(sampler), number))).bincount(minlength=6)
    expected = factors / factors.sum()
    # Within five standard deviations of independent draws; those of an epoch spread less.
    bound = 5 * (expected * (1 - expected) / number).sqrt()
    assert ((drawn / number - expected).abs() <= bound + 1e-9).all()


def test_the_order_is_a_function_of_the_seed():
    def order(seed):
        sampler = image_sampler(config("irfs", "SEED", seed), records(), None)
        return list(itertools.islice(iter(sampler), 50))

    assert order("7") == order("7") != order("8")


def test_two_processes_share_one_order(monkeypatch):
    def order(rank, processes):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda: rank)
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: processes)
        sampler = image_sampler(config("class_aware"), records(), None)
        return list(itertools.islice(iter(sampler), 60 // processes))

    whole = order(0, 1)
    assert order(0, 2) == whole[::2]
    assert order(1, 2) == whole[1::2]


def test_without_the_key_detectron2s_sampler_stays(caplog):
    uniform = TrainingSampler(6, seed=0)
    assert image_sampler(config(), records(), uniform) is uniform
    assert not caplog.records


def test_detectron2s_own_key_is_honoured_and_its_effect_logged(tmp_path, monkeypatch, caplog):
    data = write_dataset(tmp_path / "repeated")
    own = ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"]
    own += ["DATALOADER.REPEAT_THRESHOLD", "1.0"]
    cfg = load_config([CONFIGS / "quick" / "baseline.yaml", data], [*SMALL, *own])
    prepare(cfg)
    chosen = []

    def spy(*arguments):
        chosen.append(image_sampler(*arguments))
        return chosen[0]

    monkeypatch.setattr("counterpoise.training.loader.image_sampler", spy)
    with caplog.at_level(logging.INFO):
        BalancedTrainer.build_train_loader(cfg)
    assert isinstance(chosen[0], RepeatFactorTrainingSampler)
    assert "drawn images" in caplog.text
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        DatasetCatalog.get("repeated_train"), 1.0
    )
    assert factors.max() > 1
    torch.testing.assert_close(draws_per_epoch(chosen[0], len(factors)), factors)


def test_the_log_says_how_often_each_class_is_seen(caplog):
    with caplog.at_level(logging.INFO):
        image_sampler(config("class_aware"), records(), None)
    said = caplog.text
    after = expected_boxes(COUNTS, image_factors(COUNTS, "class_aware"))
    assert "in 6 drawn images" in said
    for name, was, now in zip("abc", [8, 5, 1], after.tolist(), strict=False):
        row = next(line.split() for line in said.splitlines() if line.startswith(f"{name} "))
        assert row == [name, str(was), f"{now:.0f}", "x", f"{now / was:.2f}"]


def test_crowd_regions_are_not_counted():
    crowd = [{"annotations": [{"category_id": 1, "iscrowd": 1}, {"category_id": 0}]}, {}]
    assert boxes_per_image(crowd, 2).to_dense().tolist() == [[1, 0], [0, 0]]


def test_packed_records_are_counted_like_others(tmp_path):
    cfg = load_config([CONFIGS / "quick" / "baseline.yaml", write_dataset(tmp_path / "packed")])
    prepare(cfg)
    packed, names = load_dataset("packed_train")
    assert isinstance(packed, PackedRecords)
    joined = ConcatDataset([packed, packed.select(np.arange(len(packed))[::-2])])
    for records in (packed, joined):
        counts = boxes_per_image(records, len(names))
        assert counts.is_sparse
        assert torch.equal(counts.to_dense(), boxes_per_image([*records], len(names)).to_dense())


def test_sparse_counts_give_what_dense_ones_give():
    for rule in RULES:
        factors = image_factors(COUNTS, rule)
        assert torch.equal(image_factors(COUNTS.to_sparse(), rule), factors)
        assert torch.equal(
            expected_boxes(COUNTS.to_sparse(), factors), expected_boxes(COUNTS, factors)
        )


def test_data_without_boxes_is_answered_in_one_sentence():
    with pytest.raises(UserError, match=r"'irfs', but the training set sampled cannot be balanced"):
        image_sampler(config("irfs"), [{"annotations": []}], None)


def test_a_training_runs_on_balanced_images(tmp_path):
    data = write_dataset(tmp_path / "shapes")
    arguments = ["BALANCE.IMAGE_SAMPLER.NAME", "class_aware", "DATASETS.TEST", "()"]
    assert train_net(data, tmp_path / "out", *arguments) == 0
    assert "drawn images, as many as there are" in (tmp_path / "out" / "log.txt").read_text()


@pytest.mark.parametrize("rule", RULES)
def test_rare_classes_of_real_data_are_seen_more_often(real_data, monkeypatch, rule):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(real_data))
    cfg = load_config(
        [CONFIGS / "quick" / "baseline.yaml", CONFIGS / "datasets" / "aquarium.yaml"], SMALL
    )
    classes = prepare(cfg)
    counts = boxes_per_image(DatasetCatalog.get("aquarium_train"), len(classes)).to_dense()
    before = counts.sum(dim=0)
    after = expected_boxes(counts, image_factors(counts, rule))
    assert after[before.argmin()] > before.min()
    assert after[before.argmax()] < before.max()
