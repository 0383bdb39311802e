"""What a registered loss or sampler must give, and what it may give.

Each class here wraps a plain function, which is enough where nothing optional is given; a subclass
overrides the method that the function stands for.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from detectron2.structures import Boxes
from torch import Tensor, nn

from counterpoise.errors import UserError
from counterpoise.modeling.weight_sources import ClassTable

_Part = TypeVar("_Part")


class _OrFunction:
    """Lets a plain function stand where the interface is asked for."""

    @classmethod
    def of(cls: type[_Part], part: _Part | Callable[..., Tensor]) -> _Part:
        """Return `part`, wrapped in this class where it is a plain function."""
        return part if isinstance(part, cls) else cls(part)


def is_training_step(loss: nn.Module) -> bool:
    """Whether a loss is asked for a step that trains, in which alone its state moves on.

    OHEM asks for losses without gradient, to choose the proposals of the step that then trains.
    """
    return loss.training and torch.is_grad_enabled()


def check_one_each(losses: Tensor, classes: Tensor, key: str) -> None:
    """Refuse losses that are not one for each sample.

    The mean that torch's functions return by default would take class weights without an effect.

    Args:
        losses: of a registered loss.
        classes: of the samples, any shape.
        key: that names the loss.

    Raises:
        UserError: the shapes differ.
    """
    if losses.shape != classes.shape:
        raise UserError(
            f"the loss that {key} names returns the shape {tuple(losses.shape)}, expected "
            f"{tuple(classes.shape)}, a loss of each sample: call torch's functions with "
            "reduction='none', and sum over the classes"
        )


class ROILoss(_OrFunction, nn.Module):
    """Classification loss of single proposals; class weights and normaliser are applied outside.

    Must give: :meth:`forward`. May give: :meth:`probabilities` and :meth:`prior_bias`, where the
    logits are not those of a softmax, :meth:`with_p_t`, where p_t comes with the loss, and
    :meth:`use_table`, where the loss depends on the training set.

    State that a loss keeps over steps is a persistent buffer that moves where
    :func:`is_training_step` holds, by sums over all processes: checkpoints have it, and processes
    agree.
    """

    #: Whether Detectron2 computes this loss itself, so that its value can stand.
    is_detectron2s = False

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        """
        Args:
            function: what :meth:`forward` is to do; None in subclasses, which override it.
        """
        super().__init__()
        self.function = function

    def forward(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """Compute the unweighted losses.

        Args:
            logits: (R, K + 1), background last; R may be 0.
            gt_classes: (R,), int64, in [0, K], or -1 to ignore.

        Returns:
            (R,), floating point, >= 0, with a graph; 0 where `gt_classes` is -1.
        """
        return self.function(logits, gt_classes)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Class probabilities (R, K + 1) of logits (R, K + 1), as inference uses them."""
        return logits.softmax(dim=-1)

    def use_table(self, table: ClassTable) -> None:
        """Take the classes of the training set, before the first loss of a training."""

    def with_p_t(self, logits: Tensor, gt_classes: Tensor) -> tuple[Tensor, Tensor]:
        """Compute :meth:`forward` and, for the log, the probability of each target.

        Returns:
            - (R,), see :meth:`forward`
            - (R,), floating point, without gradient, any value where `gt_classes` is -1
        """
        losses = self(logits, gt_classes)
        with torch.no_grad():
            targets = gt_classes.clamp(min=0)[:, None]
            p_t = self.probabilities(logits.float()).gather(1, targets).squeeze(1)
        return losses, p_t

    def prior_bias(self, num_classes: int, prior_prob: float) -> Tensor:
        """Biases with which every proposal starts at a foreground probability of `prior_prob`.

        In arXiv:1708.02002, section 3.3, it is the prior of one sigmoid per class. For a softmax
        over K classes and a background the sum over the classes becomes the prior by a background
        bias of log(K (1 - pi) / pi).

        Args:
            num_classes: K.
            prior_prob: pi, in (0, 1).

        Returns:
            float32 (K + 1,).
        """
        bias = torch.zeros(num_classes + 1)
        bias[-1] = math.log(num_classes * (1 - prior_prob) / prior_prob)
        return bias


class DenseLoss(_OrFunction, nn.Module):
    """Classification loss over all anchors, summed; the normaliser is applied outside.

    Must give: :meth:`per_anchor`; a run then records how much of the loss each class causes. A
    loss that knows its sum alone overrides :meth:`forward` instead. State is kept as an
    :class:`ROILoss` keeps it.
    """

    def __init__(self, function: Callable[..., Tensor] | None = None) -> None:
        """
        Args:
            function: what :meth:`forward` is to do; None in subclasses.
        """
        super().__init__()
        self.function = function

    def forward(
        self, logits: Tensor, labels: Tensor, anchors: list[Boxes], alpha: float | Tensor = -1.0
    ) -> Tensor:
        """Sum the loss, a scalar with a graph; arguments as for :meth:`per_anchor`."""
        if self.function is not None:
            return self.function(logits, labels, anchors, alpha)
        return self.per_anchor(logits, labels, anchors, alpha).sum()

    def per_anchor(
        self, logits: Tensor, labels: Tensor, anchors: list[Boxes], alpha: float | Tensor = -1.0
    ) -> Tensor | None:
        """Compute the loss of each anchor, summed over its classes.

        Args:
            logits: (N, R, K).
            labels: (N, R), int64, in [0, K], K the background, or -1 to ignore.
            anchors: per feature level, R together, the same for every image.
            alpha: weight of the positives in [0, 1], a number or (K,); a negative number is off.

        Returns:
            (N, R), floating point, with a graph; 0 where an anchor is not counted. None, the
            default, where the loss knows its sum alone.
        """
        return None


class AnchorSampler(_OrFunction):
    """Chooses the anchors of one image that train the RPN. Must give: :meth:`__call__`."""

    def __init__(self, function: Callable[..., Tensor] | None = None) -> None:
        """
        Args:
            function: what :meth:`__call__` is to do; None in subclasses, which override it.
        """
        self.function = function

    def __call__(self, labels: Tensor, logits: Tensor, anchors: list[Boxes]) -> Tensor:
        """Choose among labelled anchors.

        Args:
            labels: (A,), integer: 1 positive, 0 negative, -1 ignored.
            logits: (A,), float32, objectness, without gradient.
            anchors: per feature level, A together.

        Returns:
            (A,), the dtype of `labels`: the labels of the chosen anchors, -1 for all others.
        """
        return self.function(labels, logits, anchors)


class ROISampler(_OrFunction):
    """Chooses the proposals of one image that train the heads.

    Must give: :meth:`__call__`. May give: `needs_losses`.
    """

    #: Whether it chooses by loss: the proposals then pass through the box head once more.
    needs_losses = False

    def __init__(self, function: Callable[..., Tensor] | None = None) -> None:
        """
        Args:
            function: what :meth:`__call__` is to do; None in subclasses, which override it.
        """
        self.function = function

    def __call__(self, gt_classes: Tensor, boxes: Boxes, losses: Tensor | None) -> Tensor:
        """Choose among labelled proposals, ground truth included.

        Args:
            gt_classes: (R,), int64, in [0, K], K the background.
            boxes: R proposals.
            losses: (R,), float32, without gradient, what each would add to the losses of the box
                predictor; None unless `needs_losses`.

        Returns:
            (S,), int64, indices of the chosen proposals.
        """
        return self.function(gt_classes, boxes, losses)
