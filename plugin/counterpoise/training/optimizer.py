"""Optimizers beyond Detectron2's SGD, with Detectron2's rules for single parameters."""

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import (
    build_optimizer,
    get_default_optimizer_params,
    maybe_add_gradient_clipping,
)
from torch import nn

#: Start of the names of the parameters that ``SOLVER.BACKBONE_MULTIPLIER`` is for. The pyramid
#: belongs to the backbone of Detectron2, and is trained from scratch like the heads.
PRETRAINED = "backbone.bottom_up."


def optimizer_of(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer that ``SOLVER.OPTIMIZER`` names.

    The rates and weight decays of biases and normalisations, and the clipping of gradients, are
    those of Detectron2's keys. AdamW is arXiv:1711.05101, with torch's betas.

    Args:
        cfg: with the keys of the launcher.
        model: whose trainable parameters are optimized.
    """
    solver = cfg.SOLVER
    if solver.OPTIMIZER == "SGD" and solver.BACKBONE_MULTIPLIER == 1:
        return build_optimizer(cfg, model)
    parameters = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        lr_factor_func=lambda name: (
            solver.BACKBONE_MULTIPLIER if name.startswith(PRETRAINED) else 1.0
        ),
    )
    shared = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY, "foreach": True}
    if solver.OPTIMIZER == "SGD":
        optimizer = torch.optim.SGD(
            parameters, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV, **shared
        )
    else:
        optimizer = torch.optim.AdamW(parameters, **shared)
    return maybe_add_gradient_clipping(cfg, optimizer)
