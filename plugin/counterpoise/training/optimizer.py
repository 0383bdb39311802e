"""Optimizers beyond Detectron2's SGD, with Detectron2's rules for single parameters."""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier, build_lr_scheduler
from detectron2.solver.build import (
    build_optimizer,
    get_default_optimizer_params,
    maybe_add_gradient_clipping,
)
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from counterpoise.modeling.acceleration import trains_in_float16
from counterpoise.modeling.checkpoint import trunk_names

#: What a config says of a group of parameters; the rate follows from the first of them.
SETTINGS = ("initial_lr", "weight_decay", "momentum", "nesterov")


def optimizer_of(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer that ``SOLVER.OPTIMIZER`` names.

    The rates and weight decays of biases and normalisations, and the clipping of gradients, are
    those of Detectron2's keys. AdamW is arXiv:1711.05101, with torch's betas. ``SOLVER.FUSED``
    changes how the step is computed, to rounding; a float16 scaler keeps the step as it is, since
    it would leave its factor on the gradients that are clipped.

    Args:
        cfg: with the keys of the launcher.
        model: whose trainable parameters are optimized.
    """
    solver = cfg.SOLVER
    fused = solver.FUSED and not trains_in_float16(cfg)
    # Detectron2's own clipping of values fails in a step without any gradient, and is the same.
    clips_here = solver.CLIP_GRADIENTS.ENABLED and (
        fused or solver.CLIP_GRADIENTS.CLIP_TYPE == "value"
    )
    if solver.OPTIMIZER == "SGD" and solver.BACKBONE_MULTIPLIER == 1 and not (fused or clips_here):
        return build_optimizer(cfg, model)
    trunk = set(trunk_names(name for name, _ in model.named_parameters()))

    def factor(name: str) -> float:
        of_bias = solver.BIAS_LR_FACTOR if name.endswith(".bias") else 1.0
        return of_bias * (solver.BACKBONE_MULTIPLIER if name in trunk else 1.0)

    parameters = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        lr_factor_func=factor,  # its own factor of biases would take the place of the trunk's
    )
    shared = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY}
    shared["fused" if fused else "foreach"] = True
    if solver.OPTIMIZER == "SGD":
        optimizer = torch.optim.SGD(
            parameters, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV, **shared
        )
    else:
        optimizer = torch.optim.AdamW(parameters, **shared)
    if not clips_here:
        return maybe_add_gradient_clipping(cfg, optimizer)
    optimizer.register_step_pre_hook(partial(_clip_gradients, solver.CLIP_GRADIENTS))
    return optimizer


def scheduler_of(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """Build Detectron2's schedule of the rates.

    It fails over a step at the end of the schedule, where no rate is left to change; so that one is
    left out, as those beyond are.

    Args:
        cfg: of the training.
        optimizer: whose rates it sets.
    """
    steps = tuple(step for step in cfg.SOLVER.STEPS if step != cfg.SOLVER.MAX_ITER)
    if steps != tuple(cfg.SOLVER.STEPS):
        cfg = cfg.clone()
        cfg.defrost()
        cfg.SOLVER.STEPS = steps
    return build_lr_scheduler(cfg, optimizer)


@contextlib.contextmanager
def settings_kept(optimizer: torch.optim.Optimizer, scheduler: LRScheduler) -> Iterator[None]:
    """Let a state that is loaded within the block leave the settings of the config as they are.

    The state of an optimizer holds those that it had when it was saved, and that of Detectron2's
    scheduler the rates that it multiplies.

    Args:
        optimizer: before its first step.
        scheduler: of its rates.
    """
    own = [{k: v for k, v in g.items() if k in SETTINGS} for g in optimizer.param_groups]
    yield
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.update(settings)
    if isinstance(scheduler, LRMultiplier):
        scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        for group, rate in zip(optimizer.param_groups, scheduler.get_lr(), strict=True):
            group["lr"] = rate


def _clip_gradients(clip: CfgNode, optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Detectron2's clipping, which is of each parameter by itself, in a few calls for all."""
    parameters = [
        p for group in optimizer.param_groups for p in group["params"] if p.grad is not None
    ]
    if not parameters:  # of a step that was left out
        return
    if clip.CLIP_TYPE == "value":
        torch.nn.utils.clip_grad_value_(parameters, clip.CLIP_VALUE)
        return
    gradients = [p.grad for p in parameters]
    norms = torch.stack(torch._foreach_norm(gradients, clip.NORM_TYPE))
    factors = (clip.CLIP_VALUE / (norms + 1e-6)).clamp(max=1.0)  # as clip_grad_norm_ does
    torch._foreach_mul_(gradients, factors.unbind())
