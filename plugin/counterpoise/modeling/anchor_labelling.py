"""Detectron2's labels of anchors without the IoU of every box with every anchor."""

import torch
from detectron2.modeling.matcher import Matcher
from torch import Tensor

#: Anchors per block: smaller ones fit a box more tightly, larger ones are fewer to test.
BLOCK = 64


def label_anchors(
    anchors: list[Tensor], boxes: list[Tensor], matcher: Matcher
) -> list[tuple[Tensor, Tensor]]:
    """Label anchors and find the box of each, equal to `matcher` on the matrix of all IoUs.

    Consecutive anchors are neighbours in an image, so that blocks of them lie in small rectangles.
    A box has an IoU above 0 only with anchors of the blocks whose rectangle it overlaps, and only
    those are computed, by the operations of Detectron2's ``pairwise_iou``. Any order of any anchors
    gives equal labels; one without neighbours gives no gain.

    For the CPU: on a GPU the host would wait for the number of blocks of every box.

    Args:
        anchors: per feature level, A together, (., 4), float32, XYXY in pixels.
        boxes: per image (M, 4), float32, XYXY in pixels; M may be 0.
        matcher: thresholds, their labels, and whether the best anchors of a box are positive.

    Returns:
        Per image the labels (A,), int8, in {-1, 0, 1}, and the matched boxes (A, 4), float32: the
        first box of the highest IoU, the first of all where no IoU is above 0, and zeros where the
        image has no box.

    Raises:
        AssertionError: of `matcher`, where an IoU is not a number.
    """
    total = sum(map(len, anchors))
    # A padded anchor has no extent, hence an IoU of 0.
    padding = anchors[0].new_zeros(4, -total % BLOCK)
    blocks = torch.cat([*(level.t() for level in anchors), padding], dim=1)
    blocks = blocks.view(4, blocks.shape[1] // BLOCK, BLOCK)
    low, high = blocks[:2].amin(2), blocks[2:].amax(2)
    return [_label_image(total, blocks, low, high, image, matcher) for image in boxes]


def _label_image(
    num_anchors: int, blocks: Tensor, low: Tensor, high: Tensor, boxes: Tensor, matcher: Matcher
) -> tuple[Tensor, Tensor]:
    # Negated, so that a NaN among the anchors does not hide its neighbours.
    corners = boxes.t()[:, :, None]
    near = ~((low[:, None] >= corners[2:]) | (high[:, None] <= corners[:2])).any(0)
    visited = near.any(0).nonzero().flatten()
    blocks_visited = blocks.index_select(1, visited)
    overlaps = blocks_visited.new_zeros(blocks_visited.shape[1:])
    matches = torch.zeros_like(overlaps, dtype=torch.int64)
    best = torch.zeros_like(overlaps, dtype=torch.bool)
    unmatched = False
    for number, is_near in enumerate(near[:, visited]):
        rows = is_near.nonzero().flatten()
        iou = _iou(corners[:, number, :, None], blocks_visited.index_select(1, rows))
        previous = overlaps.index_select(0, rows)
        match = matches.index_select(0, rows).masked_fill_(iou > previous, number)
        matches.index_copy_(0, rows, match)
        overlaps.index_copy_(0, rows, torch.maximum(iou, previous))
        highest = iou.max() if len(rows) else iou.new_zeros(())
        best.index_copy_(0, rows, best.index_select(0, rows) | (iou == highest))
        unmatched |= not highest > 0
    shape = blocks.shape[1:]
    labels = boxes.new_full(shape, matcher.labels[0], dtype=torch.int8)
    # Thresholds look at the highest IoU of an anchor only, so that one row has the same labels.
    visited_labels = matcher(overlaps.view(1, -1))[1].view_as(best)
    if matcher.allow_low_quality_matches:
        visited_labels.masked_fill_(best, 1)
        if unmatched:
            # All anchors tie at the highest IoU of a box that overlaps none, which is 0.
            visited_labels.fill_(1)
            labels.fill_(1)
    labels[visited] = visited_labels
    first = boxes[0] if len(boxes) else boxes.new_zeros(4)
    matched = first.repeat(*shape, 1)
    matched[visited] = boxes[matches]
    return labels.flatten()[:num_anchors], matched.view(-1, 4)[:num_anchors]


def _iou(box: Tensor, anchors: Tensor) -> Tensor:
    """IoU of a box (4, 1, 1) with anchors (4, ...), rounded as by Detectron2's pairwise_iou."""
    width, height = (
        torch.minimum(anchors[2:], box[2:]) - torch.maximum(anchors[:2], box[:2])
    ).clamp_(min=0)
    intersection = width * height
    union = _area(box) + _area(anchors) - intersection
    return torch.where(intersection > 0, intersection / union, 0.0)


def _area(boxes: Tensor) -> Tensor:
    width, height = boxes[2:] - boxes[:2]
    return width * height
