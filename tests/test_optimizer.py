"""The optimizers: Detectron2's own by default, AdamW, and the backbone's learning rate."""

import pytest
import torch
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage
from torch.testing import assert_close

from counterpoise.training.optimizer import optimizer_of, scheduler_of
from models import C4, NEUTRAL, batch, build, losses_and_gradients, quick_config

ADAMW = (
    *NEUTRAL,
    "SOLVER.OPTIMIZER", "AdamW",
    "SOLVER.BASE_LR", "0.001",
    "SOLVER.WEIGHT_DECAY", "0.05",
    "SOLVER.WEIGHT_DECAY_NORM", "0.0",
    "SOLVER.WEIGHT_DECAY_BIAS", "0.0",
)  # fmt: skip


def settings_by_parameter(model, optimizer):
    """Name -> the options of its group."""
    of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    return {name: of[id(p)] for name, p in model.named_parameters() if p.requires_grad}


def test_sgd_without_a_multiplier_is_detectron2s_optimizer():
    cfg = quick_config("SOLVER.OPTIMIZER", "SGD")
    model = build(cfg)
    own, stock = optimizer_of(cfg, model), build_optimizer(cfg, model)
    assert type(own).__mro__[1] is type(stock).__mro__[1] is torch.optim.SGD
    assert own.state_dict() == stock.state_dict()


def test_a_step_of_adamw_is_that_of_the_paper():
    cfg = quick_config(*ADAMW, "SOLVER.CLIP_GRADIENTS.ENABLED", "False")
    model = build(cfg)
    optimizer = optimizer_of(cfg, model)
    with EventStorage():
        _, gradients = losses_and_gradients(model, batch())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step()
    weight = "roi_heads.box_predictor.cls_score.weight"
    bias = "roi_heads.box_predictor.cls_score.bias"
    for name, decay in ((weight, 0.05), (bias, 0.0)):
        # In the first step the corrected moments are the gradient and its square.
        step = gradients[name] / (gradients[name].abs() + 1e-8)
        expected = before[name] * (1 - 0.001 * decay) - 0.001 * step
        assert_close(model.get_parameter(name), torch.nn.Parameter(expected))


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_the_multiplier_is_for_the_pretrained_part_of_the_backbone(name):
    cfg = quick_config(*ADAMW, "SOLVER.OPTIMIZER", name, "SOLVER.BACKBONE_MULTIPLIER", "0.1")
    model = build(cfg)
    rates = {k: g["lr"] for k, g in settings_by_parameter(model, optimizer_of(cfg, model)).items()}
    trunk = {name for name in rates if name.startswith("backbone.bottom_up.")}
    assert trunk and any(name.startswith("backbone.fpn") for name in rates)
    for parameter, rate in rates.items():
        assert rate == pytest.approx(0.0001 if parameter in trunk else 0.001), parameter


def test_a_backbone_without_a_pyramid_has_the_multiplier_too():
    cfg = quick_config(*C4, *ADAMW, "SOLVER.BACKBONE_MULTIPLIER", "0.1")
    model = build(cfg)
    rates = {k: g["lr"] for k, g in settings_by_parameter(model, optimizer_of(cfg, model)).items()}
    assert {rate for name, rate in rates.items() if name.startswith("backbone.")} == {0.0001}
    assert {rate for name, rate in rates.items() if not name.startswith("backbone.")} == {0.001}


def test_biases_have_the_factors_of_both_keys():
    factors = ("SOLVER.BACKBONE_MULTIPLIER", "0.1", "SOLVER.BIAS_LR_FACTOR", "2.0")
    cfg = quick_config(*C4, *ADAMW, *factors)
    model = build(cfg)
    model.backbone.res4[0].conv1.bias = torch.nn.Parameter(torch.zeros(256))
    groups = settings_by_parameter(model, optimizer_of(cfg, model))
    assert groups["backbone.res4.0.conv1.bias"]["lr"] == pytest.approx(0.0002)
    assert groups["backbone.res4.0.conv1.weight"]["lr"] == pytest.approx(0.0001)
    assert groups["proposal_generator.rpn_head.conv.bias"]["lr"] == pytest.approx(0.002)
    assert groups["backbone.res4.0.conv1.bias"]["weight_decay"] == 0


def test_gradients_are_clipped_by_detectron2s_keys():
    clip = ("SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm",
            "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "1e-3")  # fmt: skip
    cfg = quick_config(*ADAMW, *clip)
    model = build(cfg)
    optimizer = optimizer_of(cfg, model)
    with EventStorage():
        losses_and_gradients(model, batch())
    optimizer.step()
    norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
    assert max(norms) <= 1e-3 * (1 + 1e-5)


CLIPS = {
    "none": (),
    "norm": ("norm", "1e-3", "2.0"),
    "another norm": ("norm", "1e-3", "1.0"),
    "value": ("value", "1e-5", "2.0"),
}


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_fused_optimizer_makes_the_same_steps(name, clip):
    settings = [*ADAMW, "SOLVER.OPTIMIZER", name]
    if CLIPS[clip]:
        keys = ("CLIP_TYPE", "CLIP_VALUE", "NORM_TYPE")
        settings += ["SOLVER.CLIP_GRADIENTS.ENABLED", "True"]
        for key, value in zip(keys, CLIPS[clip], strict=True):
            settings += [f"SOLVER.CLIP_GRADIENTS.{key}", value]
    else:
        settings += ["SOLVER.CLIP_GRADIENTS.ENABLED", "False"]
    ends, clipped = [], []
    for fused in ("False", "True"):
        cfg = quick_config(*settings, "SOLVER.FUSED", fused)
        model = build(cfg)
        optimizer = optimizer_of(cfg, model)
        assert bool(optimizer.param_groups[0]["fused"]) == (fused == "True")
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.randn(parameter.shape, generator=generator) * 1e-3
            optimizer.step()
        clipped.append([p.grad for p in model.parameters() if p.grad is not None])
        ends.append(list(model.parameters()))
    assert_close(clipped[1], clipped[0], rtol=1e-6, atol=0.0)
    assert_close(ends[1], ends[0], rtol=1e-6, atol=1e-7)


def test_a_fused_step_without_gradients_changes_nothing():
    cfg = quick_config(*ADAMW, "SOLVER.FUSED", "True")
    model = build(cfg)
    optimizer = optimizer_of(cfg, model)
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_float16_scaler_keeps_its_optimizer_from_being_fused():
    amp = ("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.PRECISION", "float16")
    cfg = quick_config(*ADAMW, "SOLVER.FUSED", "True", *amp)
    assert not optimizer_of(cfg, build(cfg)).param_groups[0]["fused"]


@pytest.mark.parametrize("steps, rates", [((2, 3), [1, 1, 0.1]), ((1,), [1, 0.1, 0.1])])
def test_a_step_of_the_rate_at_the_end_of_a_schedule_changes_nothing(steps, rates):
    given = ("SOLVER.MAX_ITER", "3", "SOLVER.STEPS", str(steps), "SOLVER.WARMUP_ITERS", "0")
    cfg = quick_config(*given, "SOLVER.BASE_LR", "1.0", "SOLVER.GAMMA", "0.1")
    optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), 1.0)
    scheduler, found = scheduler_of(cfg, optimizer), []
    for _ in range(3):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert found == pytest.approx(rates)
    assert steps == cfg.SOLVER.STEPS
