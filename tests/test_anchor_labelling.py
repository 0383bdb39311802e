"""Labels of anchors from the IoUs that can be above 0: equal to Detectron2's, in less memory."""

import math

import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch.utils._python_dispatch import TorchDispatchMode

from counterpoise.modeling.anchor_labelling import label_anchors
from counterpoise.modeling.rpn import BalancedRPN
from models import NEUTRAL, STOCK, build, quick_config

FASTER_RCNN = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)
MATCHERS = {
    "faster_rcnn": FASTER_RCNN,
    "best_anchors_not_positive": Matcher([0.3, 0.7], [0, -1, 1]),
    "one_threshold": Matcher([0.5], [0, 1], allow_low_quality_matches=True),
    "empty_band": Matcher([0.4, 0.4], [0, -1, 1], allow_low_quality_matches=True),
    "background_ignored": Matcher([0.1, 0.5], [-1, 0, 1], allow_low_quality_matches=True),
    "background_ignored_strictly": Matcher([0.1, 0.5], [-1, 0, 1]),
}
NAN, INF = math.nan, math.inf


def grid(height, width, strides=(4, 8, 16, 32, 64), ratios=(0.5, 1.0, 2.0), scale=8):
    """Anchors (A, 4) of a feature pyramid over an image."""
    generator = DefaultAnchorGenerator(
        sizes=[[scale * s] for s in strides], aspect_ratios=[list(ratios)], strides=list(strides)
    )
    features = [torch.zeros(1, 1, -(-height // s), -(-width // s)) for s in strides]
    return Boxes.cat(generator(features)).tensor


def random_boxes(number, height, width, largest):
    center = torch.rand(number, 2) * torch.tensor([width, height])
    half = torch.rand(number, 2) ** 2 * largest / 2
    return torch.cat([center - half, center + half], dim=1)


def stock(anchors, boxes, matcher):
    matches, labels = matcher(pairwise_iou(Boxes(boxes), Boxes(anchors)))
    return labels, boxes[matches] if len(boxes) else torch.zeros_like(anchors)


def assert_as_stock(anchors, images, matcher=FASTER_RCNN):
    found = label_anchors(list(anchors.split(1000)), images, matcher)
    assert len(found) == len(images)
    for boxes, (labels, matched) in zip(images, found, strict=True):
        expected, expected_boxes = stock(anchors, boxes, matcher)
        assert labels.dtype == expected.dtype and torch.equal(labels, expected)
        assert matched.dtype == torch.float32
        assert torch.equal(matched.nan_to_num(7.0), expected_boxes.nan_to_num(7.0))


@pytest.mark.parametrize("name", MATCHERS)
@pytest.mark.parametrize("seed", range(12))
def test_labels_and_boxes_of_random_images_equal_the_matrix_of_all_ious(seed, name):
    torch.manual_seed(seed)
    height, width = (int(side) for side in torch.randint(16, 260, (2,)))
    strides = ((4, 8, 16, 32, 64), (16,), (8, 16))[seed % 3]
    anchors = grid(height, width, strides, scale=(8, 2)[seed % 2])
    counts = (0, 1, 2, 7, 60)
    images = [random_boxes(n, height, width, (20, 100, 400)[seed % 3]) for n in counts]
    # In half of the images on whole pixels or on the grid, where IoUs tie.
    images += [(boxes / 4).round() * 4 for boxes in images]
    assert_as_stock(anchors, images, MATCHERS[name])


@pytest.mark.parametrize("name", MATCHERS)
def test_ties_follow_the_first_box_and_make_every_best_anchor_positive(name):
    anchors = grid(96, 128)
    equal_to_anchors = anchors[[0, 500, 501, 1200, len(anchors) - 1]]
    between = torch.tensor([[30.0, 30, 62, 62], [28, 30, 60, 62]])
    images = [equal_to_anchors, between, between[[0, 0, 1, 1, 0]], between.flip(0)]
    images.append(torch.cat([equal_to_anchors, between]))
    assert_as_stock(anchors, images, MATCHERS[name])


@pytest.mark.parametrize("name", MATCHERS)
@pytest.mark.parametrize(
    "box",
    [
        pytest.param([5000.0, 5000, 5050, 5060], id="overlaps_no_anchor"),
        pytest.param([-900.0, -900, -850, -860], id="left_of_the_image"),
        pytest.param([20.0, 20, 20, 40], id="no_width"),
        pytest.param([20.0, 20, 20, 20], id="a_point"),
        pytest.param([0.0, 0, 0, 0], id="the_corner"),
        pytest.param([40.0, 40, 20, 20], id="inverted"),
        pytest.param([10.0, 10, 10 + 2**-17, 10 + 2**-17], id="tiny"),
        pytest.param([0.0, 0, 1e-30, 1e-30], id="area_underflows"),
        pytest.param([-1e6, -1e6, 1e6, 1e6], id="around_everything"),
        pytest.param([-INF, -INF, INF, INF], id="infinite"),
        pytest.param([-INF, 10, 50, 60], id="half_infinite"),
        pytest.param([10.0, NAN, 50, 60], id="nan"),
    ],
)
def test_extreme_boxes_are_labelled_as_by_stock(box, name):
    anchors, matcher = grid(96, 128), MATCHERS[name]
    box, usual = torch.tensor([box]), torch.tensor([[10.0, 10, 50, 60], [70, 20, 90, 95]])
    assert_as_stock(
        anchors, [box, torch.cat([usual, box]), torch.cat([box, usual]), usual], matcher
    )


def test_a_box_that_overlaps_no_anchor_makes_all_positive_as_in_stock():
    (labels, _), *_ = label_anchors(
        [grid(96, 128)], [torch.tensor([[5000.0, 5000, 5050, 5060]])], FASTER_RCNN
    )
    assert (labels == 1).all()


@pytest.mark.parametrize("number", [0, 1, 63, 64, 65, 1000])
def test_any_anchors_in_any_order_are_labelled_as_by_stock(number):
    torch.manual_seed(number)
    anchors = random_boxes(number, 200, 300, 150)
    images = [random_boxes(n, 200, 300, 150) for n in (0, 1, 9)]
    assert_as_stock(anchors, images)
    odd = anchors.clone()
    odd[::7] = odd[::7].flip(1)
    odd[3::11] = NAN
    odd[5::13] = torch.tensor([-INF, -INF, INF, INF])
    assert_as_stock(odd, images)
    pyramid = grid(96, 128)
    assert_as_stock(pyramid[torch.randperm(len(pyramid))], images)


def test_an_iou_that_is_not_a_number_is_refused_as_by_stock():
    infinite = torch.tensor([[-INF, -INF, INF, INF]])
    for find in (stock, lambda *args: label_anchors([args[0]], [args[1]], args[2])):
        with pytest.raises(AssertionError):
            find(infinite, infinite, FASTER_RCNN)


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that an operator returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_no_tensor_grows_with_boxes_times_anchors():
    anchors, boxes = grid(320, 480), random_boxes(60, 320, 480, 200)
    with LargestTensor() as ours:
        label_anchors([anchors], [boxes], FASTER_RCNN)
    with LargestTensor() as dense:
        stock(anchors, boxes, FASTER_RCNN)
    assert dense.elements == 2 * len(boxes) * len(anchors)
    assert ours.elements < 5 * len(anchors)


def rpns(*settings):
    """Stock's RPN and that of this project, so that stock keeps every label."""
    keep_all = ("MODEL.RPN.BATCH_SIZE_PER_IMAGE", "1000000")
    names = (STOCK, NEUTRAL)
    return [build(quick_config(*name, *keep_all, *settings)).proposal_generator for name in names]


def inputs(rpn):
    """Anchors per level of an image of 96 x 128 px, and images of which one has no box."""
    features = [torch.zeros(1, 1, 24 // 2**i, 32 // 2**i) for i in range(5)]
    images = []
    for number, size in ((5, (96, 128)), (0, (96, 100)), (30, (80, 128))):
        instances = Instances(size)
        instances.gt_boxes = Boxes(random_boxes(number, *size, 60))
        images.append(instances)
    return rpn.anchor_generator(features), images


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("MODEL.RPN.BOUNDARY_THRESH", "0"),
        ("MODEL.RPN.BOUNDARY_THRESH", "16"),
        ("MODEL.RPN.IOU_THRESHOLDS", "[0.2,0.4]", "MODEL.RPN.IOU_LABELS", "[-1,0,1]"),
        ("MODEL.RPN.IOU_THRESHOLDS", "[0.5]", "MODEL.RPN.IOU_LABELS", "[0,1]"),
    ],
)
def test_the_rpn_labels_as_stock_on_every_device(settings, monkeypatch):
    torch.manual_seed(0)
    theirs, ours = rpns(*settings)
    anchors, images = inputs(ours)
    expected = theirs.label_and_sample_anchors(anchors, images)
    for devices in (BalancedRPN.sparse_devices, ()):
        monkeypatch.setattr(BalancedRPN, "sparse_devices", devices)
        for actual, reference in zip(
            ours.label_and_sample_anchors(anchors, images), expected, strict=True
        ):
            assert all(map(torch.equal, actual, reference))
    assert ours.label_and_sample_anchors(anchors, []) == ([], [])


def test_only_a_cpu_waits_for_the_blocks_of_every_box(monkeypatch):
    _, ours = rpns()
    anchors, images = inputs(ours)
    called = []

    def recorded(self, *args):
        called.append(self)
        return original(self, *args)

    original = RPN.label_and_sample_anchors
    monkeypatch.setattr(RPN, "label_and_sample_anchors", recorded)
    ours.label_and_sample_anchors(anchors, images)
    assert not called and BalancedRPN.sparse_devices == ("cpu",)
    elsewhere = [Boxes(boxes.tensor.to("meta")) for boxes in anchors]
    ours.label_and_sample_anchors(elsewhere, [])
    assert called == [ours]


def test_a_matcher_of_another_kind_is_asked_about_all_ious():
    class Everything(Matcher):
        def __call__(self, match_quality_matrix):
            matches, labels = super().__call__(match_quality_matrix)
            return matches, labels.fill_(len(match_quality_matrix) % 2)

    _, ours = rpns()
    ours.anchor_matcher = Everything([0.5], [0, 1])
    labels, _ = ours.label_and_sample_anchors(*inputs(ours))
    assert [set(x.tolist()) for x in labels] == [{1}, {0}, {0}]
