"""Packed records give what was put in, count like a loop over them, and are shared by workers."""

from collections import Counter
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.utils.env import seed_all_rng
from torch.utils.data import DataLoader

from counterpoise.config.loading import load_config
from counterpoise.config.preparation import prepare
from counterpoise.datasets import count_classes, load_dataset, packed
from counterpoise.datasets.counting import loader_dataset
from counterpoise.datasets.packed import PackedRecords, files_of, pack_texts
from counterpoise.inference.evaluation import loader_of as loader_of_test_set
from counterpoise.training.trainer import BalancedTrainer
from runs import SMALL, write_dataset


def make(number=50, seed=0) -> PackedRecords:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 5, number)
    boxes = int(counts.sum())
    images, ends = pack_texts([b'["%d.jpg", 30, 40, %d]' % (i, i) for i in range(number)])
    empty = np.zeros(0)
    return PackedRecords(
        {
            "images": images,
            "image_ends": ends,
            "box_ends": np.cumsum(counts),
            "boxes": rng.uniform(0, 30, (boxes, 4)),
            "category_ids": rng.integers(0, 3, boxes),
            "crowd": rng.random(boxes) < 0.3,
            **dict.fromkeys(("difficult", "areas", "segmentations", "segmentation_ends"), empty),
        }
    )


def plain(record: dict) -> list[int]:
    return [a["category_id"] for a in record["annotations"] if not a["iscrowd"]]


@pytest.mark.parametrize("chosen", [None, "some", "reversed"])
@pytest.mark.parametrize("block", [7, 1 << 14])
def test_the_counts_are_those_of_a_loop_over_the_records(chosen, block, monkeypatch):
    monkeypatch.setattr(packed, "_BLOCK", block)
    records = make()
    if chosen:
        rows = np.arange(len(records))
        records = records.select(rows % 3 > 0 if chosen == "some" else rows[::-1])
    boxes = Counter(label for record in records for label in plain(record))
    images = Counter(label for record in records for label in set(plain(record)))
    counted = records.count_classes(4)
    assert [c.tolist() for c in counted] == [[n[i] for i in range(4)] for n in (images, boxes)]
    assert records.box_counts.tolist() == [len(record["annotations"]) for record in records]
    assert records.object_counts.tolist() == [len(plain(record)) for record in records]


def with_masks(images=b'["x/a.jpg", 30, 40, 1]["x/b.jpg", 30, 40, 2]', **changed) -> PackedRecords:
    """Two images of one box and of two."""
    masks, ends = pack_texts([b"[[1, 2, 3]]", b"", b"[[4, 5, 6]]"])
    columns = {
        "images": np.frombuffer(images, np.uint8),
        "image_ends": [images.index(b"]") + 1, len(images)],
        "box_ends": [1, 3],
        "boxes": np.arange(12).reshape(3, 4),
        "category_ids": [0, 1, 0],
        "crowd": [0, 0, 1],
        "difficult": [],
        "areas": [],
        "segmentations": masks,
        "segmentation_ends": ends,
    }
    return PackedRecords(columns | changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"images": b'["x/c.jpg", 30, 40, 1]["x/b.jpg", 30, 40, 2]'},
        {"images": b'["x/a.jpg", 30, 41, 1]["x/b.jpg", 30, 40, 2]'},
        {"box_ends": [2, 3]},
        {"boxes": np.arange(12).reshape(3, 4) + 0.5},
        {"category_ids": [0, 1, 1]},
        {"crowd": [0, 0, 0]},
        {"segmentations": np.frombuffer(b"[[1, 2, 3]][[4, 5, 7]]", np.uint8)},
        {"segmentation_ends": [0, 11, 22]},
    ],
)
def test_content_tells_of_every_change_that_a_training_sees(changed):
    assert b"".join(with_masks(**changed).content()) != b"".join(with_masks().content())


@pytest.mark.parametrize("block", [1, 1 << 10])
def test_content_is_that_of_the_chosen_images_in_their_order_in_whatever_folder(block, monkeypatch):
    monkeypatch.setattr(packed, "_MASK_BLOCK", block)
    first, second = (list(with_masks().select([k]).content()) for k in (0, 1))
    if block == 1:
        assert list(with_masks().select([1, 0]).content()) == [*second, *first]
    moved = with_masks(b'["y/a.jpg", 30, 40, 1]["b.jpg", 30, 40, 2]')
    assert list(moved.content()) == list(with_masks().content())


def test_a_record_is_new_at_every_access():
    records = make()
    records[3]["annotations"].append("x")
    records[3]["file_name"] = "y"
    assert records[3] == make()[3] and records[-1] == records[len(records) - 1]
    assert len(list(records)) == len(records)
    with pytest.raises(IndexError):
        records[len(records)]


class Seen(torch.utils.data.Dataset):
    """What a worker gets: the records, and where the boxes lie in its memory."""

    def __init__(self, records):
        self.records = records

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return list(self.records), self.records.columns["boxes"].ctypes.data


