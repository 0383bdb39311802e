"""ROIAlign as a weighted gather of pixels, several times faster than torchvision's on a CPU.

torchvision's kernel walks through the boxes one by one, and its gradient runs on one thread. With a
stated sampling ratio s, a bin is the mean of s x s bilinear samples, each a weighted sum of four
pixels: a sum of 4 s^2 rows of the feature map in channels-last order, which is what
:func:`torch.nn.functional.embedding_bag` computes on all threads. The gradient of a pixel is a sum
of rows in the same way, over the bins that it is in.
"""

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler
from torch import Tensor
from torch.autograd.function import once_differentiable

from counterpoise.balance.losses import at_least_float32


class ExactROIAlign(ROIAlign):
    """Detectron2's ROIAlign, which pools maps of half precision in float32.

    Detectron2 rounds boxes to the type of the map, in bfloat16 by whole pixels. torchvision's
    kernel computes in float32 under autocast anyway.
    """

    @classmethod
    def like(cls, stock: ROIAlign) -> "ExactROIAlign":
        """Build one with the settings of a stock layer."""
        return cls(stock.output_size, stock.spatial_scale, stock.sampling_ratio, stock.aligned)

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool boxes.

        Args:
            input: (N, C, H, W), floating point.
            rois: (R, 5), image index and box XYXY in pixels of the image.

        Returns:
            (R, C, height, width) of the bins, in the dtype of `input`.
        """
        return super().forward(at_least_float32(input), rois).to(input.dtype)


class GatheredROIAlign(ExactROIAlign):
    """ROIAlign computed by :func:`gathered_roi_align` where that is exact and faster.

    That is on a CPU with a stated sampling ratio. With the adaptive ratio 0 the number of samples
    differs from box to box, and on a GPU torchvision's kernel is parallel: both stay torchvision's.
    """

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool boxes, see :class:`ExactROIAlign`."""
        if input.device.type != "cpu" or self.sampling_ratio <= 0:
            return super().forward(input, rois)
        return self._gathered(input, rois)

    def _gathered(self, input: Tensor, rois: Tensor) -> Tensor:
        return gathered_roi_align(
            input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned
        )


