"""RetinaNet with a choice of classification losses, and stock where nothing is chosen."""

import logging
import math

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode
from detectron2.utils.events import EventStorage
from torch.nn.functional import softplus
from torch.testing import assert_close

from counterpoise import DENSE_LOSS_REGISTRY
from counterpoise.config.loading import load_config
from counterpoise.config.preparation import prepare
from counterpoise.config.validation import check_config
from counterpoise.errors import UserError
from counterpoise.modeling.checkpoint import CLASS_LAYERS
from counterpoise.modeling.dense_loss import DenseFocalLoss, OHEMLoss, balanced_alpha
from models import CONFIGS, batch, build, losses_and_gradients

LEAVES = ("focal", "focal_frequency", "cross_entropy", "ohem", "ohem_ratio")
STOCK = ("MODEL.META_ARCHITECTURE", "RetinaNet")
NAME, GAMMA = "BALANCE.DENSE_LOSS.NAME", "BALANCE.DENSE_LOSS.GAMMA"


def retinanet_config(*overrides, leaf="base", classes=3):
    cfg = load_config(
        [CONFIGS / "quick_retinanet" / f"{leaf}.yaml"],
        [
            "MODEL.DEVICE", "cpu",
            "MODEL.WEIGHTS", "",
            "MODEL.RETINANET.NUM_CLASSES", str(classes),
            "MODEL.ROI_HEADS.NUM_CLASSES", str(classes),
            "MODEL.FPN.OUT_CHANNELS", "16",
            *overrides,
        ],
    )  # fmt: skip
    cfg.freeze()
    return cfg


def assert_equal(ours, stock):
    assert ours.keys() == stock.keys()
    for name in stock:
        assert torch.equal(ours[name], stock[name]), name


def step(*overrides, boxes=(5, 2)):
    """Losses and gradients of a first training step."""
    with EventStorage():
        return losses_and_gradients(build(retinanet_config(*overrides)), batch(boxes))


@pytest.fixture(scope="module")
def pair():
    return build(retinanet_config(*STOCK)), build(retinanet_config())


@pytest.fixture
def catalog():
    """Registers a training set with the given number of boxes per class, and counts its reads."""
    reads = []

    def register(boxes):
        def load():
            reads.append("read")
            box = {"bbox": [0, 0, 5, 5], "bbox_mode": BoxMode.XYXY_ABS, "iscrowd": 0}
            annotations = [
                {**box, "category_id": i} for i, number in enumerate(boxes) for _ in range(number)
            ]
            return [
                {
                    "file_name": "a",
                    "image_id": 0,
                    "height": 9,
                    "width": 9,
                    "annotations": annotations,
                }
            ]

        DatasetCatalog.register("retinanet_test", load)
        MetadataCatalog.get("retinanet_test").thing_classes = list("abcdef"[: len(boxes)])

    register.reads = reads
    yield register
    if "retinanet_test" in DatasetCatalog:
        DatasetCatalog.remove("retinanet_test")
        MetadataCatalog.remove("retinanet_test")


# Neutral settings


def test_initial_weights_and_keys_are_stock(pair):
    stock, ours = pair
    assert_equal(ours.state_dict(), stock.state_dict())


@pytest.mark.parametrize("boxes", [(5, 2), (0, 3), (0, 0)])
def test_losses_and_gradients_are_stock(boxes):
    # First once for nothing: Detectron2's loss is scripted, and the first call of a scripted
    # function differs from all later ones in the last bit. Each model anew: the normaliser is a
    # running mean.
    _, stock, ours = (step(*settings, boxes=boxes) for settings in (STOCK, STOCK, ()))
    for our_part, stock_part in zip(ours, stock, strict=True):
        assert_equal(our_part, stock_part)


def test_detections_are_stock(pair):
    stock, ours = (model.eval() for model in pair)
    for model in pair:  # an untrained RetinaNet finds nothing
        model.test_score_thresh = 0.0
    with torch.no_grad():
        expected, actual = stock(batch()), ours(batch())
    for a, b in zip(actual, expected, strict=True):
        assert len(a["instances"]) > 0
        assert torch.equal(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor)
        assert torch.equal(a["instances"].scores, b["instances"].scores)


