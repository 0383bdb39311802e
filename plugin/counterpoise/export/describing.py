"""Which models can be exported, and what their files say of them."""

from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import (
    FastRCNNOutputLayers,
    Res5ROIHeads,
    StandardROIHeads,
)
from torch import nn

import counterpoise
from counterpoise.errors import UserError
from counterpoise.export.graph import DetectionGraph, OneStageGraph, TwoStageGraph
from counterpoise.modeling.architectures import default_score_threshold
from counterpoise.modeling.retinanet import BalancedRetinaNet
from counterpoise.modeling.roi_heads import (
    BalancedFastRCNNOutputLayers,
    BalancedRes5ROIHeads,
    BalancedROIHeads,
)
from counterpoise.modeling.rpn import BalancedRPN
from counterpoise.modeling.score_thresholds import Checkpoint, ScoreThresholds
from counterpoise.runtime.description import VERSION, ModelDescription, Preprocessing

#: Where a model has a component -> key of the config, and the classes that the graphs repeat. A
#: subclass of them may detect otherwise.
PARTS: dict[str, tuple[str, tuple[type, ...]]] = {
    "proposal_generator": ("MODEL.PROPOSAL_GENERATOR.NAME", (RPN, BalancedRPN)),
    "roi_heads": (
        "MODEL.ROI_HEADS.NAME",
        (StandardROIHeads, BalancedROIHeads, Res5ROIHeads, BalancedRes5ROIHeads),
    ),
    "roi_heads.box_predictor": (
        "MODEL.ROI_HEADS.NAME", (FastRCNNOutputLayers, BalancedFastRCNNOutputLayers),
    ),
}  # fmt: skip


def detection_graph(model: nn.Module, cfg: CfgNode) -> DetectionGraph:
    """Make the graph of a trained detector.

    Args:
        model: of ``build_model``, on the CPU.
        cfg: of the model.

    Raises:
        UserError: of a kind that cannot be exported; the message names the key.
    """
    if cfg.TEST.AUG.ENABLED:
        raise UserError(
            "TEST.AUG.ENABLED is True, but an exported model looks at an image once: set it to "
            "False"
        )
    if model.backbone.padding_constraints.get("square_size", 0) > 0:
        raise UserError(
            f"MODEL.BACKBONE.NAME '{cfg.MODEL.BACKBONE.NAME}' pads images to squares, which "
            "`counterpoise export` cannot do: export a model with a convolutional backbone"
        )
    if type(model) in (RetinaNet, BalancedRetinaNet):
        return OneStageGraph(model).eval()
    _refuse_unless_one_of(
        model, "MODEL.META_ARCHITECTURE", (GeneralizedRCNN, RetinaNet, BalancedRetinaNet)
    )
    for place, (key, known) in PARTS.items():
        _refuse_unless_one_of(model.get_submodule(place), key, known)
    if cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE not in ("ROIAlign", "ROIAlignV2"):
        raise UserError(
            f"MODEL.ROI_BOX_HEAD.POOLER_TYPE is '{cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE}', and "
            "`counterpoise export` knows ROIAlignV2 and ROIAlign only: train with one of them"
        )
    return TwoStageGraph(model).eval()


def _refuse_unless_one_of(module: nn.Module, key: str, known: tuple[type, ...]) -> None:
    if type(module) not in known:
        names = ", ".join(kind.__name__ for kind in known)
        raise UserError(
            f"{key} makes a {type(module).__name__}, and `counterpoise export` knows {names} only: "
            "export a model of these"
        )


def describe(cfg: CfgNode, class_names: Sequence[str], graph: DetectionGraph) -> ModelDescription:
    """Describe a detector for its file.

    Args:
        cfg: prepared, with ``MODEL.WEIGHTS``.
        class_names: of the model, in order.
        graph: of the model.

    Raises:
        UserError: the thresholds or the checkpoint cannot be read.
    """
    chosen = cfg.BALANCE.SCORE_THRESHOLDS
    if chosen:
        thresholds = ScoreThresholds.read(Path(chosen))
        scores = thresholds.for_classes(class_names, f"BALANCE.SCORE_THRESHOLDS {chosen}")
        source = thresholds.origin
    else:
        scores, source = (default_score_threshold(cfg),) * len(class_names), ""
    return ModelDescription(
        version=VERSION,
        architecture=cfg.MODEL.META_ARCHITECTURE,
        class_names=tuple(class_names),
        score_thresholds=scores,
        thresholds_from=source,
        preprocessing=Preprocessing(
            colours=cfg.INPUT.FORMAT,
            min_size=cfg.INPUT.MIN_SIZE_TEST,
            max_size=cfg.INPUT.MAX_SIZE_TEST,
            pixel_mean=tuple(map(float, cfg.MODEL.PIXEL_MEAN)),
            pixel_std=tuple(map(float, cfg.MODEL.PIXEL_STD)),
            size_divisibility=graph.size_divisibility,
        ),
        checkpoint_sha256=Checkpoint.of(cfg.MODEL.WEIGHTS).sha256,
        made_by=f"counterpoise {counterpoise.__version__}",
    )
