"""What trains on a GPU stays there; without one, the CPU takes its place as far as it can."""

import json
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from detectron2.solver import build_optimizer
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from counterpoise import ANCHOR_SAMPLER_REGISTRY, ROI_SAMPLER_REGISTRY
from counterpoise.balance.class_weights import batch_class_weights
from counterpoise.balance.losses import (
    cross_entropy_loss,
    reduce_loss,
    sigmoid_focal_loss,
    softmax_focal_loss,
)
from counterpoise.balance.sampling import mine_hard_negatives, sample_random
from counterpoise.balance.ssd import mine_batch, ssd_loss
from counterpoise.config.loading import load_config
from counterpoise.config.preparation import prepare
from counterpoise.modeling.acceleration import use_numbered_gpu
from counterpoise.modeling.class_loss_log import PerClassLoss
from counterpoise.modeling.dense_loss import DenseClassificationLoss
from counterpoise.modeling.roi_loss import ClassificationLoss
from counterpoise.modeling.weight_sources import WeightSource
from counterpoise.training.hooks import ClassLossWriter
from models import CONFIGS, batch, build, quick_config
from runs import NO_TEST, SMALL, train_net, write_dataset
from test_retinanet import retinanet_config

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ("cpu", pytest.param("cuda", marks=GPU))
LEAVES = sorted(
    str(path.relative_to(CONFIGS).with_suffix(""))
    for path in CONFIGS.glob("*/*.yaml")
    if path.parent.name != "datasets" and path.stem != "base"
)
ON_CPU = ("quick/focal_weights_ohem", "quick_retinanet/focal_frequency")


def tensors_of(model):
    """Parameters, buffers of either kind and plain attributes, by name."""
    yield from model.named_parameters()
    yield from model.named_buffers()
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            held = vars(value) if isinstance(value, WeightSource) else {"": value}
            for inner, tensor in held.items():
                if isinstance(tensor, Tensor):
                    yield f"{path}.{name}{inner}", tensor


CONFIG_CASES = [
    *(("cpu", leaf) for leaf in ON_CPU),
    *(pytest.param("cuda", leaf, marks=GPU) for leaf in LEAVES),
]


@pytest.mark.parametrize("device, leaf", CONFIG_CASES)
def test_a_config_trains_and_finds_with_every_tensor_on_the_device(tmp_path, device, leaf):
    data = write_dataset(tmp_path / "shapes")
    thresholds = tmp_path / "thresholds.json"
    thresholds.write_text(json.dumps({"thresholds": {"disc": 0.0, "bar": 0.0}}))
    own = ("MODEL.DEVICE", device, "BALANCE.SCORE_THRESHOLDS", str(thresholds))
    cfg = load_config([CONFIGS / f"{leaf}.yaml", data], [*SMALL, *own])
    prepare(cfg, splits=("TRAIN",))
    model = build(cfg).train()
    optimizer = build_optimizer(cfg, model)
    images = batch(classes=2)
    with EventStorage():
        losses = model(images)
    sum(losses.values()).backward()
    optimizer.step()
    assert all(loss.isfinite() for loss in losses.values()), losses
    tensors = dict(tensors_of(model))
    for name, tensor in tensors.items():
        assert tensor.device.type == device, name
        assert tensor.dtype == torch.float32 or not tensor.is_floating_point(), name
        assert tensor.isfinite().all(), name
    expected = {"test_score_thresh"}
    if cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN":
        if cfg.BALANCE.CLASS_WEIGHTS.SOURCE == "dataset":
            expected.add("cls_loss.weight_source_weights")
    elif cfg.BALANCE.DENSE_LOSS.ALPHA_SOURCE == "dataset":
        expected.add("dense_loss.alpha")
    assert all(any(name.endswith(ending) for name in tensors) for ending in expected)
    with torch.no_grad():
        found = [image["instances"] for image in model.eval()(images)]
    for instances in found:
        assert len(instances) > 0
        assert instances.scores.device.type == device
        assert instances.pred_boxes.tensor.isfinite().all()


def inputs(device):
    """Samples of a box head, anchors of two images and of a one-stage detector."""
    generator = torch.Generator().manual_seed(0)
    gt_classes = torch.tensor([0, 1, 2, 3, 3, 3, 3, 3, -1, 1, 0, 3])
    dense = torch.randint(0, 4, (2, 300), generator=generator)
    dense[:, 40:] = 3
    dense[:, ::7] = -1
    labels = torch.where(dense[0] < 0, -1, (dense[0] < 3).long())
    corner = torch.rand(300, 2, generator=generator) * 60
    extent = 8 + torch.rand(300, 2, generator=generator) * 30
    x = {
        "logits": torch.randn(12, 4, generator=generator),
        "gt_classes": gt_classes,
        "weight": torch.tensor([1.0, 4.0, 0.5, 2.0]),
        "counts": torch.tensor([5.0, 0.0, 2.0, 30.0]),
        "labels": labels,
        "hardness": torch.randn(300, generator=generator),
        "dense_logits": torch.randn(2, 300, 3, generator=generator),
        "dense": dense,
        "ssd_logits": torch.randn(2, 300, 4, generator=generator),
        "ssd_boxes": torch.randn(2, 300, 4, generator=generator),
        "boxes": torch.cat([corner, corner + extent], dim=1),
    }
    return SimpleNamespace(**{name: tensor.to(device) for name, tensor in x.items()})