def test_the_projects_focal_loss_in_stocks_place_gives_stocks_values():
    @DENSE_LOSS_REGISTRY.register(name="registered_in_a_test")
    def build_loss(cfg):
        return DenseFocalLoss()

    for stock, ours in zip(step(*STOCK), step(NAME, "registered_in_a_test"), strict=True):
        assert ours.keys() == stock.keys()
        for name in stock:
            assert_close(ours[name], stock[name], rtol=1e-4, atol=1e-6)


# Losses by hand: one image, six anchors, two classes, label 2 is the background

LOGITS = torch.tensor([[[2.0, -1], [0, 1], [3, -2], [-1, -1], [9, 9], [1, 0]]])
LABELS = torch.tensor([[0, 1, 2, 2, -1, 2]])
BOXES = torch.tensor([[20.0 * i, 0, 20 * i + 10, 10] for i in range(6)])
ANCHORS = [Boxes(BOXES[:4]), Boxes(BOXES[4:])]


def by_hand(alpha, gamma, anchors=(0, 1, 2, 3, 5)):
    total = 0.0
    for anchor in anchors:
        for k in range(2):
            x, positive = LOGITS[0, anchor, k].item(), LABELS[0, anchor] == k
            p_t = 1 / (1 + math.exp(-x if positive else x))
            weight = 1.0
            if alpha is not None:
                weight = alpha[k] if positive else 1 - alpha[k]
            total -= weight * (1 - p_t) ** gamma * math.log(p_t)
    return torch.tensor(total)


def loss_of(name, *overrides, alpha=-1.0):
    cfg = retinanet_config(NAME, name, *overrides)
    return DENSE_LOSS_REGISTRY.get(name)(cfg)(LOGITS, LABELS, ANCHORS, alpha)


@pytest.mark.parametrize("alpha", [0.25, (0.2, 0.7), None])
def test_focal_loss_and_cross_entropy_are_sums_over_anchors_that_are_not_ignored(alpha):
    given = -1.0 if alpha is None else torch.tensor(alpha)
    hand = (alpha, alpha) if isinstance(alpha, float) else alpha
    assert_close(loss_of("sigmoid_focal", GAMMA, "1.5", alpha=given), by_hand(hand, 1.5))
    assert_close(loss_of("cross_entropy", GAMMA, "1.5", alpha=given), by_hand(hand, 0))


@pytest.mark.parametrize(
    "settings, chosen",
    [
        # anchor losses: 0 0.44, 1 1.01, 2 3.18, 3 0.63, 5 2.01; positive are 0 and 1
        ({"ratio": 1}, (0, 1, 2, 5)),
        ({"ratio": 0.5}, (0, 1, 2)),
        ({"ratio": 3}, (0, 1, 2, 3, 5)),
        ({"ratio": 0, "batch_size": 1}, (2,)),
        ({"ratio": 0, "batch_size": 3}, (1, 2, 5)),
        ({"ratio": 0, "batch_size": 99}, (0, 1, 2, 3, 5)),
        ({"ratio": 1, "batch_size": 4}, (0, 1, 2, 5)),
    ],
)
def test_ohem_is_cross_entropy_over_the_anchors_it_chooses(settings, chosen):
    assert_close(OHEMLoss(**settings)(LOGITS, LABELS, ANCHORS, 0.25), by_hand(None, 0, chosen))


def test_ohem_fits_positives_and_their_negatives_into_the_batch():
    logits = torch.zeros(1, 40, 2)
    labels = torch.tensor([[0] * 20 + [2] * 20])
    boxes = torch.arange(40.0)[:, None] * 20 + torch.tensor([0.0, 0, 10, 10])
    loss = OHEMLoss(ratio=3, batch_size=8)(logits, labels, [Boxes(boxes)])
    assert_close(loss, torch.tensor(8 * 2 * math.log(2)))


@pytest.mark.parametrize("settings", [{"ratio": 3}, {"ratio": 0, "batch_size": 3}])
def test_ohem_trains_images_without_objects_on_their_hardest_anchors(settings):
    loss = OHEMLoss(**settings, min_negatives=3) if settings["ratio"] else OHEMLoss(**settings)
    empty = torch.full_like(LABELS, 2).masked_fill(LABELS < 0, -1)
    per_anchor = softplus(LOGITS[0]).sum(dim=1)[[0, 1, 2, 3, 5]]
    assert_close(loss(LOGITS, empty, ANCHORS), per_anchor.topk(3).values.sum())