def only(batch):
    return batch[0]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_get_the_records(method):
    records = make()
    loader = DataLoader(
        Seen(records), num_workers=1, multiprocessing_context=method, collate_fn=only
    )
    ((seen, address),) = loader
    assert seen == list(records)
    if method == "fork":
        assert address == records.columns["boxes"].ctypes.data


def test_spawned_workers_are_handed_one_piece_of_shared_memory():
    records = make(20_000)
    sent = [bytes(ForkingPickler.dumps(records)) for _ in range(2)]
    assert records.nbytes > 1_000_000 and max(map(len, sent)) < 10_000
    assert all(tensor.is_shared() for tensor in records._tensors.values() if tensor.numel())


@pytest.mark.parametrize(
    "changed",
    [
        {"box_ends": [1, 2]},
        {"boxes": np.zeros((3, 4))},
        {"boxes": np.zeros(4)},
        {"category_ids": [0, 0]},
        {"areas": [1.0, 2.0]},
        {"images": np.zeros(3)},
        {"segmentation_ends": [5]},
    ],
)
def test_columns_that_do_not_fit_together_are_refused(changed):
    columns = make(1, seed=21).columns
    assert len(columns["boxes"]) == 1
    with pytest.raises(ValueError, match="do not fit"):
        PackedRecords({**columns, **changed})


@pytest.fixture
def cfg(tmp_path):
    """Two prepared datasets, one with an image that has no box."""
    files = [write_dataset(tmp_path / name, seed=i) for i, name in enumerate(("left", "right"))]
    labels = files[0].parent / "labels.json"
    labels.write_text(labels.read_text().replace('"image_id": 3', '"image_id": 2'))
    arguments = [*SMALL, "DATASETS.TRAIN", "('left_train', 'right_train')", "DATASETS.TEST",
                 "('left_val',)"]  # fmt: skip
    cfg = load_config(["quick/focal.yaml", *files], arguments)
    prepare(cfg)
    yield cfg
    for name in ("left_train", "left_val", "right_train", "right_val"):
        DatasetCatalog.pop(name, None)
        MetadataCatalog.pop(name, None)


@pytest.mark.parametrize("filter_empty", [True, False])
@pytest.mark.parametrize("number", [1, 2])
def test_the_loaders_get_what_detectron2_would_find(cfg, filter_empty, number):
    names = list(cfg.DATASETS.TRAIN[:number])
    records = loader_dataset(names, filter_empty)
    expected = get_detection_dataset_dicts(names, filter_empty)
    assert [records[i] for i in range(len(records))] == expected
    assert len(loader_dataset(names, False)) - len(loader_dataset(names, True)) == 1


@pytest.mark.parametrize(
    "sampler", ["TrainingSampler", "RepeatFactorTrainingSampler", "WeightedTrainingSampler"]
)
def test_every_sampler_draws_from_packed_records_as_from_a_list(cfg, sampler):
    cfg.DATALOADER.SAMPLER_TRAIN = sampler
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.9
    if "TRAIN_REPEAT_FACTOR" not in cfg.DATASETS and sampler.startswith("Weighted"):
        pytest.skip("this Detectron2 has no such sampler")
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = [("left_train", 2.0)]
    drawn = []
    for build in (BalancedTrainer.build_train_loader, build_detection_train_loader):
        seed_all_rng(0)
        loader = iter(build(cfg))
        drawn.append([image["file_name"] for _ in range(4) for image in next(loader)])
    assert drawn[0] == drawn[1]


def test_a_test_loader_gives_every_record_once_and_in_order(cfg):
    seen = [
        image["file_name"]
        for batch in loader_of_test_set(cfg, "left_val", torch.nn.Identity())
        for image in batch
    ]
    assert seen == [record["file_name"] for record in DatasetCatalog.get("left_val")]


def test_other_datasets_stay_with_detectron2(cfg):
    DatasetCatalog.register("other", lambda: DatasetCatalog.get("left_val"))
    MetadataCatalog.get("other").thing_classes = ["disc", "bar"]
    try:
        assert loader_dataset(["left_train", "other"], True) is None
        assert count_classes(["other"]) == count_classes(["left_val"])
        assert isinstance(load_dataset("left_val")[0], PackedRecords)
    finally:
        DatasetCatalog.remove("other")
        MetadataCatalog.remove("other")


def test_the_files_are_those_of_the_records_of_any_kind_and_packed_ones_are_not_made(monkeypatch):
    records = make().select(np.arange(50)[::-1])
    made = list(records)
    monkeypatch.setattr(PackedRecords, "__getitem__", lambda self, index: pytest.fail("was made"))
    assert list(files_of(records)) == list(files_of(made)) == [f"{i}.jpg" for i in range(50)][::-1]


def test_sizes_are_those_of_the_records():
    records = make().select(np.array([4, 1]))
    expected = [[record["height"], record["width"]] for record in records]
    assert records.sizes.tolist() == expected and len(expected) == 2
    assert records.select(np.zeros(0, np.int64)).sizes.shape == (0, 2)
