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

from counterpoise.balance import sampling
from counterpoise.balance.class_weights import BACKGROUNDS, NORMALIZES
from counterpoise.config.keys import training_config
from counterpoise.errors import UserError, did_you_mean
from counterpoise.modeling import dense_loss, roi_loss, rpn, weight_sources
from counterpoise.modeling.registry import (
    ANCHOR_SAMPLER_REGISTRY,
    DENSE_LOSS_REGISTRY,
    ROI_LOSS_REGISTRY,
    ROI_SAMPLER_REGISTRY,
    WEIGHT_RULE_REGISTRY,
)
from counterpoise.modeling.weight_sources import RETINANETS


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
    "BALANCE.ROI_LOSS.NORMALIZER": lambda: roi_loss.NORMALIZERS,
    "BALANCE.DENSE_LOSS.NAME": lambda: _names(DENSE_LOSS_REGISTRY),
    "BALANCE.DENSE_LOSS.ALPHA_SOURCE": lambda: dense_loss.ALPHA_SOURCES,
    "BALANCE.CLASS_WEIGHTS.SOURCE": lambda: weight_sources.SOURCES,
    "BALANCE.CLASS_WEIGHTS.RULE": lambda: _names(WEIGHT_RULE_REGISTRY),
    "BALANCE.CLASS_WEIGHTS.BACKGROUND": lambda: BACKGROUNDS,
    "BALANCE.CLASS_WEIGHTS.NORMALIZE": lambda: NORMALIZES,
    "BALANCE.ANCHOR_SAMPLER.NAME": lambda: _names(ANCHOR_SAMPLER_REGISTRY),
    "BALANCE.ANCHOR_SAMPLER.NORMALIZER": lambda: rpn.NORMALIZERS,
    "BALANCE.ANCHOR_SAMPLER.TIE_BREAK": lambda: sampling.TIE_BREAKS,
    "BALANCE.ROI_SAMPLER.NAME": lambda: _names(ROI_SAMPLER_REGISTRY),
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
    "GeneralizedRCNN": "BalancedRetinaNet",
    "RPN": "BalancedRPN",
    "StandardROIHeads": "BalancedROIHeads",
    "Res5ROIHeads": "BalancedRes5ROIHeads",
    "CascadeROIHeads": "BalancedCascadeROIHeads",
}

RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "BALANCE.ROI_LOSS.GAMMA": (lambda v: v >= 0, ">= 0"),
    "BALANCE.ROI_LOSS.LOSS_WEIGHT": (lambda v: v > 0, "> 0"),
    "BALANCE.ROI_LOSS.PRIOR_PROB": (lambda v: 0 <= v < 1, "in [0, 1), 0 being off"),
    "BALANCE.DENSE_LOSS.ALPHA": (lambda v: v == -1 or 0 <= v <= 1, "in [0, 1], or -1 for off"),
    "BALANCE.DENSE_LOSS.GAMMA": (lambda v: v >= 0, ">= 0"),
    "BALANCE.DENSE_LOSS.RATIO": (lambda v: v >= 0, "> 0, or 0 to choose by BATCH_SIZE alone"),
    "BALANCE.DENSE_LOSS.BATCH_SIZE": (lambda v: v >= 0, ">= 0, 0 meaning without bound"),
    "BALANCE.DENSE_LOSS.MIN_NEGATIVES": (lambda v: v >= 0, ">= 0"),
    "BALANCE.DENSE_LOSS.NMS_THRESH": (
        lambda v: v == -1 or 0 <= v <= 1, "in [0, 1], or -1 for off",
    ),
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
    "BALANCE.ROI_SAMPLER.BUDGET": (lambda v: v >= 1, ">= 1"),
    "BALANCE.ROI_SAMPLER.NMS_THRESH": (
        lambda v: v == -1 or 0 <= v <= 1, "in [0, 1], or -1 for off",
    ),
    "INPUT.COLOR_JITTER": (lambda v: 0 <= v < 1, "in [0, 1)"),
    "MODEL.RETINANET.NUM_CLASSES": (lambda v: v >= 0, ">= 0, 0 meaning as many as the data has"),
    "MODEL.RETINANET.NUM_CONVS": (lambda v: v >= 1, ">= 1"),
    "MODEL.ROI_HEADS.NUM_CLASSES": (lambda v: v >= 0, ">= 0, 0 meaning as many as the data has"),
    "SOLVER.BASE_LR": (lambda v: v > 0, "> 0"),
    "SOLVER.IMS_PER_BATCH": (lambda v: v >= 1, ">= 1"),
    "SOLVER.MAX_ITER": (lambda v: v >= 1, ">= 1"),
    "TEST.EVAL_PERIOD": (lambda v: v >= 0, ">= 0, 0 meaning at the end only"),
}  # fmt: skip