def test_ohem_chooses_per_image():
    two = OHEMLoss(ratio=0, batch_size=1)(LOGITS.repeat(2, 1, 1), LABELS.repeat(2, 1), ANCHORS)
    assert_close(two, 2 * by_hand(None, 0, (2,)))


@pytest.mark.parametrize("ratio, expected", [(0, (2, 3)), (1, (0, 1, 2, 3))])
def test_ohem_with_nms_passes_over_neighbours_of_harder_anchors(ratio, expected):
    # 5 is made a near copy of 2 on its level, so that the easier 3 is taken in its place
    boxes = BOXES.clone()
    boxes[5] = boxes[2] + 1
    labels = LABELS if ratio else LABELS.clone().index_fill_(1, torch.tensor([0, 1]), -1)
    settings = {"ratio": ratio, "batch_size": 0 if ratio else 2}
    with_nms = OHEMLoss(**settings, nms_thresh=0.5)
    assert_close(with_nms(LOGITS, labels, [Boxes(boxes)]), by_hand(None, 0, expected))
    assert OHEMLoss(**settings)(LOGITS, labels, [Boxes(boxes)]) > by_hand(None, 0, expected)


def test_only_chosen_anchors_get_a_gradient():
    logits = LOGITS.clone().requires_grad_()
    OHEMLoss(ratio=0, batch_size=2)(logits, LABELS, ANCHORS).backward()
    assert logits.grad[0].abs().sum(dim=1).nonzero().flatten().tolist() == [2, 5]


@pytest.mark.parametrize("settings", [(0, 0), (3, 3)])
def test_ohem_that_could_choose_nothing_is_refused(settings):
    with pytest.raises(ValueError, match="ratio"):
        OHEMLoss(*settings)


# Alpha per class


def test_alpha_spreads_around_its_value_by_class_weight():
    alpha = balanced_alpha(torch.tensor([1.0, 4]), [3, 1], 0.25)  # weights average 7/4 over boxes
    odds = torch.tensor([1 / 3 * 4 / 7, 1 / 3 * 16 / 7])
    assert_close(alpha, odds / (1 + odds))
    assert_close(balanced_alpha(torch.ones(2), [3, 1], 0.25), torch.tensor([0.25, 0.25]))
    extreme = balanced_alpha(torch.tensor([1.0, 1e5]), [10**5, 1], 0.25)
    assert (extreme > 0).all() and (extreme < 1).all()


def test_alpha_is_counted_at_the_first_loss_and_never_for_inference(catalog, caplog):
    catalog([8, 1, 1])
    cfg = retinanet_config(
        "DATASETS.TRAIN", "retinanet_test", "BALANCE.CLASS_WEIGHTS.RULE", "inverse",
        leaf="focal_frequency",
    )  # fmt: skip
    model = build(cfg)
    with torch.no_grad():
        model.eval()(batch())
    assert catalog.reads == []
    logging.getLogger("counterpoise").propagate = True
    with EventStorage(), caplog.at_level(logging.INFO, logger="counterpoise"):
        for _ in range(2):
            losses_and_gradients(model, batch())
    assert catalog.reads == ["read"]
    odds = torch.tensor([1.25, 10, 10]) / 3 / 3  # inverse frequencies average 3 over the boxes
    assert_close(model.dense_loss.alpha, odds / (1 + odds))
    assert "Alpha of the classes: a 0.122, b 0.526, c 0.526" in caplog.text
    assert model.state_dict().keys() == build(retinanet_config(*STOCK)).state_dict().keys()


def test_counting_a_dataset_without_boxes_is_refused(catalog):
    catalog([0, 0, 0])
    cfg = retinanet_config("DATASETS.TRAIN", "retinanet_test", leaf="focal_frequency")
    with EventStorage(), pytest.raises(UserError, match=r"BALANCE\.CLASS_WEIGHTS: .*no boxes"):
        losses_and_gradients(build(cfg), batch())


# In the model


