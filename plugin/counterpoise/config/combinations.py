"""Values of Detectron2's keys that each are valid, and that Detectron2 cannot combine."""

from detectron2.config import CfgNode
from detectron2.modeling import (
    ROI_BOX_HEAD_REGISTRY,
    ROI_KEYPOINT_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
)

from counterpoise.config.tree import value_at
from counterpoise.errors import UserError, did_you_mean
from counterpoise.modeling.architectures import RETINANETS, anchor_section, feature_sections

CASCADES = ("CascadeROIHeads", "BalancedCascadeROIHeads")
#: ROI heads that take the last stage of a ResNet along.
RES5_HEADS = ("Res5ROIHeads", "BalancedRes5ROIHeads")
#: ROI heads that build ``MODEL.ROI_BOX_HEAD``.
WITH_BOX_HEAD = ("StandardROIHeads", "BalancedROIHeads", *CASCADES)
#: Channels that group norm divides into as many groups.
NORM_GROUPS = 32


def check_combinations(cfg: CfgNode) -> None:
    """Refuse combinations that would end in an assertion while a model or loader is built.

    Args:
        cfg: whose values are checked one by one.

    Raises:
        UserError: the keys, their values and what they have to be.
    """
    _check_sizes(cfg)
    _check_crop(cfg)
    _check_anchors(cfg)
    _check_resnet(cfg)
    _check_group_norm(cfg)
    if cfg.MODEL.META_ARCHITECTURE in RETINANETS:
        _check_labels(cfg, "RETINANET")
    else:
        _check_labels(cfg, "RPN")
        _check_labels(cfg, "ROI_HEADS")
        _check_box_head(cfg)
        _check_other_heads(cfg)
        if cfg.MODEL.ROI_HEADS.NAME in CASCADES:
            _check_cascade(cfg)
    if cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupCosineLR":
        _check_last_rate(cfg)


def _check_sizes(cfg: CfgNode) -> None:
    sizes = list(cfg.INPUT.MIN_SIZE_TRAIN)
    in_order = len(sizes) == 2 and sizes[0] <= sizes[1]
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and not in_order:
        raise UserError(
            f"INPUT.MIN_SIZE_TRAIN is {sizes}, but MIN_SIZE_TRAIN_SAMPLING 'range' draws from the "
            "smallest to the largest size: give two, such as (640, 800), or set it to 'choice'"
        )


def _check_crop(cfg: CfgNode) -> None:
    kind, size = cfg.INPUT.CROP.TYPE, list(cfg.INPUT.CROP.SIZE)
    if not cfg.INPUT.CROP.ENABLED:
        return
    if kind.startswith("relative"):
        fits, expected = max(size) <= 1, "two shares of the image up to 1, such as [0.9, 0.9]"
    else:
        fits = all(isinstance(side, int) for side in size)
        expected = "two whole numbers of pixels, such as [384, 600]"
    if kind == "absolute_range":
        fits, expected = fits and size[0] <= size[1], f"{expected}, the smaller one first"
    if not fits:
        raise UserError(f"INPUT.CROP.SIZE is {size}, but TYPE '{kind}' takes {expected}")


def _check_anchors(cfg: CfgNode) -> None:
    section = anchor_section(cfg)
    if section not in feature_sections(cfg):
        return
    levels = len(cfg.MODEL[section].IN_FEATURES)
    per_level = [1] * levels
    for key in ("SIZES", "ASPECT_RATIOS"):
        values = cfg.MODEL.ANCHOR_GENERATOR[key]
        if len(values) not in (1, levels):
            raise UserError(
                f"MODEL.ANCHOR_GENERATOR.{key} has {len(values)} lists, but MODEL.{section}."
                f"IN_FEATURES has {levels} levels: give one list for all, or one for each"
            )
        own = [len(each) for each in values] * (levels if len(values) == 1 else 1)
        per_level = [n * k for n, k in zip(per_level, own, strict=True)]
    if len(set(per_level)) > 1:
        raise UserError(
            f"MODEL.ANCHOR_GENERATOR gives {per_level} anchors a place on the levels of MODEL."
            f"{section}.IN_FEATURES, whose head is shared: give each level as many"
        )


def _check_labels(cfg: CfgNode, section: str) -> None:
    node = cfg.MODEL[section]
    thresholds, labels = list(node.IOU_THRESHOLDS), list(node.IOU_LABELS)
    if len(labels) != len(thresholds) + 1:
        raise UserError(
            f"MODEL.{section}.IOU_LABELS is {labels}, but IOU_THRESHOLDS {thresholds} make "
            f"{len(thresholds) + 1} ranges: give each a label"
        )
    if not {-1, 0, 1}.issuperset(labels):
        raise UserError(
            f"MODEL.{section}.IOU_LABELS is {labels}, expected 1 for an object, 0 for the "
            "background and -1 for what is ignored"
        )


