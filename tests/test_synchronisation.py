"""A training step makes the host wait for a GPU no more often than stock Detectron2 does."""

import copy

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.events import EventStorage

from counterpoise.modeling.rpn import BalancedRPN
from models import LOGGED, NEUTRAL, STOCK, batch, build, losses_and_gradients, quick_config
from synchronisation import SynchronisationCounter
from test_retinanet import retinanet_config

FOCAL = ("BALANCE.CLASS_WEIGHTS.SOURCE", "none")
WEIGHTS = ("BALANCE.CLASS_WEIGHTS.SOURCE", "list", "BALANCE.CLASS_WEIGHTS.VALUES", "[1,2,3,0.5]")
OHEM = ("BALANCE.ANCHOR_SAMPLER.NAME", "ohem")
SIGMOID = (*FOCAL, "BALANCE.ROI_LOSS.NAME", "sigmoid_focal")


@pytest.fixture(autouse=True)
def labels_as_on_a_gpu(monkeypatch):
    """The labelling for the CPU reads numbers that cost it nothing; on a GPU it does not run."""
    monkeypatch.setattr(BalancedRPN, "sparse_devices", ())


def synchronisations(cfg, iteration=0, boxes=(5, 2)):
    """Counts in a training step, after one in which all is set up."""
    model = build(cfg)
    start = copy.deepcopy(model.state_dict())
    with EventStorage(iteration):
        losses_and_gradients(model, batch(boxes))
        model.load_state_dict(start)
        images = batch(boxes)
        torch.manual_seed(1)
        with SynchronisationCounter() as counter:
            sum(model(images).values()).backward()
    return counter


@pytest.fixture(scope="module")
def stock():
    return synchronisations(quick_config(*STOCK))


@pytest.fixture(scope="module")
def stock_retinanet():
    return synchronisations(retinanet_config("MODEL.META_ARCHITECTURE", "RetinaNet"))


@pytest.fixture
def dataset():
    box = {"bbox": [0, 0, 5, 5], "bbox_mode": BoxMode.XYXY_ABS}
    record = {"file_name": "a", "image_id": 0, "height": 9, "width": 9}
    record["annotations"] = [{**box, "category_id": i} for i in (0, 0, 1, 2)]
    DatasetCatalog.register("synchronisation_test", lambda: [record])
    MetadataCatalog.get("synchronisation_test").thing_classes = list("abc")
    yield "synchronisation_test"
    DatasetCatalog.remove("synchronisation_test")
    MetadataCatalog.remove("synchronisation_test")


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(NEUTRAL, id="neutral"),
        pytest.param(FOCAL, id="focal"),
        pytest.param(WEIGHTS, id="focal_weights"),
        pytest.param((*WEIGHTS, *OHEM), id="focal_weights_ohem"),
        pytest.param((*OHEM, *WEIGHTS, "BALANCE.ANCHOR_SAMPLER.TIE_BREAK", "random"), id="ties"),
        pytest.param(
            (*OHEM, *WEIGHTS, "BALANCE.ANCHOR_SAMPLER.NORMALIZER", "num_pos",
             "BALANCE.ROI_LOSS.NORMALIZER", "num_pos"), id="num_pos",
        ),
        pytest.param(SIGMOID, id="sigmoid_focal"),
        pytest.param((*SIGMOID, "BALANCE.ROI_LOSS.ALPHA", "[0.1,0.2,0.3]"), id="alpha_per_class"),
        pytest.param(("BALANCE.CLASS_WEIGHTS.SOURCE", "batch"), id="batch_weights"),
        pytest.param((*FOCAL, "BALANCE.ROI_SAMPLER.NAME", "all"), id="all_proposals"),
        *(
            pytest.param((*NEUTRAL, "BALANCE.ROI_LOSS.NAME", name), id=name)
            for name in ("seesaw", "equilibrium", "eqlv2", "ghmc")
        ),
    ],
)  # fmt: skip
def test_a_step_of_faster_rcnn_waits_no_more_often_than_stock(stock, settings):
    ours = synchronisations(quick_config(*settings))
    assert ours.total <= stock.total, ours.counts - stock.counts


def test_focal_loss_in_the_rpn_waits_no_more_often_than_stock(stock):
    ours = synchronisations(quick_config(*NEUTRAL, "BALANCE.RPN_LOSS.NAME", "focal"))
    assert ours.total <= stock.total, ours.counts - stock.counts


@pytest.mark.parametrize("carl, more", [("False", 2), ("True", 4)])
def test_prime_sample_attention_waits_for_the_foreground(stock, carl, more):
    settings = ("BALANCE.PISA.ENABLED", "True", "BALANCE.PISA.CARL", carl)
    ours = synchronisations(quick_config(*NEUTRAL, *settings))
    assert ours.total == stock.total + more, ours.counts - stock.counts


@pytest.mark.parametrize("leaf", ["focal", "focal_frequency", "cross_entropy"])
def test_a_step_of_retinanet_waits_no_more_often_than_stock(stock_retinanet, dataset, leaf):
    ours = synchronisations(retinanet_config("DATASETS.TRAIN", dataset, leaf=leaf))
    assert ours.total <= stock_retinanet.total, ours.counts - stock_retinanet.counts


@pytest.mark.parametrize("name", ["eqlv2", "ghmc"])
def test_losses_by_gradients_do_not_wait(stock_retinanet, name):
    ours = synchronisations(retinanet_config("BALANCE.DENSE_LOSS.NAME", name))
    assert ours.total <= stock_retinanet.total, ours.counts - stock_retinanet.counts


def test_metrics_are_read_from_the_device_only_where_they_are_logged(stock):
    """Those of the RPN and those of the box head, each in one transfer."""
    ours = synchronisations(quick_config(*NEUTRAL), iteration=LOGGED)
    assert ours.total == stock.total + 2


def test_the_counter_counts_what_waits_and_nothing_else():
    x, mask, index = torch.arange(4.0), torch.tensor([True, False, True, True]), torch.tensor([2])
    waiting = {
        "item": lambda: x[0].item(),
        "int": lambda: int(x.sum()),
        "bool": lambda: bool((x > 1).any()),
        "nonzero": lambda: x.nonzero(),
        "where": lambda: torch.where(mask),
        "indexing by a mask": lambda: x[mask],
        "values by a mask": lambda: x.index_put((mask,), torch.ones(3)),
        "a number by an index": lambda: x.clone().__setitem__(index, 1.0),
        "masked_select": lambda: x.masked_select(mask),
        "unique": lambda: x.unique(),
        "bincount": lambda: index.bincount(),
        "tolist": lambda: x.tolist(),
        "tensor": lambda: torch.tensor([1.0]),
        "as_tensor": lambda: torch.as_tensor(0.5),
    }
    for name, function in waiting.items():
        with SynchronisationCounter() as counter:
            function()
        assert counter.total >= 1, name
    with SynchronisationCounter() as counter:
        x[index], x[1:], x.masked_fill(mask, 0), x.topk(2), x.clone().index_fill_(0, index, 1)
        x.clone()[mask] = 1.0  # masked_fill
        torch.where(mask, x, 0.0), torch.arange(3), torch.zeros(2), torch.as_tensor(x)
        torch.nn.functional.one_hot(index, 4)
    assert counter.total == 0, counter.counts
