"""Which anchors of an image train: the registered samplers."""

import math
from functools import partial

import torch
from detectron2.config import CfgNode
from detectron2.layers import batched_nms
from detectron2.structures import Boxes
from torch import Tensor

from counterpoise.balance.sampling import hardest, mine_hard_negatives, sample_random
from counterpoise.modeling.interfaces import AnchorSampler
from counterpoise.modeling.registry import ANCHOR_SAMPLER_REGISTRY


@ANCHOR_SAMPLER_REGISTRY.register(name="random")
def build_random_sampler(cfg: CfgNode) -> AnchorSampler:
    """Detectron2's sampling by ``BATCH_SIZE_PER_IMAGE`` and ``POSITIVE_FRACTION``, or 1:1."""
    num_samples = cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE
    positive_fraction = cfg.MODEL.RPN.POSITIVE_FRACTION
    bound = float(cfg.BALANCE.ANCHOR_SAMPLER.NEG_POS_UB)
    return RandomAnchorSampler(num_samples, positive_fraction, bound if bound > 0 else math.inf)


@ANCHOR_SAMPLER_REGISTRY.register(name="all")
def build_all_sampler(cfg: CfgNode) -> AnchorSampler:
    """Every anchor that has a label."""
    return AnchorSampler(_all_labels)


@ANCHOR_SAMPLER_REGISTRY.register(name="ohem")
def build_ohem_sampler(cfg: CfgNode) -> AnchorSampler:
    """All positives (up to a bound) and the hardest negatives, see :class:`OHEMAnchorSampler`."""
    node = cfg.BALANCE.ANCHOR_SAMPLER
    return OHEMAnchorSampler(
        float(node.RATIO),
        node.MAX_POSITIVES,
        node.MIN_NEGATIVES,
        float(node.NMS_THRESH),
        node.TIE_BREAK,
        float(node.RANDOM_FRACTION),
    )


def _all_labels(labels: Tensor, logits: Tensor, anchors: list[Boxes]) -> Tensor:
    # By a name, since a model with a lambda cannot be pickled.
    return labels


class RandomAnchorSampler(AnchorSampler):
    """Anchors at random, see :func:`sample_random`."""

    def __init__(
        self, num_samples: int, positive_fraction: float, max_negatives_per_positive: float
    ) -> None:
        """
        Args:
            num_samples, positive_fraction, max_negatives_per_positive: see :func:`sample_random`.
        """
        super().__init__()
        self.num_samples = num_samples
        self.positive_fraction = positive_fraction
        self.max_negatives_per_positive = max_negatives_per_positive

    def __call__(self, labels: Tensor, logits: Tensor, anchors: list[Boxes]) -> Tensor:
        """Labels (A,) of the chosen anchors; arguments as for :class:`AnchorSampler`."""
        return sample_random(
            labels, self.num_samples, self.positive_fraction, self.max_negatives_per_positive
        )


class OHEMAnchorSampler(AnchorSampler):
    """Online hard negative mining over the anchors of an image.

    Negatives are ranked by their logit, with which their classification loss grows. Neighbouring
    anchors look at the same pixels, so the hardest ones crowd at few locations; `nms_thresh`
    spreads them, as the mining of arXiv:1604.03540 (section 4.1) does for regions.
    """

    #: NMS looks at this many times the negatives that can be asked for.
    NMS_POOL = 10

    def __init__(
        self,
        ratio: float = 3.0,
        max_positives: int = 128,
        min_negatives: int = 3,
        nms_thresh: float = -1.0,
        tie_break: str = "index",
        random_fraction: float = 0.0,
    ) -> None:
        """
        Args:
            ratio, max_positives, min_negatives, tie_break, random_fraction: see
                :func:`mine_hard_negatives`.
            nms_thresh: IoU above which a negative counts as a duplicate of a harder one on its
                level; duplicates are chosen last. Negative: off. On a GPU the host then waits
                twice more per image, for the pool and for NMS.
        """
        super().__init__()
        self.ratio = ratio
        self.max_positives = max_positives
        self.min_negatives = min_negatives
        self.nms_thresh = nms_thresh
        self.tie_break = tie_break
        self.random_fraction = random_fraction

    def __call__(self, labels: Tensor, logits: Tensor, anchors: list[Boxes]) -> Tensor:
        """
        Args:
            labels: (A,), in {-1, 0, 1}.
            logits: (A,), objectness, without gradient.
            anchors: per feature level, A together.

        Returns:
            (A,), in {-1, 0, 1}.
        """
        rank = None
        if self.nms_thresh >= 0:
            rank = partial(self._demote_duplicates, labels, logits, anchors)
        return mine_hard_negatives(
            labels,
            logits,
            self.ratio,
            self.max_positives,
            self.min_negatives,
            self.tie_break,
            rank,
            self.random_fraction,
        )

    def _demote_duplicates(
        self, labels: Tensor, logits: Tensor, anchors: list[Boxes], wanted: int
    ) -> Tensor:
        """Logits (A,), float64, in which duplicates among the hardest come after all others."""
        wanted = max(wanted, self.min_negatives)
        pool = hardest(logits, self.NMS_POOL * wanted, self.tie_break, labels == 0)
        pool = pool.nonzero().flatten()
        if self.tie_break == "random":
            # Of equal logits, NMS keeps the one that comes first.
            pool = pool[torch.randperm(len(pool), device=pool.device)]
        levels = torch.cat(
            [torch.full((len(a),), i, device=labels.device) for i, a in enumerate(anchors)]
        )
        boxes = Boxes.cat(anchors).tensor
        kept = batched_nms(boxes[pool], logits[pool], levels[pool], self.nms_thresh)
        duplicate = torch.ones_like(pool, dtype=torch.float64).index_fill_(0, kept, 0.0)
        logits = logits.double()
        return logits.index_add(0, pool, duplicate * (logits.min() - logits.max() - 1))
