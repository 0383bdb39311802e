"""Classifier by the cosine between features and the weights of a class."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterpoise.balance.losses import at_least_float32

#: Last layers of the box head's classification.
CLASSIFIERS = ("linear", "cosine")


class CosineClassifier(nn.Linear):
    """Linear layer ``z_c = s w_c . x / (|w_c| |x|)`` without bias.

    Gidaris and Komodakis, "Dynamic Few-Shot Visual Learning without Forgetting" (CVPR 2018,
    arXiv:1804.09458), with a scale s that is not learned. In a linear layer the rows of frequent
    classes grow long and their biases high; here neither can, and only the direction of a row tells
    its class.
    """

    def __init__(self, in_features: int, out_features: int, scale: float = 20.0) -> None:
        """
        Args:
            in_features, out_features: of :class:`torch.nn.Linear`.
            scale: s > 0, the largest logit.
        """
        super().__init__(in_features, out_features, bias=False)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Logits (..., C), float32 or float64, of features (..., D); 0 where all features are 0."""
        # Half precision would round the sums of squares, and a cosine near 1, under autocast too.
        with torch.autocast(x.device.type, enabled=False):
            x, weight = at_least_float32(x), at_least_float32(self.weight)
            # With torch's eps of 1e-12 features of 0 would have a gradient of that inverse.
            x, weight = F.normalize(x, dim=-1, eps=1e-6), F.normalize(weight, dim=-1, eps=1e-6)
            return self.scale * F.linear(x, weight)
