"""Both detectors train and find objects in mixed precision."""

import copy

import pytest
import torch
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch.testing import assert_close

from counterpoise import ANCHOR_SAMPLER_REGISTRY, DENSE_LOSS_REGISTRY, ROI_LOSS_REGISTRY
from counterpoise.balance.class_counts import ClassCounts
from counterpoise.modeling.dense_loss import DenseClassificationLoss
from counterpoise.modeling.roi_loss import ClassificationLoss
from counterpoise.modeling.weight_sources import ClassTable
from models import NEUTRAL, batch, build, losses_and_gradients, quick_config
from test_retinanet import retinanet_config

LIST_WEIGHTS = (
    "BALANCE.CLASS_WEIGHTS.SOURCE", "list",
    "BALANCE.CLASS_WEIGHTS.VALUES", "[1.0, 4.0, 0.5]",
)  # fmt: skip
# bfloat16 rounds by up to 2^-9 or 0.2 %. Independent errors of some 50 layers in a row make 1.4 %
# of a logit, and of a loss, which is a mean over many samples, less.
TOLERANCE = 0.02
TABLE = ClassTable(ClassCounts(("a", "b", "c"), (9, 5, 2), (90, 10, 5), 9, 0), None)
PREDICTORS = ("cls_score", "bbox_pred", "objectness_logits", "anchor_deltas")


def names(registry):
    return [name for name, _ in registry]


def autocast():
    return torch.autocast("cpu", dtype=torch.bfloat16)


def spread_predictions(model):
    """Give the predictions of the finest level a deviation of 1; a new model's are nearly 0."""
    deviations = {}

    def note(layer, _, output):
        deviations.setdefault(layer, output.std())

    layers = [layer for name, layer in model.named_modules() if name.endswith(PREDICTORS)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    with torch.no_grad():
        model.eval()(batch())
    for hook in hooks:
        hook.remove()
    for layer in layers:
        layer.weight.data /= deviations[layer]


def detector(cfg):
    """A model whose predictions differ by sample and whose proposals are always the same."""
    model = build(cfg)
    if hasattr(model, "proposal_generator"):
        # NMS of rounded boxes would leave others, and a loss over other samples proves nothing.
        proposals = [
            Instances(
                (96, 96),
                proposal_boxes=image["instances"].gt_boxes,
                objectness_logits=torch.zeros(len(image["instances"])),
            )
            for image in batch((60, 60), seed=5)
        ]
        model.proposal_generator.register_forward_hook(lambda _, __, made: (proposals, made[1]))
    spread_predictions(model)
    for module in model.modules():
        if isinstance(module, ClassificationLoss):
            module.use_table(TABLE)
    return model


def assert_trains_and_finds(cfg, of_detectron2=False):
    with EventStorage():
        expected, _ = losses_and_gradients(detector(cfg), batch())
        model = detector(cfg)
        calls, before = [], []
        for module in model.modules():
            if isinstance(module, ClassificationLoss | DenseClassificationLoss):
                # The loss as it was, since a step moves the state that some losses keep.
                module.register_forward_pre_hook(
                    lambda module, call: before.append(copy.deepcopy(module.loss.state_dict()))
                )
                module.register_forward_hook(lambda *call: calls.append(call))
        with autocast():
            losses, gradients = losses_and_gradients(model, batch())
        assert losses["loss_cls"].dtype == torch.float32
        assert bool(calls) != of_detectron2
        for (module, (logits, *rest), loss), state in list(zip(calls, before, strict=True)):
            assert logits.dtype == torch.bfloat16
            module.loss.load_state_dict(state)
            assert_close(loss, module(logits.float(), *rest), rtol=1e-6, atol=0.0)
    assert_close(losses, expected, rtol=TOLERANCE, atol=0.0, check_dtype=False)
    assert gradients and all(gradient.isfinite().all() for gradient in gradients.values())
    model.eval()
    with autocast(), torch.no_grad():
        found = [image["instances"] for image in model(batch())]
    for instances in found:
        assert len(instances) > 0
        assert instances.pred_boxes.tensor.isfinite().all()
        assert ((instances.scores >= 0) & (instances.scores <= 1)).all()


@pytest.mark.parametrize("sampler", names(ANCHOR_SAMPLER_REGISTRY))
@pytest.mark.parametrize("loss", names(ROI_LOSS_REGISTRY))
def test_two_stages_train_and_find_in_mixed_precision(loss, sampler):
    chosen = ("BALANCE.ROI_LOSS.NAME", loss, "BALANCE.ANCHOR_SAMPLER.NAME", sampler)
    assert_trains_and_finds(quick_config(*chosen, *LIST_WEIGHTS))


def test_the_loss_of_detectron2_stays_in_float32_in_mixed_precision():
    assert_trains_and_finds(quick_config(*NEUTRAL), of_detectron2=True)


def test_proposals_of_largest_loss_are_chosen_in_mixed_precision():
    chosen = ("BALANCE.ROI_SAMPLER.NAME", "ohem")
    assert_trains_and_finds(quick_config(*chosen, *LIST_WEIGHTS))


@pytest.mark.parametrize("loss", names(DENSE_LOSS_REGISTRY))
def test_one_stage_trains_and_finds_in_mixed_precision(loss):
    # GHM-C's weights jump where rounding moves an anchor to another bin, which is no error of the
    # loss but has no bound like TOLERANCE; one bin leaves the arithmetic.
    cfg = retinanet_config("BALANCE.DENSE_LOSS.NAME", loss, "BALANCE.DENSE_LOSS.GHM_BINS", "1")
    assert_trains_and_finds(cfg, of_detectron2=loss == "sigmoid_focal")


def test_the_focal_loss_that_detectron2_has_not_trains_in_mixed_precision():
    assert_trains_and_finds(retinanet_config("BALANCE.DENSE_LOSS.GAMMA", "0.5"))