def _check_box_head(cfg: CfgNode) -> None:
    node, heads = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_HEADS.NAME
    if heads in WITH_BOX_HEAD and node.NAME not in ROI_BOX_HEAD_REGISTRY:
        known = [name for name, _ in ROI_BOX_HEAD_REGISTRY]
        raise UserError(
            f"MODEL.ROI_BOX_HEAD.NAME is '{node.NAME}', {did_you_mean(node.NAME, known)}"
        )
    if node.NAME == "FastRCNNConvFCHead" and not node.NUM_FC + node.NUM_CONV:
        raise UserError(
            "MODEL.ROI_BOX_HEAD.NUM_FC and NUM_CONV are both 0, so that the head has no layer: set "
            "one of them, such as NUM_FC 2"
        )


def _check_other_heads(cfg: CfgNode) -> None:
    for key, section, registry in (
        ("MASK_ON", "ROI_MASK_HEAD", ROI_MASK_HEAD_REGISTRY),
        ("KEYPOINT_ON", "ROI_KEYPOINT_HEAD", ROI_KEYPOINT_HEAD_REGISTRY),
    ):
        name = cfg.MODEL[section].NAME
        if cfg.MODEL[key] and name not in registry:
            known = [known for known, _ in registry]
            raise UserError(f"MODEL.{section}.NAME is '{name}', {did_you_mean(name, known)}")
    heads, features = cfg.MODEL.ROI_HEADS.NAME, list(cfg.MODEL.ROI_HEADS.IN_FEATURES)
    if heads in RES5_HEADS and len(features) != 1:
        raise UserError(
            f"MODEL.ROI_HEADS.NAME is '{heads}', which reads one feature, but IN_FEATURES is "
            f"{features}: set it to 'BalancedROIHeads', or begin with a C4 config such as "
            "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml"
        )


def _check_cascade(cfg: CfgNode) -> None:
    heads, node = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_CASCADE_HEAD
    if not cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG:
        raise UserError(
            f"MODEL.ROI_HEADS.NAME is '{heads.NAME}', whose stages move a box whatever its class: "
            "set MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG True"
        )
    if len(node.BBOX_REG_WEIGHTS) != len(node.IOUS):
        raise UserError(
            f"MODEL.ROI_BOX_CASCADE_HEAD has {len(node.IOUS)} IOUS and "
            f"{len(node.BBOX_REG_WEIGHTS)} BBOX_REG_WEIGHTS: give each stage one of both"
        )
    if node.IOUS[0] != heads.IOU_THRESHOLDS[0]:
        raise UserError(
            f"MODEL.ROI_BOX_CASCADE_HEAD.IOUS begins with {node.IOUS[0]}, but MODEL.ROI_HEADS."
            f"IOU_THRESHOLDS is {list(heads.IOU_THRESHOLDS)}: the first stage needs both alike"
        )


def _check_resnet(cfg: CfgNode) -> None:
    node = cfg.MODEL.RESNETS
    is_resnet = "resnet" in cfg.MODEL.BACKBONE.NAME
    if is_resnet and node.DEPTH in (18, 34) and node.RES2_OUT_CHANNELS != 64:
        raise UserError(
            f"MODEL.RESNETS.DEPTH is {node.DEPTH}, whose RES2_OUT_CHANNELS is 64, but "
            f"{node.RES2_OUT_CHANNELS} is set: set MODEL.RESNETS.RES2_OUT_CHANNELS 64"
        )


def _check_group_norm(cfg: CfgNode) -> None:
    fpn, head = cfg.MODEL.FPN, cfg.MODEL.ROI_BOX_HEAD
    for norm, used, key, channels in (
        ("FPN.NORM", "fpn" in cfg.MODEL.BACKBONE.NAME, "FPN.OUT_CHANNELS", fpn.OUT_CHANNELS),
        ("ROI_BOX_HEAD.NORM", head.NUM_CONV > 0, "ROI_BOX_HEAD.CONV_DIM", head.CONV_DIM),
    ):
        if used and value_at(cfg, f"MODEL.{norm}") == "GN" and channels % NORM_GROUPS:
            raise UserError(
                f"MODEL.{norm} is 'GN', which makes {NORM_GROUPS} groups of channels, but MODEL."
                f"{key} is {channels}: give a multiple of {NORM_GROUPS}"
            )


def _check_last_rate(cfg: CfgNode) -> None:
    first, last = cfg.SOLVER.BASE_LR, cfg.SOLVER.BASE_LR_END
    if last > first:
        raise UserError(
            f"SOLVER.BASE_LR_END is {last}, above BASE_LR {first}, but WarmupCosineLR lets the "
            "rate fall: lower it"
        )