def with_gradient(loss, logits):
    logits.requires_grad_()
    value = loss(logits)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    return value.detach(), gradient


def anchors(x):
    return [Boxes(x.boxes[:200]), Boxes(x.boxes[200:])]


def numbers(x, sampled):
    """How many a random sampler takes of each kind; a GPU draws others than a CPU."""
    assert ((sampled == x.labels) | (sampled == -1)).all()
    return (sampled == 1).sum(), (sampled == 0).sum()


def per_class_sums(x):
    recorder = PerClassLoss()
    recorder.add(x.gt_classes, x.logits[:, 0].masked_fill(x.gt_classes < 0, 0.0), 3)
    return recorder.take()


FUNCTIONS = {
    "softmax_focal_loss": lambda x: with_gradient(
        lambda z: softmax_focal_loss(z, x.gt_classes, 2.0, x.weight), x.logits
    ),
    "cross_entropy_loss": lambda x: with_gradient(
        lambda z: cross_entropy_loss(z, x.gt_classes, reduction="mean"), x.logits
    ),
    "sigmoid_focal_loss": lambda x: with_gradient(
        lambda z: sigmoid_focal_loss(z, x.logits > 0, x.weight / 8), x.logits.clone()
    ),
    "reduce_loss": lambda x: reduce_loss(
        x.logits[:, 0], x.gt_classes.clamp(min=0), x.gt_classes < 0, x.weight, "weight_sum"
    ),
    "batch_class_weights": lambda x: batch_class_weights(x.counts),
    "sample_random": lambda x: numbers(x, sample_random(x.labels, 40, 0.25)),
    "mine_hard_negatives": lambda x: mine_hard_negatives(x.labels, x.hardness, max_positives=-1),
    "mine_hard_negatives_random": lambda x: mine_hard_negatives(
        x.labels, x.hardness, max_positives=-1, tie_break="random"
    ),
    "mine_batch": lambda x: mine_batch(x.ssd_boxes[..., 0], x.dense),
    "ssd_loss": lambda x: with_gradient(
        lambda z: sum(ssd_loss(x.ssd_boxes, x.ssd_boxes.flip(1), z, x.dense)), x.ssd_logits
    ),
    "per_class_sums": per_class_sums,
}


def roi_loss(*overrides):
    loss = ClassificationLoss.from_config(quick_config(*overrides))
    return lambda x: with_gradient(lambda z: loss(z, x.gt_classes), x.logits)


def dense_loss(*overrides):
    loss = DenseClassificationLoss.from_config(retinanet_config(*overrides))
    return lambda x: with_gradient(lambda z: loss(z, x.dense, anchors(x)), x.dense_logits)


def anchor_sampler(*overrides):
    keep_all = ("BALANCE.ANCHOR_SAMPLER.MAX_POSITIVES", "-1")
    sampler = ANCHOR_SAMPLER_REGISTRY.get("ohem")(quick_config(*keep_all, *overrides))
    return lambda x: sampler(x.labels, x.hardness, anchors(x))


def roi_sampler(*overrides, name="ohem"):
    sampler = ROI_SAMPLER_REGISTRY.get(name)(quick_config(*overrides))
    return lambda x: sampler(x.dense[0].clamp(min=0), Boxes(x.boxes), x.hardness.exp())


