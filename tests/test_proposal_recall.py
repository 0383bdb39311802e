"""Average recall of proposals against Detectron2's."""

import contextlib
import json
import pickle
from dataclasses import asdict

import numpy as np
import pytest
import torch
from detectron2.evaluation.coco_evaluation import _evaluate_box_proposals
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO

from counterpoise.evaluation.proposals import ProposalRecall


def scene(num_images=12, num_proposals=1500, seed=0):
    """Images of (proposals by descending objectness, boxes, classes), the boxes crowded."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(num_images):
        n = int(rng.integers(1, 30))
        low, size = rng.uniform(0, 100, (n, 2)), rng.uniform(10, 60, (n, 2))
        boxes = np.concatenate([low, low + size], axis=1)
        near = boxes[rng.integers(n, size=num_proposals)]
        spread = rng.uniform(2, 40, (num_proposals, 1))
        images.append(
            (near + rng.normal(0, 1, near.shape) * spread, boxes, rng.integers(3, size=n))
        )
    for proposals, _, _ in images:
        proposals[:, 2:] = np.maximum(proposals[:, 2:], proposals[:, :2] + 1)
    return images


def gathered(images, num_classes=3):
    recall = ProposalRecall(num_classes)
    for image in images:
        recall.add(*image)
    return recall


def detectron2_recall(images, limit, only=None):
    """AR, 0-100, with the boxes of class `only` alone where it is given."""
    coco, predictions = COCO(), []
    coco.dataset = {"images": [], "annotations": [], "categories": [{"id": 0}]}
    for i, (proposals, boxes, classes) in enumerate(images):
        coco.dataset["images"].append({"id": i})
        for (low_x, low_y, high_x, high_y), k in zip(boxes.tolist(), classes, strict=True):
            if only is None or k == only:
                size = (high_x - low_x, high_y - low_y)
                coco.dataset["annotations"].append(
                    {
                        "id": len(coco.dataset["annotations"]) + 1, "image_id": i, "iscrowd": 0,
                        "category_id": 0, "bbox": [low_x, low_y, *size], "area": size[0] * size[1],
                    }
                )  # fmt: skip
        instances = Instances((200, 200))
        instances.proposal_boxes = Boxes(torch.from_numpy(proposals))
        instances.objectness_logits = torch.arange(len(proposals), 0, -1)
        predictions.append({"image_id": i, "proposals": instances})
    with contextlib.redirect_stdout(None):
        coco.createIndex()
    return 100 * float(_evaluate_box_proposals(predictions, coco, area="all", limit=limit)["ar"])


@pytest.mark.parametrize("seed", range(3))
def test_equals_detectron2_at_both_limits(seed):
    images = scene(seed=seed)
    result = gathered(images).result()
    assert result.proposal_AR100 == pytest.approx(detectron2_recall(images, 100), abs=1e-4)
    assert result.proposal_AR1000 == pytest.approx(detectron2_recall(images, 1000), abs=1e-4)
    assert result.proposal_AR100 < result.proposal_AR1000 < 100


def test_equals_detectron2_per_class_where_an_image_holds_one_class():
    images = [(p, b, np.full(len(b), i % 3)) for i, (p, b, _) in enumerate(scene())]
    result = gathered(images).result()
    for k in range(3):
        own = [image for i, image in enumerate(images) if i % 3 == k]
        assert result.per_class_AR100[k] == pytest.approx(detectron2_recall(own, 100), abs=1e-4)


def test_a_proposal_covers_one_box_and_the_best_pair_comes_first():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 8]])
    best_of_second = np.array([[0, 0, 10, 8.5]])  # IoU 0.85 with the first, 0.94 with the second
    result = gathered([(best_of_second, boxes, [0, 1])], 2).result()
    assert result.per_class_AR100 == (0, 90)
    assert result.max_proposals == 1 and result.num_boxes == 2


def test_a_box_is_covered_at_the_very_threshold():
    box, half = np.array([[0, 0, 10, 10]]), np.array([[0, 0, 10, 5]])  # IoU 0.5, of 0.5 to 0.95
    assert gathered([(half, box, [0])], 1).result().proposal_AR100 == pytest.approx(10)


def test_the_thousandth_proposal_counts_and_the_next_one_does_not():
    box, elsewhere = np.array([[0, 0, 10, 10]]), np.array([[50, 50, 60, 60]])
    for before, recall in ((999, 100), (1000, 0)):
        proposals = np.concatenate([np.repeat(elsewhere, before, axis=0), box])
        assert gathered([(proposals, box, [0])], 1).result().proposal_AR1000 == recall


def test_boxes_of_an_image_without_proposals_are_not_covered():
    box = np.array([[0, 0, 10, 10]])
    result = gathered([(box, box, [0]), (np.zeros((0, 4)), box, [0])], 1).result()
    assert result.proposal_AR1000 == 50


def test_class_without_boxes_has_no_recall():
    box = np.array([[0, 0, 10, 10]])
    none = np.zeros((0, 4))
    result = gathered([(box, box, [1]), (box, none, [])], 2).result()
    assert result.per_class_AR100 == (None, 100) and result.proposal_AR100 == 100
    empty = ProposalRecall(2).result()
    assert empty.proposal_AR100 is None and empty.max_proposals == 0
    json.dumps(asdict(result))


def test_states_of_two_processes_add_up():
    images = scene()
    parts = [pickle.loads(pickle.dumps(gathered(half).state)) for half in (images[:5], images[5:])]
    merged = ProposalRecall(3, [image for part in parts for image in part])
    assert merged.result() == gathered(images).result()
