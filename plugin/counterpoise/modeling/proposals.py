"""Detectron2's choice of proposals, with NMS among the best only, as long as these are enough.

NMS compares all pairs of a level, one by one on a CPU, and of what it keeps only the best
``POST_NMS_TOPK`` stay. A box is only ever suppressed by better ones, so the best boxes decide among
themselves, and the rest need not be looked at once enough are kept.
"""

import torch
from detectron2.layers import batched_nms, nms
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, Instances
from torch import Tensor


@torch.no_grad()
def find_top_proposals(
    anchors: list[Boxes],
    logits: list[Tensor],
    deltas: list[Tensor],
    transform: Box2BoxTransform,
    image_sizes: list[tuple[int, int]],
    nms_thresh: float,
    pre_nms_topk: int,
    post_nms_topk: int,
    min_box_size: float,
    training: bool,
) -> list[Instances]:
    """Decode the best anchors and choose proposals, the same as Detectron2.

    Among equal scores, whose order Detectron2's sort leaves open, the first comes first.

    Args:
        anchors: per level, A of them.
        logits: per level, (N, A).
        deltas: per level, (N, A, 4).
        transform: decodes deltas.
        image_sizes: (height, width) of the N images.
        nms_thresh: IoU above which the worse of two boxes of one level goes.
        pre_nms_topk: boxes of a level that are looked at.
        post_nms_topk: proposals of an image, over all levels.
        min_box_size: in pixels; boxes that are not longer on each side go.
        training: whether numbers that are not finite are an error, or left out.

    Returns:
        Per image ``proposal_boxes`` and ``objectness_logits``, best first.

    Raises:
        FloatingPointError: in training, of boxes or logits that are not finite.
    """
    scores, boxes, levels = [], [], []
    for number, (level, level_logits, level_deltas) in enumerate(
        zip(anchors, logits, deltas, strict=True)
    ):
        best, index = level_logits.topk(min(level_logits.shape[1], pre_nms_topk), dim=1)
        chosen = level_deltas.gather(1, index[:, :, None].expand(-1, -1, 4))
        decoded = transform.apply_deltas(chosen.reshape(-1, 4), level.tensor[index.flatten()])
        scores.append(best)
        boxes.append(decoded.view(chosen.shape))
        levels.append(index.new_full(index.shape[1:], number))
    scores, boxes, levels = torch.cat(scores, 1), torch.cat(boxes, 1), torch.cat(levels)
    return [
        _proposals_of(*image, levels, nms_thresh, post_nms_topk, min_box_size, training)
        for image in zip(image_sizes, boxes, scores, strict=True)
    ]


def _proposals_of(
    image_size: tuple[int, int],
    tensor: Tensor,
    scores: Tensor,
    levels: Tensor,
    nms_thresh: float,
    number: int,
    min_box_size: float,
    training: bool,
) -> Instances:
    finite = tensor.isfinite().all(dim=1) & scores.isfinite()
    if not finite.all():
        if training:
            raise FloatingPointError(
                "Predicted boxes or scores contain Inf/NaN. Training has diverged."
            )
        tensor, scores, levels = tensor[finite], scores[finite], levels[finite]
    boxes = Boxes(tensor)
    boxes.clip(image_size)
    usable = boxes.nonempty(threshold=min_box_size)
    boxes, scores, levels = boxes[usable], scores[usable], levels[usable]
    kept = best_kept(boxes.tensor, scores, levels, nms_thresh, number)
    proposals = Instances(image_size)
    proposals.proposal_boxes = boxes[kept]
    proposals.objectness_logits = scores[kept]
    return proposals


def best_kept(
    boxes: Tensor, scores: Tensor, levels: Tensor, nms_thresh: float, number: int
) -> Tensor:
    """Return the first `number` indices (at most) of Detectron2's ``batched_nms``.

    Of equal scores that of the lower index comes first.

    Args:
        boxes: (K, 4), XYXY, floating point.
        scores: (K,), finite.
        levels: (K,), int64; boxes of different levels leave each other alone.
        nms_thresh: IoU above which the worse box goes.
        number: of indices, >= 1.
    """
    boxes, scores, looked_at = boxes.float(), scores.float(), 2 * number
    while looked_at < len(scores):
        # all that are as good as the last one, since equal scores go by their place
        among = (scores >= scores.topk(looked_at).values[-1]).nonzero()[:, 0]
        kept = _nms_by_level(boxes[among], scores[among], levels[among], nms_thresh)
        if len(kept) >= number:
            return among[kept[:number]]
        looked_at *= 2
    kept = batched_nms(boxes, scores, levels, nms_thresh).sort().values
    return _best_first(kept, scores)[:number]


def _nms_by_level(boxes: Tensor, scores: Tensor, levels: Tensor, nms_thresh: float) -> Tensor:
    keep = torch.zeros_like(levels, dtype=torch.bool)
    for level in levels.unique():
        at = (levels == level).nonzero()[:, 0]
        keep[at[nms(boxes[at], scores[at], nms_thresh)]] = True
    return _best_first(keep.nonzero()[:, 0], scores)


def _best_first(indices: Tensor, scores: Tensor) -> Tensor:
    """Sort ascending indices by their scores; equal ones stay in their order."""
    return indices[scores[indices].sort(descending=True, stable=True).indices]
