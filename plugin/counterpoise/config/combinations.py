"""Values of Detectron2's keys that each are valid, and that Detectron2 cannot combine."""

from detectron2.config import CfgNode
from detectron2.modeling import ROI_BOX_HEAD_REGISTRY

from counterpoise.errors import UserError, did_you_mean
from counterpoise.modeling.architectures import RETINANETS, anchor_section, feature_sections

#: ROI heads that build ``MODEL.ROI_BOX_HEAD``.
WITH_BOX_HEAD = (
    "StandardROIHeads", "CascadeROIHeads", "BalancedROIHeads", "BalancedCascadeROIHeads",
)  # fmt: skip


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
    if cfg.MODEL.META_ARCHITECTURE not in RETINANETS:
        _check_labels(cfg, "RPN")
        _check_labels(cfg, "ROI_HEADS")
        _check_box_head(cfg)
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


def _check_last_rate(cfg: CfgNode) -> None:
    first, last = cfg.SOLVER.BASE_LR, cfg.SOLVER.BASE_LR_END
    if last > first:
        raise UserError(
            f"SOLVER.BASE_LR_END is {last}, above BASE_LR {first}, but WarmupCosineLR lets the "
            "rate fall: lower it"
        )