LOSS, NORMALIZER = "BALANCE.ROI_LOSS.NAME", "BALANCE.ROI_LOSS.NORMALIZER"
DENSE = "BALANCE.DENSE_LOSS.NAME"
LIST = (
    "BALANCE.CLASS_WEIGHTS.SOURCE", "list",
    "BALANCE.CLASS_WEIGHTS.VALUES", "[1.0, 4.0, 0.5]",
)  # fmt: skip
#: What a config builds, once for all calls.
PARTS = {
    "roi_softmax_focal": partial(roi_loss, LOSS, "softmax_focal", *LIST),
    "roi_cross_entropy": partial(roi_loss, LOSS, "cross_entropy", *LIST),
    "roi_sigmoid_focal": partial(roi_loss, LOSS, "sigmoid_focal", *LIST),
    "roi_mean": partial(roi_loss, NORMALIZER, "mean", *LIST),
    "roi_num_pos": partial(roi_loss, NORMALIZER, "num_pos", *LIST),
    "roi_sum": partial(roi_loss, NORMALIZER, "sum", *LIST),
    "roi_weights_of_the_batch": partial(roi_loss, "BALANCE.CLASS_WEIGHTS.SOURCE", "batch"),
    "dense_sigmoid_focal": partial(dense_loss, DENSE, "sigmoid_focal"),
    "dense_cross_entropy": partial(dense_loss, DENSE, "cross_entropy"),
    "dense_ohem": partial(dense_loss, DENSE, "ohem"),
    "anchors_ohem": anchor_sampler,
    "proposals_all": partial(roi_sampler, name="all"),
    "proposals_ohem": partial(roi_sampler, "BALANCE.ROI_SAMPLER.NMS_THRESH", "-1.0"),
}
#: Parts for which torchvision's NMS makes tensors of its own on the host.
PARTS_WITH_NMS = {
    "dense_ohem": partial(dense_loss, DENSE, "ohem", "BALANCE.DENSE_LOSS.NMS_THRESH", "0.5"),
    "anchors_ohem": partial(anchor_sampler, "BALANCE.ANCHOR_SAMPLER.NMS_THRESH", "0.5"),
    "proposals_ohem": roi_sampler,
}


def host_of(device):
    """Where tensors are made that name no device: never on `device`.

    The meta device has no values and no operation with tensors of another one: on a machine
    without a GPU it takes the host's place, and the CPU that of the GPU.
    """
    return torch.device("meta") if device == "cpu" else nullcontext()


def assert_as_on_the_cpu(call, device, host):
    x = inputs(device)
    with EventStorage():
        expected = call(inputs("cpu"))
        call(x)  # reads the class weights, which are made on the host
        with host:
            result = call(x)
    if isinstance(result, Tensor):
        result, expected = [result], [expected]
    for ours, on_cpu in zip(result, expected, strict=True):
        assert ours.device.type == device
        assert_close(ours.cpu(), on_cpu)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_works_on_the_device_of_its_arguments(name, device):
    assert_as_on_the_cpu(FUNCTIONS[name], device, host_of(device))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", PARTS)
def test_a_loss_or_sampler_works_on_the_device_of_its_arguments(name, device):
    assert_as_on_the_cpu(PARTS[name](), device, host_of(device))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", PARTS_WITH_NMS)
def test_what_nms_thins_out_is_the_same_on_every_device(name, device):
    assert_as_on_the_cpu(PARTS_WITH_NMS[name](), device, nullcontext())


@pytest.fixture
def stock_kernels():
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.mark.parametrize("device", DEVICES)
def test_one_seed_gives_one_run_where_the_key_asks_for_it(tmp_path, device, stock_kernels):
    data = write_dataset(tmp_path / "shapes")
    weights = []
    for run in ("a", "b"):
        settings = ["MODEL.DEVICE", device, "SOLVER.MAX_ITER", "4", "SOLVER.DETERMINISTIC", "True"]
        assert train_net(data, tmp_path / run, *settings, *NO_TEST) == 0
        assert torch.are_deterministic_algorithms_enabled()
        checkpoint = torch.load(tmp_path / run / "model_final.pth", weights_only=True)
        weights.append(checkpoint["model"])
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("device, current", [("cpu", []), ("cuda", []), ("cuda:1", ["cuda:1"])])
def test_the_gpu_that_a_device_numbers_becomes_the_current_one(monkeypatch, device, current):
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append(str(device)))
    use_numbered_gpu(torch.device(device))
    assert chosen == current


def test_class_losses_of_a_resumed_run_are_written_before_its_first_step(monkeypatch, tmp_path):
    written = []
    monkeypatch.setattr(
        "counterpoise.training.hooks.sum_over_processes",
        lambda sums: written.append(sums.device.type) or SimpleNamespace(tolist=lambda: [0.0]),
    )
    with FakeTensorMode(allow_non_fake_inputs=True):
        recorder = PerClassLoss()
        recorder.add(torch.zeros(5, dtype=torch.long, device="cuda"), torch.ones(5).cuda(), 3)
        recorder.load_training_state(recorder.training_state())  # as a checkpoint keeps them
        assert recorder.sums.device.type == "cpu"
        writer = ClassLossWriter(tmp_path / "losses.jsonl", ["a", "b", "c"])
        model = nn.Sequential(nn.Linear(2, 2, device="cuda"), recorder)
        writer.trainer = SimpleNamespace(model=model, iter=99, max_iter=100)
        writer.before_train()
        writer.after_step()
    assert written == ["cuda"]
