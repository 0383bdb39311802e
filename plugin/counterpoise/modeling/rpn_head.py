"""RPN head that goes back only through the anchors that were sampled.

An image has tens of thousands of anchors, of which 256 train the network: the gradient of all
others is 0, and that of the convolution spends its time on zeros. Here the forward pass is
Detectron2's, and the backward pass gathers the few places of the maps whose gradient is not 0. The
gradient of a 3 x 3 convolution at K places is a product of two matrices of K rows.
"""

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY, StandardRPNHead
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

#: Places that are gathered at once, which bounds the memory where all anchors are sampled.
BLOCK = 4096


@RPN_HEAD_REGISTRY.register()
class SparseGradientRPNHead(StandardRPNHead):
    """Detectron2's RPN head with the same parameters, outputs and gradients, to rounding.

    Worth it where few anchors are sampled, on a CPU: finding the places makes the host wait for a
    GPU once a step. More than one hidden convolution is left to Detectron2's own gradient.
    """

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """
        Args:
            features: per level, (N, C, H, W).

        Returns:
            Objectness (N, A, H, W) and deltas (N, box_dim A, H, W) per level.
        """
        if not torch.is_grad_enabled() or isinstance(self.conv, nn.Sequential):
            return super().forward(features)
        parameters = (
            self.conv.weight, self.conv.bias,
            self.objectness_logits.weight, self.objectness_logits.bias,
            self.anchor_deltas.weight, self.anchor_deltas.bias,
        )  # fmt: skip
        outputs = _RPNHead.apply(len(features), *features, *parameters)
        return list(outputs[: len(features)]), list(outputs[len(features) :])


class _RPNHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, num_levels: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        features, parameters = tensors[:num_levels], tensors[num_levels:]
        weight, bias, logits_weight, logits_bias, deltas_weight, deltas_bias = parameters
        hidden = [F.relu_(F.conv2d(x, weight, bias, padding=1)) for x in features]
        logits = [F.conv2d(t, logits_weight, logits_bias) for t in hidden]
        deltas = [F.conv2d(t, deltas_weight, deltas_bias) for t in hidden]
        ctx.num_levels = num_levels
        ctx.save_for_backward(*features, *hidden, weight, logits_weight, deltas_weight)
        return *logits, *deltas

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        count = ctx.num_levels
        *maps, weight, logits_weight, deltas_weight = ctx.saved_tensors
        features, hidden = maps[:count], maps[count:]
        dtype = hidden[0].dtype  # that of the products: bfloat16 under autocast
        inner_weight = _places(weight).reshape(len(weight), -1).to(dtype)  # (C, 9 C in)
        outer_weight = torch.cat([logits_weight, deltas_weight]).flatten(1).to(dtype)
        inner_grad, outer_grad = (
            torch.zeros_like(w, dtype=torch.float32) for w in (inner_weight, outer_weight)
        )
        inner_bias, outer_bias = (grad.new_zeros(len(grad)) for grad in (inner_grad, outer_grad))
        feature_grads = []
        for x, t, *grad in zip(features, hidden, grads[:count], grads[count:], strict=True):
            pixels, hidden_rows = _places(x).flatten(0, 2), _places(t).flatten(0, 2)
            outer = torch.cat([_places(g) for g in grad], dim=-1).flatten(0, 2)
            spread = torch.zeros(pixels.shape, dtype=torch.float32, device=x.device)
            for at in (outer != 0).any(dim=1).nonzero()[:, 0].split(BLOCK):
                near, inside = _neighbourhoods(at, x.shape)
                patches = (pixels[near] * inside[:, :, None]).flatten(1).to(dtype)
                rows, back = hidden_rows[at], outer[at].to(dtype)
                outer_grad += back.T @ rows
                outer_bias += back.float().sum(0)
                back = (back @ outer_weight) * (rows > 0)
                inner_grad += back.T @ patches
                inner_bias += back.float().sum(0)
                back = (back @ inner_weight).unflatten(1, (9, -1))[inside]
                spread.index_add_(0, near[inside], back.float())
            feature_grads.append(spread.view(_places(x).shape).permute(0, 3, 1, 2).to(x.dtype))
        inner_grad = inner_grad.unflatten(1, (3, 3, -1)).permute(0, 3, 1, 2)
        split = [len(logits_weight), len(deltas_weight)]
        logits_grad, deltas_grad = outer_grad[:, :, None, None].split(split)
        logits_bias, deltas_bias = outer_bias.split(split)
        own = inner_grad, inner_bias, logits_grad, logits_bias, deltas_grad, deltas_bias
        return None, *feature_grads, *(grad.to(weight.dtype) for grad in own)


def _places(maps: Tensor) -> Tensor:
    """(N, H, W, C) of maps (N, C, H, W)."""
    return maps.permute(0, 2, 3, 1)


def _neighbourhoods(at: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Rows (K, 9) of the places around each of `at` (K,), and whether they are on the map."""
    _, _, height, width = shape
    step = torch.arange(-1, 2, device=at.device)
    y = (at // width % height)[:, None] + step
    x = (at % width)[:, None] + step
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None]
    around = at[:, None, None] + width * step[:, None] + step
    return (around * inside).flatten(1), inside.flatten(1)
