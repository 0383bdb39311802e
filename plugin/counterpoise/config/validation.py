"""Checks of a config's values, before anything long begins."""

import math
import re
from dataclasses import replace

import torch
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY

from counterpoise.config.combinations import check_combinations
from counterpoise.config.declaration import Choices, Interval, Numbers
from counterpoise.config.detectron2_keys import DETECTRON2_KEYS
from counterpoise.config.keys import DECLARED, training_config
from counterpoise.config.tree import flat_leaves, value_at
from counterpoise.config.unread_keys import refuse_unread_keys
from counterpoise.errors import OF_ONES_OWN, UserError, check_name
from counterpoise.modeling import dense_loss
from counterpoise.modeling.architectures import RETINANETS
from counterpoise.modeling.roi_heads import refuse_prior_without_bias

#: What a key allows besides the names of its registry.
WITHOUT_REGISTRY = {"MODEL.PROPOSAL_GENERATOR.NAME": ("PrecomputedProposals",)}

#: Components of Detectron2 that make no detector of upright boxes: why, and what to set instead.
OTHER_TASKS = {
    ("MODEL.META_ARCHITECTURE", "ProposalNetwork"): (
        "finds boxes without classes", "GeneralizedRCNN",
    ),
    ("MODEL.META_ARCHITECTURE", "SemanticSegmentor"): (
        "labels pixels in place of objects", "GeneralizedRCNN",
    ),
    ("MODEL.META_ARCHITECTURE", "PanopticFPN"): (
        "needs a label for every pixel, which no dataset of boxes has", "GeneralizedRCNN",
    ),
    ("MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator"): (
        "makes rotated boxes, while datasets here have upright ones", "DefaultAnchorGenerator",
    ),
    ("MODEL.PROPOSAL_GENERATOR.NAME", "RRPN"): (
        "proposes rotated boxes, while datasets here have upright ones", "BalancedRPN",
    ),
    ("MODEL.ROI_HEADS.NAME", "RROIHeads"): (
        "detects rotated boxes, while datasets here have upright ones", "BalancedROIHeads",
    ),
}  # fmt: skip

#: Samplers that read a key which Detectron2's defaults may not define.
SAMPLER_KEYS = {
    "RandomSubsetTrainingSampler": "DATALOADER.RANDOM_SUBSET_RATIO",
    "WeightedTrainingSampler": "DATASETS.TRAIN_REPEAT_FACTOR",
    "WeightedCategoryTrainingSampler": "DATASETS.TRAIN_REPEAT_FACTOR",
}


def check_config(cfg: CfgNode) -> None:
    """Refuse values that no part of the program could use, and those that none would read.

    Args:
        cfg: of :func:`counterpoise.config.loading.load_config`.

    Raises:
        UserError: the key, its value, and the valid ones with the nearest first.
    """
    allowed = {key: entry.allowed for key, entry in DECLARED.items()}
    known = dict(flat_leaves(cfg))
    for key, values in (allowed | DETECTRON2_KEYS).items():
        if key in known:  # not every Detectron2 has every key
            _check_value(key, known[key], values)
    _check_device(cfg)
    _check_task(cfg)
    _check_backbone(cfg)
    _check_sampler(cfg)
    _check_proposals(cfg)
    _check_composed_images(cfg)
    _check_augmented_test(cfg)
    _check_dense_loss(cfg)
    dense_loss.check_alpha_source(cfg)
    refuse_prior_without_bias(cfg)
    refuse_unread_keys(cfg)
    check_combinations(cfg)


def _check_value(key: str, value: object, allowed: Choices | Interval | Numbers | None) -> None:
    if isinstance(allowed, Choices):
        more = OF_ONES_OWN if allowed.extensible else ""
        check_name(key, value, [*allowed.known, *WITHOUT_REGISTRY.get(key, ())], more)
    elif isinstance(allowed, Numbers):
        if value not in allowed:
            shown = value if len(str(value)) < 80 else f"{str(value)[:77]}..."
            raise UserError(f"{key} is {shown}, expected {allowed}")
    elif isinstance(allowed, Interval) and isinstance(value, list):
        _check_numbers(key, value, allowed)
    elif isinstance(allowed, Interval) and value not in allowed:
        raise UserError(f"{key} is {value}, expected a number {allowed}")


