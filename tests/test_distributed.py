"""Two processes under DistributedDataParallel train as one does on their joint batch."""

from dataclasses import dataclass

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from counterpoise.modeling.distributed import mean_over_processes, share_statistics
from models import CASCADE, NEUTRAL, batch, build, quick_config
from processes import WORLD_SIZE
from test_retinanet import retinanet_config

# The samplers draw nothing, so that an image has the same sample in a half and in the joint batch.
DETERMINISTIC = (
    "BALANCE.ROI_SAMPLER.NAME", "all",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN", "100",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN", "30",
    "BALANCE.CLASS_WEIGHTS.SOURCE", "list",
    "BALANCE.CLASS_WEIGHTS.VALUES", "[1.0, 4.0, 0.5]",
)  # fmt: skip
OHEM_RPN = (
    "BALANCE.ANCHOR_SAMPLER.NAME", "ohem",
    "BALANCE.ANCHOR_SAMPLER.MAX_POSITIVES", "-1",
    "BALANCE.ANCHOR_SAMPLER.NORMALIZER", "batch",
)  # fmt: skip
OHEM_ROI = ("BALANCE.ROI_SAMPLER.NAME", "ohem", "BALANCE.ROI_SAMPLER.BUDGET", "16")
ROI_NORMALIZER = "BALANCE.ROI_LOSS.NORMALIZER"
DENSE_LOSSES = {
    "sigmoid_focal": (),
    "sigmoid_focal_not_of_detectron2": ("BALANCE.DENSE_LOSS.GAMMA", "0.5"),
    "cross_entropy": ("BALANCE.DENSE_LOSS.NAME", "cross_entropy"),
    "ohem": (
        "BALANCE.DENSE_LOSS.NAME", "ohem",
        "BALANCE.DENSE_LOSS.RATIO", "0.0",
        "BALANCE.DENSE_LOSS.BATCH_SIZE", "32",
        "BALANCE.DENSE_LOSS.NMS_THRESH", "0.5",
    ),
    "ohem_ratio": ("BALANCE.DENSE_LOSS.NAME", "ohem"),
}  # fmt: skip

#: Boxes of the images of each process. Ground truth joins the proposals, of which an image has 30.
EQUAL = ((5, 2), (3, 4))
UNEQUAL = ((5, 2), (0, 1))
NONE_IN_ONE = ((5, 2), (0, 0))
NONE = ((0, 0), (0, 0))


@dataclass(frozen=True)
class Case:
    """What the processes train on, and which losses they learn from."""

    overrides: tuple[str, ...] = ()
    boxes: tuple[tuple[int, ...], ...] = EQUAL
    left_out: str = "nothing"
    """Losses that start with this take no part: the divisor is each process's own."""
    one_stage: bool = False
    same_boxes: bool = False
    """Whether the images of the processes have equal boxes, of other classes on other pixels."""
    loss_normalizer: float = 0.0
    """Where RetinaNet's running mean of positive anchors stands in a process; 0: at its start."""

    def model(self, processes: int = 1) -> nn.Module:
        """The detector with the same parameters each time, for the images of `processes`."""
        if not self.one_stage:
            return build(quick_config(*DETERMINISTIC, *OHEM_RPN, *self.overrides))
        model = build(retinanet_config(*self.overrides))
        if self.loss_normalizer:
            model.loss_normalizer = processes * self.loss_normalizer
        return model

    def images(self, rank: int) -> list[dict]:
        """What a process has of the joint batch."""
        if not self.same_boxes or rank == 0:
            return batch(self.boxes[rank], seed=rank)
        images = batch(self.boxes[0])
        for image in images:
            image["image"] = 255 - image["image"]
            image["instances"].gt_classes = 2 - image["instances"].gt_classes
        return images

    def step(self, model: nn.Module, images: list[dict]) -> tuple[dict, dict]:
        """Losses and gradients of one training step."""
        model.train()
        with EventStorage():
            losses = model(images)
        chosen = {
            name: 0 * v if name.startswith(self.left_out) else v for name, v in losses.items()
        }
        sum(chosen.values()).backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        return {name: value.detach() for name, value in chosen.items()}, gradients

    def joint(self) -> tuple[dict, dict]:
        """Losses and gradients of one process with the images of all."""
        images = [image for rank in range(WORLD_SIZE) for image in self.images(rank)]
        return self.step(self.model(WORLD_SIZE), images)

    def alone(self) -> tuple[dict, dict]:
        """Losses and gradients of each process if there was no other, averaged."""
        steps = [self.step(self.model(), self.images(rank)) for rank in range(WORLD_SIZE)]
        losses, gradients = zip(*steps, strict=True)
        return mean(losses), mean(gradients)


def mean(results: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: sum(r[name] for r in results) / len(results) for name in results[0]}


def train(rank, case):
    """One step of a process: its losses, and the gradients that all processes share."""
    # As Detectron2 wraps a model: its buffers are each process's own.
    model = DistributedDataParallel(case.model(), broadcast_buffers=False)
    losses, gradients = case.step(model, case.images(rank))
    return losses, {name.removeprefix("module."): g for name, g in gradients.items()}


