"""Class weights from any dataset of Detectron2's catalog, computed when first needed."""

import logging

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.events import EventStorage
from torch.testing import assert_close

from counterpoise.balance.class_counts import ClassCounts
from counterpoise.balance.class_weights import class_weights
from counterpoise.errors import UserError
from counterpoise.modeling.dense_loss import (
    DenseClassificationLoss,
    DenseFocalLoss,
    balanced_alpha,
)
from counterpoise.modeling.registry import WEIGHT_RULE_REGISTRY
from counterpoise.modeling.roi_loss import ClassificationLoss
from counterpoise.modeling.weight_sources import (
    ClassTable,
    FixedWeights,
    class_table,
    weight_source,
)
from counterpoise.training.trainer import training_table
from models import STOCK, batch, build, losses_and_gradients, quick_config
from test_retinanet import retinanet_config


def given(source):
    """Weights of a source that does not look at the batch."""
    return source.weights(lambda: pytest.fail("counted"), torch.device("cpu"))


def weights_of(loss):
    return given(loss.weight_source)


@pytest.fixture
def catalog():
    """Registers datasets that are not this project's own, and counts how often they are read."""
    names, reads = [], []

    def register(name, classes, boxes):
        """`boxes` maps a class name to its number of boxes; each box gets an image of its own."""

        def load():
            reads.append(name)
            return [
                {
                    "file_name": f"{name}-{i}",
                    "image_id": i,
                    "height": 9,
                    "width": 9,
                    "annotations": [
                        {
                            "bbox": [0, 0, 5, 5],
                            "bbox_mode": BoxMode.XYXY_ABS,
                            "category_id": classes.index(box_class),
                            "iscrowd": crowd,
                        }
                    ],
                }
                for i, (box_class, crowd) in enumerate(
                    (box_class, crowd)
                    for box_class, number in boxes.items()
                    for crowd in [0] * number + [1]
                )
            ]

        DatasetCatalog.register(name, load)
        MetadataCatalog.get(name).thing_classes = classes
        names.append(name)

    register.reads = reads
    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_boxes_are_counted_over_all_training_sets_by_class_name_without_crowds(catalog):
    catalog("first", ["a", "b", "c"], {"a": 5, "b": 2, "c": 1})
    catalog("second", ["c", "a", "b"], {"a": 3, "c": 4})
    cfg = quick_config("DATASETS.TRAIN", "('first', 'second')")
    table = class_table(cfg)
    assert table.counts.names == ("a", "b", "c")
    assert table.counts.boxes == (8, 2, 5)
    assert_close(table.weights, class_weights([8, 2, 5]))


def test_a_model_reads_the_training_set_at_its_first_loss_and_never_for_inference(catalog):
    catalog("first", ["a", "b", "c"], {"a": 5, "b": 2, "c": 1})
    model = build(quick_config("DATASETS.TRAIN", "first"))
    with torch.no_grad():
        model.eval()(batch())
    assert catalog.reads == []
    with EventStorage():
        for _ in range(2):
            losses_and_gradients(model, batch())
    assert catalog.reads == ["first"]
    assert_close(weights_of(model.roi_heads.box_predictor.cls_loss), class_weights([5, 2, 1]))


def test_a_table_that_is_handed_over_is_used_in_place_of_counting():
    unknown = ("DATASETS.TRAIN", "not_registered")
    table = ClassTable(ClassCounts(("a", "b", "c"), (1, 1, 1), (5, 2, 1)), torch.arange(1.0, 5.0))
    two_stage = build(quick_config(*unknown))
    two_stage.roi_heads.box_predictor.cls_loss.use_table(table)
    one_stage = build(retinanet_config(*unknown, leaf="focal_frequency"))
    one_stage.dense_loss.use_table(table)
    with EventStorage():
        losses_and_gradients(two_stage, batch())
        losses_and_gradients(one_stage, batch())
    assert torch.equal(weights_of(two_stage.roi_heads.box_predictor.cls_loss), table.weights)
    assert_close(one_stage.dense_loss.alpha, balanced_alpha(table.weights[:3], (5, 2, 1), 0.25))


def test_a_table_changes_no_weights_that_are_not_of_the_training_set():
    table = ClassTable(ClassCounts(("a",), (1,), (5,)), torch.tensor([8.0, 9.0]))
    logits, gt_classes = torch.zeros(2, 2), torch.tensor([0, 1])
    own = ClassificationLoss(
        lambda z, t: z.new_ones(2), FixedWeights(lambda: torch.tensor([1.0, 2.0]))
    )
    dense = DenseClassificationLoss(DenseFocalLoss(), 0.5)
    with EventStorage():
        own.use_table(table)
        own(logits, gt_classes)
        dense.use_table(table)
        dense(torch.zeros(1, 2, 1), gt_classes[None], [])
    assert weights_of(own).tolist() == [1.0, 2.0] and dense.alpha is None


def test_the_table_lists_names_counts_frequencies_and_weights(catalog, caplog):
    catalog("first", ["a", "b", "c"], {"a": 6, "b": 3, "c": 1})
    logging.getLogger("counterpoise").propagate = True
    with caplog.at_level(logging.INFO, logger="counterpoise"):
        given(weight_source(quick_config("DATASETS.TRAIN", "first")))
    rows = {line.split()[0]: line.split()[1:] for line in caplog.text.splitlines() if line}
    weights = class_weights([6, 3, 1]).tolist()
    assert rows["b"] == ["3", "3", "30.00", "%", f"{weights[1]:.4g}"]
    assert rows["(background)"] == [f"{weights[3]:.4g}"]


