"""MODEL.SPEED and the keys behind it: what they set, and what stays as it was."""

import json
import logging
import pickle

import pytest
import torch
import torch.nn.functional as F
from detectron2.engine import AMPTrainer, defaults
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler
from detectron2.utils.events import EventStorage
from torch import nn
from torch.testing import assert_close

from counterpoise.config.keys import training_config
from counterpoise.config.loading import load_config
from counterpoise.config.preparation import prepare
from counterpoise.modeling.acceleration import (
    accelerate,
    choose_speed,
    infer_in_bfloat16,
    multiplies_bfloat16,
    train_in_bfloat16,
)
from counterpoise.modeling.roi_align import ExactROIAlign, GatheredROIAlign
from counterpoise.training.number_guard import GuardedTrainer
from counterpoise.training.trainer import BalancedTrainer
from models import CONFIGS, NEUTRAL, batch, build, losses_and_gradients, quick_config
from runs import SMALL, train_net, write_dataset
from test_autocast import detector

CPU = torch.device("cpu")
FAST = ("MODEL.CHANNELS_LAST", "True", "MODEL.ROI_ALIGN", "gather")


@pytest.mark.parametrize(
    "cpuinfo, expected",
    [
        ("flags\t\t: fpu avx512f avx512_bf16 sse2\n", True),
        ("flags\t\t: fpu amx_bf16\n", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("flags\t\t: fpu avx512f avx2\n", False),
        (None, False),
    ],
)
def test_bfloat16_is_chosen_only_where_the_cpu_multiplies_it(tmp_path, cpuinfo, expected):
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_text(cpuinfo)
    assert multiplies_bfloat16(CPU, path) == expected


def test_auto_sets_the_keys_for_this_machine_and_says_so(caplog):
    cfg = training_config()
    cfg.MODEL.DEVICE, cfg.MODEL.SPEED = "cpu", "auto"
    with caplog.at_level(logging.INFO, "counterpoise"):
        choose_speed(cfg)
    assert cfg.MODEL.CHANNELS_LAST and cfg.MODEL.ROI_ALIGN == "gather" and cfg.SOLVER.FUSED
    assert cfg.MODEL.RPN.HEAD_NAME == "SparseGradientRPNHead"
    assert multiplies_bfloat16(CPU) == cfg.SOLVER.AMP.ENABLED
    assert "MODEL.SPEED auto on this machine" in caplog.text


@pytest.mark.parametrize(
    "key, value",
    [("MODEL.RPN.HEAD_NAME", "OwnHead"), ("BALANCE.ANCHOR_SAMPLER.NAME", "all")],
)
def test_auto_keeps_another_rpn_head_and_dense_gradients(key, value):
    cfg = training_config()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.SPEED", "auto", key, value])
    before = cfg.MODEL.RPN.HEAD_NAME
    choose_speed(cfg)
    assert before == cfg.MODEL.RPN.HEAD_NAME


def test_a_run_that_goes_from_a_cpu_to_a_gpu_takes_the_dense_rpn_head_again():
    cfg = training_config()
    cfg.MODEL.DEVICE, cfg.MODEL.SPEED = "cuda", "auto"
    cfg.SOLVER.AMP.ENABLED = True  # asked for, so that no GPU is
    cfg.MODEL.RPN.HEAD_NAME = "SparseGradientRPNHead"
    choose_speed(cfg)
    assert cfg.MODEL.RPN.HEAD_NAME == "StandardRPNHead"


def test_stock_leaves_every_key_alone():
    cfg = training_config()
    before = cfg.dump()
    choose_speed(cfg)
    assert cfg.dump() == before


def test_an_accelerated_model_has_the_losses_and_gradients_that_it_had():
    # With fixed proposals: another rounding may let NMS keep others.
    stock, fast = detector(quick_config(*NEUTRAL)), detector(quick_config(*NEUTRAL))
    keys = fast.state_dict().keys()
    accelerate(fast, quick_config(*FAST))
    assert fast.state_dict().keys() == keys
    convolutions = [m for m in fast.modules() if isinstance(m, nn.Conv2d)]
    assert all(c.weight.is_contiguous(memory_format=torch.channels_last) for c in convolutions)
    (pooler,) = (m for m in fast.modules() if isinstance(m, ROIPooler))
    assert all(isinstance(level, GatheredROIAlign) for level in pooler.level_poolers)
    with EventStorage():
        expected, gradients = losses_and_gradients(stock, batch())
        actual, own_gradients = losses_and_gradients(fast, batch())
    assert_close(actual, expected, rtol=1e-4, atol=1e-6)
    for name in ("cls_score.weight", "bbox_pred.weight"):
        gradient = gradients[f"roi_heads.box_predictor.{name}"]
        difference = (own_gradients[f"roi_heads.box_predictor.{name}"] - gradient).norm()
        assert difference <= 1e-4 * gradient.norm()


def test_training_is_in_bfloat16_and_evaluation_in_float32():
    model = build(quick_config(*NEUTRAL))
    seen = []
    model.backbone.register_forward_hook(lambda _m, _in, out: seen.append(out["p2"].dtype))
    train_in_bfloat16(model, CPU)
    with EventStorage():
        _, gradients = losses_and_gradients(model, batch())
    with torch.no_grad():
        model.eval()(batch())
    assert seen == [torch.bfloat16, torch.float32]
    assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    "settings, layer",
    [
        ((), ROIAlign),
        (("SOLVER.AMP.ENABLED", "True"), ExactROIAlign),
        (("TEST.PRECISION", "bfloat16"), ExactROIAlign),
        (("TEST.PRECISION", "bfloat16", *FAST), GatheredROIAlign),
    ],
)
def test_boxes_stay_exact_wherever_maps_have_half_precision(settings, layer):
    cfg = quick_config("MODEL.SPEED", "stock", *settings)
    model = build(cfg)
    accelerate(model, cfg)
    assert {type(level) for level in model.roi_heads.box_pooler.level_poolers} == {layer}