class DeterministicROIAlign(GatheredROIAlign):
    """ROIAlign whose gradient on a GPU is summed in one order, with a stated sampling ratio.

    Under :func:`torch.use_deterministic_algorithms` torchvision leaves its GPU kernel for a
    compiled function, which with the adaptive ratio 0 keeps as many samples of each bin as the map
    has pixels. That ratio stays with the kernel here, and torch warns of its gradient.
    """

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool boxes, see :class:`ExactROIAlign`."""
        if self.sampling_ratio > 0:
            return self._gathered(input, rois)
        pooled = torch.ops.torchvision.roi_align(
            at_least_float32(input),
            at_least_float32(rois),
            self.spatial_scale,
            *self.output_size,
            self.sampling_ratio,
            self.aligned,
        )
        return pooled.to(input.dtype)


def use_roi_align(pooler: ROIPooler, kind: type[ExactROIAlign]) -> None:
    """Let a pooler compute its ROIAlign, if it has one, by another layer."""
    for i, level in enumerate(pooler.level_poolers):
        if type(level) is ROIAlign:
            pooler.level_poolers[i] = kind.like(level)


def gathered_roi_align(
    features: Tensor,
    rois: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool = True,
) -> Tensor:
    """ROIAlign (He et al., "Mask R-CNN", arXiv:1703.06870, section 3) with a fixed sampling ratio.

    Equal to :func:`torchvision.ops.roi_align` to rounding, in value and gradient, borders and boxes
    outside of the image included. Boxes get no gradient, as there.

    Args:
        features: (N, C, H, W), floating point; half precision is summed in float32.
        rois: (R, 5), image index and box XYXY in pixels of the image.
        output_size: bins along y and x.
        spatial_scale: of the feature map to the image.
        sampling_ratio: samples along each side of a bin, >= 1.
        aligned: shift the samples by half a pixel, as Detectron2's ``ROIAlignV2`` does.

    Returns:
        (R, C, height, width) of the bins, in the dtype of `features`.
    """
    images, channels, height, width = features.shape
    rois = rois.detach().float()
    y, x = _sample_positions(rois, output_size, spatial_scale, sampling_ratio, aligned)
    y_low, y_high, y_weights = _neighbours(y, height)
    x_low, x_high, x_weights = _neighbours(x, width)
    rows = torch.stack([y_low, y_high], dim=-1)  # (R, bins y, samples, 2)
    columns = torch.stack([x_low, x_high], dim=-1)
    first = rois[:, 0].long() * (height * width)
    pixels = (
        first[:, None, None, None, None]
        + (rows.flatten(2) * width)[:, :, None, :, None]
        + columns.flatten(2)[:, None, :, None, :]
    )  # (R, bins y, bins x, 2 samples, 2 samples)
    weights = (
        y_weights.flatten(2)[:, :, None, :, None] * x_weights.flatten(2)[:, None, :, None, :]
    ) / sampling_ratio**2
    flat = features.permute(0, 2, 3, 1).reshape(images * height * width, channels)
    bags, taps = len(rois) * output_size[0] * output_size[1], 4 * sampling_ratio**2
    with torch.autocast(features.device.type, enabled=False):
        pooled = _WeightedRows.apply(
            flat.float(), pixels.reshape(bags, taps), weights.reshape(bags, taps)
        )
    pooled = pooled.view(len(rois), *output_size, channels).permute(0, 3, 1, 2)
    return pooled.to(features.dtype)


class _WeightedRows(torch.autograd.Function):
    """Sums (B, C) of rows of a matrix (R, C), by indices (B, T) and weights (B, T).

    The gradient of :func:`torch.nn.functional.embedding_bag` is the same, in five times the time.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(indices, weights)
        ctx.num_rows = len(matrix)
        return F.embedding_bag(indices, matrix, per_sample_weights=weights, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        indices, weights = ctx.saved_tensors
        rows, order = indices.flatten().int().sort(stable=True)  # int32 takes half the time
        numbers = torch.arange(ctx.num_rows, dtype=torch.int32, device=rows.device)
        first = torch.searchsorted(rows, numbers)
        bag = order // indices.shape[1]
        weights = weights.flatten()[order]
        return F.embedding_bag(bag, grad, first, per_sample_weights=weights, mode="sum"), None, None


def _sample_positions(
    rois: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> tuple[Tensor, Tensor]:
    """Coordinates along y and x of the samples, (R, bins, sampling_ratio), in feature pixels."""
    low = rois[:, 1:3] * spatial_scale - (0.5 if aligned else 0.0)
    size = rois[:, 3:5] * spatial_scale - (0.5 if aligned else 0.0) - low
    if not aligned:
        size = size.clamp(min=1.0)
    offsets = (torch.arange(sampling_ratio, device=rois.device) + 0.5) / sampling_ratio
    positions = []
    for axis, bins in ((1, output_size[0]), (0, output_size[1])):
        bin_size = size[:, axis] / bins
        steps = torch.arange(bins, device=rois.device)[:, None] + offsets
        positions.append(low[:, axis, None, None] + bin_size[:, None, None] * steps)
    return positions[0], positions[1]


def _neighbours(position: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two pixels around each position, and their weights (..., 2), along one axis.

    A position is clamped to the map; more than one pixel outside of it the weights are 0.
    """
    inside = (position >= -1.0) & (position <= length)
    position = position.clamp(min=0.0, max=length - 1)
    low = position.floor()
    high = (low + 1).clamp(max=length - 1)
    upper = (position - low) * inside
    lower = (1 - (position - low)) * inside
    return low.long(), high.long(), torch.stack([lower, upper], dim=-1)
