"""RPN head that goes back only through the anchors that were sampled.

An image has tens of thousands of anchors, of which 256 train the network: the gradient of all others
is 0, and the convolution's gradient spends its time on zeros. Here the forward pass is Detectron2's,
and the backward pass gathers the few places of the maps whose gradient is not 0. The gradient of a
3 x 3 convolution at K places is a product of two matrices of K rows.
"""

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY, StandardRPNHead
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


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
        dtype = hidden[0].dtype
        outer_weight = torch.cat([logits_weight, deltas_weight]).flatten(1).to(dtype)
        inner_weight = _rows(weight.to(dtype)).flatten(1)  # (C out, 9 C)
        outer, rows, patches, places = [], [], [], []
        for x, t, *grad in zip(features, hidden, grads[:count], grads[count:], strict=True):
            both = torch.cat([_rows(g) for g in grad], dim=-1).flatten(0, 2)
            at = (both != 0).any(dim=1).nonzero()[:, 0]
            outer.append(both[at])
            rows.append(_rows(t).flatten(0, 2)[at])
            places.append(_neighbourhoods(at, x.shape))
            patches.append(_gather(x.to(dtype), places[-1]))
        outer, rows = torch.cat(outer).to(dtype), torch.cat(rows)
        inner = (outer @ outer_weight) * (rows > 0)
        spread = (inner @ inner_weight).split([len(p) for p in places])
        inner_grad = (inner.T @ torch.cat(patches)).unflatten(1, (3, 3, -1)).permute(0, 3, 1, 2)
        outer_grad = (outer.T @ rows)[:, :, None, None]
        outer_bias, split = outer.sum(0), [len(logits_weight), len(deltas_weight)]
        logits_grad, deltas_grad = outer_grad.split(split)
        logits_bias, deltas_bias = outer_bias.split(split)
        return (
            None,
            *(_scatter(s, p, x) for s, p, x in zip(spread, places, features, strict=True)),
            inner_grad.to(weight.dtype), inner.sum(0).to(weight.dtype),
            logits_grad.to(weight.dtype), logits_bias.to(weight.dtype),
            deltas_grad.to(weight.dtype), deltas_bias.to(weight.dtype),
        )  # fmt: skip


def _rows(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1)


def _neighbourhoods(at: Tensor, shape: torch.Size) -> Tensor:
    """Rows (K, 9) of the places around each of `at`; those outside of the map are -1."""
    _, _, height, width = shape
    step = torch.arange(-1, 2, device=at.device)
    y = (at // width % height)[:, None] + step
    x = (at % width)[:, None] + step
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None]
    around = at[:, None, None] + width * step[:, None] + step
    return torch.where(inside, around, -1).flatten(1)


def _gather(x: Tensor, places: Tensor) -> Tensor:
    """(K, 9 C) of a map (N, C, H, W)."""
    found = _rows(x).flatten(0, 2)[places.clamp(min=0)]
    return (found * (places >= 0)[:, :, None]).flatten(1)


def _scatter(grad: Tensor, places: Tensor, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    flat = torch.ops.aten.embedding_dense_backward(
        grad.reshape(-1, c).float(), places.flatten(), n * h * w, -1, False
    )
    return flat.view(n, h, w, c).permute(0, 3, 1, 2).to(x.dtype)