@pytest.mark.parametrize("leaf", LEAVES)
@pytest.mark.parametrize("boxes", [(5, 2), (0, 3), (0, 0)])
def test_every_loss_has_finite_gradients_with_and_without_objects(catalog, leaf, boxes):
    catalog([8, 1, 1])
    model = build(retinanet_config("DATASETS.TRAIN", "retinanet_test", leaf=leaf))
    with EventStorage() as storage:
        losses, gradients = losses_and_gradients(model, batch(boxes))
        positives = len(boxes) * storage.latest()["num_pos_anchors"][0]
    assert losses["loss_cls"] > 0
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert gradients["head.cls_score.weight"].abs().sum() > 0
    assert model.loss_normalizer == pytest.approx(90 + 0.1 * max(positives, 1))


def test_the_summed_loss_is_divided_by_stocks_normaliser_and_the_box_loss_is_stocks():
    stock, _ = step(*STOCK)
    model = build(retinanet_config(NAME, "cross_entropy"))
    seen = []
    model.dense_loss.register_forward_hook(lambda _m, _in, out: seen.append(out.detach()))
    with EventStorage():
        ours, _ = losses_and_gradients(model, batch())
    assert torch.equal(ours["loss_box_reg"], stock["loss_box_reg"])
    assert torch.equal(ours["loss_cls"], seen[0] / model.loss_normalizer)


def test_a_fractional_gamma_has_finite_gradients_where_stocks_are_nan():
    finite = []
    for settings in ((*STOCK, "MODEL.RETINANET.FOCAL_LOSS_GAMMA", "0.5"), (GAMMA, "0.5")):
        model = build(retinanet_config(*settings))
        torch.nn.init.constant_(model.head.cls_score.bias, -120.0)
        with EventStorage():
            _, gradients = losses_and_gradients(model, batch())
        finite.append(all(gradient.isfinite().all() for gradient in gradients.values()))
    assert finite == [False, True]


def test_gamma_and_alpha_of_the_config_reach_stocks_loss():
    theirs = ("MODEL.RETINANET.FOCAL_LOSS_GAMMA", "1.5", "MODEL.RETINANET.FOCAL_LOSS_ALPHA", "0.4")
    stock, _ = step(*STOCK, *theirs)
    ours, _ = step(GAMMA, "1.5", "BALANCE.DENSE_LOSS.ALPHA", "0.4")
    assert_close(ours, stock)
    assert ours["loss_cls"] != step(*STOCK)[0]["loss_cls"]


# Configs


