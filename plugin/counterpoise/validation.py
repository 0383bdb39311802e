"""Checks of a config's values, before anything long begins."""

import math
from collections.abc import Callable, Iterable

from detectron2.config import CfgNode
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
)

from counterpoise import classification, rpn, weight_sources
from counterpoise.class_weights import BACKGROUNDS, NORMALIZES
from counterpoise.config import training_config
from counterpoise.errors import UserError, did_you_mean
from counterpoise.registry import (
    ANCHOR_SAMPLER_REGISTRY,
    ROI_LOSS_REGISTRY,
    WEIGHT_RULE_REGISTRY,
)


def _names(registry: Iterable[tuple[str, object]]) -> list[str]:
    return [name for name, _ in registry]


#: Names that Detectron2 compares with in code, without a registry.
TRAINING_SAMPLERS = (
    "TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler",
    "WeightedTrainingSampler", "WeightedCategoryTrainingSampler",
)  # fmt: skip
LR_SCHEDULERS = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")

CHOICES: dict[str, Callable[[], Iterable[str]]] = {
    "BALANCE.ROI_LOSS.NAME": lambda: _names(ROI_LOSS_REGISTRY),
    "BALANCE.ROI_LOSS.NORMALIZER": lambda: classification.NORMALIZERS,
    "BALANCE.CLASS_WEIGHTS.SOURCE": lambda: weight_sources.SOURCES,
    "BALANCE.CLASS_WEIGHTS.RULE": lambda: _names(WEIGHT_RULE_REGISTRY),
    "BALANCE.CLASS_WEIGHTS.BACKGROUND": lambda: BACKGROUNDS,
    "BALANCE.CLASS_WEIGHTS.NORMALIZE": lambda: NORMALIZES,
    "BALANCE.ANCHOR_SAMPLER.NAME": lambda: _names(ANCHOR_SAMPLER_REGISTRY),
    "BALANCE.ANCHOR_SAMPLER.NORMALIZER": lambda: rpn.NORMALIZERS,
    "DATASETS.BAD_RECORDS": lambda: ("skip", "refuse"),
    "DATALOADER.SAMPLER_TRAIN": lambda: TRAINING_SAMPLERS,
    "INPUT.CROP.TYPE": lambda: ("relative_range", "relative", "absolute", "absolute_range"),
    "INPUT.FORMAT": lambda: ("BGR", "RGB"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": lambda: ("range", "choice"),
    "INPUT.RANDOM_FLIP": lambda: ("horizontal", "vertical", "none"),
    "MODEL.META_ARCHITECTURE": lambda: _names(META_ARCH_REGISTRY),
    "MODEL.BACKBONE.NAME": lambda: _names(BACKBONE_REGISTRY),
    "MODEL.PROPOSAL_GENERATOR.NAME": lambda: [
        *_names(PROPOSAL_GENERATOR_REGISTRY), "PrecomputedProposals",
    ],
    "MODEL.ROI_HEADS.NAME": lambda: _names(ROI_HEADS_REGISTRY),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": lambda: ("value", "norm"),
    "SOLVER.LR_SCHEDULER_NAME": lambda: LR_SCHEDULERS,
}  # fmt: skip

#: Components of Detectron2, and the one here that takes the place of each.
DETECTRON2_COMPONENTS = {
    "RPN": "BalancedRPN",
    "StandardROIHeads": "BalancedROIHeads",
    "Res5ROIHeads": "BalancedRes5ROIHeads",
    "CascadeROIHeads": "BalancedCascadeROIHeads",
}

RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "BALANCE.ROI_LOSS.GAMMA": (lambda v: v >= 0, ">= 0"),
    "BALANCE.ROI_LOSS.LOSS_WEIGHT": (lambda v: v > 0, "> 0"),
    "BALANCE.ROI_LOSS.PRIOR_PROB": (lambda v: 0 <= v < 1, "in [0, 1), 0 being off"),
    "BALANCE.CLASS_WEIGHTS.LOG_OFFSET": (lambda v: v > 1, "> 1"),
    "BALANCE.CLASS_WEIGHTS.BETA": (lambda v: 0 < v < 1, "in (0, 1)"),
    "BALANCE.CLASS_WEIGHTS.BACKGROUND_VALUE": (lambda v: v > 0, "> 0"),
    "BALANCE.CLASS_WEIGHTS.BACKGROUND_FRACTION": (lambda v: 0 < v <= 1, "in (0, 1]"),
    "BALANCE.ANCHOR_SAMPLER.RATIO": (lambda v: v > 0, "> 0"),
    "BALANCE.ANCHOR_SAMPLER.MAX_POSITIVES": (lambda v: v >= -1 and v != 0, ">= 1, or -1 for all"),
    "BALANCE.ANCHOR_SAMPLER.MIN_NEGATIVES": (lambda v: v >= 0, ">= 0"),
    "BALANCE.ANCHOR_SAMPLER.NMS_THRESH": (
        lambda v: v == -1 or 0 <= v <= 1, "in [0, 1], or -1 for off",
    ),
    "INPUT.COLOR_JITTER": (lambda v: 0 <= v < 1, "in [0, 1)"),
    "MODEL.ROI_HEADS.NUM_CLASSES": (lambda v: v >= 0, ">= 0, 0 meaning as many as the data has"),
    "SOLVER.BASE_LR": (lambda v: v > 0, "> 0"),
    "SOLVER.IMS_PER_BATCH": (lambda v: v >= 1, ">= 1"),
    "SOLVER.MAX_ITER": (lambda v: v >= 1, ">= 1"),
    "TEST.EVAL_PERIOD": (lambda v: v >= 0, ">= 0, 0 meaning at the end only"),
}  # fmt: skip


