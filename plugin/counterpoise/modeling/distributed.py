"""What several training processes share."""

import torch
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, of one that is wrapped in ``DistributedDataParallel`` or is not."""
    return getattr(model, "module", model)


def sum_over_processes(value: Tensor) -> Tensor:
    """Sum a tensor without gradient over all training processes.

    Args:
        value: any shape, equal in shape on every process.

    Returns:
        a new tensor of the same shape; `value` itself where there is one process.
    """
    if comm.get_world_size() == 1:
        return value
    total = value.detach().clone()
    torch.distributed.all_reduce(total)
    return total


def share_statistics(model: nn.Module) -> None:
    """Give the running statistics of the first process's batch norms to all processes.

    In Detectron2 each process keeps those of its own images, and a checkpoint those of the first.

    Args:
        model: not wrapped for several processes, equal in all of them.
    """
    if comm.get_world_size() == 1:
        return
    for module in model.modules():
        if isinstance(module, _NormBase):
            for buffer in module.buffers(recurse=False):
                torch.distributed.broadcast(buffer, 0)


def mean_over_processes(value: Tensor, min_total: float = 0.0) -> Tensor:
    """Average a tensor >= 0 without gradient over all training processes.

    DistributedDataParallel averages gradients over processes. A loss divided by the averaged
    divisor therefore has the gradient of the loss over the joint batch.

    Args:
        value: any shape, floating point, equal in shape on every process.
        min_total: lower bound of the sum over all processes. The mean itself needs none: two
            processes that share one sample divide by 0.5 each.

    Returns:
        a new tensor of the same shape.
    """
    return sum_over_processes(value).clamp(min=min_total) / comm.get_world_size()
