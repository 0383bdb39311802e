"""Detectron2's detectors for one image as functions of tensors alone, which exporters can follow.

Detectron2's own inference decides by values (``if not valid_mask.all()``) and speaks in
``Instances``. The modules here call the same trained layers and give the same detections, without a
branch on a value: every choice is a mask, and every top-k has a fixed k.
"""

import torch
import torch.nn.functional as F
from detectron2.layers import cat
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, Res5ROIHeads
from detectron2.structures import Boxes
from torch import Tensor, nn
from torchvision.ops import nms, roi_align

from counterpoise.modeling.roi_heads import BalancedFastRCNNOutputLayers

Detections = tuple[Tensor, Tensor, Tensor]


class DetectionGraph(nn.Module):
    """A detector for one image; subclasses say how it finds boxes."""

    def __init__(self, model: GeneralizedRCNN | RetinaNet) -> None:
        """
        Args:
            model: trained; shares its layers.
        """
        super().__init__()
        self.backbone = model.backbone
        self.register_buffer("pixel_mean", model.pixel_mean, persistent=False)
        self.register_buffer("pixel_std", model.pixel_std, persistent=False)
        self.size_divisibility = model.backbone.padding_constraints.get(
            "size_divisibility", model.backbone.size_divisibility
        )

    def forward(self, image: Tensor) -> Detections:
        """Detect objects.

        Args:
            image: (H, W, 3), uint8, resized as the model expects it, in its order of colours.

        Returns:
            boxes (N, 4), XYXY in pixels of `image`, float32; scores (N,), float32; classes (N,),
            int64; by descending score.
        """
        height, width = image.shape[0], image.shape[1]
        # Made of the image, so that it is on the device of the image.
        size = torch.cat(
            [image.new_full((1,), side, dtype=torch.float32) for side in (width, height)]
        )
        pixels = (image.permute(2, 0, 1).float() - self.pixel_mean) / self.pixel_std
        step = self.size_divisibility
        if step > 1:
            right, bottom = -width % step, -height % step
            pixels = F.pad(pixels, (0, right, 0, bottom))
        boxes, scores, classes = self.detect(self.backbone(pixels[None]), size)
        boxes = clip(boxes, size)
        inside = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        return boxes[inside], scores[inside], classes[inside]

    def detect(self, features: dict[str, Tensor], size: Tensor) -> Detections:
        """Detect objects from feature maps.

        Args:
            features: name to (1, C, h, w).
            size: (2,), width and height of the image, float.
        """
        raise NotImplementedError


