"""What a box predictor regresses for the foreground among its proposals, and the loss of each."""

from dataclasses import dataclass

from detectron2.layers import cat, ciou_loss, diou_loss
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Instances
from fvcore.nn import giou_loss, smooth_l1_loss
from torch import Tensor

IOU_LOSSES = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}


@dataclass(frozen=True)
class Foreground:
    """The F foreground proposals among R. On a GPU the host waits for their number.

    Attributes:
        indices: (F,), among the R.
        classes: (F,), in [0, K).
        boxes: (F, 4), of the proposals, XYXY in pixels.
        gt_boxes: (F, 4), of their objects.
        deltas: float32 (F, 4), predicted for their classes.
    """

    indices: Tensor
    classes: Tensor
    boxes: Tensor
    gt_boxes: Tensor
    deltas: Tensor

    @classmethod
    def of(
        cls, predictor: FastRCNNOutputLayers, deltas: Tensor, proposals: list[Instances]
    ) -> "Foreground":
        """Pick the foreground.

        Args:
            predictor: for the number of classes.
            deltas: (R, 4K) or (R, 4), predicted.
            proposals: per image, R together, labelled.
        """
        gt_classes = cat([p.gt_classes for p in proposals])
        boxes = cat([p.proposal_boxes.tensor for p in proposals])
        # An image without ground truth has no field for it, and no foreground to read it.
        gt_boxes = cat(
            [(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals]
        )
        chosen = ((gt_classes >= 0) & (gt_classes < predictor.num_classes)).nonzero().flatten()
        classes = gt_classes[chosen]
        columns = classes.new_zeros(len(classes)) if deltas.shape[1] == 4 else classes
        deltas = deltas.unflatten(1, (-1, 4))[chosen, columns].float()
        return cls(chosen, classes, boxes[chosen], gt_boxes[chosen], deltas)


def box_loss_per_proposal(
    predictor: FastRCNNOutputLayers, deltas: Tensor, proposals: list[Instances]
) -> Tensor:
    """Split Detectron2's ``loss_box_reg`` up into what each proposal adds to it.

    Args:
        predictor: whose kind of box loss, weight and box coding are used.
        deltas: (R, 4K) or (R, 4), predicted.
        proposals: per image, R together, labelled.

    Returns:
        float32 (R,), 0 for background; it sums to ``loss_box_reg``.
    """
    found = Foreground.of(predictor, deltas, proposals)
    transform, kind = predictor.box2box_transform, predictor.box_reg_loss_type
    if kind == "smooth_l1":
        wanted, beta = transform.get_deltas(found.boxes, found.gt_boxes), predictor.smooth_l1_beta
        loss = smooth_l1_loss(found.deltas, wanted, beta, reduction="none").sum(dim=1)
    else:
        regressed = transform.apply_deltas(found.deltas, found.boxes)
        loss = IOU_LOSSES[kind](regressed, found.gt_boxes, reduction="none")
    losses = loss.new_zeros(len(deltas)).index_copy(0, found.indices, loss)
    return predictor.loss_weight.get("loss_box_reg", 1.0) * losses / max(len(deltas), 1)
