"""ROIAlign as a gather: torchvision's values and gradients, and torchvision itself elsewhere."""

import sys

import pytest
import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close
from torchvision.ops import roi_align

from counterpoise.modeling.roi_align import (
    DeterministicROIAlign,
    ExactROIAlign,
    GatheredROIAlign,
    gathered_roi_align,
    use_roi_align,
)

SCALE = 0.25


def features(height=15, width=20, images=2, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (images, 3, height, width)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def random_rois(count=60, images=2, seed=1):
    """Boxes in and around an image of 80 x 60 pixels, some of them outside."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([110.0, 90]) - 15
    extent = torch.rand(count, 2, generator=generator) * torch.tensor([60.0, 40])
    image = torch.randint(images, (count, 1), generator=generator)
    return torch.cat([image, corner, corner + extent], dim=1)


def assert_equal_to_torchvision(rois, bins, ratio, aligned, **kwargs):
    theirs, ours = features(**kwargs), features(**kwargs)
    expected = roi_align(theirs, rois.to(theirs.dtype), bins, SCALE, ratio, aligned)
    actual = gathered_roi_align(ours, rois, bins, SCALE, ratio, aligned)
    # The gather computes in float32, as the model does.
    assert_close(actual, expected, rtol=1e-5, atol=3e-5)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    (expected * weight).sum().backward()
    (actual * weight).sum().backward()
    assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [1, 2, 3])
@pytest.mark.parametrize("bins", [(7, 7), (2, 5), (1, 1)], ids=str)
def test_values_and_gradients_are_torchvisions(bins, ratio, aligned):
    assert_equal_to_torchvision(random_rois(), bins, ratio, aligned)


@pytest.mark.parametrize(
    "box",
    [
        pytest.param((0, 0, 80, 60), id="whole image"),
        pytest.param((-20, -20, 100, 80), id="beyond all borders"),
        pytest.param((200, 200, 300, 300), id="outside"),
        pytest.param((-4, 10, 20, 30), id="exactly one pixel outside"),
        pytest.param((80, 60, 80, 60), id="empty, in the far corner"),
        pytest.param((10, 10, 10, 30), id="without width"),
        pytest.param((30, 30, 10, 10), id="inverted"),
        pytest.param((8, 8, 8.001, 8.001), id="tiny"),
    ],
)
@pytest.mark.parametrize("aligned", [True, False])
def test_boxes_at_and_beyond_the_borders(box, aligned):
    assert_equal_to_torchvision(torch.tensor([[1.0, *box]]), (7, 7), 2, aligned)


@pytest.mark.parametrize("height, width", [(1, 1), (1, 20), (15, 1)])
def test_maps_of_one_row_or_column(height, width):
    assert_equal_to_torchvision(random_rois(), (3, 3), 2, True, height=height, width=width)


def test_no_boxes_give_no_rows_and_a_gradient_of_zero():
    maps = features()
    pooled = gathered_roi_align(maps, torch.zeros(0, 5), (7, 7), SCALE, 2)
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    assert (maps.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_dtype_of_the_features_is_kept_and_half_precision_is_summed_in_float32(dtype):
    maps, rois = features(dtype=dtype), random_rois()
    pooled = gathered_roi_align(maps, rois, (7, 7), SCALE, 2)
    assert pooled.dtype == dtype
    exact = gathered_roi_align(maps.float(), rois, (7, 7), SCALE, 2)
    assert torch.equal(pooled, exact.to(dtype))


def test_it_computes_alike_under_autocast():
    maps, rois = features(dtype=torch.float32), random_rois()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = gathered_roi_align(maps, rois, (7, 7), SCALE, 2)
    assert torch.equal(inside, gathered_roi_align(maps, rois, (7, 7), SCALE, 2))


def test_the_adaptive_ratio_is_torchvisions_own():
    layer, stock = (kind((7, 7), SCALE, 0) for kind in (GatheredROIAlign, ROIAlign))
    maps, rois = features(dtype=torch.float32), random_rois()
    assert torch.equal(layer(maps, rois), stock(maps, rois))


@pytest.mark.parametrize("ratio", [0, 2])
def test_the_deterministic_layer_is_torchvisions_in_value_and_gradient(ratio):
    pooled, gradients = [], []
    for kind in (DeterministicROIAlign, ROIAlign):
        maps = features(dtype=torch.float32)
        pooled.append(kind((7, 7), SCALE, ratio)(maps, random_rois()))
        pooled[-1].square().sum().backward()
        gradients.append(maps.grad)
    assert_close(*pooled, rtol=1e-5, atol=3e-5)
    assert_close(*gradients, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("ratio", [0, 2])
def test_the_deterministic_layer_on_a_gpu_compiles_nothing(monkeypatch, ratio):
    module = sys.modules[roi_align.__module__]  # whose name in the package is the function's
    monkeypatch.setattr(module, "_roi_align", lambda *_: pytest.fail("takes the compiled form"))
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        maps = torch.zeros(2, 3, 15, 20, device="cuda")
        rois = torch.zeros(60, 5, device="cuda")
        pooled = DeterministicROIAlign((7, 7), SCALE, ratio)(maps, rois)
    assert pooled.shape == (60, 3, 7, 7) and pooled.device.type == "cuda"


@pytest.mark.parametrize("ratio", [0, 2])
def test_the_deterministic_layer_makes_no_tensor_elsewhere(ratio):
    maps, rois = features(dtype=torch.float32), random_rois()
    layer = DeterministicROIAlign((7, 7), SCALE, ratio)
    with torch.device("meta"):  # in the place of the host, and the CPU in that of the GPU
        layer(maps, rois).sum().backward()
    assert maps.grad.device.type == "cpu"


@pytest.mark.parametrize("kind", ["ROIAlign", "ROIAlignV2"])
def test_a_pooler_gives_what_it_gave_before(kind):
    levels = [features(60 // s, 80 // s, dtype=torch.float32, seed=s) for s in (4, 8)]
    boxes = [Boxes(random_rois(20, seed=s)[:, 1:].clamp(min=0)) for s in (3, 4)]
    pooler = ROIPooler(7, (1 / 4, 1 / 8), 2, kind)
    expected = pooler(levels, boxes)
    use_roi_align(pooler, GatheredROIAlign)
    assert all(type(level) is GatheredROIAlign for level in pooler.level_poolers)
    assert_close(pooler(levels, boxes), expected, rtol=1e-5, atol=3e-5)
    assert not pooler.state_dict()


def test_a_pooler_of_another_kind_is_left_alone():
    pooler = ROIPooler(7, (1 / 4,), 2, "ROIPool")
    before = list(pooler.level_poolers)
    use_roi_align(pooler, GatheredROIAlign)
    assert all(a is b for a, b in zip(pooler.level_poolers, before, strict=True))


@pytest.mark.parametrize("layer_of", [ExactROIAlign, GatheredROIAlign])
@pytest.mark.parametrize("ratio", [0, 2])
def test_boxes_are_not_rounded_to_the_type_of_the_features(ratio, layer_of):
    features = torch.rand(1, 4, 100, 160, generator=torch.Generator().manual_seed(0)).bfloat16()
    box = torch.tensor([[0, 601.3, 333.7, 625.9, 357.1]])
    layer = layer_of((7, 7), 0.25, ratio, aligned=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(features, box)
    assert found.dtype == torch.bfloat16
    assert_close(found.float(), layer(features.float(), box), rtol=0.01, atol=0.01)
