"""The evaluator inside Detectron2: what it gathers, from one process or several."""

from types import SimpleNamespace

import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from torch import nn

from counterpoise.config.loading import load_config
from counterpoise.config.preparation import prepare
from counterpoise.inference.evaluator import PerClassEvaluator, ProposalTap, coco_ground_truth
from runs import write_dataset

NAME = "shapes_train"


def register(data):
    prepare(load_config([data]), splits=("TRAIN",))
    return DatasetCatalog.get(NAME)


def scaled_boxes(record):
    """Boxes of a record's objects in an image of half the size, a little off."""
    boxes = torch.tensor([a["bbox"] for a in record["annotations"]], dtype=torch.float32)
    return Boxes(boxes / 2 + 0.4)


def evaluate(records):
    """Evaluate detections on half-size images, whose proposals are the same boxes."""
    tap = SimpleNamespace(latest=None)
    evaluator = PerClassEvaluator(NAME, proposals=tap)
    evaluator.reset()
    for record in records:
        boxes = scaled_boxes(record)
        tap.latest = [Instances((32, 40), proposal_boxes=boxes.clone())]
        found = Instances((64, 80), pred_boxes=Boxes(boxes.tensor * 2))
        found.scores = torch.linspace(0.9, 0.5, len(boxes)) - record["image_id"] / 100
        found.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]])
        evaluator.process([record], [{"instances": found}])
    return evaluator.evaluate(), evaluator.result


def evaluate_half(rank, data):
    return evaluate(register(data)[rank::2])


def test_two_processes_find_what_one_finds(processes, tmp_path):
    data = write_dataset(tmp_path / "shapes")
    _, expected = evaluate(register(data))
    assert expected.AP > 0 and expected.proposals.num_boxes > 0
    (_, result), (metrics, nothing) = processes.run(evaluate_half, data)
    assert result == expected
    assert metrics is None and nothing is None


def test_proposals_are_measured_in_the_image_as_it_is_and_not_as_it_is_resized(tmp_path):
    records = register(write_dataset(tmp_path / "shapes"))
    tap = SimpleNamespace(latest=None)
    evaluator = PerClassEvaluator(NAME, proposals=tap)
    evaluator.reset()
    nothing = Instances((64, 80), pred_boxes=Boxes(torch.zeros(0, 4)))
    nothing.scores, nothing.pred_classes = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    for record in records:
        boxes = torch.tensor([a["bbox"] for a in record["annotations"]], dtype=torch.float32)
        # Each axis has a factor of its own, so that no other scaling brings the boxes back.
        resized = Boxes(boxes * torch.tensor([1.5, 0.5, 1.5, 0.5]))
        tap.latest = [Instances((32, 120), proposal_boxes=resized)]
        evaluator.process([record], [{"instances": nothing}])
    evaluator.evaluate()
    proposals = evaluator.result.proposals
    assert proposals.proposal_AR100 == 100
    assert proposals.num_boxes == sum(len(r["annotations"]) for r in records)


def test_the_tap_hands_on_what_the_generator_gave_and_lets_go_of_the_model():
    class Generator(nn.Module):
        def forward(self, images):
            return [f"proposals of {image}" for image in images], {}

    model = nn.Module()
    model.proposal_generator = Generator()
    with ProposalTap(model) as tap:
        model.proposal_generator(["a"])
        assert tap.latest == ["proposals of a"]
    model.proposal_generator(["b"])
    assert tap.latest == ["proposals of a"]
    with ProposalTap(nn.Module()) as tap:
        assert tap.latest is None


def test_ground_truth_keeps_files_sizes_areas_crowds_and_difficult_objects(tmp_path, monkeypatch):
    record = next(r for r in register(write_dataset(tmp_path / "shapes")) if r["image_id"] == 1)
    first, second = record["annotations"]
    first["difficult"], second["iscrowd"], second["area"] = 1, 1, 100
    monkeypatch.setitem(DatasetCatalog.data, NAME, lambda: [record])
    coco = coco_ground_truth(NAME)
    (image,), annotations = coco["images"], coco["annotations"]
    assert image["file_name"].endswith("1.png") and (image["width"], image["height"]) == (80, 64)
    assert [a["bbox"][2:] for a in annotations] == [[22, 18]] * 2
    assert [a["area"] for a in annotations] == [396, 100]
    assert [(a["difficult"], a["iscrowd"]) for a in annotations] == [(1, 0), (0, 1)]
    assert [c["name"] for c in coco["categories"]] == ["disc", "bar"]