class TwoStageGraph(DetectionGraph):
    """Faster R-CNN with the RPN and the standard or C4 box heads of Detectron2."""

    def __init__(self, model: GeneralizedRCNN) -> None:
        super().__init__(model)
        self.rpn, self.heads = model.proposal_generator, model.roi_heads
        self.predictor = model.roi_heads.box_predictor
        self.register_buffer(
            "thresholds",
            thresholds_of(self.predictor, self.predictor.num_classes),
            persistent=False,
        )

    def detect(self, features: dict[str, Tensor], size: Tensor) -> Detections:
        """Propose, pool, classify and refine; see :class:`DetectionGraph`."""
        proposals = self._propose([features[name] for name in self.rpn.in_features], size)
        proposals, pooled = self._pool(features, proposals)
        logits, deltas = self.predictor(pooled)
        scores = class_probabilities(self.predictor, logits)[:, :-1]
        boxes = self.predictor.box2box_transform.apply_deltas(deltas, proposals)
        boxes = clip(boxes.reshape(-1, deltas.shape[1] // 4, 4), size)
        found = (scores > self.thresholds).nonzero()
        rows, classes = found[:, 0], found[:, 1]
        chosen = boxes[rows, 0] if deltas.shape[1] == 4 else boxes[rows, classes]
        return best_per_class(
            chosen, scores[rows, classes], classes, size,
            self.predictor.test_nms_thresh, self.predictor.test_topk_per_image,
        )  # fmt: skip

    def _propose(self, features: list[Tensor], size: Tensor) -> Tensor:
        """The best proposals (N, 4) after NMS within each feature level."""
        rpn = self.rpn
        logits, deltas = rpn.rpn_head(features)
        kept_boxes, kept_scores = [], []
        for anchors, level_logits, level_deltas in zip(
            rpn.anchor_generator(features), logits, deltas, strict=True
        ):
            scores = level_logits.permute(0, 2, 3, 1).reshape(-1)
            scores, best = top_k(scores, rpn.pre_nms_topk[False])
            boxes = decode(rpn.box2box_transform, anchors, level_deltas, best)
            boxes = clip(boxes, size)
            sides = boxes[:, 2:] - boxes[:, :2]
            valid = torch.isfinite(scores) & (sides > rpn.min_box_size).all(dim=1)
            boxes, scores = boxes[valid], scores[valid]
            keep = nms(boxes, scores, rpn.nms_thresh)
            kept_boxes.append(boxes[keep])
            kept_scores.append(scores[keep])
        order = torch.cat(kept_scores).argsort(descending=True)[: rpn.post_nms_topk[False]]
        return torch.cat(kept_boxes)[order]

    def _pool(self, features: dict[str, Tensor], proposals: Tensor) -> tuple[Tensor, Tensor]:
        """Proposals, by level, and the box head's vectors of them."""
        heads = self.heads
        if isinstance(heads, Res5ROIHeads):
            maps = [features[name] for name in heads.in_features]
            proposals, pooled = pool(heads.pooler, maps, proposals)
            return proposals, heads.res5(pooled).mean(dim=[2, 3])
        maps = [features[name] for name in heads.box_in_features]
        proposals, pooled = pool(heads.box_pooler, maps, proposals)
        return proposals, heads.box_head(pooled)


class OneStageGraph(DetectionGraph):
    """RetinaNet."""

    def __init__(self, model: RetinaNet) -> None:
        super().__init__(model)
        self.head, self.anchor_generator = model.head, model.anchor_generator
        self.head_in_features = model.head_in_features
        self.num_classes = model.num_classes
        self.box2box_transform = model.box2box_transform
        self.topk_candidates = model.test_topk_candidates
        self.nms_thresh = model.test_nms_thresh
        self.max_detections = model.max_detections_per_image
        self.register_buffer("thresholds", thresholds_of(model, self.num_classes), persistent=False)

    def detect(self, features: dict[str, Tensor], size: Tensor) -> Detections:
        """Classify and refine the anchors; see :class:`DetectionGraph`."""
        maps = [features[name] for name in self.head_in_features]
        logits, deltas = self.head(maps)
        boxes, scores, classes = [], [], []
        for anchors, level_logits, level_deltas in zip(
            self.anchor_generator(maps), logits, deltas, strict=True
        ):
            level = level_logits.permute(0, 2, 3, 1).reshape(-1, self.num_classes).sigmoid()
            level = level.masked_fill(level <= self.thresholds, -torch.inf)
            best_scores, best = top_k(level.reshape(-1), self.topk_candidates)
            valid = torch.isfinite(best_scores)
            best, best_scores = best[valid], best_scores[valid]
            anchor = best.div(self.num_classes, rounding_mode="floor")
            boxes.append(decode(self.box2box_transform, anchors, level_deltas, anchor))
            scores.append(best_scores)
            classes.append(best % self.num_classes)
        return best_per_class(
            torch.cat(boxes), torch.cat(scores), torch.cat(classes), size,
            self.nms_thresh, self.max_detections,
        )  # fmt: skip


def thresholds_of(model: nn.Module, num_classes: int) -> Tensor:
    """Scores (K,) above which a detection is kept, of a model or predictor."""
    stated = model.test_score_thresh
    if isinstance(stated, Tensor):
        return stated
    return torch.full((num_classes,), float(stated))


def class_probabilities(predictor: FastRCNNOutputLayers, logits: Tensor) -> Tensor:
    """Probabilities (R, K + 1) as the predictor's own ``predict_probs`` gives them."""
    if isinstance(predictor, BalancedFastRCNNOutputLayers):
        return predictor.probabilities(logits)
    return logits.sigmoid() if predictor.use_sigmoid_ce else logits.softmax(dim=-1)


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest scores and their indices, filled up with -inf where there are fewer."""
    padded, indices = F.pad(scores, (0, k), value=-torch.inf).topk(k)
    return padded, torch.where(torch.isfinite(padded), indices, 0)


def decode(transform: Box2BoxTransform, anchors: Boxes, deltas: Tensor, chosen: Tensor) -> Tensor:
    """Boxes (n, 4) of the chosen anchors (n,) from deltas (1, 4 A, h, w) of a feature map."""
    deltas = deltas.permute(0, 2, 3, 1).reshape(-1, 4)
    return transform.apply_deltas(deltas[chosen], anchors.tensor[chosen])


def clip(boxes: Tensor, size: Tensor) -> Tensor:
    """Clip boxes (..., 4) to an image of a width and height (2,)."""
    return torch.minimum(boxes.clamp(min=0), torch.cat([size, size]))


def pool(pooler: ROIPooler, maps: list[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
    """ROIAlign of each box from the feature map of its size.

    Args:
        pooler: with its layers.
        maps: (1, C, h, w), one for each of them.
        boxes: (N, 4).

    Returns:
        boxes (N, 4) by level and their features (N, C, y, x).
    """
    levels = assign_boxes_to_levels(
        [Boxes(boxes)], pooler.min_level, pooler.max_level,
        pooler.canonical_box_size, pooler.canonical_level,
    )  # fmt: skip
    ordered, pooled = [], []
    for number, (layer, level_map) in enumerate(zip(pooler.level_poolers, maps, strict=True)):
        own = boxes[levels == number]
        ordered.append(own)
        rois = F.pad(own, (1, 0))  # all are of image 0
        # torchvision's operator and not a layer of ours: ONNX has it.
        pooled.append(
            roi_align(
                level_map, rois, layer.output_size, layer.spatial_scale, layer.sampling_ratio,
                layer.aligned,
            )
        )  # fmt: skip
    return cat(ordered), cat(pooled)


def best_per_class(
    boxes: Tensor, scores: Tensor, classes: Tensor, size: Tensor, iou: float, limit: int
) -> Detections:
    """NMS within each class, then the best `limit` (all, where negative).

    One NMS over boxes shifted by class, as ``torchvision.ops.batched_nms`` does. Boxes that are not
    clipped may be far larger than the image; shifted by their extent the others would lose their
    fractions of a pixel in float32, so all are bounded by the image and as much again around it.
    """
    side = size.to(boxes).max()
    bounded = torch.minimum(torch.maximum(boxes, -side), 2 * side)
    keep = nms(bounded + classes[:, None] * (3 * side + 1), scores, iou)
    if limit >= 0:
        keep = keep[:limit]
    return boxes[keep], scores[keep], classes[keep]