def _check_numbers(key: str, values: list, allowed: Interval) -> None:
    for value in values:
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise UserError(f"{key} holds {value!r}, expected finite numbers, such as [1, 2.5]")
    if allowed.special is not None and values == [allowed.special[0]]:
        return
    if not all(value in replace(allowed, special=None) for value in values):
        raise UserError(f"{key} is {values}, expected numbers {allowed}")


def _check_device(cfg: CfgNode) -> None:
    name = cfg.MODEL.DEVICE
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"MODEL.DEVICE is '{name}', expected 'cpu', 'cuda' or 'cuda:1'")
    if name.startswith("cuda:") and 0 < torch.cuda.device_count() <= int(name[5:]):
        raise UserError(
            f"MODEL.DEVICE is '{name}', but this machine has {torch.cuda.device_count()} GPUs, "
            "counted from 0"
        )


def _check_task(cfg: CfgNode) -> None:
    """Refuse models of other tasks than the detection of upright boxes."""
    for (key, value), (reason, instead) in OTHER_TASKS.items():
        if value_at(cfg, key) == value:
            raise UserError(f"{key} is '{value}', which {reason}: set it to '{instead}'")
    for key in ("MASK_ON", "KEYPOINT_ON"):
        if cfg.MODEL[key] and cfg.MODEL.META_ARCHITECTURE in RETINANETS:
            raise UserError(
                f"MODEL.{key} is True, but {cfg.MODEL.META_ARCHITECTURE} finds boxes only: set it "
                "to False, or MODEL.META_ARCHITECTURE to 'GeneralizedRCNN'"
            )
    if cfg.TEST.KEYPOINT_OKS_SIGMAS:
        raise UserError(
            f"TEST.KEYPOINT_OKS_SIGMAS is {list(cfg.TEST.KEYPOINT_OKS_SIGMAS)}, but boxes alone "
            "are evaluated here: set it to []"
        )


def _check_backbone(cfg: CfgNode) -> None:
    """Refuse a number of frozen stages of a ResNet for a backbone of torchvision, and the name of
    one of torchvision for a backbone of Detectron2."""
    name, stages = cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT
    if "torchvision" in name and stages != training_config().MODEL.BACKBONE.FREEZE_AT:
        raise UserError(
            f"MODEL.BACKBONE.FREEZE_AT is {stages}, but MODEL.BACKBONE.NAME is '{name}', which "
            "reads MODEL.TORCHVISION.FREEZE_AT: set that key instead"
        )
    network = cfg.MODEL.TORCHVISION.NAME
    of_detectron2 = BACKBONE_REGISTRY.get(name).__module__.startswith("detectron2.")
    if of_detectron2 and network != DECLARED["MODEL.TORCHVISION.NAME"].default:
        kind = "retinanet_fpn" if cfg.MODEL.META_ARCHITECTURE in RETINANETS else "fpn"
        raise UserError(
            f"MODEL.TORCHVISION.NAME is '{network}', but MODEL.BACKBONE.NAME is '{name}', which "
            f"does not read it: set that to 'build_torchvision_{kind}_backbone'"
        )


def _check_sampler(cfg: CfgNode) -> None:
    """Refuse samplers of training images that would fail or change nothing."""
    name = cfg.DATALOADER.SAMPLER_TRAIN
    needed = SAMPLER_KEYS.get(name)
    if needed is not None:
        section, key = needed.split(".")
        if key not in cfg[section]:
            raise UserError(
                f"DATALOADER.SAMPLER_TRAIN is '{name}', which reads {needed}, a key that this "
                "Detectron2 does not define: set it to 'TrainingSampler' or "
                "'RepeatFactorTrainingSampler'"
            )
    if name == "RepeatFactorTrainingSampler" and cfg.DATALOADER.REPEAT_THRESHOLD <= 0:
        raise UserError(
            f"DATALOADER.REPEAT_THRESHOLD is {cfg.DATALOADER.REPEAT_THRESHOLD:g}, with which "
            f"{name} repeats no image: set it to the share of images below which a class is rare, "
            "such as 0.1"
        )
    if name == "TrainingSampler" and cfg.DATALOADER.REPEAT_THRESHOLD > 0:
        raise UserError(
            f"DATALOADER.REPEAT_THRESHOLD is {cfg.DATALOADER.REPEAT_THRESHOLD:g}, but "
            f"DATALOADER.SAMPLER_TRAIN is '{name}', which does not read it: set that to "
            "'RepeatFactorTrainingSampler'"
        )
    rule = cfg.BALANCE.IMAGE_SAMPLER.NAME
    if rule != "none" and name != "TrainingSampler":
        raise UserError(
            f"BALANCE.IMAGE_SAMPLER.NAME is '{rule}', but DATALOADER.SAMPLER_TRAIN is "
            f"'{name}', which chooses the images too: set that to 'TrainingSampler', or this to "
            "'none'"
        )