def check_config(cfg: CfgNode) -> None:
    """Refuse values that no part of the program could use.

    Args:
        cfg: of :func:`counterpoise.config.loading.load_config`.

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
    for key in ("BALANCE.ROI_LOSS.ALPHA", "BALANCE.CLASS_WEIGHTS.VALUES"):
        for value in _value(cfg, key):
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                raise UserError(f"{key} holds {value!r}, expected finite numbers, such as [1, 2.5]")
    alphas = cfg.BALANCE.ROI_LOSS.ALPHA
    if list(alphas) != [-1] and not all(0 <= alpha <= 1 for alpha in alphas):
        raise UserError(
            f"BALANCE.ROI_LOSS.ALPHA is {list(alphas)}, expected numbers in [0, 1], or [-1] for off"
        )
    _check_dense_loss(cfg)
    _check_balance_is_read(cfg)


def _check_dense_loss(cfg: CfgNode) -> None:
    """Refuse settings of the dense loss that contradict each other."""
    node, section = cfg.BALANCE.DENSE_LOSS, "BALANCE.DENSE_LOSS"
    if node.NAME == "ohem" and not node.RATIO and not node.BATCH_SIZE:
        raise UserError(
            f"{section}.RATIO and {section}.BATCH_SIZE are both 0, so ohem would choose nothing: "
            "set one of them, such as RATIO 3 or BATCH_SIZE 128"
        )
    if node.NAME == "ohem" and 0 < node.BATCH_SIZE < 1 + node.RATIO:
        raise UserError(
            f"{section}.BATCH_SIZE is {node.BATCH_SIZE}, which has no room for one positive and "
            f"{node.RATIO:g} negatives ({section}.RATIO): raise it, or set 0 for no bound"
        )
    if node.ALPHA_SOURCE == "fixed":
        return
    if node.NAME == "ohem":
        raise UserError(
            f"{section}.ALPHA_SOURCE is '{node.ALPHA_SOURCE}', but ohem has no alpha: set "
            f"{section}.NAME to 'sigmoid_focal' or 'cross_entropy', or ALPHA_SOURCE to 'fixed'"
        )
    if not 0 < node.ALPHA < 1:
        raise UserError(
            f"{section}.ALPHA is {node.ALPHA}, expected a number in (0, 1), around which "
            f"ALPHA_SOURCE '{node.ALPHA_SOURCE}' spreads the classes"
        )
    if cfg.BALANCE.CLASS_WEIGHTS.SOURCE != "dataset":
        raise UserError(
            f"{section}.ALPHA_SOURCE is '{node.ALPHA_SOURCE}', but BALANCE.CLASS_WEIGHTS.SOURCE is "
            f"'{cfg.BALANCE.CLASS_WEIGHTS.SOURCE}': set that to 'dataset' too"
        )


def _check_balance_is_read(cfg: CfgNode) -> None:
    """Refuse BALANCE keys that were changed for components that never look at them."""
    defaults = training_config().BALANCE
    for section, (key, reader) in unread_sections(cfg).items():
        own, default = cfg.BALANCE[section], defaults[section]
        if isinstance(own, CfgNode):
            changed = [f"{section}.{k}" for k, v in own.items() if v != default[k]]
        else:
            changed = [section] if own != default else []
        if changed:
            raise UserError(
                f"BALANCE.{changed[0]} is set, but {key} is '{_value(cfg, key)}', which "
                f"does not read it: set {key} to '{reader}'"
            )


def unread_sections(cfg: CfgNode) -> dict[str, tuple[str, str]]:
    """Parts of BALANCE that no component reads -> the key, and its value that would read it."""
    architecture = "MODEL.META_ARCHITECTURE"
    if cfg.MODEL.META_ARCHITECTURE not in RETINANETS:
        readers = {
            "ROI_LOSS": "MODEL.ROI_HEADS.NAME",
            "CLASS_WEIGHTS": "MODEL.ROI_HEADS.NAME",
            "ANCHOR_SAMPLER": "MODEL.PROPOSAL_GENERATOR.NAME",
            "ROI_SAMPLER": "MODEL.ROI_HEADS.NAME",
            "SCORE_THRESHOLDS": "MODEL.ROI_HEADS.NAME",
            "DENSE_LOSS": architecture,
        }
        return {
            section: (key, DETECTRON2_COMPONENTS[_value(cfg, key)])
            for section, key in readers.items()
            if _value(cfg, key) in DETECTRON2_COMPONENTS
        }
    unread = dict.fromkeys(
        ("ROI_LOSS", "ANCHOR_SAMPLER", "ROI_SAMPLER"), (architecture, "GeneralizedRCNN")
    )
    dense = cfg.BALANCE.DENSE_LOSS
    if cfg.MODEL.META_ARCHITECTURE == "RetinaNet":
        unread |= dict.fromkeys(
            ("DENSE_LOSS", "CLASS_WEIGHTS", "SCORE_THRESHOLDS"), (architecture, "BalancedRetinaNet")
        )
    elif dense.ALPHA_SOURCE == "fixed" and dense.NAME in dense_loss.BUILT_IN:
        unread["CLASS_WEIGHTS"] = ("BALANCE.DENSE_LOSS.ALPHA_SOURCE", "dataset")
    return unread


def _value(cfg: CfgNode, key: str) -> object:
    node = cfg
    for part in key.split("."):
        node = node[part]
    return node