def test_a_training_pools_the_boxes_that_its_evaluation_pools(tmp_path):
    data, out = write_dataset(tmp_path / "shapes"), tmp_path / "out"
    settings = ("MODEL.SPEED", "stock", "SOLVER.AMP.ENABLED", "True", "MODEL.DEVICE", "cpu")
    cfg = load_config(
        [CONFIGS / "quick" / "baseline.yaml", data],
        [*SMALL, *settings, "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", str(out)],
    )
    prepare(cfg)
    cfg.freeze()
    trainer = BalancedTrainer(cfg)
    pooler = trainer.model.roi_heads.box_pooler
    assert {type(level) for level in pooler.level_poolers} == {ExactROIAlign}
    assert isinstance(trainer._trainer, GuardedTrainer) and trainer.cfg.SOLVER.AMP.ENABLED
    assert defaults.AMPTrainer is AMPTrainer


def test_autocast_ends_with_a_forward_pass_that_fails():
    class Fails(nn.Module):
        def forward(self, images):
            raise RuntimeError("no memory")

    model = Fails()
    train_in_bfloat16(model, CPU)
    with pytest.raises(RuntimeError, match="no memory"):
        model([])
    assert not torch.is_autocast_enabled("cpu")


def test_a_model_in_bfloat16_can_be_pickled_and_computes_as_it_did():
    model = build(quick_config(*NEUTRAL))
    train_in_bfloat16(model, CPU)
    infer_in_bfloat16(model, CPU)
    copied = pickle.loads(pickle.dumps(model))
    with EventStorage():
        expected, _ = losses_and_gradients(model, batch())
        assert losses_and_gradients(copied, batch())[0] == expected
    with torch.no_grad():
        found = [each.eval()(batch())[0]["instances"].scores for each in (model, copied)]
    assert len(found[0]) and torch.equal(*found)
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    "settings",
    [
        ("MODEL.SPEED", "auto"),
        pytest.param(("SOLVER.AMP.ENABLED", "True"), marks=pytest.mark.slow),
        (*FAST, "SOLVER.AMP.ENABLED", "True", "BALANCE.ROI_SAMPLER.NAME", "ohem"),
    ],
    ids=["auto", "amp", "all"],
)
def test_a_run_trains_resumes_and_evaluates_on_a_cpu(tmp_path, settings):
    data = write_dataset(tmp_path / "shapes")
    out = tmp_path / "out"
    assert train_net(data, out, *settings, "SOLVER.MAX_ITER", "2") == 0
    assert train_net(data, out, "--resume", *settings, "SOLVER.MAX_ITER", "3") == 0
    evaluation = (out / "evaluation.json").read_text()
    weights = ("MODEL.WEIGHTS", str(out / "model_final.pth"))
    assert train_net(data, out, "--eval-only", *settings, *weights) == 0
    assert json.loads((out / "evaluation.json").read_text()) == json.loads(evaluation)
    content = torch.load(out / "model_final.pth", weights_only=True)["model"]
    assert all(value.dtype != torch.bfloat16 for value in content.values())


def test_strided_depthwise_convolutions_train_in_float32_and_the_others_in_bfloat16():
    model = nn.Sequential(
        nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Conv2d(4, 4, 3, stride=2, padding=1),
    )
    train_in_bfloat16(model, CPU)
    x = torch.randn(1, 4, 8, 8)
    first = F.conv2d(x, model[0].weight, model[0].bias, stride=2, padding=1, groups=4)
    seen = []
    for module in model:
        module.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(x)
    assert [output.dtype for output in seen] == [torch.float32, torch.bfloat16, torch.bfloat16]
    assert torch.equal(seen[0], first)
    with torch.autocast("cpu", torch.bfloat16):  # of a caller, back as it was after the layer
        assert model[0](x.bfloat16()).dtype == torch.float32
        assert model[1](x).dtype == torch.bfloat16
