"""The cosine classifier, and the RPN's focal loss."""

import pickle

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch.testing import assert_close
from torchvision.ops import sigmoid_focal_loss as torchvision_focal

from counterpoise.config.validation import check_config
from counterpoise.errors import UserError
from counterpoise.modeling.cosine_classifier import CosineClassifier
from counterpoise.modeling.registry import ROI_LOSS_REGISTRY
from models import NEUTRAL, batch, build, losses_and_gradients, quick_config
from test_loss_state import TABLE
from test_retinanet import retinanet_config

COSINE = ("BALANCE.CLASSIFIER.NAME", "cosine")
FOCAL = ("BALANCE.RPN_LOSS.NAME", "focal")


def test_logits_are_scaled_cosines_whatever_the_lengths():
    layer = CosineClassifier(8, 3, scale=5.0).double()
    x = torch.randn(4, 8, dtype=torch.float64)
    cosine = torch.nn.functional.cosine_similarity(x[:, None], layer.weight[None], dim=-1)
    assert_close(layer(x), 5 * cosine)
    with torch.no_grad():
        layer.weight[1] *= 100
    assert_close(layer(7 * x), 5 * cosine)
    assert torch.autograd.gradcheck(layer, x.requires_grad_())


def test_features_of_zero_have_logits_of_zero_and_finite_gradients():
    layer, x = CosineClassifier(8, 3), torch.zeros(2, 8, requires_grad=True)
    layer(x).sum().backward()
    assert not layer(x).any() and x.grad.isfinite().all()


def test_cosines_of_half_features_under_autocast_are_float32():
    layer, x = CosineClassifier(64, 3), torch.randn(4, 64).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert_close(found, layer(x.float()), rtol=0, atol=0)


@pytest.mark.parametrize("loss", [name for name, _ in ROI_LOSS_REGISTRY])
def test_a_cosine_classifier_trains_and_finds_with_every_loss(loss):
    cfg = quick_config(*NEUTRAL, *COSINE, "BALANCE.ROI_LOSS.NAME", loss)
    check_config(cfg)
    model = build(cfg)
    model.roi_heads.box_predictor.cls_loss.use_table(TABLE)
    with EventStorage():
        losses, gradients = losses_and_gradients(model, batch())
    assert all(value.isfinite() for value in losses.values())
    assert gradients["roi_heads.box_predictor.cls_score.weight"].any()
    assert not any("cls_score.bias" in name for name in model.state_dict())
    with torch.no_grad():
        model.eval()(batch())


def test_a_prior_that_would_need_biases_is_refused():
    with pytest.raises(UserError, match=r"PRIOR_PROB is 0.1, .*'cosine' has none: set PRIOR_PROB"):
        check_config(quick_config(*COSINE, "BALANCE.ROI_LOSS.PRIOR_PROB", "0.1"))


@pytest.mark.parametrize("sampler", ["random", "all", "ohem"])
def test_a_model_can_be_pickled_and_goes_on_as_it_was(sampler):
    model = build(
        quick_config(
            "BALANCE.ROI_LOSS.NAME", "logit_adjusted",
            "BALANCE.CALIBRATION.NAME", "norcal",
            "BALANCE.ANCHOR_SAMPLER.NAME", sampler,
            "BALANCE.ROI_SAMPLER.NAME", sampler,
        )
    )  # fmt: skip
    model.roi_heads.box_predictor.cls_loss.use_table(TABLE)
    copied = pickle.loads(pickle.dumps(model))
    with EventStorage():
        assert losses_and_gradients(copied, batch())[0] == losses_and_gradients(model, batch())[0]


def test_a_one_stage_model_with_an_alpha_per_class_can_be_pickled():
    model = build(retinanet_config("BALANCE.DENSE_LOSS.ALPHA_SOURCE", "dataset"))
    model.dense_loss.use_table(TABLE)
    assert pickle.loads(pickle.dumps(model)).state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["BALANCE.CLASSIFIER.NAME", "cosin"], "CLASSIFIER.NAME is 'cosin', did you mean 'cosine'"),
        (["BALANCE.RPN_LOSS.NAME", "focl"], "RPN_LOSS.NAME is 'focl', did you mean 'focal'"),
        (["BALANCE.CLASS_WEIGHTS.SOURCE", "datset"], "SOURCE is 'datset', did you mean 'dataset'"),
        (["BALANCE.CALIBRATION.NAME", "norcall"], "NAME is 'norcall', did you mean 'norcal'"),
        ([*COSINE, "BALANCE.ROI_LOSS.PRIOR_PROB", "0.1"], "'cosine' has none: set PRIOR_PROB"),
    ],
)
def test_a_model_of_a_script_that_checks_no_config_is_not_built_of_other_parts(overrides, said):
    with pytest.raises(UserError, match=said):
        build(quick_config(*overrides))


@pytest.mark.parametrize(
    "normalizer, divisor",
    [("batch", lambda labels: 256 * 2), ("num_pos", lambda labels: (labels == 1).sum())],
)
def test_the_focal_loss_of_the_rpn_is_torchvisions_over_the_sampled_anchors(normalizer, divisor):
    settings = (*FOCAL, "BALANCE.ANCHOR_SAMPLER.NAME", "all")
    settings += ("BALANCE.ANCHOR_SAMPLER.NORMALIZER", normalizer)
    model = build(quick_config(*NEUTRAL, *settings)).train()
    rpn, seen = model.proposal_generator, {}
    losses = rpn.losses

    def note(anchors, logits, labels, *rest):
        seen.update(logits=torch.cat(logits, 1), labels=torch.stack(labels))
        return losses(anchors, logits, labels, *rest)

    rpn.losses = note
    with EventStorage():
        found = model(batch())["loss_rpn_cls"]
    chosen = seen["labels"] >= 0
    expected = torchvision_focal(
        seen["logits"][chosen], seen["labels"][chosen].float(), 0.25, 2.0, reduction="sum"
    )
    assert_close(found, expected / divisor(seen["labels"]))


def test_the_rpn_learns_from_the_focal_loss_and_starts_at_its_prior():
    model = build(quick_config(*NEUTRAL, *FOCAL, "BALANCE.RPN_LOSS.PRIOR_PROB", "0.01"))
    bias = model.proposal_generator.rpn_head.objectness_logits.bias
    assert_close(bias.sigmoid(), torch.full_like(bias, 0.01))
    with EventStorage():
        _, gradients = losses_and_gradients(model, batch())
    assert gradients["proposal_generator.rpn_head.objectness_logits.weight"].any()
