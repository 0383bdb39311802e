"""Classification loss over all anchors of a one-stage detector: registered losses and alpha."""

import logging
from collections.abc import Callable, Sequence
from functools import partial

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes
from detectron2.utils.logger import log_first_n
from torch import Tensor, nn

from counterpoise.balance.losses import check_gamma, sigmoid_focal_loss
from counterpoise.errors import UserError, check_name
from counterpoise.modeling.anchor_sampling import OHEMAnchorSampler
from counterpoise.modeling.class_loss_log import PerClassLoss
from counterpoise.modeling.interfaces import DenseLoss, check_one_each
from counterpoise.modeling.registry import DENSE_LOSS_REGISTRY
from counterpoise.modeling.weight_sources import ClassTable, class_table, known_table

ALPHA_SOURCES = ("fixed", "dataset")
#: Losses of this project; one of a user's may read any key.
BUILT_IN = ("sigmoid_focal", "cross_entropy", "ohem", "eqlv2", "ghmc")
#: Those of them that read an alpha.
WITH_ALPHA = ("sigmoid_focal", "cross_entropy")


@DENSE_LOSS_REGISTRY.register(name="sigmoid_focal")
def build_sigmoid_focal(cfg: CfgNode) -> DenseLoss:
    """Sigmoid focal loss with ``BALANCE.DENSE_LOSS.GAMMA`` (arXiv:1708.02002, equation 5)."""
    return DenseFocalLoss(float(cfg.BALANCE.DENSE_LOSS.GAMMA))


@DENSE_LOSS_REGISTRY.register(name="cross_entropy")
def build_cross_entropy(cfg: CfgNode) -> DenseLoss:
    """Alpha-balanced cross-entropy (arXiv:1708.02002, equation 3)."""
    return DenseFocalLoss(gamma=0.0)


@DENSE_LOSS_REGISTRY.register(name="ohem")
def build_ohem(cfg: CfgNode) -> DenseLoss:
    """Cross-entropy over hard anchors, see :class:`OHEMLoss`."""
    node = cfg.BALANCE.DENSE_LOSS
    return OHEMLoss(float(node.RATIO), node.BATCH_SIZE, node.MIN_NEGATIVES, float(node.NMS_THRESH))


class DenseFocalLoss(DenseLoss):
    """Sigmoid focal loss over all anchors that are not ignored."""

    def __init__(self, gamma: float = 2.0) -> None:
        """
        Args:
            gamma: focusing parameter >= 0; 0 is cross-entropy.
        """
        super().__init__()
        check_gamma(gamma)
        self.gamma = gamma

    def per_anchor(
        self,
        logits: Tensor,
        labels: Tensor,
        anchors: list[Boxes],
        alpha: float | Tensor = -1.0,
    ) -> Tensor:
        """Losses (N, R); arguments as for :class:`DenseLoss`, of which `anchors` is not used."""
        return focal_per_anchor(logits, labels, alpha, self.gamma)


class OHEMLoss(DenseLoss):
    """Cross-entropy over the anchors that online hard example mining chooses in each image.

    The alternatives that table 1d of arXiv:1708.02002 compares with the focal loss: the anchors of
    highest loss whatever their label (arXiv:1604.03540), and a fixed ratio of hard negatives to
    positives (SSD, arXiv:1512.02325), each with or without NMS and a bound. An anchor's loss is the
    sum over its classes. Choosing needs no gradient, and only the chosen anchors get one.

    On a GPU the host waits for the number of positives of every image and once for the anchors that
    were chosen in the batch, and with NMS twice more per image.
    """

    def __init__(
        self,
        ratio: float = 3.0,
        batch_size: int = 0,
        min_negatives: int = 3,
        nms_thresh: float = -1.0,
    ) -> None:
        """
        Args:
            ratio: negatives per positive; 0 chooses the `batch_size` anchors of highest loss.
            batch_size: anchors per image at most; 0 sets no bound.
            min_negatives: negatives for an image without positives, where there is a ratio.
            nms_thresh: IoU above which an anchor counts as a duplicate of one of higher loss on its
                level; duplicates are chosen last. With a ratio, among the negatives only. Negative:
                off.

        Raises:
            ValueError: no ratio and no batch size, or a batch too small for one positive with its
                negatives.
        """
        if not (ratio > 0 or batch_size > 0) or 0 < batch_size < 1 + ratio:
            raise ValueError(
                "ratio or batch_size must be > 0, and batch_size 0 or at least 1 + ratio; "
                f"got ratio {ratio} and batch_size {batch_size}"
            )
        super().__init__()
        self.by_ratio = ratio > 0
        if self.by_ratio:
            max_positives = int(batch_size / (1 + ratio)) if batch_size else -1
            if batch_size:
                min_negatives = min(min_negatives, batch_size)
            self.sampler = OHEMAnchorSampler(ratio, max_positives, min_negatives, nms_thresh)
        else:
            # To take the hardest of all is to mine negatives where nothing is positive.
            self.sampler = OHEMAnchorSampler(min_negatives=batch_size, nms_thresh=nms_thresh)

    def per_anchor(
        self, logits: Tensor, labels: Tensor, anchors: list[Boxes], alpha: float | Tensor = -1.0
    ) -> Tensor:
        """Losses (N, R), 0 where an anchor is not chosen; arguments as for :class:`DenseLoss`.

        `alpha` is not used: choosing the anchors is what balances them.
        """
        chosen = torch.stack(
            [
                self._choose(image_logits, image_labels, anchors)
                for image_logits, image_labels in zip(logits.detach(), labels, strict=True)
            ]
        )
        # Rows first, so that only the chosen anchors take memory for a graph.
        rows = chosen.flatten().nonzero().flatten()
        losses = focal_per_anchor(logits.flatten(0, 1)[rows], labels.flatten()[rows], -1.0, 0.0)
        return losses.new_zeros(chosen.numel()).index_copy(0, rows, losses).view_as(chosen)

    def _choose(self, logits: Tensor, labels: Tensor, anchors: list[Boxes]) -> Tensor:
        """Mask (R,) of the anchors of one image that its loss is made of."""
        num_classes = logits.shape[-1]
        hardness = focal_per_anchor(logits, labels, -1.0, 0.0)
        positive = (labels >= 0) & (labels < num_classes) & self.by_ratio
        roles = positive.long().masked_fill(labels < 0, -1)
        return self.sampler(roles, hardness, anchors) >= 0


