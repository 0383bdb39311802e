"""Several processes train as one would on their joint batch."""

import pytest
import torch
import torch.distributed as dist
from detectron2.utils.events import EventStorage
from torch.multiprocessing import spawn
from torch.testing import assert_close

from counterpoise.balance.class_weights import batch_class_weights
from counterpoise.balance.losses import softmax_focal_loss
from counterpoise.modeling.distributed import mean_over_processes
from counterpoise.modeling.roi_loss import ClassificationLoss

WEIGHT = torch.tensor([1.0, 4.0, 0.5])


def focal(logits, gt_classes):
    return softmax_focal_loss(logits, gt_classes, reduction="none")


def make_loss(source, normalizer):
    if source == "batch":
        return ClassificationLoss(focal, normalizer=normalizer, batch_weights=batch_class_weights)
    return ClassificationLoss(focal, lambda: WEIGHT, normalizer)


def gradient(loss, head, features, gt_classes):
    with EventStorage():
        (grad,) = torch.autograd.grad(loss(features @ head, gt_classes), head)
    return grad


def train_half(rank, store, source, normalizer, features, gt_classes, expected):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    assert mean_over_processes(torch.tensor([rank + 1.0])).item() == 1.5
    head = torch.ones(4, 3, requires_grad=True)
    own = slice(0, 3) if rank == 0 else slice(3, None)
    grad = gradient(make_loss(source, normalizer), head, features[own], gt_classes[own])
    dist.all_reduce(grad)  # DistributedDataParallel averages the gradients
    assert_close(grad / 2, expected)
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(
    "source, normalizer",
    [("dataset", "weight_sum"), ("dataset", "num_pos"), ("batch", "weight_sum")],
)
def test_two_processes_have_the_gradient_of_the_joint_batch(tmp_path, source, normalizer):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(10, 4, generator=generator)
    gt_classes = torch.tensor([0, 2, 2, 1, 1, 2, 2, 2, 2, 0])
    head = torch.ones(4, 3, requires_grad=True)
    expected = gradient(make_loss(source, normalizer), head, features, gt_classes)
    arguments = (str(tmp_path / "store"), source, normalizer, features, gt_classes, expected)
    spawn(train_half, arguments, nprocs=2)