def assert_trains_as(processes, case, expected):
    wait = processes.start(train, case)
    expected_losses, expected_gradients = expected()
    losses, gradients = zip(*wait(), strict=True)
    assert_close(mean(losses), expected_losses, rtol=1e-5, atol=1e-7)
    for of_process in gradients:
        for name, gradient in expected_gradients.items():
            difference = (of_process[name] - gradient).norm()
            assert difference <= 1e-5 * gradient.norm(), name


@pytest.fixture(autouse=True)
def as_many_threads_as_the_processes_have():
    """Sums of another number of threads round differently, by far more than what is compared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def one_more_than_the_rank(rank):
    return mean_over_processes(torch.tensor([rank + 1.0, 0.0]))


def test_a_tensor_is_averaged_over_processes(processes):
    for averaged in processes.run(one_more_than_the_rank):
        assert torch.equal(averaged, torch.tensor([1.5, 0.0]))


# Two stages


@pytest.mark.parametrize(
    "normalizer, boxes",
    [
        ("weight_sum", UNEQUAL), ("weight_sum", NONE_IN_ONE),
        ("num_pos", UNEQUAL), ("num_pos", NONE_IN_ONE), ("num_pos", NONE),
    ],
)  # fmt: skip
def test_these_roi_normalizers_make_the_joint_loss_of_any_numbers_of_proposals(
    processes, normalizer, boxes
):
    case = Case((ROI_NORMALIZER, normalizer), boxes, left_out="loss_box_reg")
    assert_trains_as(processes, case, case.joint)


MEAN = (ROI_NORMALIZER, "mean")
PER_PROCESS = [
    pytest.param(MEAN, id="mean"), pytest.param(NEUTRAL[:4], id="cross_entropy_of_detectron2"),
]  # fmt: skip


@pytest.mark.parametrize("overrides", PER_PROCESS)
def test_a_mean_over_proposals_is_that_of_the_joint_batch_for_equal_numbers(processes, overrides):
    case = Case(overrides)
    assert_trains_as(processes, case, case.joint)


@pytest.mark.parametrize("overrides", PER_PROCESS)
def test_a_mean_over_proposals_is_each_processes_own_for_unequal_numbers(processes, overrides):
    # As in Detectron2, whose loss_box_reg takes part here.
    case = Case(overrides, UNEQUAL)
    assert_trains_as(processes, case, case.alone)


def test_a_sum_over_proposals_is_divided_by_the_number_of_processes(processes):
    # DistributedDataParallel averages what each process has summed.
    overrides = (ROI_NORMALIZER, "sum")
    half = Case(
        (*overrides, "BALANCE.ROI_LOSS.LOSS_WEIGHT", "0.5"), UNEQUAL, left_out="loss_box_reg"
    )
    case = Case(overrides, UNEQUAL, left_out="loss_box_reg")
    assert_trains_as(processes, case, half.joint)


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(("BALANCE.CLASS_WEIGHTS.SOURCE", "batch"), id="weights_of_the_batch"),
        pytest.param(("BALANCE.ROI_LOSS.NAME", "sigmoid_focal"), id="sigmoid_focal"),
        pytest.param(("BALANCE.ROI_LOSS.NAME", "cross_entropy"), id="weighted_cross_entropy"),
        pytest.param((CASCADE[0], f"Balanced{CASCADE[1]}", *CASCADE[2:]), id="cascade"),
    ],
)
def test_losses_weights_and_heads_train_as_on_the_joint_batch(processes, overrides):
    case = Case(overrides, UNEQUAL, left_out="loss_box_reg")
    assert_trains_as(processes, case, case.joint)


def test_ohem_chooses_the_proposals_that_it_chooses_in_the_joint_batch(processes):
    case = Case(OHEM_ROI)
    assert_trains_as(processes, case, case.joint)


@pytest.mark.parametrize(
    "normalizer, boxes",
    [("batch", UNEQUAL), ("num_sampled", UNEQUAL), ("num_pos", UNEQUAL), ("num_pos", NONE)],
)
def test_every_rpn_normalizer_makes_the_loss_of_the_joint_batch(processes, normalizer, boxes):
    overrides = ("BALANCE.ANCHOR_SAMPLER.NORMALIZER", normalizer)
    case = Case(overrides, boxes, left_out="loss_box_reg")
    assert_trains_as(processes, case, case.joint)


def statistics_of(rank):
    norm = torch.nn.BatchNorm1d(2)
    norm(torch.full((3, 2), 1.0 + rank))
    share_statistics(torch.nn.Sequential(norm))
    return norm.running_mean.tolist(), int(norm.num_batches_tracked)


def test_all_processes_evaluate_the_statistics_that_the_first_one_saves(processes):
    first, second = processes.run(statistics_of)
    assert first == second and first[0] == pytest.approx([0.1, 0.1])


# One stage


@pytest.mark.parametrize("name", DENSE_LOSSES)
def test_dense_losses_are_those_of_the_joint_batch_for_equal_numbers_of_positives(processes, name):
    # Detectron2 divides by a running mean of the positives of a process, here equal in both.
    case = Case(DENSE_LOSSES[name], one_stage=True, same_boxes=True, loss_normalizer=20.0)
    assert_trains_as(processes, case, case.joint)


@pytest.mark.parametrize("boxes", [UNEQUAL, NONE_IN_ONE])
def test_dense_losses_have_each_processes_own_divisor_for_unequal_numbers(processes, boxes):
    case = Case(boxes=boxes, one_stage=True)
    assert_trains_as(processes, case, case.alone)