def _check_proposals(cfg: CfgNode) -> None:
    """Refuse proposals from files that no part of the model would read, and a lack of them."""
    loaded, name = cfg.MODEL.LOAD_PROPOSALS, cfg.MODEL.PROPOSAL_GENERATOR.NAME
    if loaded and cfg.MODEL.META_ARCHITECTURE in RETINANETS:
        raise UserError(
            f"MODEL.LOAD_PROPOSALS is True, but {cfg.MODEL.META_ARCHITECTURE} uses no proposals: "
            "set it to False"
        )
    if cfg.MODEL.META_ARCHITECTURE in RETINANETS or loaded == (name == "PrecomputedProposals"):
        return
    if loaded:
        raise UserError(
            f"MODEL.LOAD_PROPOSALS is True, but MODEL.PROPOSAL_GENERATOR.NAME is '{name}', which "
            "makes its own proposals: set that to 'PrecomputedProposals', or this to False"
        )
    raise UserError(
        "MODEL.PROPOSAL_GENERATOR.NAME is 'PrecomputedProposals', but MODEL.LOAD_PROPOSALS is "
        "False: set that to True, or this to 'BalancedRPN'"
    )


def _check_composed_images(cfg: CfgNode) -> None:
    """Refuse images composed of several for models that need more than their boxes."""
    node = cfg.INPUT
    if node.COMPOSE_UNTIL < 1 and not (node.MOSAIC.PROB or node.COPY_PASTE.PROB or node.MIXUP.PROB):
        raise UserError(
            f"INPUT.COMPOSE_UNTIL is {node.COMPOSE_UNTIL:g}, but no image is composed: set PROB of "
            "INPUT.MOSAIC, INPUT.COPY_PASTE or INPUT.MIXUP above 0, or this to 1"
        )
    for section in ("MOSAIC", "COPY_PASTE", "MIXUP"):
        for key in ("MASK_ON", "KEYPOINT_ON", "LOAD_PROPOSALS"):
            if cfg.INPUT[section].PROB and cfg.MODEL[key]:
                raise UserError(
                    f"INPUT.{section}.PROB is {cfg.INPUT[section].PROB:g}, which composes images "
                    f"with their boxes alone, but MODEL.{key} is True: set that to False, or "
                    "this to 0"
                )


def _check_augmented_test(cfg: CfgNode) -> None:
    """Refuse test-time augmentation of models for which Detectron2 has none."""
    if not cfg.TEST.AUG.ENABLED:
        return
    if cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN":
        unfit = f"MODEL.META_ARCHITECTURE is '{cfg.MODEL.META_ARCHITECTURE}'"
    elif cfg.MODEL.KEYPOINT_ON or cfg.MODEL.LOAD_PROPOSALS:
        unfit = f"MODEL.{'KEYPOINT_ON' if cfg.MODEL.KEYPOINT_ON else 'LOAD_PROPOSALS'} is True"
    elif not cfg.TEST.AUG.MIN_SIZES:
        raise UserError(
            "TEST.AUG.MIN_SIZES is empty: name sizes to test at, such as (400, 600), or set "
            "TEST.AUG.ENABLED False"
        )
    elif cfg.TEST.PRECISION != "float32":
        # It calls parts of the model, not the model that casts itself.
        raise UserError(
            f"TEST.PRECISION is '{cfg.TEST.PRECISION}', but TEST.AUG.ENABLED is True, and "
            "Detectron2's test-time augmentation runs in float32: set one of them back"
        )
    else:
        return
    raise UserError(
        f"TEST.AUG.ENABLED is True, but {unfit}, for which Detectron2 has no test-time "
        "augmentation: set TEST.AUG.ENABLED False"
    )


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
