"""ROI heads whose box predictor learns with a registered classification loss."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNOutputLayers,
    Res5ROIHeads,
    StandardROIHeads,
)
from detectron2.structures import Instances
from torch import Tensor

from counterpoise.balance.losses import at_least_float32
from counterpoise.errors import UserError, check_name
from counterpoise.modeling.calibration import Calibration
from counterpoise.modeling.cosine_classifier import CLASSIFIERS, CosineClassifier
from counterpoise.modeling.interfaces import ROILoss
from counterpoise.modeling.prime_sample_attention import PrimeSampleAttention
from counterpoise.modeling.roi_loss import ClassificationLoss
from counterpoise.modeling.roi_sampling import SampledROIHeads
from counterpoise.modeling.score_thresholds import inference_thresholds, use_score_thresholds


class BalancedFastRCNNOutputLayers(FastRCNNOutputLayers):
    """Box predictor that replaces Detectron2's classification loss and score threshold.

    This is upstream's own answer for a custom loss in the box head: subclass the output layers and
    pass them as ``box_predictor`` (Detectron2 tutorial "Write Models").
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        cls_loss: ClassificationLoss,
        cls_loss_weight: float = 1.0,
        score_thresholds: Tensor | None = None,
        calibration: Calibration | None = None,
        cosine_scale: float | None = None,
        attention: PrimeSampleAttention | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            input_shape: of the box head's output.
            cls_loss: classification loss over the sampled proposals.
            cls_loss_weight: factor of the classification loss.
            score_thresholds: (K,), scores above which a detection is kept, before NMS, by class;
                None keeps ``test_score_thresh``.
            calibration: of the logits at inference; None leaves them as they are.
            cosine_scale: of a :class:`CosineClassifier` in place of the linear layer; None keeps
                that.
            attention: PISA over the proposals; None for none.
            kwargs: of :class:`detectron2.modeling.roi_heads.FastRCNNOutputLayers`.
        """
        super().__init__(input_shape, **kwargs)
        if cosine_scale is not None:
            layer = self.cls_score
            self.cls_score = CosineClassifier(layer.in_features, layer.out_features, cosine_scale)
        self.attention = attention
        self.cls_loss = cls_loss
        self.cls_loss_weight = cls_loss_weight
        self.calibration = calibration
        if score_thresholds is not None:
            use_score_thresholds(self, score_thresholds)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        """Arguments of :class:`BalancedFastRCNNOutputLayers` from a config.

        Raises:
            UserError: the config names an unknown part, or parts that do not go together.
        """
        classifier = cfg.BALANCE.CLASSIFIER
        check_name("BALANCE.CLASSIFIER.NAME", classifier.NAME, CLASSIFIERS)
        refuse_prior_without_bias(cfg)
        cls_loss = ClassificationLoss.from_config(cfg)
        refuse_calibration_of_sigmoids(cfg, cls_loss)
        return super().from_config(cfg, input_shape) | {
            "cosine_scale": float(classifier.SCALE) if classifier.NAME == "cosine" else None,
            "attention": PrimeSampleAttention.from_config(cfg),
            "cls_loss": cls_loss,
            "cls_loss_weight": float(cfg.BALANCE.ROI_LOSS.LOSS_WEIGHT),
            "score_thresholds": inference_thresholds(cfg, cfg.MODEL.ROI_HEADS.NUM_CLASSES),
            "calibration": Calibration.from_config(cfg),
        }

    def losses(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor]:
        """Detectron2's losses with ``loss_cls`` replaced.

        Args:
            predictions: logits (R, K + 1) and box deltas (R, 4K) or (R, 4).
            proposals: per image, R together, with ``gt_classes`` in [0, K]. Detectron2 samples none
                that its matcher ignores.

        Returns:
            ``loss_cls`` and ``loss_box_reg``, scalars, and ``loss_carl`` where that is asked for.
        """
        logits, deltas = predictions
        if not proposals:
            return {"loss_cls": 0.0 * logits.sum(), "loss_box_reg": 0.0 * deltas.sum()}
        losses = super().losses(predictions, proposals)
        gt_classes = cat([p.gt_classes for p in proposals], dim=0)
        if self.attention is None and self.cls_loss.is_plain_cross_entropy:
            self.cls_loss.log(logits, gt_classes)
        else:
            importance = None
            if self.attention is not None:
                importance = self.attention.importance(self, deltas, proposals)
            weight = self.loss_weight.get("loss_cls", 1.0)
            losses["loss_cls"] = weight * self.cls_loss(logits, gt_classes, importance)
        if self.cls_loss_weight != 1.0:
            losses["loss_cls"] = self.cls_loss_weight * losses["loss_cls"]
        if self.attention is not None and self.attention.carl:
            targets = gt_classes.clamp(min=0)[:, None]
            p_t = self.cls_loss.loss.probabilities(logits.float()).gather(1, targets).squeeze(1)
            losses["loss_carl"] = self.attention.carl_loss(self, p_t, deltas, proposals)
        return losses

    def predict_probs(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> list[Tensor]:
        """Class probabilities (R_i, K + 1) per image, of the kind that the loss trains."""
        return list(self.probabilities(predictions[0]).split([*map(len, proposals)]))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Calibrated class probabilities (R, K + 1) of logits (R, K + 1), at least float32."""
        logits = at_least_float32(logits)
        if self.calibration is not None:
            logits = self.calibration(logits)
        return self.cls_loss.loss.probabilities(logits)