@pytest.mark.parametrize("family", ["quick_retinanet", "r50_retinanet"])
@pytest.mark.parametrize("leaf", LEAVES)
def test_every_config_loads_and_passes_the_checks(family, leaf):
    text = (CONFIGS / family / f"{leaf}.yaml").read_text()
    assert len(text.splitlines()) <= 10
    assert text == (CONFIGS / "quick_retinanet" / f"{leaf}.yaml").read_text()
    cfg = load_config([CONFIGS / family / f"{leaf}.yaml", CONFIGS / "datasets" / "bccd.yaml"])
    check_config(cfg)
    sizes = torch.tensor(cfg.MODEL.ANCHOR_GENERATOR.SIZES)
    base = 2.0 ** torch.arange(5) * sizes[0, 0]
    assert_close(sizes, base[:, None] * 2 ** (torch.arange(3) / 3), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize(
    "overrides, said",
    [
        ([NAME, "focal"], "did you mean 'sigmoid_focal'"),
        ([GAMMA, "-1"], "GAMMA is -1.0, expected a number >= 0"),
        (["BALANCE.DENSE_LOSS.ALPHA", "1.5"], r"ALPHA is 1.5, expected a number in \[0, 1\]"),
        (["BALANCE.DENSE_LOSS.ALPHA", "nan"], "ALPHA"),
        (["BALANCE.DENSE_LOSS.ALPHA_SOURCE", "datset"], "did you mean 'dataset'"),
        (["BALANCE.DENSE_LOSS.RATIO", "-3"], "RATIO is -3.0, expected a number > 0"),
        (["BALANCE.DENSE_LOSS.BATCH_SIZE", "-1"], "BATCH_SIZE is -1, expected a number >= 0"),
        (["BALANCE.DENSE_LOSS.NMS_THRESH", "2"], "NMS_THRESH is 2.0"),
        ([NAME, "ohem", "BALANCE.DENSE_LOSS.RATIO", "0"], "RATIO and .*BATCH_SIZE are both 0"),
        ([NAME, "ohem", "BALANCE.DENSE_LOSS.BATCH_SIZE", "3"], "BATCH_SIZE is 3, which has no"),
        ([NAME, "ohem", "BALANCE.DENSE_LOSS.ALPHA_SOURCE", "dataset"], "ohem has no alpha"),
        (["BALANCE.DENSE_LOSS.ALPHA_SOURCE", "dataset", "BALANCE.DENSE_LOSS.ALPHA", "1"],
         r"ALPHA is 1.0, expected a number in \(0, 1\)"),
        (["BALANCE.DENSE_LOSS.ALPHA_SOURCE", "dataset", "BALANCE.CLASS_WEIGHTS.SOURCE", "none"],
         r"CLASS_WEIGHTS.SOURCE is 'none': set that to 'dataset'"),
        (["BALANCE.ROI_LOSS.GAMMA", "1"],
         "GAMMA is set, but MODEL.META_ARCHITECTURE is 'BalancedRetinaNet', which does not read"),
        (["BALANCE.ANCHOR_SAMPLER.NAME", "ohem"], "META_ARCHITECTURE to 'GeneralizedRCNN'"),
        (["BALANCE.CLASS_WEIGHTS.RULE", "inverse"], "set BALANCE.DENSE_LOSS.ALPHA_SOURCE to 'data"),
        ([*STOCK, GAMMA, "1"], "set MODEL.META_ARCHITECTURE to 'BalancedRetinaNet'"),
        (["MODEL.META_ARCHITECTURE", "GeneralizedRCNN", GAMMA, "1"], "'BalancedRetinaNet'"),
        (["MODEL.META_ARCHITECTURE", "BalancedRetinanet"], "did you mean 'BalancedRetinaNet'"),
        (["MODEL.RETINANET.NUM_CLASSES", "-1"], "RETINANET.NUM_CLASSES is -1"),
        (["MODEL.RETINANET.NUM_CONVS", "0"], "RETINANET.NUM_CONVS is 0, expected a number >= 1"),
    ],
)  # fmt: skip
def test_unusable_settings_are_refused_with_the_way_out(overrides, said):
    with pytest.raises(UserError, match=said):
        check_config(retinanet_config(*overrides))


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["BALANCE.DENSE_LOSS.ALPHA_SOURCE", "datset"], "did you mean 'dataset'"),
        (["BALANCE.DENSE_LOSS.ALPHA_SOURCE", "dataset", "BALANCE.CLASS_WEIGHTS.SOURCE", "none"],
         r"CLASS_WEIGHTS.SOURCE is 'none': set that to 'dataset'"),
    ],
)  # fmt: skip
def test_a_model_of_a_script_that_checks_no_config_has_no_other_alpha(overrides, said):
    with pytest.raises(UserError, match=said):
        build(retinanet_config(*overrides))


def test_detectron2s_own_keys_of_the_focal_loss_are_refused():
    with pytest.raises(UserError, match=r"FOCAL_LOSS_GAMMA is 1.0, but .*DENSE_LOSS.GAMMA"):
        build(retinanet_config("MODEL.RETINANET.FOCAL_LOSS_GAMMA", "1.0"))


def test_the_number_of_classes_follows_the_data(catalog):
    catalog([1, 1])
    settings = ("DATASETS.TRAIN", "retinanet_test", "DATASETS.TEST", "retinanet_test")
    cfg = retinanet_config(*settings, classes=0).clone()
    cfg.defrost()
    prepare(cfg)
    assert (cfg.MODEL.RETINANET.NUM_CLASSES, cfg.MODEL.ROI_HEADS.NUM_CLASSES) == (2, 2)
    cfg.MODEL.RETINANET.NUM_CLASSES = 3
    with pytest.raises(UserError, match=r"MODEL.RETINANET.NUM_CLASSES is 3, but .* 2 classes"):
        prepare(cfg)


def test_fine_tuning_to_other_classes_drops_the_scores_and_keeps_the_class_agnostic_boxes(pair):
    layers = {key.rpartition(".")[0] for key in pair[1].state_dict()}
    assert {name for name in layers if name.endswith(tuple(CLASS_LAYERS))} == {"head.cls_score"}