def test_the_table_of_a_one_stage_model_has_no_background(catalog, caplog):
    catalog("first", [f"{k}" for k in range(30)], {f"{k}": 1 for k in range(29)})
    logging.getLogger("counterpoise").propagate = True
    data = ("DATASETS.TRAIN", "first")
    classes = ("MODEL.RETINANET.NUM_CLASSES", "30")
    cfg = retinanet_config(*data, *classes, leaf="focal_frequency")
    with caplog.at_level(logging.INFO, logger="counterpoise"):
        table = class_table(cfg)
    assert "background" not in str(table) and "classes without boxes: 29" in caplog.text
    assert "the background weight" not in caplog.text
    two_stage = quick_config(*data, "MODEL.ROI_HEADS.NUM_CLASSES", "30")
    assert_close(table.weights[:-1], class_table(two_stage).weights[:-1])


def test_a_list_gives_foreground_weights_or_all_of_them():
    def weights(values):
        settings = ("BALANCE.CLASS_WEIGHTS.SOURCE", "list", "BALANCE.CLASS_WEIGHTS.VALUES", values)
        return given(weight_source(quick_config(*settings)))

    assert_close(weights("[1, 2, 3]"), torch.tensor([1.0, 2.0, 3.0, 2.0]))
    assert_close(weights("[1, 2, 3, 0.5]"), torch.tensor([1.0, 2.0, 3.0, 0.5]))
    with pytest.raises(UserError, match=r"VALUES has 2 numbers, expected 3 .* or 4"):
        weights("[1, 2]")
    with pytest.raises(UserError, match=r"VALUES.*>= 0"):
        weights("[1, 2, -3]")


def test_a_rule_registered_outside_is_chosen_by_name(catalog):
    @WEIGHT_RULE_REGISTRY.register(name="linear_for_test")
    def linear(frequency, **_):
        return 1 - frequency

    catalog("first", ["a", "b", "c"], {"a": 5, "b": 3, "c": 2})
    rule = ("BALANCE.CLASS_WEIGHTS.RULE", "linear_for_test")
    weights = class_table(quick_config("DATASETS.TRAIN", "first", *rule)).weights
    assert_close(weights, torch.tensor([0.5, 0.7, 0.8, 2 / 3]))


def test_no_source_means_no_weights_and_no_reading():
    source = weight_source(quick_config("BALANCE.CLASS_WEIGHTS.SOURCE", "none"))
    assert given(source) is None and not source.weighted


def test_a_class_without_boxes_is_named(catalog):
    catalog("first", ["a", "b", "c"], {"a": 6, "c": 1})
    rule = ("BALANCE.CLASS_WEIGHTS.RULE", "inverse")
    with pytest.raises(UserError, match=r"classes without boxes: b"):
        class_table(quick_config("DATASETS.TRAIN", "first", *rule))


def test_a_class_list_of_another_length_is_refused_with_both_numbers(catalog):
    catalog("first", ["a", "b"], {"a": 6, "b": 1})
    with pytest.raises(UserError, match=r"NUM_CLASSES is 3, but .* has 2 classes \(a, b\)"):
        class_table(quick_config("DATASETS.TRAIN", "first"))


def test_retinanet_is_asked_for_its_own_number_of_classes(catalog):
    catalog("first", ["a", "b", "c"], {"a": 5, "b": 2, "c": 1})
    own = ("DATASETS.TRAIN", "first", "MODEL.ROI_HEADS.NUM_CLASSES", "80")
    cfg = retinanet_config(*own, leaf="focal_frequency")
    with EventStorage():
        losses_and_gradients(build(cfg), batch())
    assert class_table(cfg).counts.boxes == (5, 2, 1)
    with pytest.raises(UserError, match=r"MODEL.RETINANET.NUM_CLASSES is 2, but .* 3 classes"):
        class_table(retinanet_config(*own, "MODEL.RETINANET.NUM_CLASSES", "2"))


@pytest.mark.parametrize(
    "cfg, weighted",
    [
        (retinanet_config("DATASETS.TRAIN", "first"), False),
        (retinanet_config("DATASETS.TRAIN", "first", leaf="focal_frequency"), True),
        (
            retinanet_config("DATASETS.TRAIN", "first", "MODEL.META_ARCHITECTURE", "RetinaNet"),
            False,
        ),
        (quick_config("DATASETS.TRAIN", "first"), True),
        (quick_config("DATASETS.TRAIN", "first", *STOCK), False),
        (quick_config("DATASETS.TRAIN", "first", "BALANCE.CLASS_WEIGHTS.SOURCE", "none"), False),
        (quick_config("DATASETS.TRAIN", "first", "BALANCE.CLASS_WEIGHTS.SOURCE", "batch"), False),
    ],
)
def test_weights_that_no_loss_reads_are_not_computed(catalog, cfg, weighted):
    # The rule `inverse` refuses a class without boxes, where its weights are computed.
    catalog("first", ["a", "b", "c"], {"a": 5, "b": 2})
    cfg = cfg.clone()
    cfg.defrost()
    table = training_table(cfg)
    assert table.counts.boxes == (5, 2, 0)
    assert (table.weights is not None) == weighted == ("weight" in str(table))
    cfg.BALANCE.CLASS_WEIGHTS.RULE = "inverse"
    if weighted:
        with pytest.raises(UserError, match="classes without boxes: c"):
            training_table(cfg)
    else:
        assert training_table(cfg).weights is None


def test_training_sets_of_different_classes_are_refused(catalog):
    catalog("first", ["a", "b", "c"], {"a": 1})
    catalog("second", ["a", "b", "d"], {"a": 1})
    with pytest.raises(UserError, match=r"'c'.*'d'"):
        class_table(quick_config("DATASETS.TRAIN", "('first', 'second')"))