def check_config(cfg: CfgNode) -> None:
    """Refuse values that no part of the program could use.

    Args:
        cfg: of :func:`counterpoise.config.load_config`.

    Raises:
        UserError: the key, its value, and the valid ones with the nearest first.
    """
    for key, known in CHOICES.items():
        value = _value(cfg, key)
        if value not in known():
            raise UserError(f"{key} is '{value}', {did_you_mean(value, known())}")
    for key, (holds, wanted) in RANGES.items():
        value = _value(cfg, key)
        if not (math.isfinite(value) and holds(value)):
            raise UserError(f"{key} is {value}, expected a number {wanted}")
    alphas = cfg.BALANCE.ROI_LOSS.ALPHA
    if list(alphas) != [-1] and not all(0 <= alpha <= 1 for alpha in alphas):
        raise UserError(
            f"BALANCE.ROI_LOSS.ALPHA is {list(alphas)}, expected numbers in [0, 1], or [-1] for off"
        )
    _check_balance_is_read(cfg)


def _check_balance_is_read(cfg: CfgNode) -> None:
    """Refuse BALANCE keys that were changed for components that never look at them."""
    defaults = training_config().BALANCE
    readers = {
        "ROI_LOSS": "MODEL.ROI_HEADS.NAME",
        "CLASS_WEIGHTS": "MODEL.ROI_HEADS.NAME",
        "ANCHOR_SAMPLER": "MODEL.PROPOSAL_GENERATOR.NAME",
    }
    for section, key in readers.items():
        name = _value(cfg, key)
        changed = [k for k, v in cfg.BALANCE[section].items() if v != defaults[section][k]]
        if changed and name in DETECTRON2_COMPONENTS:
            raise UserError(
                f"BALANCE.{section}.{changed[0]} is set, but {key} is '{name}', which does not "
                f"read it: set {key} to '{DETECTRON2_COMPONENTS[name]}'"
            )


def _value(cfg: CfgNode, key: str) -> object:
    node = cfg
    for part in key.split("."):
        node = node[part]
    return node