class DenseClassificationLoss(nn.Module):
    """A dense loss with its alpha: one number, or one per class that is computed when needed.

    It holds no parameter and no persistent buffer of its own: unless the loss keeps state, a model
    with it has the ``state_dict`` keys of a stock model.
    """

    def __init__(
        self,
        loss: DenseLoss | Callable[..., Tensor],
        alpha: float = 0.25,
        table: Callable[[], ClassTable] | None = None,
        is_detectron2s: bool = False,
    ) -> None:
        """
        Args:
            loss: a :class:`DenseLoss` or a function of its arguments.
            alpha: weight of the positives of every class.
            table: called once, at the first loss, for the classes of the training set, around whose
                weights `alpha` is spread, see :func:`balanced_alpha`; None takes `alpha` for all.
            is_detectron2s: whether the loss is what Detectron2 computes itself, so that its value
                can stand and this one only records what each class causes.
        """
        super().__init__()
        self.loss = DenseLoss.of(loss)
        self.fixed_alpha = alpha
        self.is_detectron2s = is_detectron2s
        self._table = table
        self.per_class_loss = PerClassLoss()
        self.register_buffer("alpha", None, persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "DenseClassificationLoss":
        """Build it from ``BALANCE.DENSE_LOSS``.

        Raises:
            UserError: see :func:`check_alpha_source`; or there is no such loss.
        """
        check_alpha_source(cfg)
        node = cfg.BALANCE.DENSE_LOSS
        loss = DENSE_LOSS_REGISTRY.get(node.NAME)(cfg)
        table = partial(class_table, cfg) if node.ALPHA_SOURCE == "dataset" else None
        # Detectron2's focal loss has NaN gradients for gamma < 1, the project's has not.
        is_detectron2s = node.NAME == "sigmoid_focal" and table is None and node.GAMMA >= 1
        return cls(loss, float(node.ALPHA), table, is_detectron2s)

    def use_table(self, table: ClassTable) -> None:
        """Take the classes from a table, in place of counting the training set at the first loss.

        Args:
            table: with weights; without effect where alpha is the same for all classes.
        """
        if self._table is not None:
            self._table, self.alpha = partial(known_table, table), None

    def forward(self, logits: Tensor, labels: Tensor, anchors: list[Boxes]) -> Tensor:
        """
        Args:
            logits: (N, R, K).
            labels: (N, R), int64, in [0, K], K the background, or -1 to ignore.
            anchors: per feature level, R together, the same for every image.

        Returns:
            scalar, summed and not normalised.

        Raises:
            UserError: the registered loss gives anything but a loss of each anchor.
        """
        alpha = self._alpha(logits.device)
        losses = self.loss.per_anchor(logits, labels, anchors, alpha)
        if losses is None:
            return self.loss(logits, labels, anchors, alpha)
        check_one_each(losses, labels, DENSE_LOSS_REGISTRY.config_key)
        self.per_class_loss.add(labels.flatten(), losses.flatten(), logits.shape[-1])
        return losses.sum()

    @torch.no_grad()
    def log(
        self, logits: Sequence[Tensor], labels: Tensor, num_foreground: int, total: Tensor
    ) -> None:
        """Record what :meth:`forward` records, for a focal loss that is computed elsewhere.

        Only the foreground anchors, which are few, are computed again: the background has the rest.

        Args:
            logits: per feature level, (N, R_l, K).
            labels: (N, R), see :meth:`forward`.
            num_foreground: anchors with a label in [0, K); asked for since the host would wait for
                the device to count them.
            total: the summed loss.
        """
        num_classes, num_anchors = logits[0].shape[-1], labels.shape[1]
        foreground = ((labels >= 0) & (labels < num_classes)).flatten()
        chosen = foreground.to(torch.uint8).topk(num_foreground).indices
        images, anchors = chosen // num_anchors, chosen % num_anchors
        found, start = logits[0].new_zeros(num_foreground, num_classes), 0
        for level in logits:
            offset = anchors - start
            here = (offset >= 0) & (offset < level.shape[1])
            rows = level[images, offset.clamp(0, level.shape[1] - 1)]
            found = torch.where(here[:, None], rows, found)
            start += level.shape[1]
        classes = labels.flatten()[chosen]
        losses = self.loss.per_anchor(found, classes, [], self._alpha(labels.device))
        background = (total.detach() - losses.sum()).clamp(min=0)
        self.per_class_loss.add(
            torch.cat([classes, classes.new_full((1,), num_classes)]),
            torch.cat([losses, background[None]]),
            num_classes,
        )

    def _alpha(self, device: torch.device) -> float | Tensor:
        if self._table is None:
            return self.fixed_alpha
        if self.alpha is None:
            table = self._table()
            self.alpha = balanced_alpha(table.weights[:-1], table.counts.boxes, self.fixed_alpha)
            pairs = zip(table.counts.names, self.alpha.tolist(), strict=True)
            listed = ", ".join(f"{name} {alpha:.3f}" for name, alpha in pairs)
            message = f"Alpha of the classes: {listed}"
            log_first_n(logging.INFO, message, key="message", name=__name__)
        self.alpha = self.alpha.to(device)
        return self.alpha


def check_alpha_source(cfg: CfgNode) -> None:
    """Refuse a source of alpha that nothing reads, or that has no weights to spread it by.

    Raises:
        UserError: the keys, their values and what they have to be.
    """
    node, section = cfg.BALANCE.DENSE_LOSS, "BALANCE.DENSE_LOSS"
    check_name(f"{section}.ALPHA_SOURCE", node.ALPHA_SOURCE, ALPHA_SOURCES)
    if node.ALPHA_SOURCE == "fixed":
        return
    if node.NAME in BUILT_IN and node.NAME not in WITH_ALPHA:
        raise UserError(
            f"{section}.ALPHA_SOURCE is '{node.ALPHA_SOURCE}', but {node.NAME} has no alpha: set "
            f"{section}.NAME to 'sigmoid_focal' or 'cross_entropy', or ALPHA_SOURCE to 'fixed'"
        )
    if not 0 < node.ALPHA < 1:
        raise UserError(
            f"{section}.ALPHA is {node.ALPHA}, expected a number in (0, 1), around which "
            f"ALPHA_SOURCE '{node.ALPHA_SOURCE}' spreads the classes"
        )
    if cfg.BALANCE.CLASS_WEIGHTS.SOURCE != "dataset":
        raise UserError(
            f"{section}.ALPHA_SOURCE is '{node.ALPHA_SOURCE}', but BALANCE.CLASS_WEIGHTS.SOURCE is "
            f"'{cfg.BALANCE.CLASS_WEIGHTS.SOURCE}': set that to 'dataset' too"
        )


def balanced_alpha(weights: Tensor, boxes: Sequence[int], alpha: float) -> Tensor:
    """Give every class an alpha by its weight, `alpha` being that of a box of average weight.

    ``alpha_c / (1 - alpha_c) = alpha / (1 - alpha) * w_c / w_mean``. The ratio on the left is what
    alpha decides, the weight of a positive against that of a negative. To scale alpha itself would
    pass 1 for rare classes, and an alpha clipped to 1 takes all negatives away from its class.

    Args:
        weights: (K,), >= 0, class weights of any common scale.
        boxes: (K,), boxes per class, over which the weights are averaged; at least one in all.
        alpha: in (0, 1).

    Returns:
        float32 (K,), in [0, 1); `alpha` throughout for equal weights.
    """
    weights = weights.double()
    boxes = torch.as_tensor(boxes, dtype=torch.float64)
    mean = (weights * boxes).sum() / boxes.sum()
    odds = alpha / (1 - alpha) * weights / mean
    return (odds / (1 + odds)).float()


def focal_per_anchor(logits: Tensor, labels: Tensor, alpha: float | Tensor, gamma: float) -> Tensor:
    """Sigmoid focal losses of anchors, each summed over its classes.

    Args:
        logits: (..., K).
        labels: (...), integer, in [0, K], K the background, or -1 to ignore.
        alpha, gamma: see :func:`counterpoise.balance.losses.sigmoid_focal_loss`.

    Returns:
        (...), float32 or float64; 0 where ignored.
    """
    # One column per class and none for the background.
    targets = labels[..., None] == torch.arange(logits.shape[-1], device=labels.device)
    losses = sigmoid_focal_loss(logits, targets, alpha, gamma, reduction="none", check_values=False)
    return losses.sum(dim=-1).masked_fill(labels < 0, 0.0)