class BalancedHeads(SampledROIHeads):
    """Mixin: ROI heads with balanced box predictors; comes before Detectron2's heads.

    ``BALANCE.ROI_SAMPLER`` says which proposals train them.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Arguments of Detectron2's heads from a config, each box predictor replaced.

        Raises:
            UserError: the config asks for a loss or sampler that these heads do not take.
        """
        refuse_other_losses(cfg)
        arguments = super().from_config(cfg, input_shape)
        if "box_predictors" in arguments:
            arguments["box_predictors"] = [
                balanced_predictor(cfg, stock) for stock in arguments["box_predictors"]
            ]
        else:
            arguments["box_predictor"] = balanced_predictor(cfg, arguments["box_predictor"])
        return arguments


@ROI_HEADS_REGISTRY.register()
class BalancedROIHeads(BalancedHeads, StandardROIHeads):
    """Detectron2's ROI heads (FPN and other pooled features) with a balanced box predictor."""

    def predict_boxes(
        self, features: dict[str, Tensor], proposals: list[Instances]
    ) -> tuple[Tensor, Tensor]:
        """Logits and box deltas of proposals, see :class:`SampledROIHeads`."""
        pooled = self.box_pooler(
            [features[f] for f in self.box_in_features], [p.proposal_boxes for p in proposals]
        )
        return self.box_predictor(self.box_head(pooled))


@ROI_HEADS_REGISTRY.register()
class BalancedRes5ROIHeads(BalancedHeads, Res5ROIHeads):
    """Detectron2's C4 heads (the last ResNet stage per region) with a balanced box predictor."""

    def predict_boxes(
        self, features: dict[str, Tensor], proposals: list[Instances]
    ) -> tuple[Tensor, Tensor]:
        """Logits and box deltas of proposals, see :class:`SampledROIHeads`."""
        pooled = self._shared_roi_transform(
            [features[f] for f in self.in_features], [p.proposal_boxes for p in proposals]
        )
        return self.box_predictor(pooled.mean(dim=[2, 3]))


@ROI_HEADS_REGISTRY.register()
class BalancedCascadeROIHeads(BalancedHeads, CascadeROIHeads):
    """Detectron2's Cascade R-CNN heads with a balanced box predictor in every stage.

    The proposals of the first stage are sampled; ``ohem`` is refused, since a proposal's loss would
    depend on all stages.
    """


def refuse_other_losses(cfg: CfgNode) -> None:
    """Refuse Detectron2's own switches for the classification loss, which would be ignored.

    Raises:
        UserError: one of them is on.
    """
    for key in ("USE_SIGMOID_CE", "USE_FED_LOSS"):
        if cfg.MODEL.ROI_BOX_HEAD[key]:
            raise UserError(
                f"MODEL.ROI_BOX_HEAD.{key} is True, but {cfg.MODEL.ROI_HEADS.NAME} takes its loss "
                "from BALANCE.ROI_LOSS.NAME: set the key to False or use StandardROIHeads"
            )


def refuse_prior_without_bias(cfg: CfgNode) -> None:
    """Refuse a prior for a classifier without biases.

    Raises:
        UserError: there is one.
    """
    prior = cfg.BALANCE.ROI_LOSS.PRIOR_PROB
    if cfg.BALANCE.CLASSIFIER.NAME == "cosine" and prior:
        raise UserError(
            f"BALANCE.ROI_LOSS.PRIOR_PROB is {prior}, which sets biases, but "
            "BALANCE.CLASSIFIER.NAME 'cosine' has none: set PRIOR_PROB to 0, or NAME to 'linear'"
        )


def refuse_calibration_of_sigmoids(cfg: CfgNode, cls_loss: ClassificationLoss) -> None:
    """Refuse to calibrate scores of classes that do not compete.

    A shift of one class's logit is then a monotone map of its scores, which keeps their order.

    Raises:
        UserError: the loss's probabilities are not those of a softmax.
    """
    is_softmax = type(cls_loss.loss).probabilities is ROILoss.probabilities
    if cfg.BALANCE.CALIBRATION.NAME != "none" and not is_softmax:
        raise UserError(
            f"BALANCE.CALIBRATION.NAME is '{cfg.BALANCE.CALIBRATION.NAME}', but the scores of "
            f"BALANCE.ROI_LOSS.NAME '{cfg.BALANCE.ROI_LOSS.NAME}' are no softmax: each class has "
            "its own, whose order a shift of the logit keeps, so set the former to 'none'"
        )


def balanced_predictor(cfg: CfgNode, stock: FastRCNNOutputLayers) -> BalancedFastRCNNOutputLayers:
    """Build a balanced predictor with the initial weights of a stock one.

    Args:
        cfg: with the keys of :func:`counterpoise.add_counterpoise_config`.
        stock: the predictor that it takes the place of.

    Returns:
        a predictor with equal parameters, but for the bias where
        ``BALANCE.ROI_LOSS.PRIOR_PROB`` sets it and a cosine classifier has none.
    """
    # A layer draws random numbers for its own initial weights. Heads that are built later must
    # start as they would in stock Detectron2 under the same seed.
    with torch.random.fork_rng(devices=[]):
        predictor = BalancedFastRCNNOutputLayers(
            cfg,
            ShapeSpec(channels=stock.cls_score.in_features),
            box2box_transform=stock.box2box_transform,
        )
    own = dict(predictor.named_parameters())
    with torch.no_grad():
        for name, value in stock.named_parameters():
            if name in own:
                own[name].copy_(value)
    prior_prob = float(cfg.BALANCE.ROI_LOSS.PRIOR_PROB)
    if prior_prob > 0:
        bias = predictor.cls_loss.loss.prior_bias(predictor.num_classes, prior_prob)
        with torch.no_grad():
            predictor.cls_score.bias.copy_(bias)
    return predictor
