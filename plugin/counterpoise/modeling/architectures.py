"""Which sections of ``MODEL`` the detector of a config reads."""

from detectron2.config import CfgNode

#: Architectures that read MODEL.RETINANET and have no ROI heads.
RETINANETS = ("RetinaNet", "BalancedRetinaNet")


def head_section(cfg: CfgNode) -> str:
    """Section with the number of classes and the score threshold.

    Returns:
        ``"RETINANET"`` or ``"ROI_HEADS"``.
    """
    return "RETINANET" if cfg.MODEL.META_ARCHITECTURE in RETINANETS else "ROI_HEADS"


def anchor_section(cfg: CfgNode) -> str:
    """Section with the feature levels that the anchors lie on.

    Returns:
        ``"RETINANET"`` or ``"RPN"``.
    """
    return "RETINANET" if cfg.MODEL.META_ARCHITECTURE in RETINANETS else "RPN"


def feature_sections(cfg: CfgNode) -> list[str]:
    """Sections whose ``IN_FEATURES`` are read: that of the anchors, and that of the boxes."""
    model, anchors = cfg.MODEL, anchor_section(cfg)
    if anchors == "RETINANET":
        return [anchors]
    proposals = [] if model.PROPOSAL_GENERATOR.NAME == "PrecomputedProposals" else [anchors]
    return proposals if model.META_ARCHITECTURE == "ProposalNetwork" else [*proposals, "ROI_HEADS"]


def default_score_threshold(cfg: CfgNode) -> float:
    """The ``SCORE_THRESH_TEST`` of a config's model, the same for all classes."""
    return float(cfg.MODEL[head_section(cfg)].SCORE_THRESH_TEST)
